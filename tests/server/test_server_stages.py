"""Requests of one turn pass each stage together, on the loop or, where that would take long, in threads."""

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from hsmkms.model.enums import Operation, SigningAlgorithm
from hsmkms.server import turns
from hsmkms.server.audit_gate import AuditGate
from hsmkms.server.aws.errors import failure
from hsmkms.server.messages import RawRequest, Response
from hsmkms.server.monitoring.request_observer import Observer
from hsmkms.server.protocol import Handled, Source
from hsmkms.server.turns import MOST_TOGETHER, Arrived, Turns
from hsmkms.service.runtime.audit_log import AuditLog
from hsmkms.service.runtime.gil_queue import GilQueue

SLOW_TOKEN = 0.06
"""Two calls that take this long together make the loop leave a kind of call to threads."""


class Book:
    """An audit log that notes when it is written."""

    holds_answers = True
    held_back = False
    turns = GilQueue()

    def __init__(self, events: list[str]) -> None:
        self._events = events

    def settle(self, operations: list[str]) -> dict[str, str]:
        """Write."""
        self._events.append(f"write {len(operations)}")
        return {}


class Steps:
    """An endpoint that notes each stage. Requests are named by their path; ``seconds``: what a call to it takes."""

    def __init__(self, events: list[str], seconds: dict[str, float]) -> None:
        self._events = events
        self._seconds = seconds
        self.now = 0.0

    def operation_of(self, request: RawRequest) -> str | None:
        """Not asked here."""
        del request

    def largest_body(self, head: RawRequest) -> int:
        """Not asked here."""
        del head
        return 0

    def authenticate(self, request: RawRequest, source: Source, operation: str | None, handled: Handled) -> None:
        """Refuse what is sent to "bad"."""
        del source, operation
        self._events.append(f"authenticate {request.path}")
        if request.path == "bad":
            handled.response = Response(400, (), b"", "Refused")
        handled.call, handled.algorithm = (lambda: None), request.query or None
        handled.key_id = request.path

    def perform(self, handled: Handled) -> None:
        """Take the time that was ordered, and refuse what is sent to "refused"."""
        self._events.append(f"perform {handled.key_id}")
        if handled.key_id == "refused":
            handled.response = Response(400, (), b"", "Refused")
        self.now += self._seconds.get(handled.key_id or "", 0.0)

    def render(self, handled: Handled) -> None:
        """Answer what was performed; a bug in "broken"."""
        if handled.key_id == "broken":
            raise RuntimeError("a bug")
        handled.response = handled.response or Response(200, (), b"")


class Site:
    """Turns of a loop over such an endpoint. ``events``: what happened, in order."""

    def __init__(self, seconds: dict[str, float] | None = None, *, free: Callable[[], bool] = lambda: True) -> None:
        self.events: list[str] = []
        self.steps = Steps(self.events, seconds or {})
        self._free = free

    def turns(self, rounds: list[list[tuple[str, str, str]]]) -> list[str]:
        """Let requests (name, operation, algorithm) arrive, each list in a turn of its own; what happened."""

        async def play() -> None:
            loop = asyncio.get_running_loop()
            gate = AuditGate(cast("AuditLog", Book(self.events)), loop)
            turns = Turns(loop, gate, Observer(None), self._free, self._to_thread, lambda *_: None)
            for each in rounds:
                for request in each:
                    turns.add(self._arrived(*request))
                await asyncio.sleep(0)
            gate.close()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hsmkms.server.turns.perf_counter", lambda: self.steps.now)
            asyncio.run(play())
        return self.events

    def _arrived(self, name: str, operation: str, algorithm: str) -> Arrived:
        return Arrived(
            request=RawRequest("POST", name, algorithm, {}, b""),
            source=Source("127.0.0.1", secure=False),
            operation=Operation(operation),
            endpoint=self.steps,
            failure=failure,
            respond=lambda response: self.events.append(f"respond {response.status} to {name}"),
            handled=Handled(request_id=name),
        )

    def _to_thread(self, arrived: Arrived) -> None:
        self.events.append(f"thread {arrived.request.path}")


