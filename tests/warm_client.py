"""Asking the warm process (see warm.py) for a command. Imports only what a client in a shell has to wait for."""

import os
import socket
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
    with connected(address) as server:
        server.settimeout(seconds)
        send(server, arguments, folder, environment, streams)
        return int(server.recv(16))


def connected(address: str) -> socket.socket:
    """Connect to the warm process: a command that it is sent is killed when the connection is closed before its end."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.connect(address)
    return server


def send(
    receiver: socket.socket,
    arguments: Iterable[str],
    folder: str,
    environment: Mapping[str, str],
    streams: Sequence[int],
) -> None:
    """Send a command to the process at the other end of a socket."""
    words = [*arguments]
    fields = [folder, str(len(words)), *words, *(f"{name}={value}" for name, value in environment.items())]
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MOST_BYTES)
    socket.send_fds(receiver, [b"\0".join(map(os.fsencode, fields))], streams)
