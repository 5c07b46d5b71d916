"""Compute a tree of HMACs over the seals of all subjects: it proves each subject's valid seal, or that it has none.

A leaf contains the entries of the subjects whose names hash to it (by a keyed hash, so that names cannot be chosen to
collide): each with a tag over the valid seal. A node contains the HMACs of 64 leaves, the top those of 64 nodes, and
the HMAC of the top is bound to the root over all rows. So a removed, replayed or forged seal contradicts the tree at
once, and a change writes three rows however many subjects there are.
"""

import hmac
from typing import Final

FAN: Final = 64
LEAVES: Final = FAN * FAN
DIGEST_BYTES: Final = 32
TOP: Final = 0
"""Number of the top among all parts of the tree; nodes follow it, and then the leaves."""

_NAME_BYTES: Final = 16
_TAG_BYTES: Final = 16
_ENTRY_BYTES: Final = _NAME_BYTES + _TAG_BYTES
_NOTHING: Final = bytes(DIGEST_BYTES)
"""Digest of an empty part, which has no row."""

_NAME: Final = b"tree name\0"
_TAG: Final = b"tree tag\0"
_PART: Final = b"tree part\0"


def name(key: bytes, subject: str) -> bytes:
    """Return the name under which a subject is entered."""
    return hmac.digest(key, _NAME + subject.encode(), "sha256")[:_NAME_BYTES]


def tag(key: bytes, subject: str, epoch: int, mac: bytes) -> bytes:
    """Return the tag that is entered for a subject with that seal."""
    return hmac.digest(key, _TAG + subject.encode() + b"\0%d\0" % epoch + mac, "sha256")[:_TAG_BYTES]


def leaf_of(entered: bytes) -> int:
    """Return the number of the leaf for a name."""
    return 1 + FAN + int.from_bytes(entered[:4], "big") % LEAVES


def parent_of(number: int) -> tuple[int, int]:
    """Return the parent of a node or a leaf, and its place in it."""
    if number <= FAN:
        return TOP, number - 1
    node, place = divmod(number - 1 - FAN, FAN)
    return 1 + node, place


def leaves_of(node: int) -> range:
    """Return the numbers of the leaves below a node, in their places."""
    first = 1 + FAN + (node - 1) * FAN
    return range(first, first + FAN)


def digest(key: bytes, number: int, value: bytes, bound: bytes = b"") -> bytes:
    """Return the HMAC of a part with that value; ``bound``: further authenticated data."""
    if not value and not bound:
        return _NOTHING
    return hmac.digest(key, _PART + b"%d\0" % number + bound + b"\0" + value, "sha256")


def digest_at(value: bytes, place: int) -> bytes:
    """Return the digest of a child in the value of a node or the top."""
    return value[place * DIGEST_BYTES : (place + 1) * DIGEST_BYTES] or _NOTHING


def is_empty(value: bytes, place: int) -> bool:
    """Return True if the value of a node or the top says that a child has no value."""
    return digest_at(value, place) == _NOTHING


def with_digest(value: bytes, place: int, part: bytes) -> bytes:
    """Return the value of a node or the top with the digest of one child replaced."""
    whole = value or _NOTHING * FAN
    return whole[: place * DIGEST_BYTES] + part + whole[(place + 1) * DIGEST_BYTES :]


def entries(value: bytes) -> dict[bytes, bytes]:
    """Return the tags in a leaf by name."""
    starts = range(0, len(value), _ENTRY_BYTES)
    return {value[at : at + _NAME_BYTES]: value[at + _NAME_BYTES : at + _ENTRY_BYTES] for at in starts}


def leaf(tags: dict[bytes, bytes]) -> bytes:
    """Return the value of a leaf with these entries."""
    return b"".join(each + tags[each] for each in sorted(tags))
