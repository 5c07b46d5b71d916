"""Run transactions on a PostgreSQL database.

A write transaction of the control plane begins by taking one advisory lock, held until its end: what it reads then
cannot change before it writes, and epochs are committed in their order. The lock belongs to the transaction, so that it
cannot outlive it behind a connection pooler. Transactions of mere use (counts, last uses, leases) take no such lock:
rows are locked by the statements themselves, and the whole transaction is run again after a deadlock.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Final

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine, QueuePool, create_engine, event, literal_column, select
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from hsmkms.errors import DependencyTimeoutException, StoreError
from hsmkms.store import changes, seal_engine
from hsmkms.store.database import Database, Result
from hsmkms.store.instant import Instant
from hsmkms.store.postgresql import capture, faults, generation, seals
from hsmkms.store.postgresql.availability import Availability
from hsmkms.store.postgresql.generation import Generation
from hsmkms.store.postgresql.target import DRIVER, SCHEMA_PATH, RawConnection, Target

WRITE_LOCK: Final = int.from_bytes(b"hsmkms")
"""The key of the advisory lock of the control plane, which is the database's own."""

_KEPT_CONNECTIONS: Final = 5
_FURTHER_CONNECTIONS: Final = 15
_ATTEMPTS: Final = 6
_FIRST_PAUSE_SECONDS: Final = 0.005

_WAIT: Final = "SET LOCAL lock_timeout = '{wait_ms}'"
_READ: Final = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {SCHEMA_PATH}; {_WAIT}"
_WRITE: Final = (
    f"BEGIN ISOLATION LEVEL READ COMMITTED; {SCHEMA_PATH}; {_WAIT}; "
    "SET LOCAL idle_in_transaction_session_timeout = '60s'; "
    "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
)
"""The last, since it may have been turned off for the role after the database was opened."""

_LOCK: Final = f"; SELECT pg_advisory_xact_lock({WRITE_LOCK})"
_NOW: Final = select(literal_column("(extract(epoch FROM clock_timestamp()) * 1000000)::bigint", Instant()))


def make_engine(target: Target, availability: Availability, wait_seconds: float) -> Engine:
    """Return the pool of connections to a database; ``wait_seconds``: for a free one."""
    return create_engine(
        f"{DRIVER}://",
        creator=lambda: availability.watch(target.connect()),
        poolclass=QueuePool,
        pool_size=_KEPT_CONNECTIONS,
        max_overflow=_FURTHER_CONNECTIONS,
        pool_timeout=wait_seconds,
        use_native_hstore=False,
        hide_parameters=True,
        execution_options={seal_engine.OPTION: seals.ENGINE},
    )


class PostgresqlDatabase(Database):
    """The control plane, or the counts of mere use, in a PostgreSQL database."""

    def __init__(
        self,
        engine: Engine,
        availability: Availability,
        wait_seconds: float,
        generation: Generation | None = None,
        is_sealing: Callable[[], bool] = lambda: False,
    ) -> None:
        """Without a generation it is the database of mere use. ``is_sealing``: whether writes are sealed now."""
        super().__init__(availability.name)
        self._engine = engine
        self._availability = availability
        self._generation = generation
        self._is_sealing = is_sealing
        wait_ms = max(1, round(wait_seconds * 1000))
        self._begin, self._begin_reading = _WRITE.format(wait_ms=wait_ms), _READ.format(wait_ms=wait_ms)
        if generation is not None:
            self._begin += _LOCK
        event.listen(engine, "checkin", self._close_late)

    def again_if_aborted(self, act: Callable[[], Result]) -> Result:
        """Run ``act`` again after a serialization failure or a deadlock."""
        for attempt in range(_ATTEMPTS - 1):
            try:
                return act()
            except DependencyTimeoutException as exc:
                if not faults.is_contention(exc):
                    raise
            time.sleep(random.uniform(0, _FIRST_PAUSE_SECONDS * 2**attempt))  # noqa: S311 - no secret
        return act()

    def lease_time(self, tx: Connection, now: datetime) -> datetime:  # noqa: ARG002 - the nodes' clocks may differ
        """Return the time of the database's clock."""
        time: datetime = tx.execute(_NOW).scalar_one()
        return time

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with faults.translated(self.name):
            begin = f"{self._begin}; {capture.SEALS}" if self._is_sealing() else self._begin
            with self._begun(begin) as conn:
                yield conn
                if _raw(conn).info.transaction_status is not TransactionStatus.INTRANS:
                    # COMMIT would answer without an error, and roll back.
                    raise StoreError(f"a transaction on {self.name} had a failed statement: it was rolled back")
                number = generation.raise_number(conn, self.name) if self._has_changed(conn) else None
                conn.commit()
            if self._generation is not None and number is not None:
                self._generation.note(number)

    def _has_changed(self, conn: Connection) -> bool:
        """Return True if other processes must look at the change log: each sealed row has an entry there."""
        noted = conn.info.pop(changes.NOTED, False)
        return self._generation is not None and (noted or not self._is_sealing())

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with faults.translated(self.name), self._begun(self._begin_reading) as conn:
            yield conn

    def _dispose(self, *, close: bool) -> None:
        self._engine.dispose(close=close)

    @contextmanager
    def _begun(self, begin: str) -> Iterator[Connection]:
        """Begin a transaction, and roll back at the end what was not committed.

        A pooled connection may have been closed by the server (a restart, a failover) since its last use: such ones
        are dropped until one works or a new connection fails.
        """
        self.check_open()
        self._availability.require()
        conn = self._engine.connect()
        conn.info.pop(changes.NOTED, None)  # of a transaction that was rolled back
        try:
            for _ in range(_KEPT_CONNECTIONS):
                conn.begin()
                try:
                    _raw(conn).execute(begin)
                    break
                except psycopg.OperationalError:
                    if not _raw(conn).closed:
                        raise
                    conn.invalidate()
                    conn.close()
                    conn = self._engine.connect()
            else:
                conn.begin()
                _raw(conn).execute(begin)
            yield conn
        finally:
            conn.close()

    def _close_late(self, connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:  # noqa: ARG002 - SQLAlchemy's
        """Close a connection that another thread was using when the database was closed."""
        if self._closed and not self._guard.foreign:
            record.invalidate()


def _raw(conn: Connection) -> RawConnection:
    raw = conn.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)  # noqa: S101 - for mypy
    return raw
