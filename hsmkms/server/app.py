"""Answer a worker's requests: those of the protocols, and the pages for monitoring.

Quick operations run on the event loop itself (turns.py): handing one to a thread and back costs more than an encryption
on a soft token or a local HSM. Operations that create keys or write rows, and all operations while the token is slow,
run in threads.
"""

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from math import inf
from typing import Final, TypeVar

from msgspec import Struct

from hsmkms import uuids
from hsmkms.errors import HsmKmsError, TokenUnavailableError
from hsmkms.model.enums import Operation
from hsmkms.server.audit_gate import AuditGate
from hsmkms.server.latency_gate import WITH_TOKEN
from hsmkms.server.messages import RawRequest, Refusal, RefusedError, Respond, Response
from hsmkms.server.monitoring.pages import PAGES, READING, Findings, Page, respond_to
from hsmkms.server.protocol import AWAY, Failure, Handled, Source
from hsmkms.server.protocols import DEFAULT, protocol_of
from hsmkms.server.strict_turns import StrictTurns
from hsmkms.server.turns import Arrived, Turns
from hsmkms.server.worker_state import WorkerState
from hsmkms.service.pipeline import QUICK

log = logging.getLogger("hsmkms.http")

Result = TypeVar("Result")

SLOW_FACTOR: Final = 3
"""Factor of the time limit for operations that are not quick: the generation of RSA keys, for example."""

MONITOR_THREADS: Final = 2

SERVER_ERROR: Final = 500
"""The lowest status of a response that is not the client's fault."""

THROTTLED: Final = "ThrottlingException"
"""Error of requests that have waited for a session in vain, among others."""


class _Waiting(Struct):
    """A client that waits for a thread, and until when, by the monotonic clock."""

    request_id: str
    respond: Respond
    until: float
    failure: Failure


