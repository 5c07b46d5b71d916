"""Compute names of backing keys: the public material id, and the label of the token object.

Both can be rebuilt from a token object's attributes, so that a key can be adopted from the token alone.
"""

import base64
import hashlib
import re
from typing import Final

from msgspec import Struct

from hsmkms.errors import MisuseError
from hsmkms.model.ids import MULTI_REGION_PREFIX, is_key_id, is_multi_region

MAX_SEQUENCE: Final = 2**23 - 1
"""Limit of the short label; the long one keeps to it, so that each can be converted to the other."""

_GENERATED: Final = b"hsmkms generated material v1"
_SEPARATOR: Final = b"\x00"

_match_long: Final = re.compile(r"hsmkms/([0-9a-f]{8})/([a-z0-9-]+)/([^/]{36})/([1-9][0-9]{0,6})").fullmatch
_WRAPPING_PREFIX: Final = "hsmkms wrapping key/"
_match_installation: Final = re.compile(r"[0-9a-f]{8}").fullmatch

# The short label: marker (1), installation (4), key id (16), sequence (3), in base64url: 24 bytes, 32 characters.
_match_short: Final = re.compile(r"[A-Za-z0-9_-]{32}").fullmatch
_SHORT_MARKER: Final = 0x85
"""Its base64 begins with an h; a long label cannot be mistaken for a short one, because it contains slashes."""
_MULTI_REGION_BIT: Final = 1 << 23


class LabelParts(Struct, frozen=True):
    """The parts of a label; the short form has no room for the region."""

    installation: str
    region: str | None
    key_id: str
    sequence: int


def material_id(key_id: str, cka_id: bytes) -> str:
    """Return the material id of a generated backing key: 64 hex digits from the CKA_ID of its token object."""
    return hashlib.sha256(_SEPARATOR.join((_GENERATED, key_id.encode("ascii"), cka_id))).hexdigest()


def object_label(installation: str, region: str, key_id: str, sequence: int) -> str:
    """Return the CKA_LABEL of a backing key. ``installation`` is 8 hex digits, ``sequence`` counts from 1."""
    _check_parts(installation, key_id, sequence)
    return f"hsmkms/{installation}/{region}/{key_id}/{sequence}"


def short_label(installation: str, key_id: str, sequence: int) -> str:
    """Return the CKA_LABEL for tokens that accept only 32 bytes: exactly 32 ASCII characters."""
    _check_parts(installation, key_id, sequence)
    multi_region = is_multi_region(key_id)
    packed = (
        bytes((_SHORT_MARKER,))
        + bytes.fromhex(installation)
        + bytes.fromhex(key_id.removeprefix(MULTI_REGION_PREFIX).replace("-", ""))
        + (sequence | _MULTI_REGION_BIT * multi_region).to_bytes(3, "big")
    )
    return base64.urlsafe_b64encode(packed).decode("ascii")


def wrapping_label(installation: str) -> str:
    """Return the CKA_LABEL of a wrapping key, which names only the installation; its KMS key is in the database."""
    return f"{_WRAPPING_PREFIX}{installation}"


def parse_label(label: str) -> LabelParts | None:
    """Parse either form, or return None for a label of another object, such as a foreign one."""
    long = _match_long(label)
    parts = _unpack(label) if long is None else LabelParts(long[1], long[2], long[3], int(long[4]))
    if parts is None or not is_key_id(parts.key_id) or not 1 <= parts.sequence <= MAX_SEQUENCE:
        return None
    return parts


def _unpack(label: str) -> LabelParts | None:
    packed = base64.urlsafe_b64decode(label) if _match_short(label) else b""
    if not packed or packed[0] != _SHORT_MARKER:
        return None
    digits = packed[5:21].hex()
    number = int.from_bytes(packed[21:], "big")
    if number & _MULTI_REGION_BIT:
        key_id = MULTI_REGION_PREFIX + digits
    else:
        key_id = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    return LabelParts(packed[1:5].hex(), None, key_id, number & ~_MULTI_REGION_BIT)


def _check_parts(installation: str, key_id: str, sequence: int) -> None:
    if not _match_installation(installation) or not is_key_id(key_id) or not 1 <= sequence <= MAX_SEQUENCE:
        raise MisuseError(f"no label can be made of {installation!r}, {key_id!r} and {sequence!r}")
