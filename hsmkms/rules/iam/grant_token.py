"""The grant token: the name of a grant that nobody can make up, for its holder an opaque string.

``base64url(magic || claims || MAC)``. The MAC is made and checked on the token by the installation's own key. A token
gives no right of its own: it is the grantee who may use a grant.
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
    """Which grant, on which key in which region; ``nonce`` makes each token another text."""

    grant_id: str
    key_id: str
    region: str
    nonce: bytes


def signed_part(claims: Claims) -> bytes:
    """What the MAC is made over."""
    return _MAGIC + msgspec.msgpack.encode(claims)


def encode(signed: bytes, mac: bytes) -> str:
    """The token."""
    return base64.urlsafe_b64encode(signed + mac).decode("ascii")


def split(token: str) -> tuple[bytes, bytes]:
    """The part that was signed, and its MAC. InvalidGrantTokenException if it cannot be one of ours."""
    try:
        data = base64.urlsafe_b64decode(token)
    except ValueError as exc:
        raise InvalidGrantTokenException(INVALID) from exc
    signed, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
    # Only the exact text that encode gives is taken: base64 decoders pass over what does not belong there.
    if not signed.startswith(_MAGIC) or encode(signed, mac) != token:
        raise InvalidGrantTokenException(INVALID)
    return signed, mac


def read(signed: bytes) -> Claims:
    """The claims, once the MAC is known to be right."""
    try:
        return msgspec.msgpack.decode(signed.removeprefix(_MAGIC), type=Claims)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidGrantTokenException(INVALID) from exc
