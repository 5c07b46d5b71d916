"""Record the objects that were made while another member of the HA group could not be asked for them.

A group exists to go on without a member, so keys are made while one is away. If that one takes over before it has them,
they are missing until the first is back. So each such object is recorded before its key is acknowledged, by member, in
the installation's data folder, for all processes; monitoring and ``doctor`` show the record. It is removed once the
member was asked and has the object, or the object is destroyed.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from hsmkms.atomic_write import sync_folder
from hsmkms.errors import StoreError

FOLDER: Final = "ha-not-replicated"
_CKA_ID: Final = re.compile("(?:[0-9a-f]{2})+")
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Unreplicated:
    """The record of an HA group: an empty file for each object and member, named after both. Raises StoreError."""

    def __init__(self, state_dir: Path, serials: Sequence[str]) -> None:
        self._folder = state_dir / FOLDER
        self._members = {hashlib.sha256(each.encode()).hexdigest()[:16]: each for each in serials}

    def add(self, serials: Iterable[str], cka_ids: Sequence[bytes]) -> None:
        """Record that these members could not be asked for these objects; on the disk when this returns."""
        named = [self._file(serial, each) for serial in serials for each in cka_ids]
        if not named:
            return
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            for each in named:
                os.close(os.open(each, _CREATE, 0o600))
            sync_folder(self._folder)
            sync_folder(self._folder.parent)
        except OSError as exc:
            raise StoreError(
                f"{self._folder} cannot be written ({exc.strerror}), so it cannot be recorded that a member of the HA "
                "group lacks the new key, which is not acknowledged: make room or mend the disk, then try again"
            ) from exc

    def remove(self, serials: Iterable[str], cka_ids: Iterable[bytes]) -> None:
        """Remove objects from the record of these members: they have them, or need them no more."""
        for serial in serials:
            for each in cka_ids:
                with suppress(OSError):  # it was not recorded, or stays recorded
                    self._file(serial, each).unlink()

    def read(self) -> dict[str, list[bytes]]:
        """Return the recorded CKA_IDs of each member that has any, by its serial; files of other names do not count."""
        try:
            with os.scandir(self._folder) as entries:
                names = sorted(each.name for each in entries if each.is_file(follow_symlinks=False))
        except FileNotFoundError:
            return {}
        except OSError as exc:
            raise StoreError(f"{self._folder} cannot be read: {exc.strerror}") from exc
        recorded: dict[str, list[bytes]] = {}
        for member, _, cka_id in (each.partition("-") for each in names):
            if member in self._members and _CKA_ID.fullmatch(cka_id):
                recorded.setdefault(self._members[member], []).append(bytes.fromhex(cka_id))
        return recorded

    def _file(self, serial: str, cka_id: bytes) -> Path:
        name = next(name for name, each in self._members.items() if each == serial)
        return self._folder / f"{name}-{cka_id.hex()}"
