"""Quotas: token buckets for each principal, and each operation or class of operations that is limited.

A bucket holds as many requests as its rate allows in one second (at least one) and fills at that rate. By default only
operations that create keys on the token, and so wear and fill it, are limited; AWS's own figures can be configured.
Each worker process has its own buckets, with its share of the rate.
"""

import threading
from collections.abc import Mapping
from typing import Final

from hsmkms.errors import ThrottlingException
from hsmkms.model.enums import Operation
from hsmkms.model.quotas import quota_members
from hsmkms.token_bucket import TokenBucket

TOO_FAST: Final = "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls."
MAX_BUCKETS: Final = 100_000
"""Limit of buckets; when it is reached all are dropped, which favours an operator who creates so many principals."""

DEFAULT_RATES: Final[Mapping[str, float]] = {
    "CreateKey": 5.0,
    "RotateKeyOnDemand": 5.0,
    "GetParametersForImport": 1.0,
    "ImportKeyMaterial": 15.0,
    "DataKeyPairs": 10.0,
}
"""Requests per second for each principal; operations that are not listed are not limited."""


class Quota:
    """The token buckets of one process. Thread-safe. ``rates``: requests per second by operation or class."""

    def __init__(self, rates: Mapping[str, float]) -> None:
        limits: dict[Operation, list[tuple[str, float]]] = {}
        for name, rate in rates.items():
            for operation in quota_members(name) if rate > 0 else ():
                limits.setdefault(operation, []).append((name, rate))
        self._limits = limits
        self.limited = frozenset(limits)
        """Operations with a quota; ``spend`` admits all others at once."""
        self._buckets: dict[tuple[str, str], TokenBucket] = {}
        self._lock = threading.Lock()

    def spend(self, principal: str, operation: Operation, now: float) -> None:
        """Take a token for a request at ``now`` (monotonic seconds). ThrottlingException if a bucket is empty."""
        limits = self._limits.get(operation)
        if limits is None:
            return
        with self._lock:
            if len(self._buckets) >= MAX_BUCKETS:
                self._buckets.clear()
            buckets = [self._bucket(principal, name, rate, now) for name, rate in limits]
            # A request that one bucket refuses takes no token from the others.
            enough = min(each.level(now) for each in buckets) >= 1.0
            if enough:
                for each in buckets:
                    each.take(now)
        if not enough:
            raise ThrottlingException(TOO_FAST)

    def _bucket(self, principal: str, name: str, rate: float, now: float) -> TokenBucket:
        bucket = self._buckets.get((principal, name))
        if bucket is None:
            bucket = self._buckets[principal, name] = TokenBucket(rate, max(rate, 1.0), now)
        return bucket
