"""Delay responses until their audit records are fsynced. Responses of one turn of the event loop share one fsync.

A quick disk is awaited on the loop itself: handing a batch to a thread and back, while both want the interpreter lock,
took a tenth of a request's time. A slow disk is awaited in a thread, while the next batch gathers (latency_gate.py).
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter
from typing import Final

from msgspec import Struct

from hsmkms.errors import KMSInternalException
from hsmkms.server.latency_gate import LatencyGate
from hsmkms.server.messages import Respond, Response
from hsmkms.server.protocol import Failure
from hsmkms.service.runtime.audit_log import AuditLog

log = logging.getLogger("hsmkms.http")

NOT_SENT: Final = "the response to request %s could not be sent, by an unexpected exception"
DECIDES: Final = 0.1
QUICK_BATCH_SECONDS: Final = 0.0007
"""A third of this is for hashing the records of a batch, the rest for the disk."""


class _Delayed(Struct):
    """A response that waits for its audit record, and what it needs to be sent or refused."""

    response: Response
    respond: Respond
    operation: str
    request_id: str
    failure: Failure


class AuditGate:
    """Delays responses until their audit records are fsynced. One per event loop."""

    def __init__(self, audit: AuditLog, loop: asyncio.AbstractEventLoop) -> None:
        self._audit = audit
        self._loop = loop
        self.latency = LatencyGate(decides=DECIDES, quick_seconds=QUICK_BATCH_SECONDS)
        self._batch: list[_Delayed] = []
        self._scheduled = False
        """True while the batch will be sent by itself: soon, or after the one that a thread is fsyncing."""
        self.gathers = False
        """True while responses are added that ``send_gathered`` will send."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hsmkms audit")
        audit.held_back = audit.holds_answers
        audit.turns.disable()  # the loop has a queue of its own, and must never wait for a thread

    def add(self, response: Response, respond: Respond, operation: str, request_id: str, failure: Failure) -> None:
        """Send a response: at once if it need not wait for its audit record, else with the next batch.

        ``failure`` renders an error in the request's protocol.
        """
        delayed = _Delayed(response, respond, operation, request_id, failure)
        if not self._audit.holds_answers:
            _send((delayed,), {})
            return
        self._batch.append(delayed)
        if not (self._scheduled or self.gathers):
            self._scheduled = True
            # Not at once: the other responses of this turn of the loop join the batch.
            self._loop.call_soon(self._send_batch)

    def send_gathered(self) -> None:
        """Send the responses that were added while ``gathers`` was true."""
        self.gathers = False
        if self._batch and not self._scheduled:
            self._scheduled = True
            self._send_batch()

    def close(self) -> None:
        """Wait for the batch that a thread is fsyncing."""
        self._thread.shutdown(wait=True)

    def _send_batch(self) -> None:
        """Fsync the audit log and send the batch; on a slow disk, in a thread."""
        batch, self._batch = self._batch, []
        operations = [each.operation for each in batch]
        if self.latency.slow and not self.latency.may_try(self._loop.time()):
            done = self._thread.submit(self._audit.settle, operations)
            done.add_done_callback(lambda done: self._loop.call_soon_threadsafe(self._send_settled, batch, done))
            return
        refused = self._settle(operations)
        self._scheduled = False  # the batch is empty: everything since it was taken ran on this thread
        for each in batch:  # as in _send, written out since most responses come this way
            try:
                each.respond(_refusal(each, refused) if each.operation in refused else each.response)
            except Exception:
                log.exception(NOT_SENT, each.request_id)

    def _settle(self, operations: list[str]) -> dict[str, str]:
        """Fsync the audit log on the loop; return the operations to refuse, with the error message of each."""
        started = perf_counter()
        try:
            refused = self._audit.settle(operations)
        except Exception:
            log.exception("an unexpected error in the audit log: no response of the batch is sent")
            refused = dict.fromkeys(operations, "")
        self.latency.note(perf_counter() - started, self._loop.time())
        return refused

    def _send_settled(self, batch: list[_Delayed], done: "Future[dict[str, str]]") -> None:
        """Send a batch whose fsync a thread has completed, on the loop."""
        self.latency.note_in_thread()
        failed = done.exception() is not None
        refused = dict.fromkeys((each.operation for each in batch), "") if failed else done.result()
        self._scheduled = bool(self._batch)
        if self._scheduled:
            self._loop.call_soon(self._send_batch)
        _send(batch, refused)


def _send(batch: Sequence[_Delayed], refused: Mapping[str, str]) -> None:
    """Send the responses of a batch. A connection that fails, by a bug, keeps no other from its response."""
    for each in batch:
        try:
            each.respond(_refusal(each, refused) if each.operation in refused else each.response)
        except Exception:
            log.exception(NOT_SENT, each.request_id)


def _refusal(delayed: _Delayed, refused: Mapping[str, str]) -> Response:
    return delayed.failure(KMSInternalException(refused[delayed.operation]), delayed.request_id)
