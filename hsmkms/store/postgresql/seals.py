"""PostgreSQL's part of sealing: see ``seal_engine.py``."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import Connection, CursorResult

from hsmkms.store.postgresql import capture, catalogue

_PARAMETER: Final = re.compile(r"(?<!:):(\w+)")


class PostgresqlSeals:
    """An engine's part of sealing."""

    def run(
        self, conn: Connection, sql: str, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] = {}
    ) -> CursorResult[*tuple[Any, ...]]:
        """Run SQL text."""
        return conn.exec_driver_sql(_placed(sql), parameters)

    def rows(self, conn: Connection, sql: str, parameters: Mapping[str, Any] = {}) -> Sequence[Sequence[Any]]:
        """Return rows; the server has checked that every text is UTF-8."""
        return self.run(conn, sql, parameters).all()

    def take_touched(self, tx: Connection) -> list[str]:
        """Return the subjects of all rows that the transaction has written."""
        return capture.take(tx)

    def require_sealing(self, tx: Connection) -> None:
        """Do nothing: the guards refuse other writers from the first root on."""

    def differences(self, conn: Connection) -> tuple[str, ...]:
        """Return how the schema differs from the one expected."""
        return catalogue.differences(conn)

    def expected_objects(self) -> Iterable[tuple[str, ...]]:
        """Return the objects of this program's own schema."""
        return catalogue.expected()

    def accept(self, conn: Connection, objects: Iterable[tuple[str, ...]]) -> bool:
        """Expect these objects instead, if they are exactly what is there."""
        return catalogue.accept(conn, objects)

    def compare_again(self, conn: Connection) -> tuple[str, ...]:
        """Compare the schema now."""
        catalogue.forget(conn)
        return catalogue.compare(conn)

    def forget_schema(self, tx: Connection) -> None:
        """Do nothing: each comparison sees by itself whether the schema has changed."""

    def damage(self, conn: Connection) -> list[str]:  # noqa: ARG002 - see below
        """Return nothing: damaged pages are errors of the server (with data checksums, all of them)."""
        return []


ENGINE: Final = PostgresqlSeals()


@lru_cache(maxsize=256)
def _placed(sql: str) -> str:
    """Return the text with the driver's form of parameters."""
    return _PARAMETER.sub(r"%(\1)s", sql)
