"""The generation of the control plane: a number that each of its transactions raises, and how processes learn of it.

Each process has a connection that listens for notifications, which the server sends at commit. They can be lost, with
their connection or by a proxy, so the number is also read once a second and after each new connection.
"""

import logging
import os
import select
import threading
import time
from collections.abc import Sequence
from typing import Final

import psycopg
from sqlalchemy import Connection

from hsmkms.errors import DependencyTimeoutException, HsmKmsError, StoreError
from hsmkms.process import ForkGuard
from hsmkms.store.postgresql import faults
from hsmkms.store.postgresql.target import RawConnection, Target

log = logging.getLogger("hsmkms.store")

POLL_SECONDS: Final = 1.0
STALE_SECONDS: Final = 30.0
"""How long cached records are used while the database does not answer."""

_PAUSE_SECONDS: Final = 0.5
_CLOSE_SECONDS: Final = 10.0
_READ: Final = "SELECT number FROM public.generation"
_RAISE: Final = (
    "WITH raised AS (UPDATE generation SET number = number + 1 RETURNING number) "
    "SELECT number, pg_notify('hsmkms_generation', '') FROM raised"
)


class Generation:
    """The generation that this process has read last, and how often that was another one than before.

    Any other number is a change, also a lower one: a number that was raised by hand must not hide those that follow.
    """

    def __init__(self) -> None:
        self.changes = 0
        self.restarts = 0
        """How often a new connection was made: to a server, perhaps, that lacks the last commits of the one before."""
        self._number: int | None = None
        self._lock = threading.Lock()

    def note(self, number: int) -> None:
        """Note a number that was read or written."""
        with self._lock:
            if number != self._number:
                self._number = number
                self.changes += 1

    def restart(self, number: int) -> None:
        """Note the number that a new connection has read, which counts as a change in any case."""
        with self._lock:
            self._number = number
            self.changes += 1
            self.restarts += 1


def raise_number(tx: Connection, name: str) -> int:
    """Raise the generation in a transaction of the control plane, and notify all processes of its commit."""
    return _only([int(each) for each in tx.exec_driver_sql(_RAISE).scalars()], name)


def _only(numbers: Sequence[int], name: str) -> int:
    if len(numbers) != 1:
        raise StoreError(f"the table generation of {name} has {len(numbers)} rows in place of one: correct it by hand")
    return numbers[0]


class GenerationSignal:
    """Detects commits to the control plane: this process's at once, those of others by a thread that listens."""

    def __init__(self, target: Target, generation: Generation) -> None:
        self._target = target
        self._generation = generation
        self._guard = ForkGuard()
        self._fault: StoreError | None = None
        self._wake_reader, self._wake = os.pipe()
        self._answered = time.monotonic()
        self._stopped = False
        try:
            with faults.translated(target.name):
                first = self._listen()
        except BaseException:
            self._close_pipe()
            raise
        self._seen, self._restarts = generation.changes, generation.restarts
        self._thread = threading.Thread(target=self._follow, args=(first,), name="generation", daemon=True)
        self._thread.start()

    def moved(self) -> bool:
        """Return True if there was a commit since the last call, or since the signal was created.

        Raises DependencyTimeoutException if the database has not answered for STALE_SECONDS.
        """
        if self._guard.foreign:
            self._guard.refuse()
        if self._fault is not None:
            raise StoreError(str(self._fault))
        if time.monotonic() - self._answered > STALE_SECONDS:
            raise DependencyTimeoutException(
                f"{self._target.name} has not answered for {STALE_SECONDS:.0f} seconds, so what is cached may be out "
                "of date: try again"
            )
        changes = self._generation.changes
        if changes == self._seen:
            return False
        self._seen = changes
        return True

    def restarted(self) -> bool:
        """Return True, once, after a new connection: the server may be another one, without the last commits."""
        restarts = self._generation.restarts
        if restarts == self._restarts:
            return False
        self._restarts = restarts
        return True

    def refuse(self, fault: StoreError) -> None:
        """Raise this error in all later calls of ``moved``."""
        self._fault = fault

    def close(self) -> None:
        """End the thread and close its connection, unless they belong to the parent of a forked child."""
        if self._guard.foreign or self._stopped:
            return
        self._stopped = True
        self._fault = StoreError("this change signal has been closed")
        os.write(self._wake, b"!")
        self._thread.join(_CLOSE_SECONDS)
        if not self._thread.is_alive():
            self._close_pipe()

    def _listen(self) -> RawConnection:
        """Open a connection that listens, and read the generation."""
        connection = self._target.connect()
        try:
            connection.execute("LISTEN hsmkms_generation")
            self._generation.restart(self._read(connection))
        except BaseException:
            connection.close()
            raise
        return connection

    def _read(self, connection: RawConnection) -> int:
        number = _only([int(row[0]) for row in connection.execute(_READ)], self._target.name)
        self._answered = time.monotonic()
        return number

    def _follow(self, connection: RawConnection | None) -> None:
        """Note each generation until the signal is closed; connect again when the connection is lost."""
        while not self._stopped:
            try:
                connection = connection or self._listen()
                self._wait(connection)
            except (psycopg.Error, OSError, HsmKmsError) as exc:
                log.warning("%s cannot be listened to: %s", self._target.name, str(exc).strip())
                if connection is not None:
                    connection.close()
                    connection = None
                select.select([self._wake_reader], [], [], _PAUSE_SECONDS)
        if connection is not None:
            connection.close()

    def _wait(self, connection: RawConnection) -> None:
        """Read the number at the next notification, or after a second.

        What a notification says is not used: whoever may connect to the database can send one.
        """
        readable, _, _ = select.select([connection.fileno(), self._wake_reader], [], [], POLL_SECONDS)
        if connection.fileno() in readable:
            for _ in connection.notifies(timeout=0):
                pass
        if not self._stopped:
            self._generation.note(self._read(connection))

    def _close_pipe(self) -> None:
        for descriptor in (self._wake_reader, self._wake):
            os.close(descriptor)