def encryptions(*names: str) -> list[tuple[str, str, str]]:
    """Requests to encrypt."""
    return [(name, "Encrypt", "") for name in names]


def signatures(algorithm: str, *names: str) -> list[tuple[str, str, str]]:
    """Requests to sign."""
    return [(name, "Sign", algorithm) for name in names]


def test_stage_by_stage() -> None:
    """All are authenticated before the first is performed, and all records are written before the first response."""
    assert Site().turns([encryptions("a", "bad", "b"), encryptions("c")]) == [
        *("authenticate a", "authenticate bad", "authenticate b", "perform a", "perform b"),
        *("write 3", "respond 200 to a", "respond 400 to bad", "respond 200 to b"),
        *("authenticate c", "perform c", "write 1", "respond 200 to c"),
    ]


def test_a_bug_answers_one_request_with_an_error() -> None:
    """An exception that nobody expects keeps the other requests of the turn from nothing."""
    assert Site().turns([encryptions("a", "broken", "b")])[-3:] == [
        *("respond 200 to a", "respond 500 to broken", "respond 200 to b"),
    ]


def test_a_turn_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of very many does not wait for the last."""
    assert MOST_TOGETHER > 2
    monkeypatch.setattr(turns, "MOST_TOGETHER", 2)
    assert Site().turns([encryptions("a", "b", "c")]) == [
        *("authenticate a", "authenticate b", "perform a", "perform b"),
        *("write 2", "respond 200 to a", "respond 200 to b"),
        *("authenticate c", "perform c", "write 1", "respond 200 to c"),
    ]


def test_a_token_that_becomes_slow_within_a_turn() -> None:
    """What comes after the slow calls is not performed on the loop, and later turns not even authenticated there."""
    site = Site({"a": SLOW_TOKEN, "b": SLOW_TOKEN})
    assert site.turns([encryptions("a", "b", "c"), encryptions("d")]) == [
        *("authenticate a", "authenticate b", "authenticate c", "perform a", "perform b", "thread c"),
        *("write 2", "respond 200 to a", "respond 200 to b", "thread d"),
    ]


def test_no_session_is_free() -> None:
    """While a call would wait for a session, it waits in a thread."""
    free = iter([True, False, True])
    events = Site(free=lambda: next(free)).turns([encryptions("a", "b", "c")])
    assert [each for each in events if each.startswith(("perform", "thread"))] == ["perform a", "thread b", "perform c"]


def test_signatures_on_the_loop() -> None:
    """Signing with a quick algorithm is done on the loop; with RSA, or an algorithm that is not known, in a thread."""
    names = sorted(SigningAlgorithm)
    for algorithm in (*names, "NONE", ""):
        events = Site().turns([signatures(algorithm, "a")])
        quick = algorithm in names and not algorithm.startswith("RSA")
        assert events[1] == ("perform a" if quick else "thread a"), algorithm


def test_a_slow_algorithm() -> None:
    """One algorithm that takes long keeps neither others nor encryptions from the loop."""
    site = Site({"a": SLOW_TOKEN, "b": SLOW_TOKEN})
    slow, quick = SigningAlgorithm.ECDSA_SHA_512, SigningAlgorithm.ECDSA_SHA_256
    site.turns([signatures(slow, "a", "b", "c"), signatures(quick, "d"), encryptions("e"), signatures(slow, "f")])
    decided = [each for each in site.events if each.startswith(("perform", "thread"))]
    assert decided == ["perform a", "perform b", "thread c", "perform d", "perform e", "thread f"]


def test_calls_that_do_not_use_the_token() -> None:
    """A slow token is recognised beside any number of quick calls that do not use it, and of refused ones."""
    site = Site({"slow": SLOW_TOKEN / 20})
    mixed = [*encryptions("slow", "refused"), *[(f"about {each}", "DescribeKey", "") for each in range(4)]]
    decided = site.turns([mixed] * 30)
    assert decided.count("perform slow") < 30
    assert decided.count("perform slow") + decided.count("thread slow") == 30
