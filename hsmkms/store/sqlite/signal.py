"""Detect commits to an SQLite file by other connections.

``PRAGMA data_version`` changes on one connection at every commit of another one, and costs a few microseconds. Its
values are comparable only within one connection, so a connection is dedicated to it. It is asked only when the header
of the WAL index has changed (wal_index.py), which costs a tenth of a microsecond to see.
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hsmkms.errors import StoreError
from hsmkms.process import ForkGuard
from hsmkms.store.database import ChangeSignal
from hsmkms.store.sqlite import connections, wal_index
from hsmkms.store.sqlite.faults import translated

_DATA_VERSION: Final = "PRAGMA data_version"


class FileSignal(ChangeSignal):
    """Detects commits to the file by other connections since the last call.

    Not thread-safe: the caller holds a lock, which it needs anyway to act on the result.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._guard = ForkGuard()
        with translated(self._file):
            self._connection = connections.connect(self._file)
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
