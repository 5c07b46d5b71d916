"""Answer the quick requests of one turn of the event loop together, stage by stage.

All requests that arrived in the turn are authenticated, then all are performed, one after another on the token, then
all are rendered. So the code and data of a stage stay in the processor's caches: 16 requests together take three
quarters of the processor time that they take one by one. A request that arrives alone waits for nothing.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from time import perf_counter
from typing import Final

from msgspec import Struct

from hsmkms.server.audit_gate import AuditGate
from hsmkms.server.latency_gate import QUICK_SECONDS, SIGNS_QUICKLY, WITH_TOKEN, LatencyGate
from hsmkms.server.messages import RawRequest, Respond, Response
from hsmkms.server.monitoring.request_observer import Observer
from hsmkms.server.protocol import Endpoint, Failure, Handled, Source
from hsmkms.service.pipeline import QUICK

log = logging.getLogger("hsmkms.http")

MOST_TOGETHER: Final = 64
"""Limit of requests that are answered together: the first response waits for the last of them."""

SLOW_SIGNATURE_SECONDS: Final = 0.0005
"""Signatures that take longer go to threads: what a thread costs, a tenth of a millisecond, is little beside them."""


class Arrived(Struct, kw_only=True):
    """A request that waits for its answer, and what is done for it in ``handled``, in ``seconds`` so far."""

    request: RawRequest
    source: Source
    operation: str | None
    endpoint: Endpoint
    failure: Failure
    respond: Respond
    handled: Handled
    seconds: float = 0.0


class Turns:
    """Answers the quick requests of each turn of a loop, on the loop.

    ``free``: whether the token has a session for a call that begins now. ``to_thread`` takes the requests that must not
    keep the loop waiting; ``note_outcome`` gets the operations that the token has not served, with their responses.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        gate: AuditGate,
        observer: Observer,
        free: Callable[[], bool],
        to_thread: Callable[[Arrived], None],
        note_outcome: Callable[[str | None, Response], None],
    ) -> None:
        self._loop = loop
        self._gate = gate
        self._observer = observer
        self._free = free
        self._to_thread = to_thread
        self._note_outcome = note_outcome
        self.latency = LatencyGate()
        """That of all quick operations."""
        self._of_signatures: dict[str | None, LatencyGate] = {
            each: LatencyGate(slow_seconds=SLOW_SIGNATURE_SECONDS, quick_seconds=SLOW_SIGNATURE_SECONDS / 2)
            for each in SIGNS_QUICKLY
        }
        self.last_success = 0.0
        """When the token has last done something for a request that was answered here, by the monotonic clock."""
        self._arrived: list[Arrived] = []

    def add(self, arrived: Arrived) -> None:
        """Answer a request at the end of this turn, or in a thread while the token is slow."""
        latency = self.latency
        if latency.slow and not latency.may_try(self._loop.time()):
            self._to_thread(arrived)
            return
        if not self._arrived:
            self._loop.call_soon(self._answer_all)  # not at once: the other requests of this turn join it
        self._arrived.append(arrived)

    def note_in_thread(self, arrived: Arrived) -> None:
        """Count a request that a thread has answered. May be called in that thread."""
        self.latency.note_in_thread()
        gate = self._of_signatures.get(arrived.handled.algorithm)
        if gate is not None:
            gate.note_in_thread()

    def _gate_of(self, arrived: Arrived) -> LatencyGate | None:
        """Return the latencies of calls like the request's; None if such calls always run in threads."""
        return self.latency if arrived.operation in QUICK else self._of_signatures.get(arrived.handled.algorithm)

    def _answer_all(self) -> None:
        """Answer the requests of a turn."""
        arrived, self._arrived = self._arrived, []
        self._answer_arrived(arrived)

    def _answer_arrived(self, arrived: list[Arrived]) -> None:
        """Answer requests, and send the responses of those that were answered together."""
        for first in range(0, len(arrived), MOST_TOGETHER):
            self._gate.gathers = True
            try:
                self._answer(arrived[first : first + MOST_TOGETHER])
            finally:
                self._gate.send_gathered()

    def _answer(self, together: list[Arrived]) -> None:
        """Answer requests stage by stage."""
        began = perf_counter()
        for each in together:
            each.endpoint.authenticate(each.request, each.source, each.operation, each.handled)
            ended = perf_counter()
            each.seconds, began = ended - began, ended
        for each in self._performed(together):
            handled, operation = each.handled, each.operation
            try:
                each.endpoint.render(handled)
                self._observer.note(handled, each.seconds, each.source.address)
                response = handled.response or each.failure(RuntimeError(), handled.request_id)
                if response.error is None and operation in WITH_TOKEN:
                    self.last_success = time.monotonic()  # without a call: most requests come this way
                else:
                    self._note_outcome(operation, response)
            except Exception as exc:  # a bug, which must not keep the others of the turn from their responses
                log.exception("request %s failed by an unexpected exception", handled.request_id)
                response = each.failure(exc, handled.request_id)
            self._gate.add(response, each.respond, operation or "", handled.request_id, each.failure)

    def _performed(self, together: list[Arrived]) -> list[Arrived]:
        """Call the façade for each, and return them; without those that were passed to a thread."""
        performed, now = [], self._loop.time()
        for each in together:
            if each.handled.response is None:
                latency = self._gate_of(each)
                if latency is None or (latency.slow and not latency.may_try(now)) or not self._free():
                    self._to_thread(each)
                    continue
                began = perf_counter()
                each.endpoint.perform(each.handled)
                seconds = perf_counter() - began
                each.seconds += seconds
                if seconds > QUICK_SECONDS or (each.handled.response is None and each.operation in WITH_TOKEN):
                    latency.note(seconds, now)  # refusals, and operations without the token, say nothing about it
            performed.append(each)
        return performed
