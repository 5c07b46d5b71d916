"""Run transactions on an SQLite file.

In WAL mode readers do not wait for writers, and every commit is fsynced before it returns. A write transaction takes
the write lock at its beginning (BEGIN IMMEDIATE).
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Dialect, Engine, ExceptionContext, NullPool, QueuePool, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import LRUCache

from hsmkms.errors import StoreError
from hsmkms.store import seal_engine
from hsmkms.store.database import Database
from hsmkms.store.sqlite import connections, faults, schema, seals

_WRITES: Final = "hsmkms_writes"
_IDLE_CONNECTIONS: Final = 16
_COMPILED: Final[LRUCache[Any, Any]] = LRUCache(1000)
"""Compiled statements of all engines: compiling one takes longer than running it, and each file has two engines."""


Prepare = Callable[[sqlite3.Connection], None]
"""Prepares a connection for writing, before its first transaction."""


class FileDatabase(Database):
    """One SQLite file."""

    def __init__(
        self,
        file: Path,
        *,
        busy_timeout_seconds: float = connections.BUSY_TIMEOUT_SECONDS,
        prepare: Prepare | None = None,
        compare_schema: bool = False,
    ) -> None:
        super().__init__(str(file))
        self.file = file
        self._identity: tuple[int, int] | None = None
        """Of the file, when the first connection was opened."""

        def connect(prepared_by: Prepare | None = None) -> sqlite3.Connection:
            connection = connections.connect(file, busy_timeout_seconds)
            try:
                self.check_in_place()
                if prepared_by is not None:
                    prepared_by(connection)
            except BaseException:
                connection.close()
                raise
            return connection

        begin = _begin_comparing if compare_schema else _begin
        self._reader = _engine(connect, _IDLE_CONNECTIONS, begin)
        self._scribe = _engine(partial(connect, prepare), 1, begin)
        for engine in (self._reader, self._scribe):
            event.listen(engine, "checkin", self._close_late)

    def check_in_place(self) -> None:
        """Raise StoreError if another file is at the path than when the first connection was opened, or none.

        Connections of before and after would be to two databases, and changes of the one unknown to the other.
        """
        identity = connections.identity(self.file)
        if self._identity is None:
            self._identity = identity
        elif identity != self._identity:
            raise StoreError(
                f"{self.file} was moved away or replaced while this process had it open: stop all hsmkms processes of "
                "this installation, then start them again"
            )

    def lease_time(self, tx: Connection, now: datetime) -> datetime:  # noqa: ARG002 - one clock for all processes
        """Return the time of this machine, on which all processes are."""
        return now

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with (
            faults.translated(self.file),
            self._connect(self._scribe).execution_options(**{_WRITES: True}) as conn,
            conn.begin(),
        ):
            yield conn

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        """Begin a read transaction: its snapshot is taken at the first query (for ``meta.db``: at once)."""
        with faults.translated(self.file), self._connect(self._reader) as conn:
            conn.begin()  # never committed: writes in a read transaction are lost
            yield conn

    def _dispose(self, *, close: bool) -> None:
        for engine in (self._reader, self._scribe):
            engine.dispose(close=close)

    def _close_late(self, connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:  # noqa: ARG002 - SQLAlchemy's
        """Close a connection that another thread was using when the database was closed: its pool does not any more.

        SQLAlchemy passes None for one that was given up after a disk error, or could not be opened.
        """
        if self._closed and not self._guard.foreign:
            record.invalidate()  # a thread that is just connecting must not get a closed connection from the pool

    def _connect(self, engine: Engine) -> Connection:
        self.check_open()
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
        execution_options={"compiled_cache": _COMPILED, seal_engine.OPTION: seals.ENGINE},
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
        schema.look(raw, conn.info)


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
