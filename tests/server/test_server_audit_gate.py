"""Answers leave after their audit records are on the disk, whether the loop or a thread waits for it."""

import asyncio
import threading
from collections.abc import Callable
from typing import cast

import pytest

from hsmkms.server.audit_gate import AuditGate
from hsmkms.server.aws.errors import failure
from hsmkms.server.latency_gate import LONG_SECONDS
from hsmkms.server.messages import Response
from hsmkms.service.runtime.audit_log import REFUSED, AuditLog
from hsmkms.service.runtime.gil_queue import GilQueue

PATIENCE = 60


class Book:
    """An audit log on a disk whose fsync takes as long as ordered, or that refuses some operations.

    It takes that time by a clock of its own. ``gate``: each wait lasts until it is opened.
    """

    holds_answers = True
    held_back = False
    turns = GilQueue()

    def __init__(self, seconds: float = 0.0, refused: frozenset[str] = frozenset()) -> None:
        self.seconds = seconds
        self.refused = refused
        self.now = 0.0
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[list[str]] = []
        self.waited_in: list[str] = []

    def settle(self, operations: list[str]) -> dict[str, str]:
        """Wait for the disk."""
        assert self.gate.wait(PATIENCE)
        self.now += self.seconds
        self.batches.append(operations)
        self.waited_in.append(threading.current_thread().name)
        return {operation: REFUSED for operation in operations if operation in self.refused}


def run_on_loop(act: Callable[[Book, AuditGate], "asyncio.Future[None]"], book: Book) -> None:
    """Do something with a gate on a loop, until it is done."""

    async def run() -> None:
        gate = AuditGate(cast("AuditLog", book), asyncio.get_running_loop())
        await asyncio.wait_for(act(book, gate), PATIENCE)
        gate.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hsmkms.server.audit_gate.perf_counter", lambda: book.now)
        asyncio.run(run())


def answers(book: Book, gate: AuditGate, operations: list[str], into: list[Response]) -> "asyncio.Future[None]":
    """Give answers of one turn to the gate; done when all have left, each after the wait for its record."""
    done = asyncio.get_running_loop().create_future()
    before = len(book.batches)

    def leave(response: Response) -> None:
        assert len(book.batches) > before
        into.append(response)
        if len(into) % len(operations) == 0:
            done.set_result(None)

    for number, each in enumerate(operations):
        gate.add(Response(200, (), b"%d" % number), leave, each, f"request-{number}", failure)
    return done


def test_a_turn_shares_a_wait() -> None:
    """What one turn of the loop answers waits once, on the loop itself, and leaves in its order."""
    left: list[Response] = []
    book = Book()
    run_on_loop(lambda book, gate: answers(book, gate, ["Encrypt"] * 5, left), book)
    assert book.batches == [["Encrypt"] * 5]
    assert book.waited_in == [threading.current_thread().name]
    assert [each.body for each in left] == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("seconds", [0.0, LONG_SECONDS])
@pytest.mark.parametrize("holds", [True, False])
def test_a_bug_in_a_connection(seconds: float, caplog: pytest.LogCaptureFixture, *, holds: bool) -> None:
    """A connection that fails while it takes its response keeps no other from its own, and the log says so."""
    left: list[bytes] = []

    def break_off(response: Response) -> None:
        raise ValueError(response.body)

    async def turns(_: Book, gate: AuditGate) -> None:
        for _ in range(4):  # a slow disk is awaited in a thread from the third on
            done = asyncio.get_running_loop().create_future()

            def leave(response: Response, done: "asyncio.Future[None]" = done) -> None:
                left.append(response.body)
                if response.body == b"last":
                    done.set_result(None)

            for name, respond in (("first", leave), ("broken", break_off), ("last", leave)):
                gate.add(Response(200, (), name.encode()), respond, "Encrypt", f"request-{name}", failure)
            await asyncio.wait_for(done, PATIENCE)

    book = Book(seconds)
    book.holds_answers = holds
    run_on_loop(lambda book, gate: asyncio.ensure_future(turns(book, gate)), book)
    assert left == [b"first", b"last"] * 4
    assert "request-broken" in caplog.text


@pytest.mark.parametrize("seconds", [0.0, LONG_SECONDS])
def test_what_is_not_on_the_disk_is_refused(seconds: float) -> None:
    """Only the answers whose records must be kept, and were not, become errors; in a thread as on the loop."""
    left: list[Response] = []

    async def twice(book: Book, gate: AuditGate) -> None:
        for _ in range(4):
            await answers(book, gate, ["Encrypt", "DescribeKey"], left)

    book = Book(seconds, frozenset({"Encrypt"}))
    run_on_loop(lambda book, gate: asyncio.ensure_future(twice(book, gate)), book)
    assert [(each.status, each.error) for each in left] == [(500, "KMSInternalException"), (200, None)] * 4
    assert (book.waited_in[-1] == threading.current_thread().name) is (seconds == 0.0)


def test_a_slow_disk_keeps_the_loop_from_nothing() -> None:
    """After two slow waits a thread waits instead, the loop is free, and later records are synced together."""
    left: list[Response] = []

    async def slowly(book: Book, gate: AuditGate) -> None:
        for _ in range(2):
            await answers(book, gate, ["Encrypt"], left)
        book.gate.clear()
        first = answers(book, gate, ["Encrypt"], left)
        await asyncio.sleep(0)
        assert not first.done()
        others = [answers(book, gate, ["Decrypt"], left) for _ in range(3)]
        await asyncio.sleep(0)
        book.gate.set()
        await asyncio.gather(first, *others)

    book = Book(LONG_SECONDS)
    run_on_loop(lambda book, gate: asyncio.ensure_future(slowly(book, gate)), book)
    assert book.batches[2:] == [["Encrypt"], ["Decrypt"] * 3]
    assert set(book.waited_in[2:]) != {threading.current_thread().name}


def test_an_unexpected_exception_releases_no_response() -> None:
    """If waiting for the disk raises what it should not, no answer of the batch leaves as a success."""
    left: list[Response] = []

    class Broken(Book):
        def settle(self, operations: list[str]) -> dict[str, str]:
            super().settle(operations)
            raise RuntimeError("a bug")

    run_on_loop(lambda book, gate: answers(book, gate, ["Encrypt", "DescribeKey"], left), Broken())
    assert [each.status for each in left] == [500, 500]
