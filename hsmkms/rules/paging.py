"""Page sizes and opaque markers of list operations.

A marker contains the name of its operation and the last key of the page, with a checksum that detects damage. It is not
secret and grants no permission: the next page is authorised like the first. Sizes: AWS KMS API Reference, ``Limit`` of
each operation.
"""

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from msgspec import Struct

from hsmkms.errors import InvalidMarkerException
from hsmkms.model.enums import Operation
from hsmkms.rules.constraints import check_range

Item = TypeVar("Item")


class PageLimits(Struct, frozen=True):
    """Default and maximum number of items per page."""

    default: int
    maximum: int


LIMITS: Final[Mapping[Operation, PageLimits]] = {
    Operation.LIST_KEYS: PageLimits(100, 1000),
    Operation.LIST_ALIASES: PageLimits(50, 100),
    Operation.LIST_RESOURCE_TAGS: PageLimits(50, 50),
    Operation.LIST_KEY_ROTATIONS: PageLimits(100, 1000),
    Operation.LIST_GRANTS: PageLimits(50, 100),
    Operation.LIST_RETIRABLE_GRANTS: PageLimits(50, 100),
    Operation.LIST_KEY_POLICIES: PageLimits(100, 1000),
}

_SUM_LENGTH: Final = 8
_SEPARATOR: Final = b"\x00"


def page_size(operation: Operation, limit: int | None) -> int:
    """Return the size of the requested page. ValidationException outside the limits."""
    limits = LIMITS[operation]
    if limit is None:
        return limits.default
    check_range(limit, "limit", 1, limits.maximum)
    return limit


def after(operation: Operation, marker: str | None) -> str | None:
    """Return the last key of the previous page, or None for the first page. Raises as ``decode_marker`` does."""
    return None if marker is None else decode_marker(operation, marker)


def after_number(operation: Operation, marker: str | None) -> int | None:
    """Return the same for lists whose keys are numbers."""
    last_key = after(operation, marker)
    if last_key is None:
        return None
    if not (last_key.isascii() and last_key.isdigit()):
        raise _invalid(operation)
    return int(last_key)


def cut(
    operation: Operation, items: Sequence[Item], size: int, key_of: Callable[[Item], str]
) -> tuple[Sequence[Item], str | None]:
    """Return the items of a page, and the marker of the next page: None unless there are more than ``size`` items."""
    page = items[:size]
    return page, encode_marker(operation, key_of(page[-1])) if len(items) > size else None


def encode_marker(operation: Operation, last_key: str) -> str:
    """Return the marker that continues after ``last_key``: letters, digits, ``-``, ``_`` and ``=``."""
    payload = operation.encode("ascii") + _SEPARATOR + last_key.encode("utf-8")
    return base64.urlsafe_b64encode(_check_sum(payload) + payload).decode("ascii")


def decode_marker(operation: Operation, marker: str) -> str:
    """Return the last key of the previous page. InvalidMarkerException if the marker is not this operation's."""
    try:
        last_key = _payload(marker).removeprefix(operation.encode("ascii") + _SEPARATOR).decode("utf-8")
    except ValueError as exc:
        raise _invalid(operation) from exc
    # Accept only the exact output of encode_marker: this checks operation, checksum and base64 at once.
    if encode_marker(operation, last_key) != marker:
        raise _invalid(operation)
    return last_key


def _payload(marker: str) -> bytes:
    return base64.urlsafe_b64decode(marker)[_SUM_LENGTH:]


def _check_sum(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest()[:_SUM_LENGTH]


def _invalid(operation: Operation) -> InvalidMarkerException:
    return InvalidMarkerException(
        f"The marker is damaged or belongs to another operation: pass NextMarker of the last {operation} unchanged."
    )
