"""Move a restored installation into place, and undo interrupted moves.

Before anything is moved, a mark in the target lists each file to be moved with the attributes that a rename preserves:
inode, size and time. So after a crash, files of the restore can be distinguished from other files.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from hsmkms.atomic_write import sync_folder
from hsmkms.errors import HsmKmsError, StoreError
from hsmkms.service.backup import restore_remains
from hsmkms.service.backup.create import CONFIGURATION
from hsmkms.store import files, moving, node_id, setup, snapshot
from hsmkms.store.archive import new_file
from hsmkms.store.engine import Store
from hsmkms.store.files import DatabaseFile

if TYPE_CHECKING:
    from hsmkms.store.postgresql.target import Target

STAGING: Final = ".restore-"
_MARK: Final = ".restore-unfinished"
_FILES: Final = (snapshot.AUDIT, files.LOG.name, files.META.name)
"""In the order of the moves: if meta.db is in place, everything is."""

_Identity = tuple[int, int, int, int]
"""Device, inode, size and modification time in ns: an inode number alone may be reused."""


def remove_leftovers(target: Path, server: "Target | None") -> None:
    """Remove the leftovers of an interrupted restore, and nothing else. ``server``: where its database would be."""
    for left in target.glob(f"{STAGING}*"):
        shutil.rmtree(left, ignore_errors=True)  # does not follow symlinks
    mark = target / _MARK
    moved = _read(mark)
    if moved is None or (target / snapshot.AUDIT).is_symlink():
        return
    in_place = os.path.lexists(target / files.META.name) if server is None else setup.exists(target, server)
    if not in_place:
        for name, identity in moved.items():
            place = target / name
            if place.parent in (target, target / snapshot.AUDIT) and _identity(place) == identity:
                place.unlink()
        with suppress(OSError):  # it contains other files, or does not exist
            (target / snapshot.AUDIT).rmdir()
    mark.unlink()


def require_empty(target: Path, server: "Target | None") -> None:
    """Raise StoreError if the folder, or the server, has anything that a restore would replace, or a symlink.

    Not counted are remains of a lost installation, which are set aside if they are its own (restore_remains.py).
    """
    if server is not None:
        moving.require_room(target, server)
    remains = restore_remains.find(target)
    for each in _in_the_way(target, files.DATABASES if server is None else ()):
        if each not in remains:
            raise StoreError(
                f"there is {each} already: a restore replaces nothing. Move what belongs to the old installation away "
                f"(mkdir {target}/old && mv {each} {target}/old), or choose another --data-dir"
            )


def move(
    staging: Path,
    target: Path,
    server: "Target | None",
    configuration: bytes | None,
    now: datetime,
    reached: Callable[[str], None],
) -> Path | None:
    """Set remains aside, and move everything into its place, the database last; return where the remains are.

    With a server the database is copied there, in one transaction. Errors of that, and StoreError if anything else
    fails; then nothing has moved.
    """
    moved: list[str] = []
    aside: Path | None = None
    try:
        _require_closed(staging)
        require_empty(target, server)
        aside = restore_remains.set_aside(target, now)
        reached("restore 4: set aside")
        if configuration is not None:
            # The operator has accepted it: if the restore is interrupted here, the next one finds it in place.
            _place(staging, target, CONFIGURATION, configuration)
            moved.append(CONFIGURATION)
        if (staging / node_id.FILE).exists() and not os.path.lexists(target / node_id.FILE):
            (staging / node_id.FILE).rename(target / node_id.FILE)
            moved.append(node_id.FILE)
        _place(staging, target, _MARK, msgspec.json.encode(_identities(staging)))
        sync_folder(target)
        for name in _FILES if server is None else (snapshot.AUDIT,):
            (staging / name).rename(target / name)
            moved.append(name)
            sync_folder(target)
            reached(f"restore 4: {name}")
        if server is not None:
            _copy_to(server, staging, target, now)
            reached("restore 4: server")
        (target / _MARK).unlink()
    except (OSError, HsmKmsError) as exc:
        _undo(staging, target, moved)
        if aside is not None:
            restore_remains.put_back(target, aside)
        if isinstance(exc, HsmKmsError):
            raise
        raise StoreError(f"the backup cannot be restored into {target}: {exc.strerror}") from exc
    return aside


def _copy_to(server: "Target", staging: Path, target: Path, now: datetime) -> None:
    with closing(Store(staging)) as source:
        moving.copy(source, target, server, now, lambda _: None)


def _require_closed(staging: Path) -> None:
    for journal in staging.glob("*.db-wal"):
        raise StoreError(f"{journal} was not closed: nothing was restored; try again")


def _place(staging: Path, target: Path, name: str, content: bytes) -> None:
    if os.path.lexists(target / name):
        raise StoreError(f"there is {target / name} already: a restore replaces nothing. Move it away, and try again")
    with new_file(staging / name) as opened:
        opened.write(content)
    (staging / name).rename(target / name)


def _undo(staging: Path, target: Path, moved: list[str]) -> None:
    """Undo the moves, the database first, and then remove the mark."""
    with suppress(OSError):
        for name in reversed(moved):
            (target / name).rename(staging / name)
        if _read(target / _MARK) is not None:
            (target / _MARK).unlink()
        sync_folder(target)


def _in_the_way(target: Path, databases: Iterable[DatabaseFile]) -> Iterator[Path]:
    for database in databases:
        yield from target.glob(f"{database.name}*")
    audit, mark = target / snapshot.AUDIT, target / _MARK
    is_folder = audit.is_dir() and not audit.is_symlink()
    if any(audit.iterdir()) if is_folder else os.path.lexists(audit):
        yield audit
    if os.path.lexists(mark):
        yield mark


def _read(mark: Path) -> dict[str, _Identity] | None:
    """Read a mark: empty for one of an older version; None if there is none."""
    if mark.is_symlink() or not mark.is_file():
        return None
    try:
        return msgspec.json.decode(mark.read_bytes(), type=dict[str, _Identity])
    except msgspec.DecodeError:
        return {}


def _identities(staging: Path) -> dict[str, _Identity | None]:
    folder = (each for each in (staging / snapshot.AUDIT).rglob("*") if each.is_file())
    moved = (*folder, *(staging / name for name in _FILES if name != snapshot.AUDIT))
    return {str(each.relative_to(staging)): _identity(each) for each in moved}


def _identity(path: Path) -> _Identity | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
