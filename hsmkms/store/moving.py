"""Move the databases of an installation to another engine or server: mark, copy, and compare.

Without a target they are files of the data folder. The marked store stays as it is, and no program opens it. The copy
appears complete or not at all: on a server it is one transaction, and of files ``meta.db`` is put into its place last.
"""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, MetaData

from hsmkms.atomic_write import sync_folder
from hsmkms.errors import DependencyTimeoutException, StoreError
from hsmkms.store import files, installation, log_schema, move_mark, node_id, row_seals, schema, setup, transfer
from hsmkms.store.engine import Store
from hsmkms.store.move_mark import MoveMark
from hsmkms.store.sqlite import connections
from hsmkms.store.sqlite import moving as file_moving
from hsmkms.store.transfer import Advance

if TYPE_CHECKING:
    from hsmkms.store.postgresql.target import Target

_STAGING: Final = ".move-"
_SET_ASIDE: Final = "set-aside-"
_JOURNALS: Final = ("", "-wal", "-shm")


def mark_for(folder: Path, target: "Target | None") -> MoveMark:
    """Return the mark of a store that moves to ``target``."""
    here = f"files in {folder.absolute()} on {socket.gethostname()}"
    return MoveMark(
        target=move_mark.SQLITE if target is None else str(target.url),
        place=here if target is None else target.name,
        node=node_id.read_or_make(folder),
        revision=schema.META_REVISIONS[-1],
    )


def read_mark(folder: Path, target: "Target | None") -> MoveMark | None:
    """Return the mark of a store, or None."""
    if target is None:
        return file_moving.read(folder)
    from hsmkms.store.postgresql import moving  # noqa: PLC0415 - its driver is an extra

    return moving.read(target)


def require_unmarked(folder: Path) -> None:
    """Raise StoreError if the databases in a folder are marked."""
    found = file_moving.read(folder) if connections.exists(folder) else None
    if found is not None:
        raise move_mark.error(found, f"the database {folder / files.META.name}")


def mark(folder: Path, target: "Target | None", found: MoveMark) -> None:
    """Mark a store; repeatable after an interruption."""
    if target is None:
        return file_moving.mark(folder, found)
    from hsmkms.store.postgresql import moving  # noqa: PLC0415 - as above

    return moving.mark(target, found)


def complete(folder: Path, target: "Target | None") -> None:
    """Record in the mark of a store that the new one is in use."""
    if target is None:
        return file_moving.complete(folder)
    from hsmkms.store.postgresql import moving  # noqa: PLC0415 - as above

    return moving.complete(target)


def unmark(folder: Path, target: "Target | None", found: MoveMark, *, counts_unknown: bool = False) -> None:
    """Remove the mark; repeatable after an interruption.

    ``counts_unknown``, in files only: encryptions may have been counted elsewhere since.
    """
    if target is None:
        return file_moving.unmark(folder, found, counts_unknown=counts_unknown)
    from hsmkms.store.postgresql import moving  # noqa: PLC0415 - as above

    return moving.unmark(target, found)


def require_room(folder: Path, target: "Target | None") -> None:
    """Raise StoreError unless a copy can be made at ``target``.

    A database on a server must be empty. Files must not be there, unless they are a store of this folder that has moved
    away: those are set aside.
    """
    if target is not None:
        from hsmkms.store.postgresql import moving  # noqa: PLC0415 - as above

        return moving.require_empty(target)
    meta = folder / files.META.name
    if os.path.lexists(meta):
        found = file_moving.read(folder)
        if found is None or found.node != node_id.read(folder):
            raise StoreError(f"there is a database {meta} already: move it and log.db away; it was left as it is")
    return None


def is_copied(source: Store, folder: Path, target: "Target | None") -> bool:
    """Return True if there is a complete copy of the marked store ``source`` at ``target``."""
    if not setup.exists(folder, target) or read_mark(folder, target) is not None:
        return False
    copy = Store.open(folder, target=target)
    try:
        with source.reading() as before, copy.reading() as after:
            rows = installation.fetch(before), installation.fetch(after)
            root = row_seals.newest_root(before)
            return rows[0] == rows[1] and root is not None and row_seals.root(after, root.number) == root
    finally:
        copy.close()


def copy(source: Store, folder: Path, target: "Target | None", now: datetime, advance: Advance) -> None:
    """Copy a store that nothing writes to, and compare the copy row by row before it is put into its place.

    StoreError if anything differs; then there is no copy.
    """
    with ExitStack() as opened:
        views = {schema.meta: source.meta, log_schema.log: source.log}

        def write(conn: Connection, metadata: MetaData) -> None:
            view = opened.enter_context(views[metadata].reading())
            transfer.copy(view, conn, metadata, advance)
            transfer.require_equal(view, conn, metadata, advance)

        if target is not None:
            from hsmkms.store.postgresql import creation  # noqa: PLC0415 - as above

            try:
                creation.fill(target, write)
            except DependencyTimeoutException:  # the connection may have been lost after the commit
                creation.wait(target)
                if not is_copied(source, folder, target):
                    raise
            return
        with _staging(folder) as staging:
            file_moving.fill(staging, write)
            _put_in_place(staging, folder, now)


def count(source: Store) -> int:
    """Return the number of rows to copy."""
    with source.meta.reading() as meta, source.log.reading() as log:
        return transfer.count(meta, schema.meta) + transfer.count(log, log_schema.log)


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Make a private folder for the new files; those of killed attempts are removed."""
    for left in folder.glob(f"{_STAGING}*"):
        shutil.rmtree(left, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory(prefix=_STAGING, dir=folder) as staging:
            yield Path(staging)
    except OSError as exc:
        raise StoreError(f"the databases cannot be written to {folder}: {exc.strerror}") from exc


def _put_in_place(staging: Path, folder: Path, now: datetime) -> None:
    """Set older files aside, and rename the new ones into their places, ``meta.db`` last."""
    for left in staging.glob("*.db-wal"):
        raise StoreError(f"{left} was not closed: nothing was moved; try again")
    names = [f"{each.name}{ending}" for each in reversed(files.DATABASES) for ending in _JOURNALS]
    older = [name for name in names if os.path.lexists(folder / name)]
    if older:
        aside = folder / f"{_SET_ASIDE}{now:%Y%m%dT%H%M%SZ}"
        aside.mkdir(mode=files.FOLDER_MODE)
        for name in older:
            (folder / name).rename(aside / name)
        sync_folder(aside)
    sync_folder(staging)
    for database in files.DATABASES:
        (staging / database.name).rename(folder / database.name)
        sync_folder(folder)
