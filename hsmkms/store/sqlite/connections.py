"""Connect to the two database files, and check them: modes, recorded revisions, pages."""

import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from stat import S_IMODE
from typing import Final

from hsmkms.errors import MigrationError, StoreError
from hsmkms.store import files, move_mark
from hsmkms.store.move_mark import MoveMark
from hsmkms.store.sqlite import faults

_OTHERS: Final = 0o077

BUSY_TIMEOUT_SECONDS: Final = 10.0
"""How long a write waits for the write lock of another process or thread."""


def exists(folder: Path) -> bool:
    """Return True if the folder has both databases."""
    return all((folder / database.name).exists() for database in files.DATABASES)


def connect(path: Path, busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS) -> sqlite3.Connection:
    """Open an existing database in autocommit mode, durable and with foreign keys; raises sqlite3.Error, StoreError.

    The connection may move between threads; two threads must not use it at once.
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=busy_timeout_seconds,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        _set_wal(connection, path)
        _distrust(connection)
        connection.execute("PRAGMA foreign_keys=ON")
        # FULL: commits that were answered survive a power failure.
        connection.execute("PRAGMA synchronous=FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a file; None if there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _distrust(connection: sqlite3.Connection) -> None:
    """Enable SQLite's cheap integrity checks of the file, and forbid statements that edit the schema table."""
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA cell_size_check=ON")
    connection.execute("PRAGMA writable_schema=OFF")
    if sys.version_info >= (3, 12):  # older Pythons cannot set it
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)


def _set_wal(connection: sqlite3.Connection, path: Path) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
    if mode != "wal":
        raise StoreError(f"the file system of {path} does not let SQLite share memory: use a local disk")


def check(folder: Path, database: files.DatabaseFile, *, older: bool = False) -> None:
    """Raise unless the file exists, is private, and has a revision that this program works with.

    StoreError: missing, readable by others, or not a database of hsmkms. MigrationError: newer, without an announcement
    that this program works with it; or older, unless ``older``.
    """
    path = folder / database.name
    check_private(path)
    with faults.translated(path), closing(connect(path)) as connection:
        revision = read_revision(connection, path)
    if works_with(folder, database, revision) or revision == database.revisions[-1]:
        return
    files.check_known(f"the database {path}", revision, database.revisions)
    if not older:
        raise MigrationError(f"the database {path} is older than this program: run `hsmkms migrate`")


def works_with(folder: Path, database: files.DatabaseFile, revision: str) -> bool:
    """Return True if that is a newer revision, of which meta.db says that this program works with it.

    What it says is proven when the schema is compared: see ``announcements.py``.
    """
    path = folder / files.META.name
    if revision in database.revisions:
        return False
    with faults.translated(path), closing(connect(path)) as connection:
        tables = "SELECT count(name) FROM sqlite_master NOT INDEXED WHERE type = 'table' AND name = ?"
        if not connection.execute(tables, ("schema_announcement",)).fetchone()[0]:
            return False
        announced = "SELECT works_with FROM schema_announcement WHERE revision = ?"
        row = connection.execute(announced, (revision,)).fetchone()
    return row is not None and row[0] in database.revisions


def check_pages(path: Path) -> None:
    """Raise StoreError if SQLite's ``quick_check`` finds a damaged page."""
    with faults.translated(path), closing(connect(path)) as connection:
        (finding,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if finding != "ok":
        cure = "run `hsmkms renew-log`" if path.name == files.LOG.name else "restore a backup"
        raise StoreError(f"{path} is damaged ({finding}): stop all hsmkms processes and {cure}")


def check_private(path: Path) -> None:
    """Raise StoreError if the database is missing, or if others than its owner may read, write or replace it."""
    if not path.is_file():
        cure = "run `hsmkms init` for a new one"
        if path.name == files.LOG.name and path.with_name(files.META.name).exists():
            cure = "run `hsmkms renew-log`"
        raise StoreError(f"the database {path} is missing: restore it, correct data_dir, or {cure}")
    for each in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        try:
            mode = S_IMODE(each.stat().st_mode)
        except FileNotFoundError:
            continue
        if mode & _OTHERS:
            raise StoreError(f"{each} is open to other users (mode {mode:04o}): run `chmod 600 {each}`")
        files.check_own(each)


def read_revision(connection: sqlite3.Connection, path: Path) -> str:
    """Return the revision recorded in the database; StoreError if there is none, or if the store has moved."""
    table = "SELECT count(name) FROM sqlite_master NOT INDEXED WHERE type = 'table' AND name = 'alembic_version'"
    (tables,) = connection.execute(table).fetchone()
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone() if tables else None
    if row is None:
        raise StoreError(f"{path} is not a database of hsmkms: move it away and run `hsmkms init`")
    if row[0] == move_mark.REVISION:
        raise move_mark.error(read_mark(connection), f"the database {path}")
    return str(row[0])


def read_mark(connection: sqlite3.Connection) -> MoveMark | None:
    """Return the mark of a moved store in its ``meta.db``, or None."""
    table = "SELECT count(name) FROM sqlite_master NOT INDEXED WHERE type = 'table' AND name = ?"
    (tables,) = connection.execute(table, (move_mark.TABLE,)).fetchone()
    row = connection.execute(move_mark.READ).fetchone() if tables else None
    return move_mark.of_row(row) if row is not None else None


def make_empty(path: Path) -> None:
    """Create a new, empty file of mode 0600, whatever the umask; SQLite gives -wal and -shm the same mode."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, files.FILE_MODE)
    try:
        os.fchmod(descriptor, files.FILE_MODE)
    finally:
        os.close(descriptor)
