"""Encode an encryption context canonically, for the additional authenticated data.

Number of pairs, then for each pair, sorted by the UTF-8 bytes of its key: length and UTF-8 bytes of the key, length
and UTF-8 bytes of the value. Numbers are 4 bytes, big-endian. The lengths make the form unambiguous: no two different
contexts have the same bytes. An absent context equals an empty one.
"""

from collections.abc import Mapping
from typing import Final

from hsmkms.errors import ValidationException

MAX_BYTES: Final = 8192
"""Limit of the canonical form. AWS documents none; proxies of its external key stores must accept this much AAD."""

EMPTY: Final = bytes(4)


def folded(key: str) -> str:
    """Fold a key's letter case, so that keys that differ only in it become equal."""
    return key.casefold()


def canonical(context: Mapping[str, str] | None) -> bytes:
    """Return the canonical bytes of a context. ValidationException if it is too long or not valid Unicode."""
    if not context:
        return EMPTY
    form = len(context).to_bytes(4, "big")
    try:
        for key in sorted(context):  # by code points, which is the order of their UTF-8 bytes
            name, value = key.encode(), context[key].encode()
            form += b"%b%b%b%b" % (len(name).to_bytes(4, "big"), name, len(value).to_bytes(4, "big"), value)
    except UnicodeEncodeError as exc:
        raise ValidationException("EncryptionContext holds a lone surrogate, which is no Unicode character.") from exc
    if len(form) > MAX_BYTES:
        raise ValidationException(f"EncryptionContext is {len(form)} bytes long; at most {MAX_BYTES} are possible.")
    return form
