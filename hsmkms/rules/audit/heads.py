"""Authenticate the ends of audit logs that nodes publish in the database, so that an edited one is noticed.

The key is that of the row seals, which each process derives on the token once: publishing needs no call to the token.
"""

import hmac
from typing import Final

from hsmkms.model.audit import PublishedHead
from hsmkms.rules.audit.record import encode

_DOMAIN: Final = b"audit head\0"


def mac(key: bytes, published: PublishedHead) -> bytes:
    """Return the HMAC of a published end of a lane."""
    return hmac.digest(key, _DOMAIN + encode(published), "sha256")


def proves(key: bytes, published: PublishedHead, made: bytes) -> bool:
    """Return True if that is the HMAC of a published end of a lane under the key."""
    return hmac.compare_digest(mac(key, published), made)
