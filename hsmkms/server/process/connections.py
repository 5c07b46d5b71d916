"""The connections of a worker, with the limits of their number and memory."""

import resource
from typing import Final, Protocol

from hsmkms.config.settings import ServeSettings
from hsmkms.server.process.memory import MemoryBudget

MOST: Final = 10_000
MOST_SECURE: Final = 1_500
"""Default limits of connections per worker: an idle one takes 5 KiB, over TLS 90 KiB."""

OTHER_FILES: Final = 512
"""Files that a worker may have open besides served connections: databases, logs, refused connections."""

LINGERING: Final = 256
"""Limit of refused connections that are closed gracefully, so that the client reads the reason."""

FEWEST: Final = 16
TRIM_CLOSED: Final = 100
"""Connections that must have been closed since the last time before memory is given back."""

TRIM_AGAIN: Final = 2
"""Repetitions of giving memory back: a connection is closed before all of its memory is released."""


class OpenConnection(Protocol):
    """A connection as the worker supervises it."""

    deadline: float

    def give_up(self) -> None:
        """Close it: its deadline has passed."""

    def end(self) -> None:
        """Answer the requests that its client has begun to send, and close."""


class Connections:
    """The open connections of a worker. ``most``: how many may be served at a time."""

    def __init__(self, most: int = MOST, budget_bytes: int = 12 * 2**20) -> None:
        self.open: set[OpenConnection] = set()
        self.most = most
        self.budget = MemoryBudget(budget_bytes)
        self._peak = 0
        self._again = 0

    def add(self, connection: OpenConnection) -> None:
        """Add a new connection."""
        self.open.add(connection)
        self._peak = max(self._peak, len(self.open))

    def discard(self, connection: OpenConnection) -> None:
        """Remove a connection that is closed and has no request in progress."""
        self.open.discard(connection)

    def memory_is_free(self) -> bool:
        """Return True if memory should be given back. Called every few seconds; true a few times after each fall."""
        fallen = self._have_fallen()
        self._again = TRIM_AGAIN + 1 if fallen else max(self._again - 1, 0)
        return self._again > 0

    def _have_fallen(self) -> bool:
        """Return True once after many connections were closed, or the occupied memory has fallen much."""
        closed = self._peak - len(self.open) >= TRIM_CLOSED
        if closed:
            self._peak = len(self.open)
        return self.budget.fallen() or closed


def connections_of(settings: ServeSettings) -> Connections:
    """Create an empty set with the limits of the settings and of this process's open files."""
    default = MOST if settings.certificate is None else MOST_SECURE
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = max(files - OTHER_FILES, FEWEST) if files != resource.RLIM_INFINITY else MOST * MOST
    return Connections(min(settings.max_connections or default, allowed), int(settings.request_memory_mib * 2**20))
