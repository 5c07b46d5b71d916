"""The wire form of requests and responses: AWS JSON 1.1.

Blobs are base64, instants are seconds since 1970 (with a fraction only if there is one), absent members are left
out, and unknown members of a request are ignored.
"""

from datetime import datetime
from functools import cache
from typing import Any, Final

import msgspec
from msgspec import Struct

from hsmkms.errors import SerializationException
from hsmkms.model.enums import Operation
from hsmkms.model.operations import OPERATIONS

UNREADABLE: Final = "The request body is not the JSON object that this operation takes."


def decode_request(operation: Operation, body: bytes) -> Struct:
    """Read a request; an empty body is ``{}``, and a member that is null counts as absent.

    Raises SerializationException, which repeats nothing of the body. Constraints are checked later.
    """
    try:
        request: Struct = _decoder(operation).decode(body or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _decode_with_nulls(operation, body)
    return request


def to_wire(response: Struct) -> dict[str, Any]:
    """A response as plain JSON values under the API's names."""
    plain: dict[str, Any] = msgspec.to_builtins(response, builtin_types=(datetime,))
    return _without_datetimes(plain)  # type: ignore[no-any-return]  # a dictionary stays one


def encode_response(response: Struct) -> bytes:
    """A response as a body."""
    return msgspec.json.encode(to_wire(response))


@cache
def _decoder(operation: Operation) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(OPERATIONS[operation].request)


def _decode_with_nulls(operation: Operation, body: bytes) -> Struct:
    """The slow way: a request may say null where it could have said nothing."""
    try:
        plain = msgspec.json.decode(body)
        kept = {name: value for name, value in plain.items() if value is not None}
        request: Struct = msgspec.convert(kept, OPERATIONS[operation].request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, AttributeError) as exc:
        raise SerializationException(UNREADABLE) from exc
    return request


def _without_datetimes(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, datetime):
        seconds = round(value.timestamp(), 3)
        return int(seconds) if seconds.is_integer() else seconds
    if isinstance(value, dict):
        return {name: _without_datetimes(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_datetimes(each) for each in value]
    return value
