"""Open the store of an installation: on SQLite files in its data folder, or on PostgreSQL."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from sqlalchemy import Connection

from hsmkms.errors import MisuseError
from hsmkms.store import audit_files, files
from hsmkms.store.consistency import Consistency
from hsmkms.store.database import ChangeSignal, Companion, Database
from hsmkms.store.sqlite import capture, connections
from hsmkms.store.sqlite.database import FileDatabase
from hsmkms.store.sqlite.signal import FileSignal

if TYPE_CHECKING:
    from hsmkms.store.postgresql.target import Target

BOUNDED: Final = Consistency()


class Store:
    """Both databases of an installation: ``meta`` for the control plane, ``log`` for data that changes under load."""

    meta: Database
    log: Database

    def __init__(
        self,
        folder: Path,
        *,
        target: "Target | None" = None,
        busy_timeout_seconds: float = connections.BUSY_TIMEOUT_SECONDS,
        consistency: Consistency = BOUNDED,
    ) -> None:
        self.folder = folder
        self.target = target
        """Where the databases are, if they are not files of the folder."""
        self.sealing = False
        """True once this process seals its writes to the control plane."""
        if target is not None:
            from hsmkms.store.postgresql.store import open_parts  # noqa: PLC0415 - its driver is an extra

            parts = open_parts(target, busy_timeout_seconds, lambda: self.sealing, consistency)
            self.meta, self.log, self._signal = parts.meta, parts.log, parts.change_signal
            return
        meta = folder / files.META.name
        self.meta = FileDatabase(
            meta,
            busy_timeout_seconds=busy_timeout_seconds,
            prepare=self._prepare,
            compare_schema=True,
        )
        self.log = FileDatabase(folder / files.LOG.name, busy_timeout_seconds=busy_timeout_seconds)
        self._signal = partial(FileSignal, meta)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        target: "Target | None" = None,
        busy_timeout_seconds: float = connections.BUSY_TIMEOUT_SECONDS,
        consistency: Consistency = BOUNDED,
        older: bool = False,
        joining: bool = False,
    ) -> Self:
        """Open the databases: in ``folder``, where the audit log is in any case, or at ``target``.

        ``consistency``: how old cached records may be, of a database on a server. With ``older`` also older databases,
        to announce their migration; with ``joining`` also if the folder is no node of theirs yet. Raises StoreError
        (missing, damaged, open to other users, of other nodes; also for an audit log that others can change),
        MigrationError (older than this program, or newer without an announcement that this program works with them) or
        DependencyTimeoutException (the server does not answer).
        """
        if target is not None:
            from hsmkms.store.postgresql import creation  # noqa: PLC0415 - its driver is an extra

            creation.check(target, folder, older=older, joining=joining)
        else:
            for database in files.DATABASES:
                connections.check(folder, database, older=older)
        audit_files.check_own(folder / audit_files.FOLDER)
        return cls(folder, target=target, busy_timeout_seconds=busy_timeout_seconds, consistency=consistency)

    @contextmanager
    def atomic(self) -> Iterator[Connection]:
        """Run a write transaction on the control plane."""
        with self.meta.atomic() as conn:
            yield conn

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Run a read transaction on the control plane."""
        with self.meta.reading() as conn:
            yield conn

    def change_signal(self) -> ChangeSignal:
        """Return a new signal of changes of the control plane."""
        return self._signal()

    def check_in_place(self) -> None:
        """Raise StoreError if one of the databases was moved away or replaced since it was opened."""
        self.meta.check_in_place()
        self.log.check_in_place()

    def close(self) -> None:
        """Close all connections."""
        self.meta.close()
        self.log.close()

    def _prepare(self, connection: sqlite3.Connection) -> None:
        # The guard triggers of a sealed database call a function of this program; the schema comparison covers them.
        connection.execute("PRAGMA trusted_schema=ON")
        capture.capture(connection)
        for name in capture.GUARDS:
            connection.create_function(name, 0, self._must_seal)

    def _must_seal(self) -> None:
        """Raise MisuseError unless writes are sealed; called by a sealed database's guard triggers for each row."""
        if not self.sealing:
            raise MisuseError("a sealed control plane was written to by a process that seals nothing")


__all__ = ["Companion", "Connection", "Database", "FileDatabase", "Store"]
