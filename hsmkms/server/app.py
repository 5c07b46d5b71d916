"""Answer a worker's requests: those of the protocols, and the pages for monitoring.

Quick operations run on the event loop itself: handing one to a thread and back costs more than an encryption on a soft
token or a local HSM. Operations that create keys or write rows, and all operations while the token is slow, run in
threads.
"""

import asyncio
import itertools
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
from hsmkms.server.latency_gate import QUICK, LatencyGate
from hsmkms.server.messages import RawRequest, Refusal, RefusedError, Respond, Response
from hsmkms.server.monitoring.pages import PAGES, READING, Findings, Page, respond_to
from hsmkms.server.protocol import AWAY, Endpoint, Failure, Handled, ServedProtocol, Source
from hsmkms.server.worker_state import WorkerState

Result = TypeVar("Result")

SLOW_FACTOR: Final = 3
"""Factor of the time limit for operations that are not quick: the generation of RSA keys, for example."""

MONITOR_THREADS: Final = 2

WITH_TOKEN: Final = QUICK - {Operation.DESCRIBE_KEY, Operation.GET_KEY_ROTATION_STATUS} | {
    Operation.CREATE_KEY,
    Operation.GENERATE_DATA_KEY_PAIR,
    Operation.GENERATE_DATA_KEY_PAIR_WITHOUT_PLAINTEXT,
    Operation.IMPORT_KEY_MATERIAL,
    Operation.SIGN,
}
"""Operations that cannot succeed while the token does not answer."""

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
        self.latency = LatencyGate()
        self._threads = ThreadPoolExecutor(state.threads, thread_name_prefix="hsmkms")
        self._monitor = ThreadPoolExecutor(MONITOR_THREADS, thread_name_prefix="hsmkms pages")
        self._request_ids: list[str] = []
        self._tickets = itertools.count()
        self._waiting: dict[int, _Waiting] = {}
        self._busy_since: dict[int, float] = {}
        """Since when each busy thread has been working on its request, by the monotonic clock."""
        self._last_progress = self._last_success = self._last_failure = 0.0
        self.audit_gate = AuditGate(state.kms.operator.audit.log, loop)
        *self._others, self._default = state.endpoints

    def __call__(self, request: RawRequest, address: str, respond: Respond) -> None:
        """Answer a request, now or later on the loop."""
        if request.method in READING and request.path in PAGES:
            self._answer_page(partial(self._page, PAGES[request.path]), respond)
            return
        protocol, endpoint = self._endpoint_of(request) if self._others else self._default
        source = Source(address, self._secure)
        operation = endpoint.operation_of(request)
        latency = self.latency
        on_loop = operation in QUICK and (not latency.slow or latency.may_try(self._loop.time())) and self._state.free()
        if not self._request_ids:
            self._request_ids = uuids.block()
        request_id = self._request_ids.pop()
        if on_loop:
            started = time.perf_counter()
            handled = endpoint.answer(request, request_id, source, operation)
            latency.note(self._state.observer.note(handled, started, address), self._loop.time())
            response = handled.response or protocol.failure(RuntimeError(), request_id)
            if response.error is None and operation in WITH_TOKEN:
                self._last_success = time.monotonic()  # without a call: most requests come this way
            else:
                self._note_outcome(operation, response)
            self.audit_gate.add(response, respond, operation or "", request_id, protocol.failure)
        else:
            ticket = next(self._tickets)
            limit = self._state.hang_seconds * (1 if operation in QUICK else SLOW_FACTOR)
            until = time.monotonic() + limit if limit else inf
            self._waiting[ticket] = _Waiting(request_id, respond, until, protocol.failure)
            self._submit(
                partial(self._answer_in_thread, endpoint, request, request_id, source, operation),
                partial(self._delay_response, operation, ticket),
            )

    def largest_body(self, head: RawRequest) -> int:
        """Return the limit in bytes of a request's body; RefusedError if the head does not look authentic."""
        protocol, endpoint = self._endpoint_of(head)
        try:
            return endpoint.largest_body(head)
        except HsmKmsError as exc:
            raise RefusedError(protocol.failure(exc, uuids.new(), head)) from exc

    def refusal(self, refused: Refusal) -> Response:
        """Render a refusal of the connection in the default protocol."""
        return self._default[0].refusal(refused)

    def _endpoint_of(self, head: RawRequest) -> tuple[ServedProtocol, Endpoint]:
        return next((each for each in self._others if each[0].takes(head)), self._default)

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
        return not (hangs and now - self._last_success > limit and now - self._last_failure < limit)

    def end(self) -> None:
        """Wait for the threads, and close the installation."""
        self._threads.shutdown(wait=True)
        self._monitor.shutdown(wait=True)
        self.audit_gate.close()
        self._state.close()

    def _answer_in_thread(
        self, endpoint: Endpoint, request: RawRequest, request_id: str, source: Source, operation: str | None
    ) -> Handled:
        started = time.perf_counter()
        handled = endpoint.answer(request, request_id, source, operation)
        self._state.observer.note(handled, started, source.address)
        self.latency.note_in_thread()
        return handled

    def _answer_page(self, render: Callable[[], Response], respond: Respond) -> None:
        """Answer a page from a thread of its own pool, so that it does not wait for requests."""
        self._run(
            self._monitor,
            render,
            lambda page: respond(page if page is not None else self._default[0].failure(RuntimeError(), "")),
        )

    def _submit(self, work: Callable[[], Result], use: Callable[[Result | None], None]) -> None:
        """Run work for a request in a thread, and count it."""
        self._run(self._threads, partial(self._counted, work), use)

    def _run(
        self, threads: ThreadPoolExecutor, work: Callable[[], Result], use: Callable[[Result | None], None]
    ) -> None:
        """Run work in a thread, and pass its result to ``use`` on the loop; None after an unexpected exception."""

        def hand_over(done: "Future[Result]") -> None:
            result = done.result() if done.exception() is None else None
            self._loop.call_soon_threadsafe(use, result)

        threads.submit(work).add_done_callback(hand_over)

    def _counted(self, work: Callable[[], Result]) -> Result:
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

    def _delay_response(self, operation: str | None, ticket: int, handled: Handled | None) -> None:
        """Pass a thread's response to the audit gate, on the loop."""
        waiting = self._waiting.pop(ticket, None)
        if waiting is None:
            return  # too late: the client was sent an error
        response = handled.response if handled is not None else None
        response = response or waiting.failure(RuntimeError(), waiting.request_id)
        self._note_outcome(operation, response)
        self.audit_gate.add(response, waiting.respond, operation or "", waiting.request_id, waiting.failure)

    # -- the pages ----------------------------------------------------------------------------------------------

    def _page(self, page: Page) -> Response:
        return respond_to(page, self._findings, self._state.metrics)

    def _findings(self) -> tuple[Findings, Findings]:
        health = self._state.health
        return health.faults(), health.warnings  # in this order: faults() finds the warnings as well
