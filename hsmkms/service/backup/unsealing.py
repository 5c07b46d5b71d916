"""Read a backup once, from beginning to end, into a folder.

All later checks are made on that copy: if the file is changed meanwhile, what is restored is still what was checked and
shown.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, Final

from msgspec import Struct

from hsmkms.errors import ConfigurationError, StoreError
from hsmkms.service.backup import age_envelope
from hsmkms.service.backup import origin as backup_origin
from hsmkms.service.backup.age_keys import PrivateKeys
from hsmkms.service.backup.create import CONFIGURATION, INVENTORY
from hsmkms.service.backup.origin import Manifest
from hsmkms.service.backup.recipients import Header, is_by_token, read_header
from hsmkms.store import snapshot
from hsmkms.store.sealed_stream import SealedReader

_BLOCK: Final = 65536
_KEPT: Final[Mapping[str, int]] = {**backup_origin.LARGEST, CONFIGURATION: 1024 * 1024, INVENTORY: 0}

Unseal = Callable[[Header], bytes]
"""Decrypts the file key from the header of hsmkms's own envelope."""


class Unsealed(Struct, frozen=True, kw_only=True):
    """A backup unpacked into a folder.

    ``about``: its manifest, or the header if an older version made it, without a manifest. ``sha256``: of the file.
    ``sealed_by_token``: the token decrypted its file key. ``kept``: the files besides databases and audit log.
    """

    sha256: str
    about: Manifest | Header
    sealed_by_token: bool
    kept: dict[str, bytes]

    @property
    def manifest(self) -> Manifest | None:
        """The manifest; None in a backup of an older version."""
        return self.about if isinstance(self.about, Manifest) else None

    @property
    def configuration(self) -> bytes | None:
        """The configuration in it, if there is one."""
        return self.kept.get(CONFIGURATION)


def read(file: Path, keys: PrivateKeys | None, unseal: Unseal, folder: Path) -> Unsealed:
    """Unpack a backup of either envelope into an empty folder.

    StoreError if it is not a backup, was changed or is incomplete; BindingError for another private key or token;
    ConfigurationError if it is sealed to a public key and no private key is given.
    """
    headers: list[Header] = []

    def key_of(header: bytes) -> bytes:
        headers.append(read_header(header))
        return unseal(headers[-1])

    try:
        with file.open("rb") as opened, snapshot.unpacking(folder, _KEPT) as archive:
            source = _Source(opened)
            if _is_age(opened):
                age_envelope.unseal(source, _needed(keys), archive)
            else:
                reader = SealedReader(source, key_of)
                while block := reader.read(_BLOCK):
                    archive.write(block)
            source.read_all()
    except OSError as exc:
        raise StoreError(f"the backup {file} cannot be read: {exc.strerror}") from exc
    kept = {name: bytes(content) for name, content in archive.kept.items()}
    about = backup_origin.read_manifest(archive.members, kept) or next(iter(headers), None)
    if about is None:
        raise StoreError("the backup has no manifest: it was not made by this program")
    by_token = any(is_by_token(header.method) for header in headers)
    return Unsealed(sha256=source.digest.hexdigest(), about=about, sealed_by_token=by_token, kept=kept)


def _is_age(opened: BinaryIO) -> bool:
    start = opened.read(len(age_envelope.MAGIC))
    opened.seek(0)
    return start == age_envelope.MAGIC


def _needed(keys: PrivateKeys | None) -> PrivateKeys:
    if keys is None:
        raise ConfigurationError("the backup is sealed to a public key: give its --private-key")
    return keys


class _Source:
    """Readable file that is hashed as it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes."""
        block = self._file.read(size)
        self.digest.update(block)
        return block

    def read_all(self) -> None:
        """Read the rest, which is empty in a valid file."""
        while self.read(_BLOCK):
            pass
