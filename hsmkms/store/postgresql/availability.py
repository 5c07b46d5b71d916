"""Know whether the server answers, so that nobody waits for one that does not.

The thread that listens for changes finds out (listener.py). While the server is away, transactions fail at once: each
would wait for a connection in vain, and with it a thread, or the loop that answers requests from the cache. Those that
were waiting for an answer when it went away are ended: a server that hangs closes no connection.
"""

import os
import socket
import threading
from contextlib import suppress
from weakref import WeakSet

import psycopg
from psycopg.pq import TransactionStatus

from hsmkms.errors import DependencyTimeoutException
from hsmkms.store.postgresql.target import RawConnection


class Availability:
    """Whether the server of a store answers, as its listener knows. Without a listener nothing is known."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.since: float | None = None
        """Since when the server does not answer, by the clock of the listener; None while it does."""
        self._lock = threading.Lock()
        self._connections = WeakSet[RawConnection]()

    def watch(self, connection: RawConnection) -> RawConnection:
        """Have ``end_waiting`` know a connection, and return it."""
        with self._lock:
            self._connections.add(connection)
        return connection

    def end_waiting(self) -> None:
        """End the connections whose users wait for an answer: these get an error, as if the server had closed them."""
        with self._lock:
            connections = list(self._connections)
        for each in connections:
            with suppress(psycopg.Error, OSError):  # it has ended by itself
                if each.info.transaction_status is TransactionStatus.ACTIVE:
                    with socket.socket(fileno=os.dup(each.fileno())) as shared:
                        shared.shutdown(socket.SHUT_RDWR)

    def require(self) -> None:
        """Raise DependencyTimeoutException while the server does not answer."""
        if self.since is not None:
            raise DependencyTimeoutException(
                f"{self.name} does not answer: try again; the log has the reason, and hsmkms connects again by itself"
            )
