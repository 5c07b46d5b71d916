"""Open the databases, and run transactions on them: ``atomic()`` to write, ``reading()`` to read.

SQLite in WAL mode: readers do not wait for writers, and every commit is fsynced before it returns. A write transaction
takes the write lock at its beginning (BEGIN IMMEDIATE), so what it reads cannot change before it writes.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, Protocol, Self

from sqlalchemy import Connection, Dialect, Engine, ExceptionContext, NullPool, QueuePool, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import LRUCache

from hsmkms.errors import ClosedError, MisuseError, StoreError
from hsmkms.process import ForkGuard
from hsmkms.store import audit_files, faults, files, seal_engine, sqlite_capture, sqlite_schema, sqlite_seals

_WRITES: Final = "hsmkms_writes"
_IDLE_CONNECTIONS: Final = 16
_COMPILED: Final[LRUCache[Any, Any]] = LRUCache(1000)
"""Compiled statements of all engines: compiling one takes longer than running it, and each file has two engines."""


Prepare = Callable[[sqlite3.Connection], None]
"""Prepares a connection for writing, before its first transaction."""


class Companion(Protocol):
    """Hooks into every write transaction of a database, called on the transaction's thread."""

    def before_commit(self, tx: Connection) -> None:
        """Write further rows into the transaction before it is committed."""

    def after_commit(self) -> None:
        """Handle a commit."""

    def rolled_back(self) -> None:
        """Handle a rollback."""


