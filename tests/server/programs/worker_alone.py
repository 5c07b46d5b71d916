"""Run a worker that has nothing to answer, print the switch interval of its interpreter while it serves, and stop."""

import os
import signal
import socket
import sys

from hsmkms.config.settings import ServeSettings
from hsmkms.server.heartbeat import Heartbeat
from hsmkms.server.process import worker


class Answering:
    """An application without an endpoint."""

    def begin(self) -> None:
        """Write the switch interval in seconds."""
        sys.stdout.write(f"{sys.getswitchinterval()}\n")

    def is_well(self) -> bool:
        """Return True."""
        return True

    def end(self) -> None:
        """Do nothing."""


def stop() -> None:
    """Send SIGTERM to this process."""
    os.kill(os.getpid(), signal.SIGTERM)


listener = socket.create_server(("127.0.0.1", 0))
worker.run(lambda _loop, _tls: Answering(), ServeSettings(), listener, stop, Heartbeat())
