"""Parse option values as the aws CLI does: blobs, files, maps, lists and structures."""

import base64
import binascii
import codecs
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from hsmkms.errors import ValidationException
from hsmkms.model.ids import ALIAS_PREFIX, is_key_id

_BINARY_FILE: Final = "fileb://"
_TEXT_FILE: Final = "file://"
_MARKS: Final = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, with which it begins
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
KEY_HELP: Final = "Key id, key ARN, alias or alias ARN."

_JSON_STARTS: Final = ("{", "[")


def blob(option: str, value: str) -> bytes:
    """Read bytes from base64, from ``fileb://FILE``, or from standard input for ``-``."""
    if value == "-":
        return sys.stdin.buffer.read()
    if value.startswith(_BINARY_FILE):
        return _read(option, value.removeprefix(_BINARY_FILE))
    if value.startswith(_TEXT_FILE):
        raise ValidationException(f"{option} takes bytes: write fileb:// instead of file://.")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise ValidationException(
            f"{option} is not base64: pass base64, fileb://FILE for the bytes of a file, or - for standard input."
        ) from exc


def text(option: str, value: str) -> str:
    """Return the value itself, or the text of ``file://FILE``."""
    if not value.startswith(_TEXT_FILE):
        return value
    data = _read(option, value.removeprefix(_TEXT_FILE))
    try:
        decoded = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise ValidationException(f"{option}: {value} is {_encoding(data)}: save it as UTF-8.") from exc
    if "\0" in decoded:
        raise ValidationException(f"{option}: {value} is {_encoding(data)}: save it as UTF-8.")
    return decoded


def _encoding(data: bytes) -> str:
    """Guess the encoding of a file that is not UTF-8, for an error message."""
    for mark, name in _MARKS.items():
        if data.startswith(mark):
            return f"{name} text"
    if b"\0" in data:
        return "UTF-16 text without a byte order mark, or no text at all"
    return "no UTF-8 text, perhaps Windows-1252 or ISO 8859-1"


def instant(option: str, value: str) -> datetime:
    """Parse an instant: seconds since 1970, or ISO 8601, in UTC if it names no zone."""
    try:
        if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
            return datetime.fromtimestamp(float(value), UTC)
        read = datetime.fromisoformat(value)
        return (read if read.tzinfo is not None else read.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError, OSError) as exc:
        raise ValidationException(
            f"{option}: {value!r} is no instant: write 2027-01-31T12:00:00Z, or seconds since 1970."
        ) from exc


def mapping(option: str, value: str) -> dict[str, str]:
    """Parse ``key=value,key=value`` or a JSON object of strings."""
    value = text(option, value)
    if value.lstrip().startswith(_JSON_STARTS):
        decoded: dict[str, str] = _json(option, value, dict[str, str])
        return decoded
    pairs: dict[str, str] = {}
    for part in value.split(","):
        key, separator, member = part.partition("=")
        if not separator:
            raise ValidationException(f"{option}: {part!r} is not key=value (or pass a JSON object).")
        pairs[key] = member
    return pairs


def items(option: str, values: list[str], kind: Any) -> list[Any]:  # noqa: ANN401 - a type for msgspec to read
    """Parse a list: plain values, ``Member=value,Member=value`` for structures, or one JSON list."""
    values = [text(option, each) for each in values]
    if len(values) == 1 and values[0].lstrip().startswith("["):
        decoded: list[Any] = _json(option, values[0], list[kind])
        return decoded
    if kind is str:
        return values
    return [_structure(option, each, kind) for each in values]


def structure(option: str, value: str, kind: Any) -> Any:  # noqa: ANN401 - see items
    """Parse one structure: JSON, or ``Member=value,Member=value``."""
    return _structure(option, text(option, value), kind)


def json_object(option: str, value: str) -> dict[str, Any]:
    """Parse a JSON object, given directly or as ``file://FILE``."""
    decoded: dict[str, Any] = _json(option, text(option, value), dict[str, Any])
    return decoded


def key_name(value: str) -> str:
    """Complete the name of a key: an alias may be given without its prefix."""
    if is_key_id(value) or value.startswith(("arn:", ALIAS_PREFIX)):
        return value
    return alias_name(value)


def alias_name(value: str) -> str:
    """Add the prefix of an alias if it is missing."""
    return value if value.startswith(ALIAS_PREFIX) else ALIAS_PREFIX + value


def _structure(option: str, value: str, kind: Any) -> Any:  # noqa: ANN401 - see items
    if value.lstrip().startswith("{"):
        return _json(option, value, kind)
    try:
        return msgspec.convert(mapping(option, value), kind)
    except msgspec.ValidationError as exc:
        raise ValidationException(f"{option}: {exc}") from exc


def _json(option: str, value: str, kind: Any) -> Any:  # noqa: ANN401 - see items
    try:
        return msgspec.json.decode(value, type=kind)
    except (msgspec.DecodeError, UnicodeError) as exc:
        raise ValidationException(f"{option} is not the JSON that is expected there: {exc}") from exc


def _read(option: str, path: str) -> bytes:
    try:
        return Path(os.path.expanduser(path)).read_bytes()  # noqa: PTH111 - Path.expanduser raises for unknown users
    except OSError as exc:
        raise ValidationException(f"{option}: {path} cannot be read ({exc.strerror}).") from exc
