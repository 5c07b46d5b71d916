"""Recognise what a lost installation left in its data folder, and set it aside for the one that is restored.

Its audit log names it: each seal has the installation's id. A write-ahead log whose database is gone names nobody and
is of no use without that database; it counts as the installation's own if SQLite wrote it for this user. Nothing is
removed: everything is moved into a folder beside it.
"""

import os
from contextlib import suppress
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Final

from msgspec import UNSET

from hsmkms.atomic_write import sync_folder
from hsmkms.errors import StoreError
from hsmkms.file_lock import try_lock
from hsmkms.rules.audit import seal
from hsmkms.store import audit_files, files

PREFIX: Final = "set-aside-"
"""How the name of the folder begins that takes the remains."""

_JOURNALS: Final = ("-wal", "-shm")
_WAL_MAGIC: Final = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
"""https://www.sqlite.org/fileformat2.html#the_write_ahead_log"""

_REFUSED: Final = (
    "{}: a restore replaces nothing. Move it away (mkdir {}/old && mv {} {}/old), or choose another --data-dir"
)


def find(target: Path) -> list[Path]:
    """Return what may be the remains of a lost installation: its audit log, and journals of databases that are gone."""
    audit = target / audit_files.FOLDER
    is_folder = audit.is_dir() and not audit.is_symlink()
    remains = [audit] if is_folder and any(audit.iterdir()) else []
    for database in files.DATABASES:
        if not os.path.lexists(target / database.name):
            journals = (target / f"{database.name}{ending}" for ending in _JOURNALS)
            remains += [each for each in journals if each.is_file() and not each.is_symlink()]
    return remains


def require_own(target: Path, installation: str) -> None:
    """Raise StoreError, which names the path, unless all remains are this installation's and no process uses them."""
    for each in find(target):
        try:
            if each.name == audit_files.FOLDER:
                audit_files.check_own(each)
                _require_own_log(each, installation)
                _require_unused(each)
            else:
                files.check_own(each)
                _require_journal(each)
        except OSError as exc:
            raise StoreError(_refusal(each, f"there is {each} already, which cannot be read ({exc.strerror})")) from exc


def set_aside(target: Path, now: datetime) -> Path | None:
    """Move the remains into a new folder of the target, and return it; None if there are none.

    OSError, or an interruption, may leave some of them in either place.
    """
    remains = find(target)
    if not remains:
        return None
    folder = target / f"{PREFIX}{now:%Y%m%dT%H%M%SZ}"
    folder.mkdir(mode=files.FOLDER_MODE)
    for each in remains:
        each.rename(folder / each.name)
    sync_folder(folder)
    sync_folder(target)
    return folder


def put_back(target: Path, folder: Path) -> None:
    """Undo ``set_aside``, as far as possible.

    What a failed restore could not take back stays where it is: SQLite would replay a journal that is put beside the
    database of a backup into it.
    """
    with suppress(OSError):
        for each in folder.iterdir():
            database = target / each.name.removesuffix("-wal").removesuffix("-shm")
            if not os.path.lexists(target / each.name) and not os.path.lexists(database):
                each.rename(target / each.name)
        folder.rmdir()
        sync_folder(target)


def node_of_log(audit: Path) -> str | None:
    """Return the id of the node that made the newest seal of an audit log; None if it names none."""
    seals = audit / audit_files.SEALS
    line = seal.read(audit_files.last_line(seals)) if seals.is_file() else None
    return None if line is None or line.seal.node is UNSET else line.seal.node


def _require_own_log(audit: Path, installation: str) -> None:
    seals = audit / audit_files.SEALS
    text = [*islice(audit_files.lines(seals), 1), audit_files.last_line(seals)] if seals.is_file() else []
    read = [line for line in map(seal.read, text) if line is not None]
    if not read:
        raise StoreError(_refusal(audit, f"there is {audit} already, and no seal in it says whose audit log it is"))
    for line in read:
        if line.seal.installation != installation:
            fault = f"there is {audit} already, the audit log of another installation ({line.seal.installation})"
            raise StoreError(_refusal(audit, fault))


def _require_unused(audit: Path) -> None:
    """Raise StoreError if a process has a file of the log locked, as a running server has."""
    for path in sorted(audit.glob("*.lock")):
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if not try_lock(descriptor):
                raise StoreError(
                    f"a process of the lost installation still has {audit} open: stop its servers, try again"
                )
        finally:
            os.close(descriptor)


def _require_journal(path: Path) -> None:
    with path.open("rb") as file:
        magic = file.read(len(_WAL_MAGIC[0]))
    if path.name.endswith("-wal") and magic and magic not in _WAL_MAGIC:
        raise StoreError(_refusal(path, f"there is {path} already, which is no write-ahead log of SQLite"))


def _refusal(path: Path, fault: str) -> str:
    return _REFUSED.format(fault, path.parent, path, path.parent)
