"""The time limits of a connection, on real sockets and with a clock that the test moves."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest
from served import PROGRAMS

from hsmkms.server.aws.errors import refusal
from hsmkms.server.messages import RawRequest, Refusal, Respond, Response
from hsmkms.server.process.connection import BODY_SECONDS, HEAD_SECONDS, IDLE_SECONDS, LINGER_SECONDS, Connection
from hsmkms.server.process.connections import Connections
from hsmkms.server.process.limits import MAX_BODY_BYTES, UNCOUNTED_CONNECTIONS
from hsmkms.server.process.memory import MemoryBudget
from hsmkms.server.process.worker import SWITCH_SECONDS, give_up_late

REQUEST = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
LARGE = 8 * 2**20
"""More than the buffers of both sides hold."""


class Place:
    """A server in this process: its connections, its clock, and a client's two streams."""

    def __init__(self) -> None:
        self.connections = Connections()
        self.everybody = self.connections.open
        self.now = 1000.0
        self.held: list[Respond] | None = None
        self.body = b"{}"
        self.body_sent = b"{}"
        self.address: tuple[str, int]
        self.answered = 0
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    def __call__(self, request: RawRequest, address: str, respond: Respond) -> None:
        """Answer at once, or when the test says so."""
        assert request.body == self.body_sent
        assert address == "127.0.0.1"
        self.answered += 1
        if self.held is None:
            respond(Response(200, (), self.body))
        else:
            self.held.append(respond)

    def largest_body(self, head: RawRequest) -> int:
        """Bodies may be as large as they can be in any case."""
        del head
        return MAX_BODY_BYTES

    def refusal(self, refused: Refusal) -> Response:
        """As clients of AWS read it."""
        return refusal(refused)

    async def later(self, seconds: float) -> None:
        """Let time pass, and the server check its limits."""
        self.now += seconds
        give_up_late(self.connections, self.now)
        await asyncio.sleep(0.02)

    async def send(self, data: bytes) -> None:
        """Send, and let the server read."""
        self.writer.write(data)
        await asyncio.sleep(0.05)

    async def until(self, happened: Callable[[], bool]) -> None:
        """Let the server work until it has happened."""
        for _ in range(2000):
            if happened():
                return
            await asyncio.sleep(0.005)
        raise AssertionError("it did not happen in time")

    async def status(self) -> int:
        """The status of the next answer."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:"))
        self.told = await asyncio.wait_for(self.reader.readexactly(length), 10)
        return int(head.split()[1])

    async def ended(self) -> bool:
        """True once the server has closed."""
        return await asyncio.wait_for(self.reader.read(1), 10) == b""


def play(story: Callable[[Place], Awaitable[None]]) -> None:
    """Run a story with a client that is connected."""

    async def run() -> None:
        place = Place()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Connection(place, place.connections, lambda: place.now), "127.0.0.1", 0
        )
        place.address = server.sockets[0].getsockname()
        place.reader, place.writer = await asyncio.open_connection(*place.address)
        try:
            await place.send(b"")
            await story(place)
        finally:
            place.writer.transport.abort()
            server.close()

    asyncio.run(run())


def test_idle() -> None:
    """A connection without requests is closed after its time, counted from the last answer."""

    async def story(place: Place) -> None:
        for _ in range(2):
            await place.send(REQUEST)
            assert await place.status() == 200
            await place.later(IDLE_SECONDS - 1)
        await place.later(2)
        assert await place.ended()
        assert not place.everybody

    play(story)


@pytest.mark.parametrize(
    ("begun", "seconds"), [(b"POST / HTTP/1.1\r\nContent-", HEAD_SECONDS), (REQUEST[:-1], BODY_SECONDS)]
)
def test_what_does_not_come_whole(begun: bytes, seconds: float) -> None:
    """Half a head and half a body are waited for, and then refused in words."""

    async def story(place: Place) -> None:
        await place.send(begun)
        await place.later(seconds - 1)
        assert len(place.everybody) == 1
        await place.later(2)
        assert await place.status() == 408
        assert json.loads(place.told)["__type"] == "RequestTimeoutException"
        assert await place.ended()
        await place.later(LINGER_SECONDS + 1)
        assert not place.everybody

    play(story)


def test_nothing_at_all() -> None:
    """Who connects and says nothing is let go without a word."""

    async def story(place: Place) -> None:
        await place.later(HEAD_SECONDS + 1)
        assert await place.ended()

    play(story)


def test_slow_answer() -> None:
    """A request that takes long to answer has no time limit here."""

    async def story(place: Place) -> None:
        place.held = []
        await place.send(REQUEST)
        await place.later(IDLE_SECONDS * 3)
        place.held.pop()(Response(200, (), b"{}"))
        assert await place.status() == 200

    play(story)


def test_answer_that_is_not_taken() -> None:
    """A client that does not read its answers is cut off after its time, and leaves nothing behind."""

    async def story(place: Place) -> None:
        place.body = b"x" * LARGE
        await place.send(REQUEST)
        await place.later(IDLE_SECONDS + 1)  # closing, but the answer has not been taken
        assert len(place.everybody) == 1
        await place.later(BODY_SECONDS + 1)
        assert not place.everybody

    play(story)


def test_client_that_only_asks() -> None:
    """Who sends requests and reads no answers is not read from any more, until he does."""

    async def story(place: Place) -> None:
        place.body = b"x" * 2**16
        await place.send(REQUEST * 5_000)
        answered = place.answered
        assert answered < 100
        for _ in range(5_000):
            assert await place.status() == 200

    play(story)


def test_nothing_is_parsed_while_a_request_waits() -> None:
    """A pipelined request is kept unchanged until the one before it is answered, and is answered then."""

    async def story(place: Place) -> None:
        place.held = []
        await place.send(REQUEST)
        await place.send(REQUEST * 20_000)
        await place.until(lambda: place.connections.budget.occupied > 0)
        assert place.answered == 1
        assert place.connections.budget.occupied < 2**20
        first, place.held = place.held.pop(), None
        first(Response(200, (), b"{}"))
        for _ in range(20_001):
            assert await place.status() == 200
        assert place.connections.budget.occupied == 0

    play(story)


def test_beyond_the_budget() -> None:
    """A client with half a request gets 503 when the budget is spent, and its bytes leave the budget."""

    async def story(place: Place) -> None:
        half = b"POST / HTTP/1.1\r\nContent-Length: 60000\r\n\r\n" + b"x" * 50_000
        place.connections.budget = MemoryBudget(40_000)
        reader, writer = await asyncio.open_connection(*place.address)
        writer.write(half)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1\r\n" in head
        assert b"Connection: close\r\n" in head
        assert place.connections.budget.occupied == 0
        writer.transport.abort()
        await place.send(REQUEST)
        assert await place.status() == 200

    play(story)


@pytest.mark.parametrize("sent", [20, len(REQUEST) - 1], ids=["head", "body"])
def test_small_beginnings_on_many_connections(sent: int) -> None:
    """On many connections everything that is unfinished counts, however small, until the request is complete."""

    async def story(place: Place) -> None:
        others = [await asyncio.open_connection(*place.address) for _ in range(UNCOUNTED_CONNECTIONS)]
        await place.until(lambda: len(place.everybody) > UNCOUNTED_CONNECTIONS)
        await place.send(REQUEST[:sent])
        await place.until(lambda: place.connections.budget.occupied > sent)
        await place.send(REQUEST[sent:])
        assert await place.status() == 200
        assert place.connections.budget.occupied == 0
        for _, writer in others:
            writer.transport.abort()

    play(story)


def test_large_requests_that_wait() -> None:
    """Complete large requests count until they have their answers, also where their client has gone; others get 503."""

    async def story(place: Place) -> None:
        place.held = []
        place.body_sent = b"x" * 20_000
        large = b"POST / HTTP/1.1\r\nContent-Length: 20000\r\n\r\n" + place.body_sent
        place.connections.budget = MemoryBudget(30_000)
        _, writer = await asyncio.open_connection(*place.address)
        writer.write(large)
        await place.until(lambda: place.held is not None and len(place.held) == 1)
        writer.transport.abort()
        reader, writer = await asyncio.open_connection(*place.address)
        writer.write(large)
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).startswith(b"HTTP/1.1 503 ")
        writer.transport.abort()
        await place.until(lambda: len(place.everybody) == 2)  # the first one counts as well
        place.held.pop()(Response(200, (), b"{}"))
        assert len(place.everybody) == 1
        _, writer = await asyncio.open_connection(*place.address)
        writer.write(large)
        await place.until(lambda: bool(place.held))
        place.held.pop()(Response(200, (), b"{}"))
        assert place.connections.budget.occupied == 0
        writer.transport.abort()

    play(story)


@pytest.mark.parametrize(("budget", "served"), [(2**20, 0), (4 * LARGE, 1)], ids=["beyond", "within"])
def test_answers_that_are_not_taken_count(budget: int, served: int) -> None:
    """Beyond the budget a client that reads nothing is cut off; within it the connection stays."""

    async def story(place: Place) -> None:
        place.body = b"x" * LARGE
        (connection,) = place.everybody
        connection._budget = MemoryBudget(budget)
        await place.send(REQUEST)
        await place.until(lambda: place.answered == 1 and len(place.everybody) == served)
        await place.later(0)
        assert len(place.everybody) == served

    play(story)


def test_more_connections_than_are_served() -> None:
    """Beyond the limit a client gets 503 with Retry-After, and is served once another connection has closed."""

    async def story(place: Place) -> None:
        place.connections.most = 1
        reader, writer = await asyncio.open_connection(*place.address)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1\r\n" in head
        length = int(head.partition(b"Content-Length: ")[2].split()[0])
        assert "connections" in json.loads(await reader.readexactly(length))["message"]
        assert await reader.read() == b""
        writer.transport.abort()
        await place.send(REQUEST)
        assert await place.status() == 200
        place.connections.most = 2
        await place.later(LINGER_SECONDS + 1)
        _, writer = await asyncio.open_connection(*place.address)
        await place.until(lambda: len(place.everybody) == 2)
        writer.transport.abort()

    play(story)


def test_ending() -> None:
    """At the end what has begun is answered, also in pieces and one after the other, and what is idle is let go."""

    async def story(place: Place) -> None:
        place.held = []
        await place.send(REQUEST + REQUEST + REQUEST[:-1])
        (connection,) = place.everybody
        connection.end()
        await place.send(REQUEST[-1:] + REQUEST)  # the last one begins too late
        for _ in range(3):
            place.held.pop()(Response(200, (), b"{}"))
            assert await place.status() == 200
        assert await place.ended()
        assert place.held == []

    play(story)


def test_ending_of_an_idle_connection() -> None:
    """A request that is on its way when the server ends is answered; otherwise the connection ends."""

    async def story(place: Place) -> None:
        (connection,) = place.everybody
        connection.end()
        await place.send(REQUEST)
        assert await place.status() == 200
        assert await place.ended()

    async def silent(place: Place) -> None:
        (connection,) = place.everybody
        connection.end()
        await place.later(LINGER_SECONDS + 0.1)
        assert await place.ended()

    play(story)
    play(silent)


def test_threads_keep_the_loop_waiting_for_a_short_time_only() -> None:
    """In a worker a thread that computes gives the interpreter's lock to the loop ten times sooner than by default."""
    assert sys.getswitchinterval() >= SWITCH_SECONDS * 10
    command = [sys.executable, PROGRAMS / "worker_alone.py"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert float(done.stdout) == pytest.approx(SWITCH_SECONDS)
