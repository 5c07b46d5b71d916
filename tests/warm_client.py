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
    words = [*arguments]
    fields = [folder, str(len(words)), *words, *(f"{name}={value}" for name, value in environment.items())]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.settimeout(seconds)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MOST_BYTES)
        server.connect(address)
        socket.send_fds(server, [b"\0".join(map(os.fsencode, fields))], streams)
        return int(server.recv(16))
