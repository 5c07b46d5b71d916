"""Whether the token is quick enough to be asked on the event loop, and the disk to be waited for there.

A soft token or a card answers an encryption in tens of microseconds: a thread would cost more than it gives. A network
HSM takes milliseconds, in which the loop must serve others. So it counts what half of the quick operations take: a few
that took long on a machine that had other work say nothing of the token. How long one takes is seen on the loop alone,
since threads wait for one another; while the token is slow, one is tried there now and then.

For the disk, which takes what the audit log must keep, it is the same: one with a quick fdatasync is waited for, a slow
one by a thread. But whoever waits for a disk must also wait until a busy machine lets him go on, so there a tenth
decides.
"""

from typing import Final

from hsmkms.model.enums import Operation

SLOW_SECONDS: Final = 0.001
QUICK_SECONDS: Final = 0.0004
WINDOW: Final = 32
"""Operations after which it is decided anew."""

LONG_SECONDS: Final = 0.05
"""Two operations that take this time together decide at once."""

TRY_SHARE: Final = 0.01
"""Of the loop's time, what may be spent on trying a slow token there."""

TRY_AFTER: Final = 16
"""Operations that threads must finish first: a token that hangs is not tried."""

QUICK: Final = frozenset(
    {
        Operation.DECRYPT,
        Operation.DESCRIBE_KEY,
        Operation.ENCRYPT,
        Operation.GENERATE_DATA_KEY,
        Operation.GENERATE_DATA_KEY_WITHOUT_PLAINTEXT,
        Operation.GENERATE_MAC,
        Operation.GENERATE_RANDOM,
        Operation.GET_KEY_ROTATION_STATUS,
        Operation.RE_ENCRYPT,
        Operation.VERIFY_MAC,
    }
)
"""Operations that ask the token once or twice, and write nothing but their count."""


class Pace:
    """What quick operations took lately, and what follows: of the token, or of the disk.

    ``decides``: the share of operations that must be quick; ``quick_seconds``: one that takes no longer ends a slow
    time. All but ``note_elsewhere`` are for the loop's own thread.
    """

    def __init__(self, decides: float = 0.5, quick_seconds: float = QUICK_SECONDS) -> None:
        self.slow = False
        self._decides = decides
        self._quick_seconds = quick_seconds
        self._taken: list[float] = []
        self._together = 0.0
        self._try_at = 0.0
        self._elsewhere = 0

    def inline(self, operation: str | None, now: float) -> bool:
        """True if the operation may be done on the event loop at this moment (in seconds)."""
        return operation in QUICK and (not self.slow or self.here(now))

    def here(self, now: float) -> bool:
        """True if what is no operation of the API, but as quick as one, may be done on the event loop."""
        return not self.slow or (now >= self._try_at and self._elsewhere >= TRY_AFTER)

    def note_elsewhere(self) -> None:
        """A thread has finished an operation."""
        self._elsewhere += 1

    def note(self, seconds: float, now: float) -> None:
        """A quick operation was done on the loop, and has ended now."""
        if self.slow:
            self.slow = seconds > self._quick_seconds
            self._put_off(seconds, now)
            return
        self._taken.append(seconds)
        self._together += seconds
        count = len(self._taken)
        if count == WINDOW or (count > 1 and self._together > LONG_SECONDS):
            slowest = sorted(self._taken)[int((count - 1) * self._decides)]
            self.slow = slowest > SLOW_SECONDS
            self._put_off(slowest, now)

    def _put_off(self, seconds: float, now: float) -> None:
        self._taken.clear()
        self._together = 0.0
        self._elsewhere = 0
        self._try_at = now + seconds / TRY_SHARE
