"""Know whether the server answers, so that nobody waits for one that does not.

The thread that listens for changes finds out (listener.py). While the server is away, transactions fail at once: each
would wait for a connection in vain, and with it a thread, or the loop that answers requests from the cache.
"""

from hsmkms.errors import DependencyTimeoutException


class Availability:
    """Whether the server of a store answers, as its listener knows. Without a listener nothing is known."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.since: float | None = None
        """Since when the server does not answer, by the clock of the listener; None while it does."""

    def require(self) -> None:
        """Raise DependencyTimeoutException while the server does not answer."""
        if self.since is not None:
            raise DependencyTimeoutException(
                f"{self.name} does not answer: try again; the log has the reason, and hsmkms connects again by itself"
            )
