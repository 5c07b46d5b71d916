"""What changed: a cheap signal that something did, and a log that says what.

``PRAGMA data_version`` moves on one connection at every commit of another one, and costs a few microseconds. Its
values mean something only within that connection, so one connection is kept for it alone.
"""

import sqlite3
from typing import Final

from sqlalchemy import Connection, func, insert, select

from hsmkms.process import ForkGuard
from hsmkms.store import files
from hsmkms.store.engine import Store
from hsmkms.store.faults import translated
from hsmkms.store.schema import change_log

_DATA_VERSION: Final = "PRAGMA data_version"


def note(tx: Connection, region: str, subject: str) -> int:
    """Note that a key (by id) or an alias (by name) changed; returns the epoch of the change."""
    done = tx.execute(insert(change_log).values(region=region, subject=subject))
    epoch: int = done.inserted_primary_key[0]  # type: ignore[index]  # an insert of one row always has one
    return epoch


def latest(conn: Connection) -> int:
    """The epoch of the last change; 0 before the first."""
    return conn.execute(select(func.max(change_log.c.epoch))).scalar() or 0


def since(conn: Connection, epoch: int) -> list[tuple[int, str, str]]:
    """Changes after an epoch, oldest first: (epoch, region, key id or alias name)."""
    query = select(change_log.c.epoch, change_log.c.region, change_log.c.subject)
    rows = conn.execute(query.where(change_log.c.epoch > epoch).order_by(change_log.c.epoch))
    return [(row.epoch, row.region, row.subject) for row in rows]


class ChangeSignal:
    """Tells whether ``meta.db`` was committed to since it was last asked.

    Not thread-safe: the caller holds a lock, which it needs anyway to act on the answer.
    """

    def __init__(self, store: Store) -> None:
        self._file = store.meta.file
        self._guard = ForkGuard()
        with translated(self._file):
            self._connection = files.connect(self._file)
            self._execute = self._connection.execute
            try:
                self._seen = self._version()
            except BaseException:
                self._connection.close()
                raise

    def moved(self) -> bool:
        """True if another connection has committed since the last call, or since the signal was made.

        Raises StoreError, and ForkedProcessError in a forked child.
        """
        self._guard.check()
        try:
            version = self._execute(_DATA_VERSION).fetchone()
        except sqlite3.Error:
            with translated(self._file):
                raise
        if version == self._seen:
            return False
        self._seen = version
        return True

    def close(self) -> None:
        """Close the signal's connection, unless it is a parent's."""
        if not self._guard.foreign:
            self._connection.close()

    def _version(self) -> tuple[int]:
        version: tuple[int] = self._execute(_DATA_VERSION).fetchone()
        return version
