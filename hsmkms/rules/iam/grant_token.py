"""Encode and parse grant tokens: unforgeable names of grants, opaque to their holders.

Its form is the base64url of ``signed_claims``. A token gives no right of its own: it is the grantee who may use a
grant.
"""

import base64
from typing import Final

from msgspec import Struct

from hsmkms.errors import InvalidGrantTokenException
from hsmkms.rules.signed_claims import SignedClaims

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


_FORM: Final = SignedClaims(b"hsmkms grant token v1\x00", Claims, lambda: InvalidGrantTokenException(INVALID))

signed_part: Final = _FORM.signed_part
read: Final = _FORM.read


def encode(signed: bytes, mac: bytes) -> str:
    """Return the grant token."""
    return base64.urlsafe_b64encode(signed + mac).decode("ascii")


def split(token: str) -> tuple[bytes, bytes]:
    """Return the signed part and its MAC. InvalidGrantTokenException if the format is not hsmkms's."""
    try:
        data = base64.urlsafe_b64decode(token)
    except ValueError as exc:
        raise InvalidGrantTokenException(INVALID) from exc
    signed, mac = _FORM.split(data)
    # Accept only the exact output of encode: base64 decoders ignore invalid characters.
    if encode(signed, mac) != token:
        raise InvalidGrantTokenException(INVALID)
    return signed, mac
