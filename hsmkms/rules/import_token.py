"""Encode and parse import tokens: the terms of a wrapping key, opaque to the caller.

``magic || claims || MAC``. The MAC is made and checked on the token by the installation's own key, over magic and
claims; nothing in it is secret, and nothing in it is used before the MAC was verified.
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
    """The KMS key and its region, the wrapping key (its CKA_ID), the algorithm, and the expiry."""

    key_id: str
    region: str
    wrapping_key: bytes
    algorithm: WrappingAlgorithm
    valid_to: datetime


def signed_part(claims: Claims) -> bytes:
    """Return the bytes that the MAC is computed over, which are the first part of the import token."""
    return _MAGIC + msgspec.msgpack.encode(claims)


def split(token: bytes) -> tuple[bytes, bytes]:
    """Return the signed part and its MAC. InvalidImportTokenException if the format is not hsmkms's."""
    signed, mac = token[:-_MAC_BYTES], token[-_MAC_BYTES:]
    if not signed.startswith(_MAGIC):
        raise InvalidImportTokenException(DAMAGED)
    return signed, mac


def read(signed: bytes) -> Claims:
    """Parse the claims; call it only after the MAC was verified."""
    try:
        return msgspec.msgpack.decode(signed.removeprefix(_MAGIC), type=Claims)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidImportTokenException(DAMAGED) from exc
