"""Count and log every answered request."""

from hsmkms.call_stats import Tally
from hsmkms.server.monitoring.logs import RequestLine, RequestLog
from hsmkms.server.protocol import Handled

NO_OPERATION = "none"
"""Label of requests that named no known operation, or were refused before it was parsed."""


class Observer:
    """Counts and logs answered requests. Thread-safe."""

    def __init__(self, log: RequestLog | None) -> None:
        self.requests = Tally()
        self._log = log

    def note(self, handled: Handled, seconds: float, address: str | None) -> None:
        """Count a request that took so many seconds, and log it."""
        operation = handled.operation or NO_OPERATION
        outcome = (handled.response.error if handled.response is not None else None) or "ok"
        self.requests.note(operation, outcome, seconds)
        if self._log is not None:
            line = RequestLine(
                request_id=handled.request_id,
                principal=handled.principal,
                operation=operation,
                region=handled.region,
                key_id=handled.key_id,
                outcome=outcome,
                milliseconds=round(seconds * 1000, 3),
                source=address,
            )
            self._log.note(line)
