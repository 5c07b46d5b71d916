"""The largest JSON size of a request, from the constraints of its members.

A rough upper bound, to distinguish operations with large requests from all others: whitespace, unknown members, and
members without a bound in the API's model (encryption contexts) must fit in ``SMALL_REQUEST_BYTES``.
"""

from functools import cache
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from hsmkms.model.constraints import Length, Width
from hsmkms.model.enums import Operation
from hsmkms.model.operations import OPERATIONS

SMALL_REQUEST_BYTES: Final = 64 * 1024
"""Bytes that are allowed for every operation."""

_ESCAPED: Final = 6
r"""A character outside of ASCII in JSON, as most clients encode it: ``\u00e9``."""

_BASE64: Final = 4 / 3
_SCALAR: Final = 32
_ENTRIES: Final = 50
"""Entries of a list without a bound: a key has 50 tags at most."""


@cache
def largest_request(operation: Operation) -> int:
    """Return the most bytes that a request of an operation can have."""
    return SMALL_REQUEST_BYTES + int(_of_struct(OPERATIONS[operation].request))


def _of_struct(kind: type[Struct]) -> float:
    hints = get_type_hints(kind, include_extras=True)
    return sum(len(each.encode_name) + 4 + _of(hints[each.name]) for each in msgspec.structs.fields(kind))


def _of(hint: Any) -> float:  # noqa: ANN401 - a type
    """Return the most bytes of a value of a type; 0 for a map, whose pairs have no bound."""
    if get_origin(hint) in (Union, UnionType):
        return max(_of(each) for each in get_args(hint))
    kind, *metadata = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    longest = next((each.longest for each in metadata if isinstance(each, Length)), None)
    if kind is str:
        width = next((each.bytes_per_character for each in metadata if isinstance(each, Width)), _ESCAPED)
        return width * longest if longest is not None else _SCALAR
    if kind is bytes:
        return _BASE64 * longest if longest is not None else _SCALAR
    if get_origin(kind) is list:
        return (longest if longest is not None else _ENTRIES) * (_of(get_args(kind)[0]) + 4)
    if isinstance(kind, type) and issubclass(kind, Struct):
        return _of_struct(kind)
    return 0 if get_origin(kind) is dict else _SCALAR
