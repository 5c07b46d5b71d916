"""Signs of life that a worker gives and its parent sees, in memory that both share."""

import mmap
from typing import Final

_BYTES: Final = 8


class Pulse:
    """A number that one process counts up and others read. Made before the fork; no lock, since it is one word."""

    def __init__(self) -> None:
        self._number = memoryview(mmap.mmap(-1, _BYTES)).cast("Q")

    def beat(self) -> None:
        """Count up."""
        self._number[0] += 1

    @property
    def number(self) -> int:
        """How often it was counted up so far."""
        return self._number[0]


class Silence:
    """For how long a pulse has not been heard, in seconds that the listener counts."""

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse
        self._heard = pulse.number
        self.seconds = 0.0

    def listen(self, seconds: float) -> float:
        """Listen, ``seconds`` after the last time; for how long nothing was heard."""
        now = self._pulse.number
        self.seconds = self.seconds + seconds if now == self._heard else 0.0
        self._heard = now
        return self.seconds
