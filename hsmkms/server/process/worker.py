"""One worker process: it opens the installation for itself, serves a socket until it is told to stop, and closes."""

import asyncio
import gc
import multiprocessing
import signal
import socket
import ssl
from collections.abc import Callable
from typing import Final, Protocol

import uvloop

from hsmkms.config.settings import ServeSettings
from hsmkms.server.heartbeat import Pulse
from hsmkms.server.process import memory
from hsmkms.server.process.acceptor import Acceptor
from hsmkms.server.process.connection import LINGER_SECONDS, Connection, Handler
from hsmkms.server.process.connections import Connections, connections_of

BACKLOG: Final = 4096
TRIM_SECONDS: Final = 2.0
"""How often memory is given back at most."""

ALPN: Final = ["http/1.1"]
"""Protocols over TLS: to a client that offers HTTP/2 as well, this says what is spoken."""

LOOK_SECONDS: Final = 0.5
"""How often the time limits of connections are looked at."""

ACCEPT_SECONDS: Final = 0.05
"""For clients that have connected already and wait to be accepted; the parent has closed the port for others."""

STOP_SECONDS: Final = 30.0
"""How long requests that run may take to finish when the server is stopped."""


class Answering(Handler, Protocol):
    """What answers requests in a worker."""

    def begin(self) -> None:
        """Begin what is done beside the requests."""

    def is_well(self) -> bool:
        """Answer who has waited too long; False if nothing can be answered any more."""

    def end(self) -> None:
        """Finish everything."""


Make = Callable[[asyncio.AbstractEventLoop, bool], Answering]
"""Makes what answers on a loop; True: nobody can listen on the way to it."""


def run(make: Make, settings: ServeSettings, listener: socket.socket, ready: Callable[[], None], pulse: Pulse) -> None:
    """Serve until SIGTERM; ``ready`` is called when clients are answered, ``pulse`` beats while they can be."""
    uvloop.run(_serve(make, settings, listener, ready, pulse))


def tls_context(settings: ServeSettings) -> ssl.SSLContext | None:
    """The certificate and its key as they are on the disk now, for TLS 1.2 and newer; None for plain HTTP."""
    if settings.certificate is None or settings.private_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(ALPN)
    context.load_cert_chain(settings.certificate, settings.private_key)
    return context


async def _serve(
    make: Make, settings: ServeSettings, listener: socket.socket, ready: Callable[[], None], pulse: Pulse
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
    gc.freeze()  # what is there now stays: later collections need not walk it, and pages of the parent stay shared
    ready()
    watching = [
        asyncio.create_task(_watch(connections, loop.time, answering, pulse)),
        asyncio.create_task(_give_memory_back(loop, connections)),
    ]
    await stopped.wait()
    await asyncio.sleep(ACCEPT_SECONDS)
    server.close()
    await _finish(connections)
    for task in watching:
        task.cancel()
    answering.end()
    await asyncio.sleep(0)  # what threads have finished is written


def _stop_with_parent(loop: asyncio.AbstractEventLoop, stopped: asyncio.Event) -> None:
    """Stop when the parent is gone, killed perhaps: nobody else would ever stop this worker."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def gone() -> None:
        loop.remove_reader(parent.sentinel)
        stopped.set()

    loop.add_reader(parent.sentinel, gone)


async def _give_memory_back(loop: asyncio.AbstractEventLoop, connections: Connections) -> None:
    """Give memory back to the system some seconds after a burst; from a thread, since it takes milliseconds."""
    while True:
        await asyncio.sleep(TRIM_SECONDS)
        if connections.memory_is_free():
            await loop.run_in_executor(None, memory.give_back)


async def _watch(connections: Connections, now: Callable[[], float], answering: Answering, pulse: Pulse) -> None:
    """Close connections whose time is over, and give signs of life."""
    while True:
        if answering.is_well():
            pulse.beat()
        await asyncio.sleep(LOOK_SECONDS)
        give_up_late(connections, now())


def give_up_late(connections: Connections, moment: float) -> None:
    """Give up the connections whose time is over at a moment."""
    for each in [each for each in connections.open if each.deadline < moment]:
        each.give_up()


async def _finish(connections: Connections) -> None:
    """Let every connection answer what its client has begun to ask, also those that are just being made."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while loop.time() < begun + (STOP_SECONDS if connections.open else LINGER_SECONDS):
        for each in list(connections.open):
            each.end()
        await asyncio.sleep(0.02)
