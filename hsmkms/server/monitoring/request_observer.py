"""What is kept of every request that was answered: a count, and a line of the log."""

from hsmkms.call_stats import Tally
from hsmkms.server.monitoring.logs import RequestLine, RequestLog
from hsmkms.server.protocol import Handled

NO_OPERATION = "none"
"""Stands for requests that named no operation of ours, or were refused before it was looked at."""


class Observer:
    """Hears of every request that was answered. Thread-safe."""

    def __init__(self, log: RequestLog | None) -> None:
        self.requests = Tally()
        self._log = log

    def note(self, handled: Handled, seconds: float, address: str | None) -> None:
        """Count a request, and write its line."""
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
