"""RFC 7512 ``pkcs11:`` URIs, as far as they choose a token and say where its module and its PIN are."""

import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from msgspec import Struct

from hsmkms.errors import ConfigurationError

_URI_PATH: Final = {"token": "label", "serial": "serial", "manufacturer": "manufacturer", "model": "model"}
_URI_SLOT: Final = "slot-id"
_URI_QUERY: Final = ("module-path", "pin-source")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


class TokenUri(Struct, frozen=True, kw_only=True):
    """What a URI says of a token (None means "anything"), and where it says that the module and the PIN are."""

    label: str | None = None
    serial: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    slot_id: int | None = None
    module: Path | None = None
    pin_file: Path | None = None


def parse_uri(uri: str) -> TokenUri:
    """Read a ``pkcs11:`` URI that names a token (RFC 7512, sections 2.3 and 2.4).

    Raises ConfigurationError for an attribute that does not choose a token, and for a PIN in the URI; no message
    repeats a value.
    """
    if "pin-value" in unquote_to_bytes(uri).decode("utf-8", "replace").lower():
        raise ConfigurationError("token.uri holds a PIN (pin-value): keep it in a file and name that in [token.pin]")
    scheme, colon, rest = uri.partition(":")
    if scheme.lower() != "pkcs11" or not colon:
        raise ConfigurationError("token.uri must begin with pkcs11:")
    path, _, query = rest.partition("?")
    told = _attributes(path, ";", (*_URI_PATH, _URI_SLOT))
    asked = _attributes(query, "&", _URI_QUERY)
    if not told:
        raise ConfigurationError("token.uri chooses no token: name its token, serial, manufacturer, model or slot-id")
    return TokenUri(
        **{field: told[name] for name, field in _URI_PATH.items() if name in told},
        slot_id=_slot_number(told[_URI_SLOT]) if _URI_SLOT in told else None,
        module=Path(asked["module-path"]) if "module-path" in asked else None,
        pin_file=_pin_source(asked["pin-source"]) if "pin-source" in asked else None,
    )


def _attributes(text: str, separator: str, known: tuple[str, ...]) -> dict[str, str]:
    told: dict[str, str] = {}
    for part in filter(None, text.split(separator)):
        name, _, value = part.partition("=")
        if name not in known:
            raise ConfigurationError(f"token.uri: unknown attribute {name!r}; here stand {', '.join(known)}")
        if name in told:
            raise ConfigurationError(f"token.uri names {name} twice")
        told[name] = _percent_decoded(name, value)
    return told


def _percent_decoded(name: str, value: str) -> str:
    try:
        text = unquote_to_bytes(value).decode()
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"token.uri: {name} is not UTF-8 when percent-decoded") from exc
    if not text or _BAD_ESCAPE.search(value):
        raise ConfigurationError(f"token.uri: {name} is empty, or has a % that no two hex digits follow")
    return text


def _slot_number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", text):
        raise ConfigurationError("token.uri: slot-id must be a number")
    return int(text)


def _pin_source(source: str) -> Path:
    told = urlsplit(source)
    if source.startswith("|") or told.scheme not in ("", "file") or told.netloc not in ("", "localhost"):
        raise ConfigurationError("token.uri: pin-source must be a file; for a program use token.pin.command")
    return Path(_percent_decoded("pin-source", told.path)) if told.scheme else Path(source)
