"""All connections of a worker: how many there may be, and what they may occupy together."""

import resource
from typing import Final, Protocol

from hsmkms.config.settings import ServeSettings
from hsmkms.server.process.memory import MemoryBudget

MOST: Final = 10_000
MOST_SECURE: Final = 1_500
"""Connections of a worker where no setting says otherwise: an idle one takes 5 KiB, over TLS 90 KiB."""

OTHER_FILES: Final = 512
"""Files that a worker may have open besides connections that are served: databases, logs, refused connections."""

LINGERING: Final = 256
"""Refused connections that are closed in peace, so that the client reads why; beyond that they are just closed."""

FEWEST: Final = 16
TRIM_CLOSED: Final = 100
"""So many connections must have been closed since the last time before memory is given back."""

TRIM_AGAIN: Final = 2
"""How often memory is given back once more after that: a connection is closed before all of it is released."""


class OpenConnection(Protocol):
    """A connection as the worker looks after it."""

    deadline: float

    def give_up(self) -> None:
        """Close it: the time for what it waits for is over."""

    def end(self) -> None:
        """Answer what its client has begun to send, and close."""


class Connections:
    """The open connections of a worker. ``most``: how many may be served at a time."""

    def __init__(self, most: int = MOST, budget_bytes: int = 12 * 2**20) -> None:
        self.open: set[OpenConnection] = set()
        self.most = most
        self.budget = MemoryBudget(budget_bytes)
        self._peak = 0
        self._again = 0

    def add(self, connection: OpenConnection) -> None:
        """A client has come."""
        self.open.add(connection)
        self._peak = max(self._peak, len(self.open))

    def discard(self, connection: OpenConnection) -> None:
        """It has gone, and has its answers."""
        self.open.discard(connection)

    def memory_is_free(self) -> bool:
        """True if memory is worth giving back. To be asked every few seconds: so often it is true after each fall."""
        fallen = self._have_fallen()
        self._again = TRIM_AGAIN + 1 if fallen else max(self._again - 1, 0)
        return self._again > 0

    def _have_fallen(self) -> bool:
        """True if many have been closed, or much less is occupied than before, since the last time this was true."""
        closed = self._peak - len(self.open) >= TRIM_CLOSED
        if closed:
            self._peak = len(self.open)
        return self.budget.fallen() or closed


def connections_of(settings: ServeSettings) -> Connections:
    """An empty set with the limits of the settings, and of the open files that this process may have."""
    default = MOST if settings.certificate is None else MOST_SECURE
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = max(files - OTHER_FILES, FEWEST) if files != resource.RLIM_INFINITY else MOST * MOST
    return Connections(min(settings.max_connections or default, allowed), int(settings.request_memory_mib * 2**20))
