"""What a worker answers: the protocols that it speaks, and the pages for monitors.

What is quick is answered on the event loop itself: handing it to a thread and back costs more than an encryption on a
soft token or a local HSM. What makes keys or writes, and everything once the token has turned out to be slow, goes to
threads.
"""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from math import inf
from typing import Final, TypeVar

from msgspec import Struct

from hsmkms import uuids
from hsmkms.errors import HsmKmsError, TokenUnavailableError
from hsmkms.server.audit_gate import AnswerHold
from hsmkms.server.latency_gate import QUICK, Pace
from hsmkms.server.messages import RawRequest, Refusal, RefusedError, Respond, Response
from hsmkms.server.monitoring.pages import PAGES, READING, Findings, Page, respond_to
from hsmkms.server.protocol import AWAY, Endpoint, Failure, Handled, ServedProtocol, Source
from hsmkms.server.worker_state import Serving

Done = TypeVar("Done")

SLOW_FACTOR: Final = 3
"""What runs in threads may take longer than a quick operation: the generation of RSA keys, say."""

MONITOR_THREADS: Final = 2


class _Waiting(Struct):
    """Who waits for an answer that is made in a thread, and until when, by the monotonic clock."""

    respond: Respond
    until: float
    failure: Failure


class Application:
    """Answers the requests of one worker. ``secure``: nobody can listen on the way to it."""

    def __init__(self, serving: Serving, loop: asyncio.AbstractEventLoop, *, secure: bool) -> None:
        self._serving = serving
        self._loop = loop
        self._secure = secure
        self._pace = Pace()
        self._threads = ThreadPoolExecutor(serving.threads, thread_name_prefix="hsmkms")
        self._monitor = ThreadPoolExecutor(MONITOR_THREADS, thread_name_prefix="hsmkms pages")
        self._tickets = itertools.count()
        self._waiting: dict[int, _Waiting] = {}
        self._looked = False
        self._moving = threading.Lock()
        self._busy = 0
        self._moved_at = 0.0
        self._hold = AnswerHold(serving.kms.operator.audit.book, loop)
        *self._others, self._default = serving.endpoints

    def __call__(self, request: RawRequest, address: str, respond: Respond) -> None:
        """Answer a request now, or later on the loop."""
        if request.method in READING and request.path in PAGES:
            self._later(partial(self._page, PAGES[request.path]), respond)
            return
        protocol, endpoint = self._endpoint_of(request) if self._others else self._default
        source = Source(address, self._secure)
        operation = endpoint.operation_of(request)
        if self._pace.inline(operation, self._loop.time()) and self._serving.free():
            handled, seconds = self._timed(endpoint, request, source, just_looked=self._has_looked(request))
            self._pace.note(seconds, self._loop.time())
            response = handled.response or _no_response(handled, protocol.failure)
            self._hold.add(response, respond, operation or "", handled.request_id, protocol.failure)
        else:
            ticket = next(self._tickets)
            limit = self._serving.hang_seconds * (1 if operation in QUICK else SLOW_FACTOR)
            self._waiting[ticket] = _Waiting(respond, time.monotonic() + limit if limit else inf, protocol.failure)
            self._submit(
                partial(self._in_thread, endpoint, request, source), partial(self._hold_back, operation, ticket)
            )

    def largest_body(self, head: RawRequest) -> int:
        """How many bytes the body of a request may have; RefusedError if its head does not look authentic."""
        protocol, endpoint = self._endpoint_of(head)
        try:
            return endpoint.largest_body(head)
        except HsmKmsError as exc:
            raise RefusedError(protocol.failure(exc, uuids.new(), head)) from exc

    def refusal(self, refused: Refusal) -> Response:
        """What a connection refuses, in the form of the protocol that has what no other takes."""
        return self._default[0].refusal(refused)

    def _endpoint_of(self, head: RawRequest) -> tuple[ServedProtocol, Endpoint]:
        return next((each for each in self._others if each[0].takes(head)), self._default)

    def begin(self) -> None:
        """Begin what is done beside the requests."""
        self._serving.start()

    def is_well(self) -> bool:
        """Answer who has waited too long. False if every thread has work and none has begun or finished any lately."""
        now = time.monotonic()
        for ticket, each in list(self._waiting.items()):
            if each.until < now:
                del self._waiting[ticket]
                each.respond(each.failure(TokenUnavailableError(AWAY), uuids.new()))
        limit = self._serving.hang_seconds * SLOW_FACTOR
        return not (limit and self._busy >= self._serving.threads and now - self._moved_at > limit)

    def end(self) -> None:
        """Wait for what runs in threads, and close the installation."""
        self._threads.shutdown(wait=True)
        self._monitor.shutdown(wait=True)
        self._hold.close()
        self._serving.close()

    def _has_looked(self, request: RawRequest) -> bool:
        """True if the process has looked at what others have changed since the request began to come.

        Requests of one turn of the loop share a look, which takes 5 µs. Not those over TLS, which are sometimes read
        between two turns.
        """
        if self._secure or not request.in_turn:
            return False
        if not self._looked:
            with suppress(HsmKmsError):  # the request will look for itself, and tell
                self._serving.look()
                self._looked = True
                self._loop.call_soon(self._end_turn)
        return self._looked

    def _end_turn(self) -> None:
        """What is scheduled while connections are read is done before the next of them."""
        self._looked = False

    def _timed(
        self, endpoint: Endpoint, request: RawRequest, source: Source, *, just_looked: bool = False
    ) -> tuple[Handled, float]:
        """Answer a request; how long that took, in seconds."""
        started = time.perf_counter()
        handled = endpoint.answer(request, source, just_looked=just_looked)
        seconds = time.perf_counter() - started
        self._serving.observer.note(handled, seconds, source.address)
        return handled, seconds

    def _in_thread(self, endpoint: Endpoint, request: RawRequest, source: Source) -> Handled:
        handled, _ = self._timed(endpoint, request, source)
        self._pace.note_elsewhere()
        return handled

    def _later(self, work: Callable[[], Response], respond: Respond) -> None:
        """Answer a page from a thread that no request is waiting for."""
        self._run(
            self._monitor,
            work,
            lambda done: respond(done if done is not None else self._default[0].failure(RuntimeError(), "")),
        )

    def _submit(self, work: Callable[[], Done], use: Callable[[Done | None], None]) -> None:
        """Work for a request in a thread."""
        self._run(self._threads, partial(self._noted, work), use)

    def _run(self, threads: ThreadPoolExecutor, work: Callable[[], Done], use: Callable[[Done | None], None]) -> None:
        """Work in a thread; what comes of it (None: a fault of ours) is used on the loop."""

        def hand_over(done: "Future[Done]") -> None:
            result = done.result() if done.exception() is None else None
            self._loop.call_soon_threadsafe(use, result)

        threads.submit(work).add_done_callback(hand_over)

    def _noted(self, work: Callable[[], Done]) -> Done:
        self._move(1)
        try:
            return work()
        finally:
            self._move(-1)

    def _move(self, change: int) -> None:
        with self._moving:
            self._busy += change
            self._moved_at = time.monotonic()

    def _hold_back(self, operation: str | None, ticket: int, handled: Handled | None) -> None:
        """On the loop: an answer that was made in a thread."""
        waiting = self._waiting.pop(ticket, None)
        if waiting is None:
            return  # it came too late, and the client was told so
        handled = handled or Handled(request_id="")
        response = handled.response or _no_response(handled, waiting.failure)
        self._hold.add(response, waiting.respond, operation or "", handled.request_id, waiting.failure)

    # -- the pages ----------------------------------------------------------------------------------------------

    def _page(self, page: Page) -> Response:
        return respond_to(page, self._findings, self._serving.metrics)

    def _findings(self) -> tuple[Findings, Findings]:
        health = self._serving.health
        return health.faults(), health.warnings  # in this order: a look for faults finds the warnings


def _no_response(handled: Handled, failure: Failure) -> Response:
    return failure(RuntimeError(), handled.request_id)
