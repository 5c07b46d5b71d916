"""The grant token: the name of a grant that nobody can make up, for its holder an opaque string.

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
    """Which grant, on which key in which region; ``nonce`` makes each token another text."""

    grant_id: str
    key_id: str
    region: str
    nonce: bytes


_FORM: Final = SignedClaims(b"hsmkms grant token v1\x00", Claims, lambda: InvalidGrantTokenException(INVALID))

signed_part: Final = _FORM.signed_part
read: Final = _FORM.read


def encode(signed: bytes, mac: bytes) -> str:
    """The token."""
    return base64.urlsafe_b64encode(signed + mac).decode("ascii")


def split(token: str) -> tuple[bytes, bytes]:
    """The part that was signed, and its MAC. InvalidGrantTokenException if it cannot be one of ours."""
    try:
        data = base64.urlsafe_b64decode(token)
    except ValueError as exc:
        raise InvalidGrantTokenException(INVALID) from exc
    signed, mac = _FORM.split(data)
    # Only the exact text that encode gives is taken: base64 decoders pass over what does not belong there.
    if encode(signed, mac) != token:
        raise InvalidGrantTokenException(INVALID)
    return signed, mac
