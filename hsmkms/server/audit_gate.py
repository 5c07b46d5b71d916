"""Answers that wait for their audit records: those of one turn of the loop share one wait for the disk.

A quick disk is waited for on the loop itself: to hand a batch to a thread and back, while both want Python's lock, took
a tenth of a request's time. A slow one is waited for in a thread, and meanwhile the next batch gathers
(latency_gate.py).
"""

import asyncio
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter
from typing import Final

from msgspec import Struct

from hsmkms.errors import KMSInternalException
from hsmkms.server.latency_gate import Pace
from hsmkms.server.messages import Respond, Response
from hsmkms.server.protocol import Failure
from hsmkms.service.runtime.audit_log import AuditBook

log = logging.getLogger("hsmkms.http")

DECIDES: Final = 0.1
QUICK_BATCH_SECONDS: Final = 0.0007
"""Of this a third is for chaining the records of a batch, the rest for the disk."""


class _Held(Struct):
    """An answer that is ready, and whose it is."""

    response: Response
    respond: Respond
    operation: str
    request_id: str
    failure: Failure


class AnswerHold:
    """Lets answers go when their records are on the disk. Of one event loop."""

    def __init__(self, audit: AuditBook, loop: asyncio.AbstractEventLoop) -> None:
        self._audit = audit
        self._loop = loop
        self._pace = Pace(decides=DECIDES, quick_seconds=QUICK_BATCH_SECONDS)
        self._held: list[_Held] = []
        self._under_way = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hsmkms audit")
        audit.held_back = audit.holds_answers

    def add(self, response: Response, respond: Respond, operation: str, request_id: str, failure: Failure) -> None:
        """Answer now if nothing has to be waited for, and soon otherwise.

        ``failure`` renders an error in the request's protocol.
        """
        if not self._audit.holds_answers:
            respond(response)
            return
        self._held.append(_Held(response, respond, operation, request_id, failure))
        if not self._under_way:
            self._under_way = True
            # Not at once: whatever else this turn of the loop answers goes with it.
            self._loop.call_soon(self._send_off)

    def close(self) -> None:
        """Wait for the batch that is under way."""
        self._thread.shutdown(wait=True)

    def _send_off(self) -> None:
        held, self._held = self._held, []
        operations = [each.operation for each in held]
        if self._pace.here(self._loop.time()):
            self._let_go(held, self._settled(operations))
        else:
            done = self._thread.submit(self._audit.settle, operations)
            done.add_done_callback(lambda done: self._loop.call_soon_threadsafe(self._settled_elsewhere, held, done))

    def _settled(self, operations: list[str]) -> dict[str, str]:
        """Wait for the disk on the loop; the operations whose answers must not leave."""
        started = perf_counter()
        try:
            refused = self._audit.settle(operations)
        except Exception:
            log.exception("the audit log met a fault of hsmkms: nothing is answered")
            refused = dict.fromkeys(operations, "")
        self._pace.note(perf_counter() - started, self._loop.time())
        return refused

    def _settled_elsewhere(self, held: list[_Held], done: "Future[dict[str, str]]") -> None:
        self._pace.note_elsewhere()
        fault = done.exception() is not None
        self._let_go(held, dict.fromkeys((each.operation for each in held), "") if fault else done.result())

    def _let_go(self, held: list[_Held], refused: dict[str, str]) -> None:
        self._under_way = bool(self._held)
        if self._under_way:
            self._loop.call_soon(self._send_off)
        for each in held:
            if each.operation in refused:
                fault = KMSInternalException(refused[each.operation])
                each.respond(each.failure(fault, each.request_id))
            else:
                each.respond(each.response)
