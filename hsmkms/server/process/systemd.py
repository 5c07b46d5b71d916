"""Notify systemd that the server is ready (``Type=notify``). Source: sd_notify(3)."""

import os
import socket
from typing import Final

VARIABLE: Final = "NOTIFY_SOCKET"


def ready() -> None:
    """Send READY=1 to the service manager, if there is one."""
    address = os.environ.get(VARIABLE)
    if not address:
        return
    if address.startswith("@"):  # Linux's abstract names begin with a zero byte
        address = f"\0{address[1:]}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.sendto(b"READY=1", address)
