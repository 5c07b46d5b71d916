"""Detect changes: a cheap signal that something changed, and the change log that says what.

``PRAGMA data_version`` changes on one connection at every commit of another one, and costs a few microseconds. Its
values are comparable only within one connection, so a connection is dedicated to it. It is asked only when the header
of the WAL index has changed (wal_index.py), which costs a tenth of a microsecond to see.
"""

import sqlite3
from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, bindparam, func, insert, select

from hsmkms.errors import StoreError
from hsmkms.process import ForkGuard
from hsmkms.store import files, wal_index
from hsmkms.store.engine import Store
from hsmkms.store.faults import translated
from hsmkms.store.schema import change_log

_DATA_VERSION: Final = "PRAGMA data_version"

# Built once: building a statement takes longer than SQLite takes to run it.
_NOTE: Final = insert(change_log)
_SINCE: Final = (
    select(change_log.c.epoch, change_log.c.region, change_log.c.subject)
    .where(change_log.c.epoch > bindparam("before"))
    .order_by(change_log.c.epoch)
)


def note(tx: Connection, region: str, subject: str) -> int:
    """Record that a key (by id) or an alias (by name) changed; return the epoch of the change."""
    done = tx.execute(_NOTE, {"region": region, "subject": subject})
    epoch: int = done.inserted_primary_key[0]  # type: ignore[index]  # an insert of one row always has one
    return epoch


def latest(conn: Connection) -> int:
    """Return the epoch of the last change; 0 before the first."""
    return conn.execute(select(func.max(change_log.c.epoch))).scalar() or 0


def since(conn: Connection, epoch: int) -> list[tuple[int, str, str]]:
    """Return the changes after an epoch, oldest first: (epoch, region, key id or alias name)."""
    rows = conn.execute(_SINCE, {"before": epoch})
    return [(row.epoch, row.region, row.subject) for row in rows]


class ChangeSignal:
    """Detects commits to ``meta.db`` by other connections since the last call.

    Not thread-safe: the caller holds a lock, which it needs anyway to act on the result.
    """

    def __init__(self, store: Store) -> None:
        self._file = store.meta.file
        self._guard = ForkGuard()
        with translated(self._file):
            self._connection = files.connect(self._file)
            self._execute: Callable[[str], sqlite3.Cursor] = self._connection.execute
            try:
                self._version()  # has SQLite map the WAL index
                self._header = wal_index.find_header(self._file)
                self._seen_header = self._header.raw if self._header is not None else None
                self._seen = self._version()
            except BaseException:
                self._connection.close()
                raise

    def moved(self) -> bool:
        """Return True if another connection has committed since the last call, or since the signal was created.

        Raises StoreError, and ForkedProcessError in a forked child.
        """
        if self._guard.foreign:
            self._guard.refuse()
        header = None
        if self._header is not None:
            header = self._header.raw
            if header == self._seen_header:
                return False
        try:
            version = self._execute(_DATA_VERSION).fetchone()
        except sqlite3.Error:
            with translated(self._file):
                raise
        self._seen_header = header  # as it was before the version was read
        if version == self._seen:
            return False
        self._seen = version
        return True

    def refuse(self, fault: StoreError) -> None:
        """Raise this error in all later calls of ``moved``."""

        def execute(_: str) -> sqlite3.Cursor:
            raise StoreError(str(fault))

        self._header, self._execute = None, execute

    def close(self) -> None:
        """Close the signal's connection, unless it belongs to the parent of a forked child."""
        self._header = None  # its memory may go with the connection
        if not self._guard.foreign:
            self._connection.close()

    def _version(self) -> tuple[int]:
        version: tuple[int] = self._execute(_DATA_VERSION).fetchone()
        return version
