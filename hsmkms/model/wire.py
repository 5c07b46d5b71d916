"""The wire form of requests and responses: AWS JSON 1.1.

Blobs are base64, timestamps are seconds since 1970 (with a fraction only if it is not 0), absent members are
omitted, and unknown members of a request are ignored.
"""

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

import msgspec
from msgspec import Struct, inspect

from hsmkms.errors import SerializationException
from hsmkms.model.enums import Operation
from hsmkms.model.operations import OPERATIONS

NOT_JSON: Final = "The request body is not valid JSON."
NOT_THE_SHAPE: Final = "The request body does not fit the operation"

_encode: Final = msgspec.json.Encoder().encode
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_WITH_TIMESTAMPS: Final = frozenset({Operation.IMPORT_KEY_MATERIAL})
"""Operations whose requests have a timestamp; a test fails if one is missing."""


def decode_request(operation: Operation, body: bytes) -> Struct:
    """Decode a request; an empty body is ``{}``, and a member that is null counts as absent.

    Raises SerializationException, which names the invalid member and does not repeat the body. Constraints are
    checked later.
    """
    body = body or b"{}"
    if operation in _WITH_TIMESTAMPS:
        return _decode_slowly(operation, body)
    try:
        request: Struct = _decoder(operation).decode(body)
    except msgspec.ValidationError:
        return _decode_slowly(operation, body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise SerializationException(NOT_JSON) from exc
    return request


def to_wire(response: Struct) -> dict[str, Any]:
    """Convert a response to plain JSON values, with the API's member names."""
    plain: dict[str, Any] = msgspec.to_builtins(response, builtin_types=(datetime,))
    return _without_datetimes(plain)  # type: ignore[no-any-return]  # a dictionary stays one


def encode_response(response: Struct) -> bytes:
    """Encode a response as a body. msgspec encodes responses without timestamps directly."""
    return _encode(to_wire(response) if _has_timestamps(type(response)) else response)


@cache
def _has_timestamps(kind: type[Struct]) -> bool:
    return _type_has_timestamps(inspect.type_info(kind))


def _type_has_timestamps(kind: inspect.Type) -> bool:
    """Return True if a value of the type can contain a timestamp, at any depth."""
    if isinstance(kind, inspect.UnionType):
        return any(_type_has_timestamps(each) for each in kind.types)
    if isinstance(kind, inspect.StructType):
        return any(_type_has_timestamps(each.type) for each in kind.fields)
    if isinstance(kind, inspect.ListType):
        return _type_has_timestamps(kind.item_type)
    return isinstance(kind, inspect.DateTimeType)


@cache
def _decoder(operation: Operation) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(OPERATIONS[operation].request)


def _decode_slowly(operation: Operation, body: bytes) -> Struct:
    """Decode a request that has null members or timestamps."""
    kind = OPERATIONS[operation].request
    try:
        kept = _plain(msgspec.json.decode(body), inspect.type_info(kind))
        request: Struct = msgspec.convert(kept, kind)
    except msgspec.ValidationError as exc:
        raise SerializationException(f"{NOT_THE_SHAPE}: {exc}.") from exc  # the message has types and the path only
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise SerializationException(NOT_JSON) from exc
    return request


def _plain(value: Any, kind: inspect.Type) -> Any:  # noqa: ANN401 - any JSON value
    """Return the value with datetimes for timestamps, and without members that are null.

    A null in a list or a map stays, and is invalid there.
    """
    if isinstance(kind, inspect.UnionType):
        kind = next(each for each in kind.types if not isinstance(each, inspect.NoneType))
    if isinstance(kind, inspect.StructType) and isinstance(value, dict):
        members = ((each.encode_name, each.type) for each in kind.fields)
        return {name: _plain(value[name], member) for name, member in members if value.get(name) is not None}
    if isinstance(kind, inspect.ListType) and isinstance(value, list):
        return [_plain(each, kind.item_type) for each in value]
    if isinstance(kind, inspect.DateTimeType):
        return _instant(value)
    return value


def _instant(seconds: object) -> datetime:
    """Convert seconds since 1970, with or without a fraction."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise msgspec.ValidationError("Expected a timestamp in seconds since 1970")
    try:
        return _EPOCH + timedelta(seconds=seconds)
    except (OverflowError, ValueError) as exc:
        raise msgspec.ValidationError("Expected a timestamp of the years 1 to 9999") from exc


def _without_datetimes(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, datetime):
        return _epoch_seconds(value)
    if isinstance(value, dict):
        return {name: _without_datetimes(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_datetimes(each) for each in value]
    return value


def _epoch_seconds(moment: datetime) -> int | float:
    """Return seconds since 1970, to the nearest millisecond. A datetime without a zone raises TypeError."""
    milliseconds = round((moment - _EPOCH) / timedelta(milliseconds=1))
    return milliseconds / 1000 if milliseconds % 1000 else milliseconds // 1000