class Application:
    """Answers the requests of one worker. ``secure``: connections are encrypted, or local to this machine."""

    def __init__(self, state: WorkerState, loop: asyncio.AbstractEventLoop, *, secure: bool) -> None:
        self._state = state
        self._loop = loop
        self._secure = secure
        self._endpoints = state.endpoints
        self._threads = ThreadPoolExecutor(state.threads, thread_name_prefix="hsmkms")
        self._monitor = ThreadPoolExecutor(MONITOR_THREADS, thread_name_prefix="hsmkms pages")
        self._request_ids: list[str] = []
        self._tickets = itertools.count()
        self._waiting: dict[int, _Waiting] = {}
        self._busy_since: dict[int, float] = {}
        """Since when each busy thread has been working on its request, by the monotonic clock."""
        self._last_progress = self._last_success = self._last_failure = 0.0
        self.audit_gate = AuditGate(state.kms.operator.audit.log, loop)
        self._changes = state.kms.operator.watch.changes
        turns = StrictTurns if self._changes.strict else Turns
        self.turns = turns(loop, self.audit_gate, state.observer, state.free, self._submit, self._note_outcome)
        self._in_thread = self._answer_in_thread
        if isinstance(self.turns, StrictTurns):
            self.turns.changes, self._in_thread = self._changes, self._answer_strictly

    def __call__(self, request: RawRequest, address: str, respond: Respond) -> None:
        """Answer a request, later on the loop."""
        if request.method in READING and request.path in PAGES:
            self._answer_page(partial(self._page, PAGES[request.path]), respond)
            return
        protocol = protocol_of(request)
        endpoint = self._endpoints[protocol.name]
        operation = endpoint.operation_of(request)
        if not self._request_ids:
            self._request_ids = uuids.block()
        arrived = Arrived(
            request=request,
            source=Source(address, self._secure),
            operation=operation,
            endpoint=endpoint,
            failure=protocol.failure,
            respond=respond,
            handled=Handled(request_id=self._request_ids.pop()),
        )
        if operation in QUICK or operation is Operation.SIGN:
            self.turns.add(arrived)
        else:
            self._submit(arrived)

    def largest_body(self, head: RawRequest) -> int:
        """Return the limit in bytes of a request's body; RefusedError if the head does not look authentic."""
        protocol = protocol_of(head)
        try:
            return self._endpoints[protocol.name].largest_body(head)
        except HsmKmsError as exc:
            raise RefusedError(protocol.failure(exc, uuids.new(), head)) from exc

    def refusal(self, refused: Refusal) -> Response:
        """Render a refusal of the connection in the default protocol."""
        return DEFAULT.refusal(refused)

    def begin(self) -> None:
        """Start the background work."""
        self._state.start()

    def is_well(self) -> bool:
        """Answer clients whose time limit is over. False if no request can be answered any more.

        That is so if all threads are busy and none has made progress lately, or if one hangs (perhaps with a lock, or
        the only session) while the token has lately done nothing for others, whose requests fail.
        """
        now = time.monotonic()
        for ticket, each in list(self._waiting.items()):
            if each.until < now:
                del self._waiting[ticket]
                each.respond(each.failure(TokenUnavailableError(AWAY), each.request_id))
        limit = self._state.hang_seconds * SLOW_FACTOR
        if not limit:
            return True
        busy = list(self._busy_since.values())
        if len(busy) >= self._state.threads and now - self._last_progress > limit:
            return False
        hangs = any(now - since > limit for since in busy)
        last_success = max(self._last_success, self.turns.last_success)
        return not (hangs and now - last_success > limit and now - self._last_failure < limit)

    def end(self) -> None:
        """Wait for the threads, and close the installation."""
        self._threads.shutdown(wait=True)
        self._monitor.shutdown(wait=True)
        self.audit_gate.close()
        self._state.close()

    def _submit(self, arrived: Arrived) -> None:
        """Answer a request in a thread, from the stage that it has not passed yet."""
        ticket = next(self._tickets)
        limit = self._state.hang_seconds * (1 if arrived.operation in QUICK else SLOW_FACTOR)
        until = time.monotonic() + limit if limit else inf
        self._waiting[ticket] = _Waiting(arrived.handled.request_id, arrived.respond, until, arrived.failure)
        work = partial(self._counted, partial(self._in_thread, arrived))
        self._run(self._threads, work, partial(self._delay_response, arrived, ticket))

    def _answer_in_thread(self, arrived: Arrived) -> Response | None:
        started, endpoint, handled = time.perf_counter(), arrived.endpoint, arrived.handled
        if handled.call is None:
            endpoint.authenticate(arrived.request, arrived.source, arrived.operation, handled)
        endpoint.perform(handled)
        endpoint.render(handled)
        self._state.observer.note(handled, arrived.seconds + time.perf_counter() - started, arrived.source.address)
        self.turns.note_in_thread(arrived)
        return handled.response

    def _answer_strictly(self, arrived: Arrived) -> Response | None:
        with self._changes.asking():
            return self._answer_in_thread(arrived)

    def _answer_page(self, render: Callable[[], Response], respond: Respond) -> None:
        """Answer a page from a thread of its own pool, so that it does not wait for requests."""
        self._run(
            self._monitor,
            render,
            lambda page: respond(page if page is not None else DEFAULT.failure(RuntimeError(), "")),
        )

    def _run(
        self, threads: ThreadPoolExecutor, work: Callable[[], Result], use: Callable[[Result | None], None]
    ) -> None:
        """Run work in a thread, and pass its result to ``use`` on the loop; None after an unexpected exception."""

        def hand_over(done: "Future[Result]") -> None:
            result = done.result() if done.exception() is None else None
            self._loop.call_soon_threadsafe(use, result)

        try:
            threads.submit(work).add_done_callback(hand_over)
        except RuntimeError:  # the system has no thread left: this request fails, and no other that arrived with it
            log.exception("a request could not be passed to a thread")
            self._loop.call_soon(use, None)

    def _counted(self, work: Callable[[], Result]) -> Result:
        """Do work for a request in a thread, and count the thread as busy."""
        thread = threading.get_ident()
        self._busy_since[thread] = self._last_progress = time.monotonic()
        try:
            return work()
        finally:
            del self._busy_since[thread]
            self._last_progress = time.monotonic()

    def _note_outcome(self, operation: str | None, response: Response) -> None:
        """Note when the token has last done something, or has failed, from the response to an operation."""
        if response.status >= SERVER_ERROR or response.error == THROTTLED:
            self._last_failure = time.monotonic()
        elif response.error is None and operation in WITH_TOKEN:
            self._last_success = time.monotonic()

    def _delay_response(self, arrived: Arrived, ticket: int, response: Response | None) -> None:
        """Pass a thread's response to the audit gate, on the loop."""
        if self._waiting.pop(ticket, None) is None:
            return  # too late: the client was sent an error
        response = response or arrived.failure(RuntimeError(), arrived.handled.request_id)
        self._note_outcome(arrived.operation, response)
        request_id = arrived.handled.request_id
        self.audit_gate.add(response, arrived.respond, arrived.operation or "", request_id, arrived.failure)

    # -- the pages ----------------------------------------------------------------------------------------------

    def _page(self, page: Page) -> Response:
        return respond_to(page, self._findings, self._state.metrics)

    def _findings(self) -> tuple[Findings, Findings]:
        health = self._state.health
        return health.faults(), health.warnings  # in this order: faults() finds the warnings as well
