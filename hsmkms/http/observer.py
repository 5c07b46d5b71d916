"""One line of the log for each request, and the counts for Prometheus. Never plaintext, blobs or secrets."""

from typing import Any, Final

import structlog
from prometheus_client import Counter, Histogram

from hsmkms.http.endpoint import Handled

BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds."""

REQUESTS: Final = Counter("hsmkms_requests", "Requests by operation and outcome.", ["operation", "outcome"])
SECONDS: Final = Histogram(
    "hsmkms_request_seconds", "From the last byte of a request to its answer.", ["operation"], buckets=BUCKETS
)


class Observer:
    """Hears of every request that was answered."""

    def __init__(self, *, log_requests: bool) -> None:
        self._log: Any = structlog.get_logger("hsmkms.requests") if log_requests else None
        self._counters: dict[tuple[str, str], Any] = {}
        self._timers: dict[str, Any] = {}

    def note(self, handled: Handled, seconds: float, address: str | None) -> None:
        """Count a request, and write its line."""
        operation = str(handled.operation) if handled.operation is not None else "none"
        outcome = (handled.response.error if handled.response is not None else None) or "ok"
        self._counter(operation, outcome).inc()
        self._timer(operation).observe(seconds)
        if self._log is not None:
            self._log.info(
                "request",
                request_id=handled.request_id,
                principal=handled.principal,
                operation=operation,
                region=handled.region,
                key_id=handled.key_id,
                outcome=outcome,
                milliseconds=round(seconds * 1000, 3),
                source=address,
            )

    def _counter(self, operation: str, outcome: str) -> Any:  # noqa: ANN401 - prometheus_client's own type
        found = self._counters.get((operation, outcome))
        if found is None:
            found = self._counters[operation, outcome] = REQUESTS.labels(operation, outcome)
        return found

    def _timer(self, operation: str) -> Any:  # noqa: ANN401 - see above
        found = self._timers.get(operation)
        if found is None:
            found = self._timers[operation] = SECONDS.labels(operation)
        return found
