"""A token bucket: lets through so many a second on average, and so many at once."""


class TokenBucket:
    """Full when it is made. ``rate``: a second; ``depth``: at once. ``now`` is in seconds, of a clock that nobody sets.

    Not thread-safe.
    """

    __slots__ = ("_depth", "_level", "_rate", "_since")

    def __init__(self, rate: float, depth: float, now: float) -> None:
        self._rate = rate
        self._depth = depth
        self._level = depth
        self._since = now

    def level(self, now: float) -> float:
        """Return how many may pass now."""
        self._level = min(self._depth, self._level + (now - self._since) * self._rate)
        self._since = now
        return self._level

    def take(self, now: float) -> bool:
        """Let one more pass; False if it is one too many."""
        if self.level(now) < 1.0:
            return False
        self._level -= 1.0
        return True
