"""Run one command of the API after the other, for warm.py: most of a short command's time is its fork's.

The kernel copies each page that a forked process writes to, and Python counts references in all that it looks at. The
warm process runs it; standard input is the socket over which commands come and their statuses go. It ends after a
command that has failed, or left a thread or a file: the next one has a fresh process.
"""

import atexit
import io
import logging
import os
import socket
import sys
import threading
from typing import Final

from warm_client import MOST_BYTES
from warm_process import STREAMS, become, open_files

from hsmkms.cli.main import main

UMASK: Final = 0o022
"""The usual one, with which a command begins."""


def serve(control: socket.socket) -> None:
    """Run commands until one leaves something behind, or there are no more."""
    variables, files = dict(os.environ), open_files()
    clean = True
    while clean:
        sent, streams, _, _ = socket.recv_fds(control, MOST_BYTES, STREAMS)
        if not sent:
            return
        become(sent, streams)
        os.environ.update(variables)
        status = run()
        clean = status == 0 and threading.active_count() == 1 and open_files() == files
        control.send(b"%d %d" % (status, clean))


def run() -> int:
    """Run a command as a fresh process would; return its status."""
    logging.getLogger("hsmkms").handlers.clear()  # of the command before
    os.umask(UMASK)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), line_buffering=True)
    status: object = 0
    try:
        main()
    except SystemExit as exc:
        status = exc.code or 0
    assert isinstance(status, int)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


if __name__ == "__main__":
    serve(socket.socket(fileno=os.dup(0)))
