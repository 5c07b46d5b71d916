"""Asking the warm process (see warm.py) for a command. Imports only what a client in a shell has to wait for.

The module ``socket`` takes as long to import as Python to start, so its sockets are those that ``_socket`` makes.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, SCM_RIGHTS, SO_SNDBUF, SOCK_SEQPACKET, SOL_SOCKET, socket
from array import array

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MOST_BYTES = 1 << 18


def ask(
    address: str,
    arguments: Iterable[str],
    folder: str,
    environment: Mapping[str, str],
    streams: Sequence[int] = (0, 1, 2),
    seconds: float | None = None,
) -> int:
    """Run `hsmkms` with these streams; its status, or minus the signal that ended it.

    TimeoutError after so many ``seconds``: the command is killed.
    """
    server = connected(address)
    try:
        server.settimeout(seconds)
        send(server, arguments, folder, environment, streams)
        server.recv(16)  # its process id
        return int(server.recv(16))
    finally:
        server.close()


def connected(address: str) -> socket:
    """Connect to the warm process: a command that it is sent is killed when the connection is closed before its end."""
    server = socket(AF_UNIX, SOCK_SEQPACKET)
    server.connect(address)
    return server


def send(
    receiver: socket,
    arguments: Iterable[str],
    folder: str,
    environment: Mapping[str, str],
    streams: Sequence[int],
    session: str = "",
) -> None:
    """Send a command to the process at the other end of a socket. ``session``: any word for a new one of its own."""
    words = [*arguments]
    fields = [session, folder, str(len(words)), *words, *(f"{name}={value}" for name, value in environment.items())]
    receiver.setsockopt(SOL_SOCKET, SO_SNDBUF, MOST_BYTES)
    receiver.sendmsg([b"\0".join(map(os.fsencode, fields))], [(SOL_SOCKET, SCM_RIGHTS, array("i", streams))])
