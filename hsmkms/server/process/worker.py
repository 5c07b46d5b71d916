"""A worker process: serve a listening socket until SIGTERM."""

import asyncio
import gc
import multiprocessing
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from typing import Final, Protocol

import uvloop

from hsmkms.config.settings import ServeSettings
from hsmkms.garbage import collect_as_usual
from hsmkms.server.heartbeat import Heartbeat
from hsmkms.server.process import memory
from hsmkms.server.process.acceptor import Acceptor
from hsmkms.server.process.connection import LINGER_SECONDS, Connection, Handler
from hsmkms.server.process.connections import Connections, connections_of
from hsmkms.server.process.ports import BACKLOG

TRIM_SECONDS: Final = 2.0
"""Pause between two checks whether memory can be given back to the system."""

ALPN: Final = ["http/1.1"]
"""Protocols offered over TLS, for clients that offer HTTP/2 as well."""

LOOK_SECONDS: Final = 0.5
"""Pause between two checks of the connections' deadlines."""

ACCEPT_SECONDS: Final = 0.05
"""Time to accept clients that have connected already; the supervisor has closed the port for others."""

SWITCH_SECONDS: Final = 0.0005
"""How long a thread that computes may keep the event loop waiting for the GIL. Python's default is 5 ms."""

STOP_SECONDS: Final = 30.0
"""Time limit for running requests when the server stops."""


class Answering(Handler, Protocol):
    """The application of a worker: answers its requests."""

    def begin(self) -> None:
        """Start the background work."""

    def is_well(self) -> bool:
        """Answer clients whose time limit is over; False if no request can be answered any more."""

    def end(self) -> None:
        """Finish running requests, and close."""


Make = Callable[[asyncio.AbstractEventLoop, bool], Answering]
"""Creates the application of a loop; the flag is true for TLS."""


def run(
    make: Make, settings: ServeSettings, listener: socket.socket, ready: Callable[[], None], heartbeat: Heartbeat
) -> None:
    """Serve until SIGTERM; ``ready`` is called when clients are answered, ``heartbeat`` beats while they can be."""
    sys.setswitchinterval(SWITCH_SECONDS)
    uvloop.run(_serve(make, settings, listener, ready, heartbeat))


def tls_context(settings: ServeSettings) -> ssl.SSLContext | None:
    """Load the certificate and its key from disk, for TLS 1.2 and newer; None for plain HTTP."""
    if settings.certificate is None or settings.private_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(ALPN)
    context.load_cert_chain(settings.certificate, settings.private_key)
    return context


async def _serve(
    make: Make, settings: ServeSettings, listener: socket.socket, ready: Callable[[], None], heartbeat: Heartbeat
) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stopped.set)
    _stop_with_parent(loop, stopped)
    context = tls_context(settings)
    answering = make(loop, context is not None)
    connections = connections_of(settings)

    def connection() -> Connection:
        return Connection(answering, connections, loop.time)

    server: asyncio.AbstractServer | Acceptor
    if context is None:
        server = await loop.create_server(connection, sock=listener, backlog=BACKLOG)
    else:
        server = Acceptor(loop, listener, context, connection, connections)
    answering.begin()
    memory.keep_heap_small()
    gc.collect()
    gc.freeze()  # long-lived objects: later collections skip them, and pages shared with the supervisor stay shared
    collect_as_usual()
    ready()
    watching = [
        asyncio.create_task(_watch(connections, loop.time, answering, heartbeat)),
        asyncio.create_task(_give_memory_back(loop, connections)),
    ]
    await stopped.wait()
    await asyncio.sleep(ACCEPT_SECONDS)
    server.close()
    await _finish(connections)
    for task in watching:
        task.cancel()
    answering.end()
    await asyncio.sleep(0)  # responses of the threads are written


def _stop_with_parent(loop: asyncio.AbstractEventLoop, stopped: asyncio.Event) -> None:
    """Stop when the supervisor has ended, perhaps killed: no other process would stop this worker."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def gone() -> None:
        loop.remove_reader(parent.sentinel)
        stopped.set()

    loop.add_reader(parent.sentinel, gone)


async def _give_memory_back(loop: asyncio.AbstractEventLoop, connections: Connections) -> None:
    """Give memory back to the system some seconds after a burst, in a thread, since it takes milliseconds."""
    while True:
        await asyncio.sleep(TRIM_SECONDS)
        if connections.memory_is_free():
            await loop.run_in_executor(None, memory.give_back)


async def _watch(
    connections: Connections, now: Callable[[], float], answering: Answering, heartbeat: Heartbeat
) -> None:
    """Close connections whose deadline has passed, and beat."""
    while True:
        if answering.is_well():
            heartbeat.beat()
        await asyncio.sleep(LOOK_SECONDS)
        give_up_late(connections, now())


def give_up_late(connections: Connections, moment: float) -> None:
    """Close the connections whose deadline has passed."""
    for each in [each for each in connections.open if each.deadline < moment]:
        each.give_up()


async def _finish(connections: Connections) -> None:
    """End every connection, including new ones, after answering what its client has begun to send."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while loop.time() < begun + (STOP_SECONDS if connections.open else LINGER_SECONDS):
        for each in list(connections.open):
            each.end()
        await asyncio.sleep(0.02)
