"""The age format (age-encryption.org/v1): the envelope of backups that are sealed to public keys.

It is streamed: memory does not grow with the backup. Each chunk is proven before it is given out; that a file is
complete is known at its end. ``age --decrypt`` opens the same files.
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
    """Where the content of an envelope goes."""

    def write(self, data: bytes) -> int:
        """Take bytes."""


def seal(file: BinaryIO, recipients: Sequence[Recipient], blocks: Iterator[bytes]) -> None:
    """Write an envelope around the blocks. What making them raises is raised."""
    content = _Blocks(blocks)
    try:
        # It takes whatever has the methods; its types ask for more.
        pyrage.encrypt_io(content, file, [each.key for each in recipients])  # type: ignore[arg-type]
    except pyrage.EncryptError as exc:
        raise content.error or StoreError(f"the backup could not be encrypted: {str(exc)!a}") from exc


def unseal(file: Source, keys: PrivateKeys, target: Writer) -> None:
    """Write the content of an envelope to ``target``. What that raises is raised.

    BindingError if none of the keys opens its header; StoreError if it was changed or is not complete, which may be
    known only when all of its content was written.
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
    """A file to read from that blocks are made for as they are needed."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._held = memoryview(b"")
        self.error: HsmKmsError | OSError | None = None

    def read(self, size: int) -> bytes:
        """Up to so many bytes; none at the end."""
        try:
            while not self._held:
                block = next(self._blocks, None)
                if block is None:
                    return b""
                self._held = memoryview(block)
        except (HsmKmsError, OSError) as exc:
            self.error = exc  # what encrypts would tell of it as of a fault of its own
            raise
        part, self._held = self._held[:size], self._held[size:]
        return bytes(part)