class Database:
    """One SQLite file. Thread-safe; raises in a forked child."""

    def __init__(
        self,
        file: Path,
        *,
        busy_timeout_seconds: float = files.BUSY_TIMEOUT_SECONDS,
        prepare: Prepare | None = None,
        compare_schema: bool = False,
    ) -> None:
        self.file = file
        self.companions: list[Companion] = []
        """Hooks in the order in which they write; they are called in the same order at the end of a transaction."""
        self._guard = ForkGuard()
        self._identity: tuple[int, int] | None = None
        """Of the file, when the first connection was opened."""
        self._writing = threading.Lock()
        self._writer: int | None = None

        def connect(prepared_by: Prepare | None = None) -> sqlite3.Connection:
            connection = files.connect(file, busy_timeout_seconds)
            try:
                self.check_in_place()
                if prepared_by is not None:
                    prepared_by(connection)
            except BaseException:
                connection.close()
                raise
            return connection

        self._closed = False
        begin = _begin_comparing if compare_schema else _begin
        self._reader = _engine(connect, _IDLE_CONNECTIONS, begin)
        self._scribe = _engine(partial(connect, prepare), 1, begin)
        for engine in (self._reader, self._scribe):
            event.listen(engine, "checkin", self._close_late)

    def check_in_place(self) -> None:
        """Raise StoreError if another file is at the path than when the first connection was opened, or none.

        Connections of before and after would be to two databases, and changes of the one unknown to the other.
        """
        identity = files.identity(self.file)
        if self._identity is None:
            self._identity = identity
        elif identity != self._identity:
            raise StoreError(
                f"{self.file} was moved away or replaced while this process had it open: stop all hsmkms processes of "
                "this installation, then start them again"
            )

    @contextmanager
    def atomic(self) -> Iterator[Connection]:
        """Run a write transaction: committed at the end of the block, rolled back if it raises.

        Threads of one process queue on a lock, which is fairer and faster than SQLite's busy waiting. MisuseError if
        the thread has a write transaction open already: it would deadlock.
        """
        try:
            with (
                self._one_writer(),
                faults.translated(self.file),
                self._connect(self._scribe).execution_options(**{_WRITES: True}) as conn,
                conn.begin(),
            ):
                yield conn
                for companion in self.companions:
                    companion.before_commit(conn)
        except BaseException:
            for companion in self.companions:
                companion.rolled_back()
            raise
        for companion in self.companions:
            companion.after_commit()

    @property
    def writing_here(self) -> bool:
        """True while this thread has a write transaction open."""
        return self._writer == threading.get_ident()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Run a read transaction: a consistent snapshot, taken at the first query (for ``meta.db``: at once)."""
        with faults.translated(self.file), self._connect(self._reader) as conn:
            conn.begin()  # never committed: writes in a read transaction are lost
            yield conn

    def close(self) -> None:
        """Close all connections; in a forked child they are left to the parent."""
        self._closed = True
        for engine in (self._reader, self._scribe):
            engine.dispose(close=not self._guard.foreign)

    def _close_late(self, connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:  # noqa: ARG002 - SQLAlchemy's
        """Close a connection that another thread was using when the database was closed: its pool does not any more.

        SQLAlchemy passes None for one that was given up after a disk error, or could not be opened.
        """
        if self._closed and not self._guard.foreign:
            record.invalidate()  # a thread that is just connecting must not get a closed connection from the pool

    @contextmanager
    def _one_writer(self) -> Iterator[None]:
        self._guard.check()  # before the lock: a forked child may have inherited it locked
        if self._writer == threading.get_ident():
            raise MisuseError("a write transaction was begun inside another one")
        with self._writing:
            self._writer = threading.get_ident()
            try:
                yield
            finally:
                self._writer = None

    def _connect(self, engine: Engine) -> Connection:
        self._guard.check()
        if self._closed:
            raise ClosedError("this database has been closed: open a new Kms")
        return engine.connect()


@cache
def _dialect() -> Dialect:
    """Return the dialect of all engines: a compiled statement belongs to the dialect that it was compiled for."""
    engine = create_engine("sqlite://", poolclass=NullPool)
    engine.connect().close()  # a dialect asks its first connection what this SQLite can do
    return engine.dialect


def _engine(connect: Callable[[], sqlite3.Connection], idle: int, begin: Callable[[Connection], None]) -> Engine:
    engine = create_engine(
        "sqlite://",
        creator=connect,
        poolclass=QueuePool,
        pool_size=idle,
        max_overflow=-1,
        execution_options={"compiled_cache": _COMPILED, seal_engine.OPTION: sqlite_seals.ENGINE},
    )
    engine.dialect = _dialect()
    event.listen(engine, "begin", begin)
    event.listen(engine, "handle_error", _give_up_broken)
    return engine


def _begin(conn: Connection) -> None:
    conn.exec_driver_sql("BEGIN IMMEDIATE" if conn.get_execution_options().get(_WRITES) else "BEGIN DEFERRED")


def _begin_comparing(conn: Connection) -> None:
    """Begin, and check first whether the schema is still the one that this connection has compared."""
    _begin(conn)
    raw = conn.connection.driver_connection
    if isinstance(raw, sqlite3.Connection):
        sqlite_schema.look(raw, conn.info)


def _give_up_broken(context: ExceptionContext) -> None:
    """Discard a connection after a disk error: SQLite may have made it read-only for its whole life."""
    code = getattr(context.original_exception, "sqlite_errorcode", 0)
    if faults.primary(code) not in faults.BREAKING or context.connection is None:
        return
    raw = context.connection.connection.driver_connection
    if isinstance(raw, sqlite3.Connection):
        with suppress(sqlite3.Error):
            raw.rollback()  # without it, a closed connection keeps its locks until its last cursor is gone
    context.is_disconnect = True
    context.invalidate_pool_on_disconnect = False  # other connections may work, or fail on their own


class Store:
    """Both databases of an installation: ``meta`` for the control plane, ``log`` for data that changes under load."""

    def __init__(self, folder: Path, *, busy_timeout_seconds: float = files.BUSY_TIMEOUT_SECONDS) -> None:
        self.folder = folder
        self.sealing = False
        """True once this process seals its writes to the control plane."""
        self.meta = Database(
            folder / files.META.name,
            busy_timeout_seconds=busy_timeout_seconds,
            prepare=self._prepare,
            compare_schema=True,
        )
        self.log = Database(folder / files.LOG.name, busy_timeout_seconds=busy_timeout_seconds)

    @classmethod
    def open(
        cls, folder: Path, *, busy_timeout_seconds: float = files.BUSY_TIMEOUT_SECONDS, older: bool = False
    ) -> Self:
        """Open the databases in ``folder``; with ``older`` also older ones, to announce their migration.

        Raises StoreError (missing, damaged, open to other users; also for an audit log that others can change) or
        MigrationError (older than this program, or newer without an announcement that this program works with them).
        """
        for database in files.DATABASES:
            files.check(folder, database, older=older)
        audit_files.check_own(folder / audit_files.FOLDER)
        return cls(folder, busy_timeout_seconds=busy_timeout_seconds)

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
        sqlite_capture.capture(connection)
        for name in sqlite_capture.GUARDS:
            connection.create_function(name, 0, self._must_seal)

    def _must_seal(self) -> None:
        """Raise MisuseError unless writes are sealed; called by a sealed database's guard triggers for each row."""
        if not self.sealing:
            raise MisuseError("a sealed control plane was written to by a process that seals nothing")


__all__ = ["Connection", "Database", "Store"]
