"""Encode and parse grant tokens: unforgeable names of grants, opaque to their holders.

``base64url(magic || claims || MAC)``. The MAC is made and checked on the token by the installation's own key. A grant
token gives no permission by itself: only the grantee may use a grant.
"""

import base64
from typing import Final

import msgspec
from msgspec import Struct

from hsmkms.errors import InvalidGrantTokenException

_MAGIC: Final = b"hsmkms grant token v1\x00"
_MAC_BYTES: Final = 32

INVALID: Final = (
    "The grant token is not one of this installation, or its grant has been retired or revoked: "
    "use the GrantToken that CreateGrant answered, or leave it out."
)


class Claims(Struct, frozen=True, array_like=True):
    """The grant, its key and region; ``nonce`` makes each token unique."""

    grant_id: str
    key_id: str
    region: str
    nonce: bytes


def signed_part(claims: Claims) -> bytes:
    """Return the bytes that the MAC is computed over."""
    return _MAGIC + msgspec.msgpack.encode(claims)


def encode(signed: bytes, mac: bytes) -> str:
    """Return the grant token."""
    return base64.urlsafe_b64encode(signed + mac).decode("ascii")


def split(token: str) -> tuple[bytes, bytes]:
    """Return the signed part and its MAC. InvalidGrantTokenException if the format is not hsmkms's."""
    try:
        data = base64.urlsafe_b64decode(token)
    except ValueError as exc:
        raise InvalidGrantTokenException(INVALID) from exc
    signed, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
    # Accept only the exact output of encode: base64 decoders ignore invalid characters.
    if not signed.startswith(_MAGIC) or encode(signed, mac) != token:
        raise InvalidGrantTokenException(INVALID)
    return signed, mac


def read(signed: bytes) -> Claims:
    """Parse the claims; call it only after the MAC was verified."""
    try:
        return msgspec.msgpack.decode(signed.removeprefix(_MAGIC), type=Claims)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidGrantTokenException(INVALID) from exc
