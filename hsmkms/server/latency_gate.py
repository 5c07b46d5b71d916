"""Decide by measured latency whether the event loop itself may wait for the token, or for the disk.

A soft token or a smart card encrypts in tens of microseconds, less than a thread costs. A network HSM takes
milliseconds, during which the loop must serve other requests. The median of recent quick operations decides: a few slow
ones on a busy machine say nothing about the token. Latency is measured on the loop only, since threads wait for one
another; while the token is slow, an operation is tried on the loop from time to time.

The same holds for the disk that keeps the audit log: a quick fdatasync is awaited on the loop, a slow one in a thread.
There the quickest tenth decides, since a wait for the disk includes the wait for the processor on a busy machine.
"""

from typing import Final

from hsmkms.model.enums import Operation, SigningAlgorithm
from hsmkms.service.pipeline import QUICK

SLOW_SECONDS: Final = 0.001
QUICK_SECONDS: Final = 0.0004
WINDOW: Final = 32
"""Number of operations after which the decision is made again."""

LONG_SECONDS: Final = 0.05
"""Two or more operations that take longer than this together decide at once."""

TRY_SHARE: Final = 0.01
"""Limit of the share of the loop's time that is spent on trying a slow token."""

TRY_AFTER: Final = 16
"""Number of operations that threads must complete before a try: a token that hangs is not tried."""

SIGNS_QUICKLY: Final = frozenset({each for each in SigningAlgorithm if not each.startswith("RSASSA")})
"""Algorithms with which Sign may run on the event loop, each with latencies of its own; RSA takes too long."""

WITH_TOKEN: Final = QUICK - {Operation.DESCRIBE_KEY, Operation.GET_KEY_ROTATION_STATUS} | {
    Operation.CREATE_KEY,
    Operation.GENERATE_DATA_KEY_PAIR,
    Operation.GENERATE_DATA_KEY_PAIR_WITHOUT_PLAINTEXT,
    Operation.IMPORT_KEY_MATERIAL,
    Operation.SIGN,
}
"""Operations that cannot succeed while the token does not answer."""


class LatencyGate:
    """Recent latencies of quick operations on a token or a disk, and whether it counts as slow.

    ``decides``: the quantile of the latencies that decides; longer than ``slow_seconds`` counts as slow;
    ``quick_seconds``: one operation within this time makes a slow token count as quick again. All methods but
    ``note_in_thread`` are for the loop's own thread.
    """

    def __init__(
        self, decides: float = 0.5, quick_seconds: float = QUICK_SECONDS, slow_seconds: float = SLOW_SECONDS
    ) -> None:
        self.slow = False
        """While true, work goes to threads, unless ``may_try`` allows one operation on the loop."""
        self._decides = decides
        self._quick_seconds = quick_seconds
        self._slow_seconds = slow_seconds
        self._latencies: list[float] = []
        self._sum = 0.0
        self._try_at = 0.0
        self._done_in_threads = 0

    def may_try(self, now: float) -> bool:
        """Return True if it is time (in seconds of the loop's clock) to try one operation on the loop while slow."""
        return now >= self._try_at and self._done_in_threads >= TRY_AFTER

    def note_in_thread(self) -> None:
        """Count an operation that a thread has completed."""
        self._done_in_threads += 1

    def note(self, seconds: float, now: float) -> None:
        """Note the latency of a quick operation that the loop has completed at ``now``, and decide."""
        if self.slow:
            self.slow = seconds > self._quick_seconds
            self._start_over(seconds, now)
            return
        self._latencies.append(seconds)
        self._sum += seconds
        count = len(self._latencies)
        if count == WINDOW or (count > 1 and self._sum > LONG_SECONDS):
            deciding = sorted(self._latencies)[int((count - 1) * self._decides)]
            self.slow = deciding > self._slow_seconds
            self._start_over(deciding, now)

    def _start_over(self, seconds: float, now: float) -> None:
        """Clear the window, and set the time of the next try."""
        self._latencies.clear()
        self._sum = 0.0
        self._done_in_threads = 0
        self._try_at = now + seconds / TRY_SHARE
