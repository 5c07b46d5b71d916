"""A token bucket: admits a number of events a second on average, and a number at once."""


class TokenBucket:
    """Token bucket, full at first. ``rate``: tokens a second; ``depth``: its capacity. Not thread-safe.

    ``now`` is in seconds of a monotonic clock.
    """

    __slots__ = ("_depth", "_level", "_rate", "_since")

    def __init__(self, rate: float, depth: float, now: float) -> None:
        self._rate = rate
        self._depth = depth
        self._level = depth
        self._since = now

    def level(self, now: float) -> float:
        """Refill by the time that has passed, and return the number of tokens."""
        self._level = min(self._depth, self._level + (now - self._since) * self._rate)
        self._since = now
        return self._level

    def take(self, now: float) -> bool:
        """Take one token; return False if there is none."""
        if self.level(now) < 1.0:
            return False
        self._level -= 1.0
        return True
