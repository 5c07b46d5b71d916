"""List the processes that have an installation open, with their tokens: one file per process, in the data folder.

A process holds a lock on its file as long as it lives, so that the file of a killed process is ignored. The file is
created under a name that is not listed, and renamed once it is locked, so that it is never taken for a dead process's.
A migration checks here that all processes have the new token open.
"""

import os
import time
import uuid
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from hsmkms.errors import ConfigurationError, StoreError
from hsmkms.file_lock import lock, try_lock
from hsmkms.hsm.probing.profile import TokenProfile
from hsmkms.store import files

_FOLDER: Final = "processes"
_DRAFT_SECONDS: Final = 3600.0
"""A draft that old belongs to a process that was killed before it could lock it."""


class Seen(Struct, frozen=True):
    """A process, and the tokens that it has open, as (label, serial)."""

    pid: int
    tokens: list[tuple[str, str]]


class ProcessFile:
    """The file of this process. Raises StoreError if it cannot be written."""

    def __init__(self, folder: Path) -> None:
        name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._file = folder / _FOLDER / f"{name}.json"
        draft = self._file.with_name(f".{name}.new")
        try:
            self._file.parent.mkdir(mode=files.FOLDER_MODE, exist_ok=True)
            _remove_old_drafts(self._file.parent)
            self._descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, files.FILE_MODE)
            lock(self._descriptor)
            draft.rename(self._file)
        except OSError as exc:
            raise StoreError(f"{self._file.parent} cannot be written: {exc.strerror}") from exc

    def publish(self, profiles: Iterable[TokenProfile]) -> None:
        """Write which tokens are open now."""
        entry = Seen(os.getpid(), [_name(each) for each in profiles])
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, msgspec.json.encode(entry), 0)
        except OSError as exc:
            raise StoreError(f"{self._file} cannot be written: {exc.strerror}") from exc

    def others_without(self, label: str, serials: Collection[str]) -> list[int]:
        """Return the ids of the other living processes that do not have that token open, or have not written it yet.

        ``serials``: those of the members of its HA group.
        """
        names = {(label, each) for each in serials}
        others = [each for each in _living(self._file.parent) if each != self._file]
        return [_pid(each) for each in others if names.isdisjoint(_tokens(each))]

    def close(self) -> None:
        """Remove the file."""
        self._file.unlink(missing_ok=True)
        os.close(self._descriptor)


def living(folder: Path) -> list[int]:
    """Return the ids of all processes that have the installation in a data folder open."""
    return [_pid(each) for each in _living(folder / _FOLDER)]


def require_none(folder: Path) -> None:
    """Raise ConfigurationError if a process has the installation in a data folder open."""
    others = living(folder)
    if others:
        raise ConfigurationError(
            f"processes have the installation open (pid {', '.join(map(str, others))}): stop them first"
        )


def holders(folder: Path, serial: str) -> list[int]:
    """Return the ids of the other processes that have the installation and a token of that serial open."""
    found = [each for each in _living(folder / _FOLDER) if _pid(each) != os.getpid()]
    return [_pid(each) for each in found if serial in {held for _, held in _tokens(each)}]


def _remove_old_drafts(folder: Path) -> None:
    for draft in folder.glob(".*.new"):
        with suppress(FileNotFoundError):
            if time.time() - draft.stat().st_mtime > _DRAFT_SECONDS:
                draft.unlink()


def _living(folder: Path) -> list[Path]:
    return [each for each in sorted(folder.glob("*.json")) if _lives(each)]


def _pid(file: Path) -> int:
    return int(file.name.partition("-")[0])


def _name(profile: TokenProfile) -> tuple[str, str]:
    return profile.label, profile.serial


def _tokens(file: Path) -> list[tuple[str, str]]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Seen).tokens
    except (OSError, msgspec.MsgspecError):
        return []


def _lives(file: Path) -> bool:
    """Return True if the file's process holds its lock; remove a file that no process holds."""
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if not try_lock(descriptor, shared=True):  # others who look at the same moment do not count
            return True
        file.unlink(missing_ok=True)
        return False
    finally:
        os.close(descriptor)
