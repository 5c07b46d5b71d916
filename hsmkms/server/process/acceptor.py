"""Accept connections over TLS, counted from the beginning of their handshake, which takes memory as well."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from hsmkms.server.process.connection import Connection
from hsmkms.server.process.connections import LINGERING, Connections

HANDSHAKE_SECONDS: Final = 10.0
AT_A_TIME: Final = 64
"""Connections that are accepted in one turn of the event loop."""

PAUSE_SECONDS: Final = 0.1
HELLO_BYTES: Final = 16 * 1024

ALERT: Final = bytes((21, 3, 3, 0, 2, 2, 80))
"""A fatal alert, internal_error (RFC 8446, section 6.2): the only possible message before a handshake."""


class Acceptor:
    """Accepts connections from a listening socket. Clients beyond the limit get an error after their handshake."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        context: ssl.SSLContext,
        connection: Callable[[], Connection],
        connections: Connections,
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._context = context
        self._connection = connection
        self._connections = connections
        self._handshakes: set[asyncio.Task[None]] = set()
        self._closed = False
        listener.setblocking(False)
        loop.add_reader(listener, self._accept)

    def close(self) -> None:
        """Stop accepting."""
        self._closed = True
        self._loop.remove_reader(self._listener)
        self._listener.close()

    def _accept(self) -> None:
        for _ in range(AT_A_TIME):
            try:
                client, _ = self._listener.accept()
            except (BlockingIOError, ConnectionError, InterruptedError):
                return  # no client waits
            except OSError:
                self._pause()  # too many open files: waiting clients would wake the loop again and again
                return
            client.setblocking(False)
            if len(self._handshakes) + len(self._connections.open) >= self._connections.most + LINGERING:
                _turn_away(client)
                continue
            task = self._loop.create_task(self._shake_hands(client))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    def _pause(self) -> None:
        self._loop.remove_reader(self._listener)
        self._loop.call_later(PAUSE_SECONDS, self._resume)

    def _resume(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._accept)

    async def _shake_hands(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self._loop.connect_accepted_socket(
                self._connection, client, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
        except OSError:  # of TLS as well
            client.close()


def _turn_away(client: socket.socket) -> None:
    with suppress(OSError):
        client.send(ALERT)
        client.recv(HELLO_BYTES)  # closing a socket with unread data would discard the alert
    client.close()
