"""A steady rate of requests, whatever the server does: a slow answer does not put off the next request.

A latency counts from the instant at which the request was due, so that a stall shows in all requests that it held up.
"""

import asyncio
import time
from collections import deque
from typing import cast
from urllib.parse import urlsplit

import uvloop


class _Client(asyncio.Protocol):
    """A connection that sends one request at a time."""

    def __init__(self, idle: "deque[_Client]", took: list[float], failed: list[bytes]) -> None:
        self._idle = idle
        self._took = took
        self._failed = failed
        self._received = b""
        self._due = 0.0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready."""
        self._transport = cast("asyncio.Transport", transport)
        self._idle.append(self)

    def send(self, request: bytes, due: float) -> None:
        """Send a request that was due at an instant."""
        self._due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """An answer, or a part of it."""
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) >= length:
            self._took.append(time.perf_counter() - self._due)
            if not head.startswith(b"HTTP/1.1 200 "):
                self._failed.append(self._received)
            self._received = b""
            self._idle.append(self)


async def _run(url: str, request: bytes, rate: int, seconds: int, connections: int) -> list[float]:
    loop = asyncio.get_running_loop()
    parts = urlsplit(url)
    idle: deque[_Client] = deque()
    took: list[float] = []
    failed: list[bytes] = []
    for _ in range(connections):
        await loop.create_connection(lambda: _Client(idle, took, failed), parts.hostname, parts.port)
    begun = time.perf_counter()
    sent, wanted = 0, rate * seconds
    while len(took) < wanted:
        now = time.perf_counter()
        while sent < wanted and idle and begun + sent / rate <= now:
            idle.popleft().send(request, begun + sent / rate)
            sent += 1
        await asyncio.sleep(0.0005)
    if failed:
        raise SystemExit(f"{len(failed)} requests failed, the first with {failed[0]!r}")
    return sorted(took)


def latencies(url: str, request: bytes, *, rate: int, seconds: int, connections: int) -> tuple[float, float, float]:
    """Send ``rate`` requests a second and return p50, p99 and the longest latency in milliseconds."""
    took = uvloop.run(_run(url, request, rate, seconds, connections))
    return tuple(took[min(int(len(took) * share), len(took) - 1)] * 1000 for share in (0.5, 0.99, 1.0))  # type: ignore[return-value]  # three shares, three latencies
