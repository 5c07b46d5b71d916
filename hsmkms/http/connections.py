"""All connections of a worker: how many there may be, and what they may occupy together."""

import resource
from typing import TYPE_CHECKING, Final

from hsmkms.config import ServeSettings
from hsmkms.http.memory import MemoryBudget

if TYPE_CHECKING:
    from hsmkms.http.connection import Connection

MOST: Final = 10_000
MOST_SECURE: Final = 2_000
"""Connections of a worker where no setting says otherwise: one takes 3 KiB, over TLS 90 KiB."""

OTHER_FILES: Final = 512
"""Files that a worker may have open besides connections that are served: databases, logs, refused connections."""

LINGERING: Final = 256
"""Refused connections that are closed in peace, so that the client reads why; beyond that they are just closed."""

FEWEST: Final = 16
TRIM_CLOSED: Final = 100
"""So many connections must have been closed since the last time before memory is given back."""


class Connections:
    """The open connections of a worker. ``most``: how many may be served at a time."""

    def __init__(self, most: int = MOST, budget_bytes: int = 16 * 2**20) -> None:
        self.open: set[Connection] = set()
        self.most = most
        self.budget = MemoryBudget(budget_bytes)
        self._peak = 0

    def have_fallen(self) -> bool:
        """True if memory is worth giving back: many have been closed, or much less is occupied than before."""
        self._peak = max(self._peak, len(self.open))
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
