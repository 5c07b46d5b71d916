"""Answers that wait for their audit records: those of one moment share one wait for the disk.

The loop never waits. While one batch is brought to the disk in a thread, the next one gathers.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from msgspec import Struct

from hsmkms.errors import KMSInternalException
from hsmkms.http import protocol
from hsmkms.http.protocol import Response
from hsmkms.service.audit import AuditBook

Respond = Callable[[Response], None]


class _Held(Struct):
    """An answer that is ready, and whose it is."""

    response: Response
    respond: Respond
    operation: str
    request_id: str


class AnswerHold:
    """Lets answers go when their records are on the disk. Of one event loop."""

    def __init__(self, audit: AuditBook, loop: asyncio.AbstractEventLoop) -> None:
        self._audit = audit
        self._loop = loop
        self._held: list[_Held] = []
        self._under_way = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hsmkms audit")
        audit.held_back = audit.holds_answers

    def add(self, response: Response, respond: Respond, operation: str, request_id: str) -> None:
        """Answer now if nothing has to be waited for, and soon otherwise."""
        if not self._audit.holds_answers:
            respond(response)
            return
        self._held.append(_Held(response, respond, operation, request_id))
        if not self._under_way:
            self._under_way = True
            # Not at once: whatever else this turn of the loop answers goes with it.
            self._loop.call_soon(self._send_off)

    def close(self) -> None:
        """Wait for the batch that is under way."""
        self._thread.shutdown(wait=True)

    def _send_off(self) -> None:
        held, self._held = self._held, []
        done = self._thread.submit(self._audit.settle, [each.operation for each in held])
        done.add_done_callback(lambda done: self._loop.call_soon_threadsafe(self._let_go, held, done))

    def _let_go(self, held: list[_Held], done: "Future[dict[str, str]]") -> None:
        refused = done.result() if done.exception() is None else dict.fromkeys((each.operation for each in held), "")
        if self._held:
            self._send_off()
        else:
            self._under_way = False
        for each in held:
            if each.operation in refused:
                fault = KMSInternalException(refused[each.operation])
                each.respond(protocol.failure(fault, each.request_id))
            else:
                each.respond(each.response)
