"""Encrypt and decrypt the age format (age-encryption.org/v1), the envelope of backups sealed to public keys.

It is streamed: memory does not grow with the backup. Each chunk is authenticated before it is returned; whether a file
is complete is known only at its end. ``age --decrypt`` opens the same files.
"""

from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final, Protocol

import pyrage

from hsmkms.errors import BindingError, HsmKmsError, StoreError
from hsmkms.service.backup.age_keys import PrivateKeys, Recipient
from hsmkms.store.sealed_stream import NOT_WHOLE, Source

METHOD: Final = "age"
MAGIC: Final = b"age-encryption.org/v1\n"


class Writer(Protocol):
    """A writable byte stream, the target of an envelope's content."""

    def write(self, data: bytes) -> int:
        """Write bytes; return their number."""


def seal(file: BinaryIO, recipients: Sequence[Recipient], blocks: Iterator[bytes]) -> None:
    """Encrypt the blocks to a file. Errors of the iterator are raised."""
    content = _Blocks(blocks)
    try:
        # pyrage accepts any object with these methods; its type stubs require more.
        pyrage.encrypt_io(content, file, [each.key for each in recipients])  # type: ignore[arg-type]
    except pyrage.EncryptError as exc:
        raise content.error or StoreError(f"the backup could not be encrypted: {str(exc)!a}") from exc


def unseal(file: Source, keys: PrivateKeys, target: Writer) -> None:
    """Decrypt an envelope to ``target``. Errors of ``target`` are raised.

    BindingError if none of the keys opens its header; StoreError if it was changed or is incomplete, which may be
    detected only after all of its content was written.
    """
    try:
        pyrage.decrypt_io(file, target, list(keys.identities))  # type: ignore[arg-type]  # see seal
    except pyrage.DecryptError as exc:
        raise BindingError(
            "this backup is not sealed to that private key, or its beginning was changed: give another --private-key, "
            f"or take another copy of it ({str(exc)!a})"
        ) from exc
    except OSError as exc:
        if exc.errno is not None:
            raise
        raise StoreError(NOT_WHOLE) from exc


class _Blocks:
    """Readable file over an iterator of blocks."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._unread = memoryview(b"")
        self.error: HsmKmsError | OSError | None = None

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes; none at the end."""
        try:
            while not self._unread:
                block = next(self._blocks, None)
                if block is None:
                    return b""
                self._unread = memoryview(block)
        except (HsmKmsError, OSError) as exc:
            self.error = exc  # pyrage would report it as an error of its own
            raise
        part, self._unread = self._unread[:size], self._unread[size:]
        return bytes(part)
