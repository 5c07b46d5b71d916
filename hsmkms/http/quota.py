"""Quotas: token buckets for each principal and class of operations.

A bucket holds as many requests as its rate allows in one second (at least one) and fills at that rate. By default only
what makes keys on the token, and so wears and fills it, is limited; AWS's own figures can be configured. Each worker
process counts for itself, so it is given its share of the rate.
"""

import threading
from collections.abc import Mapping
from typing import Final

from hsmkms.errors import ThrottlingException
from hsmkms.model.enums import Operation

TOO_FAST: Final = "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls."
MAX_BUCKETS: Final = 100_000
"""Beyond that all buckets are forgotten: who makes so many principals is not slowed by them."""

DEFAULT_RATES: Final[Mapping[str, float]] = {
    "CreateKey": 5.0,
    "RotateKeyOnDemand": 5.0,
    "GetParametersForImport": 1.0,
    "ImportKeyMaterial": 15.0,
}
"""Requests a second for each principal; operations that are not named are not limited."""


class Quota:
    """The buckets of one process. Thread-safe. ``rates``: requests a second by operation name."""

    def __init__(self, rates: Mapping[str, float]) -> None:
        self._rates = {Operation(name): rate for name, rate in rates.items() if rate > 0}
        self._buckets: dict[tuple[str, Operation], tuple[float, float]] = {}
        self._lock = threading.Lock()

    def spend(self, principal: str, operation: Operation, now: float) -> None:
        """Count a request. ``now``: seconds of a clock that nobody sets. ThrottlingException if it is one too many."""
        rate = self._rates.get(operation)
        if rate is None:
            return
        depth = max(rate, 1.0)
        with self._lock:
            if len(self._buckets) >= MAX_BUCKETS:
                self._buckets.clear()
            level, since = self._buckets.get((principal, operation), (depth, now))
            level = min(depth, level + (now - since) * rate)
            enough = level >= 1.0
            self._buckets[principal, operation] = (level - 1.0 if enough else level, now)
        if not enough:
            raise ThrottlingException(TOO_FAST)
