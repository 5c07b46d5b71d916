"""What clients without a credential send to fill a worker's memory, on many connections at once."""

import contextlib
import resource
import selectors
import socket
import ssl
import time
from collections.abc import Callable, Iterator

import pytest
from raw_client import raw, signed

from hsmkms.server.process.connections import OTHER_FILES
from hsmkms.testing import Endpoint

MIB = 2**20
SECONDS = 8.0
"""A flood ends by itself after that time, whatever of it the server has taken."""

STALLED_SECONDS = 1.0
"""A flood that the server has taken nothing more of for so long has filled what it can fill."""


LIMIT = 1500
"""Connections that the flooded worker may serve."""

MANY = LIMIT - 50
"""As many connections as a worker serves by default, less a few for others."""


@contextlib.contextmanager
def many_files() -> Iterator[None]:
    """Raise the limit of open files of this process, and of servers it starts, as far as it may be raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def need_files(connections: int) -> None:
    """Skip the test where this process may not open so many connections."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < connections + OTHER_FILES:
        pytest.skip(f"a process may open {soft} files here (ulimit -Hn): too few for {connections} connections")


def nobody(endpoint: Endpoint) -> Endpoint:
    """A client that signs with an access key that does not exist."""
    return Endpoint(endpoint.url, endpoint.region, "AKIA" + "A" * 16, "guessed")


def forged(endpoint: Endpoint, operation: str, size: int) -> bytes:
    """A request whose head looks signed, with a body of a size."""
    head = signed(nobody(endpoint), operation, b"") | {"Content-Length": str(size)}
    return raw("POST", "/", head) + b"x" * size


def unsigned(size: int) -> bytes:
    """A request without a signature, with a body of a size."""
    return raw("POST", "/", {"Host": "x", "Content-Length": str(size)}) + b"x" * size


FLOODS: dict[str, tuple[int, Callable[[Endpoint], bytes]]] = {
    "large requests ahead": (40, lambda endpoint: forged(endpoint, "CreateKey", MIB - 1) * 32),
    "fitting requests ahead": (40, lambda endpoint: forged(endpoint, "CreateKey", 400_000) * 32),
    "unsigned requests ahead": (40, lambda _: unsigned(MIB) * 32),
    "half bodies": (400, lambda endpoint: forged(endpoint, "Decrypt", 500_000)[:-1]),
    "half large bodies": (400, lambda _: unsigned(MIB)[:-1]),
    "half small bodies": (400, lambda _: unsigned(64 * 1024)[:-1]),
    "half bodies in tiny chunks": (
        400,
        lambda _: b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"2\r\nxx\r\n" * 30_000,
    ),
    "small requests ahead": (400, lambda _: b"GET / HTTP/1.1\r\n\r\n" * 15_000),
    "pages that nobody reads": (100, lambda _: b"GET /healthz HTTP/1.1\r\n\r\n" * 5_000),
    "half heads": (400, lambda _: b"GET / HTTP/1.1\r\n" + b"".join(b"h%d:x\r\n" % each for each in range(99))),
    "a header without end": (400, lambda _: b"GET / HTTP/1.1\r\nHost: " + b"x" * MIB),
    "names of headers": (300, lambda _: b"GET / HTTP/1.1\r\n%s: x\r\n\r\n"),
    "an extension without end": (
        400,
        lambda _: b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * MIB,
    ),
    "a trailer without end": (
        400,
        lambda _: b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx: " + b"x" * MIB,
    ),
    "idle connections at the limit": (MANY, lambda _: b""),
    "answered connections at the limit": (MANY, lambda _: b"GET /healthz HTTP/1.1\r\n\r\n"),
    "half small heads at the limit": (
        MANY,
        lambda _: (
            b"POST /?"
            + b"q" * 600
            + b" HTTP/1.1\r\n"
            + b"".join(b"h%d%s: %s\r\n" % (each, b"n" * 20, b"v" * 25) for each in range(23))
        )[:1800],
    ),
    "half tiny heads at the limit": (MANY, lambda _: b"GET / HTTP/1.1\r\nHost: "),
    "half tiny bodies at the limit": (MANY, lambda _: unsigned(60_000)[:1945]),
    "half bodies at the limit": (MANY, lambda _: unsigned(60_000)[:8000]),
}
"""By name: on how many connections, and what is sent on each. ``%s`` is replaced by 60,000 bytes, others on each."""


@contextlib.contextmanager
def flood(address: tuple[str, int], count: int, data: bytes) -> Iterator[None]:
    """Connections on which as much was sent as the server takes; nothing is read from them."""
    with contextlib.ExitStack() as opened:
        left: dict[socket.socket, memoryview] = {}
        with selectors.DefaultSelector() as selector:
            for number in range(count):
                connection = opened.enter_context(socket.create_connection(address, timeout=SECONDS))
                connection.setblocking(False)
                own = data.replace(b"%s", b"%d" % (10_000 + number) * 12_000)
                left[connection] = memoryview(own if own != data else data)
                selector.register(connection, selectors.EVENT_WRITE)
            _send(selector, left)
        yield


def _send(selector: selectors.BaseSelector, left: dict[socket.socket, memoryview]) -> None:
    end = time.monotonic() + SECONDS
    while selector.get_map() and time.monotonic() < end:
        ready = selector.select(STALLED_SECONDS)
        if not ready:
            return
        for key, _ in ready:
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            try:
                left[connection] = left[connection][connection.send(left[connection][: 2**18]) :]
            except OSError:  # refused, and closed
                left[connection] = left[connection][:0]
            if not left[connection]:
                selector.unregister(connection)


@contextlib.contextmanager
def half_handshakes(address: tuple[str, int], count: int) -> Iterator[list[socket.socket]]:
    """Connections that have begun to say hello in TLS."""
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    hello = outgoing.read()[:-1]
    with contextlib.ExitStack() as opened:
        made = []
        for _ in range(count):
            connection = opened.enter_context(socket.create_connection(address, timeout=SECONDS))
            with contextlib.suppress(OSError):
                connection.sendall(hello)
            made.append(connection)
        yield made
