"""Opening the databases, and the two ways to use them: ``atomic()`` to write, ``reading()`` to read.

SQLite in WAL mode: readers do not wait for writers, and every commit is on the disk before it returns. A write
transaction takes the write lock at its beginning (BEGIN IMMEDIATE), so what it reads cannot change before it writes.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol, Self

from sqlalchemy import Connection, Engine, QueuePool, create_engine, event

from hsmkms.errors import ClosedError, MisuseError
from hsmkms.process import ForkGuard
from hsmkms.store import faults, files

_WRITES: Final = "hsmkms_writes"
_IDLE_CONNECTIONS: Final = 16


class Companion(Protocol):
    """Goes along with the write transactions of a database, each on its thread."""

    def before_commit(self, tx: Connection) -> None:
        """Write what belongs to the transaction."""

    def after_commit(self) -> None:
        """It was committed."""

    def rolled_back(self) -> None:
        """It was not."""


class Database:
    """One SQLite file. Thread-safe; of no use in a forked child."""

    def __init__(self, file: Path, *, busy_timeout_seconds: float = files.BUSY_TIMEOUT_SECONDS) -> None:
        self.file = file
        self._guard = ForkGuard()
        self._writing = threading.Lock()
        self._writer: int | None = None
        self.companion: Companion | None = None
        self._engine: Engine | None = create_engine(
            "sqlite://",
            creator=lambda: files.connect(file, busy_timeout_seconds),
            poolclass=QueuePool,
            pool_size=_IDLE_CONNECTIONS,
            max_overflow=-1,
        )
        event.listen(self._engine, "begin", _begin)

    @contextmanager
    def atomic(self) -> Iterator[Connection]:
        """A write transaction: committed at the end of the block, rolled back if it raises.

        Threads of one process queue here, which is fairer and faster than SQLite's waiting. MisuseError if the
        thread has one open already: it would wait for itself.
        """
        companion = self.companion
        try:
            with (
                self._one_writer(),
                faults.translated(self.file),
                self._connect().execution_options(**{_WRITES: True}) as conn,
                conn.begin(),
            ):
                yield conn
                if companion is not None:
                    companion.before_commit(conn)
        except BaseException:
            if companion is not None:
                companion.rolled_back()
            raise
        if companion is not None:
            companion.after_commit()

    @property
    def writing_here(self) -> bool:
        """True while this thread has a write transaction open."""
        return self._writer == threading.get_ident()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A consistent view of the database for one block, taken at the first query."""
        with faults.translated(self.file), self._connect() as conn:
            conn.begin()  # never committed: what is written in a reading is lost
            yield conn

    def close(self) -> None:
        """Close all connections; in a forked child they stay the parent's."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose(close=not self._guard.foreign)

    @contextmanager
    def _one_writer(self) -> Iterator[None]:
        self._guard.check()  # before the lock: a forked child may have inherited it taken
        if self._writer == threading.get_ident():
            raise MisuseError("a write transaction was begun inside another one")
        with self._writing:
            self._writer = threading.get_ident()
            try:
                yield
            finally:
                self._writer = None

    def _connect(self) -> Connection:
        self._guard.check()
        if self._engine is None:
            raise ClosedError("this database has been closed: open a new Kms")
        return self._engine.connect()


def _begin(conn: Connection) -> None:
    conn.exec_driver_sql("BEGIN IMMEDIATE" if conn.get_execution_options().get(_WRITES) else "BEGIN DEFERRED")


class Store:
    """Both databases of an installation: ``meta`` for the control plane, ``log`` for what moves under load."""

    def __init__(self, folder: Path, *, busy_timeout_seconds: float = files.BUSY_TIMEOUT_SECONDS) -> None:
        self.folder = folder
        self.meta = Database(folder / files.META.name, busy_timeout_seconds=busy_timeout_seconds)
        self.log = Database(folder / files.LOG.name, busy_timeout_seconds=busy_timeout_seconds)

    @classmethod
    def open(cls, folder: Path, *, busy_timeout_seconds: float = files.BUSY_TIMEOUT_SECONDS) -> Self:
        """Open the databases in ``folder``.

        Raises StoreError (missing, damaged, open to other users) or MigrationError (older or newer than this program).
        """
        for database in files.DATABASES:
            files.check(folder, database)
        return cls(folder, busy_timeout_seconds=busy_timeout_seconds)

    @contextmanager
    def atomic(self) -> Iterator[Connection]:
        """A write transaction on the control plane."""
        with self.meta.atomic() as conn:
            yield conn

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A consistent view of the control plane."""
        with self.meta.reading() as conn:
            yield conn

    def close(self) -> None:
        """Close all connections."""
        self.meta.close()
        self.log.close()


__all__ = ["Connection", "Database", "Store"]
