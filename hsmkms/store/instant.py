"""Column types for instants and 64-bit integers."""

from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import BigInteger, Dialect, Integer, TypeDecorator

WIDE: Final = BigInteger().with_variant(Integer(), "sqlite")
"""A 64-bit integer column type."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
_LATEST: Final = datetime.max.replace(tzinfo=UTC)


class Instant(TypeDecorator[datetime]):
    """An aware datetime, stored as whole microseconds since 1970; a naive one raises TypeError."""

    impl = WIDE
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        """Convert a datetime to its stored value."""
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Convert a stored value to a datetime. OverflowError for one out of range, which hsmkms never writes."""
        return None if value is None else _EPOCH + value * _MICROSECOND


class UnsealedInstant(Instant):
    """An instant of a table whose rows are not sealed: one out of range, so edited by hand, is the nearest one."""

    cache_ok = True

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        """Convert a stored value to a datetime."""
        try:
            return super().process_result_value(value, dialect)
        except OverflowError:
            return _LATEST if value is not None and value > 0 else _EARLIEST
