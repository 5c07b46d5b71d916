"""Seals over rows: an HMAC for each subject, a sum for each index, and one sum over all rows of the store.

A subject's seal is an HMAC over the sum of its rows' hashes and the epoch of its last change, so neither a row nor an
older seal can take the place of a newer one. The root is a multiset hash with a secret key (Clarke et al., ASIACRYPT
2003: MSet-Add-Hash): the sum of the hashes of all rows, hidden by a mask that is new each time. So it follows a
change without a look at anything that the change has not touched, and nobody can compute one without the key.
"""

import hmac
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

KEY_LABEL: Final = b"hsmkms row seals v1\0"
"""What the token makes an HMAC over, with the installation's id: the result is the key of all seals."""

NONCE_BYTES: Final = 16
_BYTES: Final = 32
_MODULUS: Final = 1 << (8 * _BYTES)
_ROW: Final = b"row\0"
_SUBJECT: Final = b"subject\0"
_ROOT: Final = b"root\0"
_INDEX: Final = b"index\0"


class Root(Struct, frozen=True, kw_only=True):
    """The sum over the whole store, masked. ``number``: which change made it, counted from 1."""

    number: int
    nonce: bytes
    value: bytes


def total(key: bytes, rows: Iterable[tuple[str, str]]) -> int:
    """The sum of the hashes of rows, each told as (table, text)."""
    return sum(row_hash(key, table, told) for table, told in rows) % _MODULUS


def row_hash(key: bytes, table: str, told: str) -> int:
    """The hash of one row."""
    return _number(key, _ROW + table.encode() + b"\0" + told.encode())


def subject_mac(key: bytes, subject: str, epoch: int, rows_total: int) -> bytes:
    """The seal of a subject whose rows have that sum since that epoch."""
    message = _SUBJECT + subject.encode() + b"\0%d\0" % epoch + reduced(rows_total).to_bytes(_BYTES, "big")
    return hmac.digest(key, message, "sha256")


def index_seal(key: bytes, index: str, nonce: bytes, rows_total: int) -> bytes:
    """The seal of an index whose rows have that sum: masked, and no HMAC, so that a change can go on from it."""
    return nonce + ((rows_total + _index_mask(key, index, nonce)) % _MODULUS).to_bytes(_BYTES, "big")


def index_total(key: bytes, index: str, seal: bytes) -> int:
    """The sum that the seal of an index was made of. Only the tree tells whether it was made up."""
    nonce, value = seal[:NONCE_BYTES], seal[NONCE_BYTES:]
    return (int.from_bytes(value, "big") - _index_mask(key, index, nonce)) % _MODULUS


def root(key: bytes, number: int, nonce: bytes, rows_total: int) -> Root:
    """The root over all rows."""
    value = (rows_total + _mask(key, number, nonce)) % _MODULUS
    return Root(number=number, nonce=nonce, value=value.to_bytes(_BYTES, "big"))


def total_of(key: bytes, known: Root) -> int:
    """The sum that a root was made of; nothing that fits any rows, if it was made up."""
    return (int.from_bytes(known.value, "big") - _mask(key, known.number, known.nonce)) % _MODULUS


def reduced(whole: int) -> int:
    """A sum of sums, as they are."""
    return whole % _MODULUS


def _mask(key: bytes, number: int, nonce: bytes) -> int:
    return _number(key, _ROOT + b"%d\0" % number + nonce)


def _index_mask(key: bytes, index: str, nonce: bytes) -> int:
    return _number(key, _INDEX + index.encode() + b"\0" + nonce)


def _number(key: bytes, message: bytes) -> int:
    return int.from_bytes(hmac.digest(key, message, "sha256"), "big")
