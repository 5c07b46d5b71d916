"""RFC 7512 ``pkcs11:`` URIs, as far as they choose a token and say where its module and its PIN are.

URIs are taken as ``p11tool --list-tokens`` prints them: NUL bytes and blanks that pad a value are ignored, and a serial
number, manufacturer or model may be empty, as some tokens report none.
"""

import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from msgspec import Struct

from hsmkms.errors import ConfigurationError

SETTING: Final = "token.uri"

_URI_PATH: Final = {"token": "label", "serial": "serial", "manufacturer": "manufacturer", "model": "model"}
_URI_SLOT: Final = "slot-id"
_URI_QUERY: Final = ("module-path", "pin-source")
_MAY_BE_EMPTY: Final = ("serial", "manufacturer", "model")
_PADDING: Final = "\0 "
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")

_OF_OBJECTS: Final = ("object", "type", "id")
_OF_SLOTS_AND_LIBRARIES: Final = (
    "slot-description",
    "slot-manufacturer",
    "library-description",
    "library-manufacturer",
    "library-version",
)
_REFUSED: Final = {
    **dict.fromkeys(_OF_OBJECTS, "names an object on the token, and hsmkms makes its own objects"),
    **dict.fromkeys(_OF_SLOTS_AND_LIBRARIES, "does not choose a token here"),
    "module-name": "is not searched for: name the module's file with module-path",
}
"""Attributes of RFC 7512 that hsmkms does not use, and why."""


class TokenUri(Struct, frozen=True, kw_only=True):
    """Contents of a URI: attributes of a token (None means "any"), and where the module and the PIN are."""

    label: str | None = None
    serial: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    slot_id: int | None = None
    module: Path | None = None
    pin_file: Path | None = None


def parse_uri(uri: str, name: str = SETTING) -> TokenUri:
    """Read a ``pkcs11:`` URI that names a token (RFC 7512, sections 2.3 and 2.4).

    ``name`` is the setting or option that holds the URI. Raises ConfigurationError for an attribute that does not
    choose a token, and for a PIN in the URI; no message repeats a value.
    """
    try:
        return _parsed(uri)
    except _UriError as exc:
        raise ConfigurationError(f"{name}{exc}") from None


class _UriError(Exception):
    """What is wrong with a URI, in words that follow the name of the setting."""


def _parsed(uri: str) -> TokenUri:
    if "pin-value" in unquote_to_bytes(uri).decode("utf-8", "replace").lower():
        raise _UriError(" holds a PIN (pin-value): keep it in a file and name that as the PIN file")
    scheme, colon, rest = uri.partition(":")
    if scheme.lower() != "pkcs11" or not colon:
        raise _UriError(" must begin with pkcs11:")
    path, _, query = rest.partition("?")
    chosen = _attributes(path, ";", (*_URI_PATH, _URI_SLOT))
    places = _attributes(query, "&", _URI_QUERY)
    if not chosen:
        raise _UriError(" chooses no token: name its token, serial, manufacturer, model or slot-id")
    return TokenUri(
        **{field: chosen[name] for name, field in _URI_PATH.items() if name in chosen},
        slot_id=_slot_number(chosen[_URI_SLOT]) if _URI_SLOT in chosen else None,
        module=Path(places["module-path"]) if "module-path" in places else None,
        pin_file=_pin_source(places["pin-source"]) if "pin-source" in places else None,
    )


def _attributes(text: str, separator: str, known: tuple[str, ...]) -> dict[str, str]:
    values: dict[str, str] = {}
    for part in filter(None, text.split(separator)):
        name, _, value = part.partition("=")
        if name in _REFUSED:
            raise _UriError(f": {name!r} {_REFUSED[name]}: leave it out")
        if name not in known:
            raise _UriError(f": unknown attribute {name!r}; known are {', '.join(known)}")
        if name in values:
            raise _UriError(f" names {name} twice")
        values[name] = _percent_decoded(name, value)
    return values


def _percent_decoded(name: str, value: str) -> str:
    if _BAD_ESCAPE.search(value):
        raise _UriError(f": {name} has a % that no two hex digits follow")
    try:
        text = unquote_to_bytes(value).decode()
    except UnicodeDecodeError:
        raise _UriError(f": {name} is not UTF-8 when percent-decoded") from None
    if name in _URI_PATH:
        text = text.rstrip(_PADDING)
    if not text and name not in _MAY_BE_EMPTY:
        raise _UriError(f": {name} is empty")
    return text


def _slot_number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", text):
        raise _UriError(": slot-id must be a number")
    return int(text)


def _pin_source(source: str) -> Path:
    parts = urlsplit(source)
    if source.startswith("|") or parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost"):
        raise _UriError(": pin-source must be a file; for a program use token.pin.command")
    return Path(_percent_decoded("pin-source", parts.path)) if parts.scheme else Path(source)
