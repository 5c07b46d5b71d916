"""Heartbeats of a worker process, counted in memory that it shares with its supervisor."""

import mmap
from typing import Final

_BYTES: Final = 8


class Heartbeat:
    """Counter that one process increments and others read. Created before the fork; one word, so it needs no lock."""

    def __init__(self) -> None:
        self._count = memoryview(mmap.mmap(-1, _BYTES)).cast("Q")

    def beat(self) -> None:
        """Increment the counter."""
        self._count[0] += 1

    @property
    def count(self) -> int:
        """How often it was incremented so far."""
        return self._count[0]


class HeartbeatTimer:
    """Measures how long a heartbeat has not changed, in seconds that the caller counts."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        self._heartbeat = heartbeat
        self._last_count = heartbeat.count
        self.silent_seconds = 0.0

    def update(self, elapsed_seconds: float) -> float:
        """Read the heartbeat, ``elapsed_seconds`` after the last call; return for how long it has not changed."""
        count = self._heartbeat.count
        self.silent_seconds = self.silent_seconds + elapsed_seconds if count == self._last_count else 0.0
        self._last_count = count
        return self.silent_seconds
