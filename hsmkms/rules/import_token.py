"""The import token: what was promised with a wrapping key, for its caller an opaque string.

``magic || claims || MAC``. The MAC is made and checked on the token by the installation's own key, over magic and
claims; nothing in it is secret, and nothing in it is believed before the MAC was checked.
"""

from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct

from hsmkms.errors import InvalidImportTokenException
from hsmkms.model.enums import WrappingAlgorithm

_MAGIC: Final = b"hsmkms import token v1\x00"
_MAC_BYTES: Final = 32

DAMAGED: Final = "The import token is damaged, or was made elsewhere: get a new one with GetParametersForImport."


class Claims(Struct, frozen=True, array_like=True):
    """Which key in which region, by which wrapping key (its CKA_ID) and algorithm, and until when."""

    key_id: str
    region: str
    wrapping_key: bytes
    algorithm: WrappingAlgorithm
    valid_to: datetime


def signed_part(claims: Claims) -> bytes:
    """What the MAC is made over, and the first part of the token."""
    return _MAGIC + msgspec.msgpack.encode(claims)


def split(token: bytes) -> tuple[bytes, bytes]:
    """The part that was signed, and its MAC. InvalidImportTokenException if it cannot be one of ours."""
    signed, mac = token[:-_MAC_BYTES], token[-_MAC_BYTES:]
    if not signed.startswith(_MAGIC):
        raise InvalidImportTokenException(DAMAGED)
    return signed, mac


def read(signed: bytes) -> Claims:
    """The claims, once the MAC is known to be right."""
    try:
        return msgspec.msgpack.decode(signed.removeprefix(_MAGIC), type=Claims)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidImportTokenException(DAMAGED) from exc
