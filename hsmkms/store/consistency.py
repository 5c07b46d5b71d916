"""How old what a process has cached of a database may be, where other nodes change that."""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from hsmkms.process import uptime

BOUND_SECONDS: Final = 1.0
"""Within this time a change acts on every node that the database answers."""

STALE_SECONDS: Final = 30.0


class Consistency(Struct, frozen=True, kw_only=True):
    """The limits of cached records.

    ``strict``: a change acts at once on all nodes, and nothing cached is used while the database does not answer.
    Otherwise it acts within ``BOUND_SECONDS``, and while the database does not answer, what is cached is used for
    ``stale_seconds`` more. ``clock``: seconds, of a clock that cannot be set and goes on while the machine sleeps.
    """

    strict: bool = False
    stale_seconds: float = STALE_SECONDS
    clock: Callable[[], float] = uptime

    @property
    def limit_seconds(self) -> float:
        """The greatest age of what is cached."""
        return BOUND_SECONDS if self.strict else max(BOUND_SECONDS, self.stale_seconds)


class Outage(Struct, frozen=True):
    """A database that does not answer, for so many seconds; ``is_bridged``: what is cached is used meanwhile."""

    message: str
    seconds: float
    is_bridged: bool
