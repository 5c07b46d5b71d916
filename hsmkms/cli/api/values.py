"""Parse option values as the aws CLI does: blobs, files, maps, lists and structures."""

import base64
import codecs
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import inspect

from hsmkms.cli.api import shorthand
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
_STANDARD_INPUT: Final = frozenset({"/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"})


class BinaryFormat(StrEnum):
    """The value of ``--cli-binary-format``: how bytes stand on the command line or in ``file://FILE``."""

    BASE64 = "base64"
    RAW = "raw-in-base64-out"


def blob(option: str, value: str, form: BinaryFormat = BinaryFormat.BASE64) -> bytes:
    """Read bytes from base64, ``file://FILE`` with base64, ``fileb://FILE``, or from standard input for ``-``.

    Base64 may have line breaks, as the program `base64` writes them.
    """
    if value == "-":
        return sys.stdin.buffer.read()
    if value.startswith(_BINARY_FILE):
        return _read(option, value.removeprefix(_BINARY_FILE))
    if form is BinaryFormat.RAW:
        return text(option, value).encode(errors="surrogateescape")
    path = value.removeprefix(_TEXT_FILE)
    in_file = path != value
    try:
        return base64.b64decode(b"".join((_read(option, path) if in_file else value.encode()).split()), validate=True)
    except ValueError as exc:
        if in_file:
            raise ValidationException(
                f"{option}: {path} is not base64: write {_BINARY_FILE}{path} for the bytes of the file itself."
            ) from exc
        raise ValidationException(
            f"{option} is not base64: pass base64 or file://FILE with base64, fileb://FILE for the bytes of a file, "
            "or - for standard input."
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


def document(option: str, value: str) -> str:
    """Return a JSON document, or that of ``file://FILE``. ValidationException for a file's name without file://."""
    is_path = not value.lstrip().startswith(_JSON_STARTS) and not value.startswith(_TEXT_FILE)
    if is_path and os.path.isfile(value):  # noqa: PTH113 - Path's raises OSError for a long text
        raise ValidationException(f"{option}: {value} is no document, but a file: write file://{value}.")
    return text(option, value)


def _encoding(data: bytes) -> str:
    """Guess the encoding of a file that is not UTF-8, for an error message."""
    for mark, name in _MARKS.items():
        if data.startswith(mark):
            return f"{name} text"
    if b"\0" in data:
        return "UTF-16 text without a byte order mark, or no text at all"
    return "no UTF-8 text, perhaps Windows-1252 or ISO 8859-1"


def mapping(option: str, value: str) -> dict[str, str]:
    """Parse ``key=value,key=value``, with quotes around a value that has commas, or a JSON object of strings."""
    value = text(option, value)
    if value.lstrip().startswith(_JSON_STARTS):
        decoded: dict[str, str] = _json(option, value, dict[str, str])
        return decoded
    pairs = _shorthand(option, value)
    for key, member in pairs.items():
        if not isinstance(member, str):
            raise ValidationException(
                f"{option}: the value of {key!r} is a list or a structure, but a text is expected: put quotes around "
                "a value that has commas or brackets, or pass a JSON object."
            )
    return pairs


def items(option: str, values: list[str], kind: Any) -> list[Any]:  # noqa: ANN401 - a type for msgspec to read
    """Parse a list: plain values, ``Member=value,Member=value`` for structures, or one JSON list."""
    values = [text(option, each) for each in values]
    if len(values) == 1 and values[0].lstrip().startswith("["):
        decoded: list[Any] = _json(option, values[0], list[kind])
        return decoded
    if kind is str:
        return values
    return [structure(option, each, kind) for each in values]


def structure(option: str, value: str, kind: Any) -> Any:  # noqa: ANN401 - see items
    """Parse one structure: JSON, or ``Member=value,Member=value``."""
    value = text(option, value)
    if value.lstrip().startswith("{"):
        return _json(option, value, kind)
    return fitted(option, _shorthand(option, value), kind)


def fitted(option: str, value: Any, kind: Any) -> Any:  # noqa: ANN401 - see items
    """Convert plain values to a type: a member that the type does not have is refused by its name."""
    try:
        return msgspec.convert(_checked(option, value, inspect.type_info(kind)), kind, strict=False)
    except msgspec.ValidationError as exc:
        raise ValidationException(f"{option}: {exc}") from exc


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


def _shorthand(option: str, value: str) -> dict[str, Any]:
    try:
        return shorthand.parse(value)
    except shorthand.ShorthandError as exc:
        raise ValidationException(f"{option}: {exc} (or pass a JSON object).") from exc


def _json(option: str, value: str, kind: Any) -> Any:  # noqa: ANN401 - see items
    try:
        decoded = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise ValidationException(f"{option} is not JSON: {exc}") from exc
    return fitted(option, decoded, kind)


def _checked(option: str, value: Any, kind: inspect.Type) -> Any:  # noqa: ANN401 - see items
    """Return the value with single values where lists are expected put into lists; raise for unknown members."""
    if isinstance(kind, inspect.UnionType):
        kind = next(each for each in kind.types if not isinstance(each, inspect.NoneType))
    if isinstance(kind, inspect.StructType) and isinstance(value, dict):
        members = {each.encode_name: each.type for each in kind.fields}
        for name in value:
            if name not in members:
                known = ", ".join(members)
                raise ValidationException(f"{option}: there is no member {name!r}; there is: {known}.")
        return {name: _checked(option, each, members[name]) for name, each in value.items()}
    if isinstance(kind, inspect.ListType):
        values = value if isinstance(value, list) else [value]
        return [_checked(option, each, kind.item_type) for each in values]
    return value


def _read(option: str, path: str) -> bytes:
    try:
        if path in _STANDARD_INPUT:
            return sys.stdin.buffer.read()
        return Path(os.path.expanduser(path)).read_bytes()  # noqa: PTH111 - Path.expanduser raises for unknown users
    except OSError as exc:
        raise ValidationException(f"{option}: {path} cannot be read ({exc.strerror}).") from exc
