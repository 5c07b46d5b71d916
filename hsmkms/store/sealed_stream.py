"""Encrypt and authenticate a whole file, written and read as a stream.

::

    magic (16 bytes) | length of the header (4 bytes, big-endian) | header (JSON) | chunks

Each chunk is AES-256-GCM over up to 64 KiB. Its nonce is its number and a byte that is 1 only for the last chunk, so
that changed, reordered, missing and truncated chunks are detected (the STREAM construction of Hoang, Reyhanitabar,
Rogaway and Vizár, 2015). The chunk key is HKDF-SHA-256 of the file's key with the hash of everything before the chunks
as its salt, so that a file with a changed header does not decrypt.
"""

import hashlib
from collections.abc import Callable
from typing import BinaryIO, Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hsmkms.errors import StoreError

MAGIC: Final = b"hsmkms-backup/1\n"
KEY_BYTES: Final = 32
_CHUNK: Final = 65536
_TAG: Final = 16
_MOST_HEADER: Final = 65536
_PURPOSE: Final = b"hsmkms backup v1"
NOT_WHOLE: Final = "the backup was changed or is not complete: take another copy of it; nothing was restored"


class Source(Protocol):
    """A readable byte stream."""

    def read(self, size: int, /) -> bytes:
        """Return up to that many bytes; fewer only at the end."""


class SealedWriter:
    """Encrypts what is written to it. ``finish`` writes the last chunk, without which the file cannot be opened."""

    def __init__(self, file: BinaryIO, header: bytes, key: bytes) -> None:
        self._file = file
        front = MAGIC + len(header).to_bytes(4, "big") + header
        self._seal = AESGCM(_chunk_key(front, key)).encrypt
        self._number = 0
        self._buffered = bytearray()
        file.write(front)

    def write(self, data: bytes) -> int:
        """Encrypt bytes; return their number."""
        self._buffered += data
        while len(self._buffered) > _CHUNK:  # one chunk stays buffered, since the last one must be marked
            self._put(bytes(self._buffered[:_CHUNK]), last=False)
            del self._buffered[:_CHUNK]
        return len(data)

    def finish(self) -> None:
        """Write the last chunk."""
        self._put(bytes(self._buffered), last=True)
        self._buffered.clear()

    def _put(self, chunk: bytes, *, last: bool) -> None:
        self._file.write(self._seal(_nonce(self._number, last=last), chunk, None))
        self._number += 1


class SealedReader:
    """Decrypts a file. Returns only authenticated bytes; StoreError for a file that was changed or truncated."""

    def __init__(self, file: Source, unseal: Callable[[bytes], bytes]) -> None:
        """``unseal`` derives the file's key from its header, which is authenticated only by the first chunk."""
        self._file = file
        front, header = _read_front(file)
        self._open = AESGCM(_chunk_key(front, unseal(header))).decrypt
        self._number = 0
        self._ahead = file.read(_CHUNK + _TAG)
        self._buffered = b""
        self._ended = False

    def read(self, size: int) -> bytes:
        """Return up to that many bytes; fewer only at the end."""
        parts = []
        while size and (self._buffered or not self._ended):
            if not self._buffered:
                self._next()
            parts.append(self._buffered[:size])
            self._buffered = self._buffered[size:]
            size -= len(parts[-1])
        return b"".join(parts)

    def drain(self) -> None:
        """Read and authenticate the rest."""
        while not self._ended:
            self._next()

    def _next(self) -> None:
        chunk, self._ahead = self._ahead, self._file.read(_CHUNK + _TAG)
        try:
            self._buffered = self._open(_nonce(self._number, last=not self._ahead), chunk, None)
        except InvalidTag as exc:
            raise StoreError(NOT_WHOLE) from exc
        self._number += 1
        self._ended = not self._ahead


def read_header(file: Source) -> bytes:
    """Return the header of a file, not authenticated."""
    return _read_front(file)[1]


def _read_front(file: Source) -> tuple[bytes, bytes]:
    start = file.read(len(MAGIC) + 4)
    if not start.startswith(MAGIC) or len(start) < len(MAGIC) + 4:
        raise StoreError("this is no backup of hsmkms, or of a newer version: give a file that `hsmkms backup` made")
    length = int.from_bytes(start[len(MAGIC) :], "big")
    header = file.read(length) if length <= _MOST_HEADER else b""
    if len(header) != length or not header:
        raise StoreError(NOT_WHOLE)
    return start + header, header


def _chunk_key(front: bytes, key: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, hashlib.sha256(front).digest(), _PURPOSE).derive(key)


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])
