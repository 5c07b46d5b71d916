"""Copy the databases at one instant while other processes use them: SQLite's part of a snapshot."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from hsmkms.store import files
from hsmkms.store.sqlite import connections, faults

Found = TypeVar("Found")


def copy(folder: Path, workplace: Path, at_the_instant: Callable[[], Found]) -> Found:
    """Copy both databases of a folder; return what ``at_the_instant`` returns while nobody can commit a change."""
    meta, log = folder / files.META.name, folder / files.LOG.name
    with faults.translated(meta), closing(connections.connect(meta)) as view:
        with closing(connections.connect(meta)) as lock:
            lock.execute("BEGIN IMMEDIATE")
            view.execute("BEGIN")
            view.execute("SELECT count(*) FROM alembic_version").fetchone()  # the first query takes the snapshot
            found = at_the_instant()
        _copy(view, workplace / files.META.name)
    with faults.translated(log), closing(connections.connect(log)) as view:
        _copy(view, workplace / files.LOG.name)
    return found


def _copy(view: sqlite3.Connection, target: Path) -> None:
    """Copy all pages of a read transaction in one step. The copy needs no WAL, and is fsynced when it is unpacked."""
    connections.make_empty(target)
    with closing(sqlite3.connect(target)) as copy:
        view.backup(copy)
