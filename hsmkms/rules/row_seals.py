"""Compute seals over rows: an HMAC for each subject, a sum for each index, and one sum over all rows of the store.

A subject's seal is an HMAC over the sum of its rows' hashes and the epoch of its last change, so neither an older row
nor an older seal can replace a newer one. The root is a keyed multiset hash (Clarke et al., ASIACRYPT 2003:
MSet-Add-Hash): the sum of the hashes of all rows, hidden by a mask that is new each time. So it can be updated from
the changed rows alone, and it cannot be computed without the key.
"""

import hmac
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

KEY_LABEL: Final = b"hsmkms row seals v2\0"
"""Input, with the installation's id, of the token's HMAC whose output is the key of all seals."""

KEY_LABEL_UNTIL_0008: Final = b"hsmkms row seals v1\0"
"""The same for seals over the form of rows that programs up to schema meta_0008 computed."""

NONCE_BYTES: Final = 16
_BYTES: Final = 32
_MODULUS: Final = 1 << (8 * _BYTES)
_ROW: Final = b"row\0"
_SUBJECT: Final = b"subject\0"
_ROOT: Final = b"root\0"
_INDEX: Final = b"index\0"


class Root(Struct, frozen=True, kw_only=True):
    """The masked sum over the whole store. ``number``: the number of the change that made it, from 1."""

    number: int
    nonce: bytes
    value: bytes


def total(key: bytes, rows: Iterable[tuple[str, bytes]]) -> int:
    """Return the sum of the hashes of rows, each given as (table, canonical form)."""
    return sum(row_hash(key, table, form) for table, form in rows) % _MODULUS


def row_hash(key: bytes, table: str, form: bytes) -> int:
    """Return the keyed hash of one row, given its canonical form."""
    return _number(key, _ROW + table.encode() + b"\0" + form)


def subject_mac(key: bytes, subject: str, epoch: int, rows_total: int) -> bytes:
    """Return the seal of a subject whose rows have that sum since that epoch."""
    message = _SUBJECT + subject.encode() + b"\0%d\0" % epoch + reduced(rows_total).to_bytes(_BYTES, "big")
    return hmac.digest(key, message, "sha256")


def index_seal(key: bytes, index: str, nonce: bytes, rows_total: int) -> bytes:
    """Return the seal of an index: the masked sum of its rows, not an HMAC, so that it can be updated."""
    return nonce + ((rows_total + _index_mask(key, index, nonce)) % _MODULUS).to_bytes(_BYTES, "big")


def index_total(key: bytes, index: str, seal: bytes) -> int:
    """Return the sum in the seal of an index. Only the seal tree shows whether the seal is genuine."""
    nonce, value = seal[:NONCE_BYTES], seal[NONCE_BYTES:]
    return (int.from_bytes(value, "big") - _index_mask(key, index, nonce)) % _MODULUS


def root(key: bytes, number: int, nonce: bytes, rows_total: int) -> Root:
    """Return the root over all rows."""
    value = (rows_total + _mask(key, number, nonce)) % _MODULUS
    return Root(number=number, nonce=nonce, value=value.to_bytes(_BYTES, "big"))


def total_of(key: bytes, known: Root) -> int:
    """Return the sum in a root; for a forged root, a value that matches no rows."""
    return (int.from_bytes(known.value, "big") - _mask(key, known.number, known.nonce)) % _MODULUS


def reduced(whole: int) -> int:
    """Reduce a sum of sums to their range."""
    return whole % _MODULUS


def _mask(key: bytes, number: int, nonce: bytes) -> int:
    return _number(key, _ROOT + b"%d\0" % number + nonce)


def _index_mask(key: bytes, index: str, nonce: bytes) -> int:
    return _number(key, _INDEX + index.encode() + b"\0" + nonce)


def _number(key: bytes, message: bytes) -> int:
    return int.from_bytes(hmac.digest(key, message, "sha256"), "big")
