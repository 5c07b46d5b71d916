"""`hsmkms` in processes of its own that need not import it first: each is forked from one that has.

Importing takes most of the time of a command, and the suite runs a thousand of them. The warm process imports and does
nothing else: no database, no token, no thread. What it forks gets the streams, folder, arguments and environment of
whoever asked, runs ``main`` as the installed script does, and ends as an interpreter ends. Where something acts before
``main`` (a preloaded library, a variable of Python's), the installed script is run instead.

Run as a program, this is the warm process: it serves the socket that it is told until its standard input is closed.
"""

import atexit
import contextlib
import gc
import importlib
import os
import pkgutil
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final, NoReturn

from warm_client import MOST_BYTES

SCRIPT: Final = Path(sys.executable).parent / "hsmkms"
EARLY: Final = ("LD_", "PYTHON", "FAKETIME", "LC_", "TZ", "MALLOC_", "OPENSSL_", "TYPER_", "_TYPER_")
"""How the names of variables begin that something reads before ``main``."""
LANG: Final = "C.UTF-8"
COLD: Final = ("hsmkms.server", "hsmkms.testing", "hsmkms.store.migrations", "hsmkms.__main__")
"""What the commands do not import, or what does something when it is imported."""
LAZY: Final = (
    "pydantic.json_schema",
    "pydantic.plugin._schema_validator",
    "rich.markdown",
    "sqlalchemy.dialects.sqlite",
    "tomllib",
    "typer._adapters",
    "zoneinfo",
)
"""What libraries import when they first need it."""
STREAMS: Final = 3

# What a shell finds as `hsmkms`. It imports next to nothing, or it would be no faster than what it stands for.
CLIENT: Final = """#!{python} -ISE
import os, sys
if any(name.startswith({early}) for name in os.environ) or os.environ.get("LANG") != {lang!r}:
    os.execv({script!r}, [{script!r}, *sys.argv[1:]])
sys.path.insert(0, {here!r})
import warm_client
status = warm_client.ask({address!r}, sys.argv[1:], os.getcwd(), os.environ)
if status < 0:
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


@cache
def folder() -> Path:
    """The folder with the quick `hsmkms`, for the front of a PATH. The process behind it ends with this one."""
    place = Path(tempfile.mkdtemp(prefix="hsmkms-warm-"))
    address = place / "socket"
    served = subprocess.Popen(
        [sys.executable, __file__, address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=place,
        env={"PATH": os.environ["PATH"], "LANG": LANG},
    )
    assert served.stdin is not None
    assert served.stdout is not None
    assert served.stdout.readline() == b"warm\n"
    client = place / "hsmkms"
    client.write_text(
        CLIENT.format(
            python=sys.executable,
            early=EARLY,
            lang=LANG,
            script=str(SCRIPT),
            here=str(Path(__file__).parent),
            address=str(address),
        )
    )
    client.chmod(0o700)

    def end() -> None:
        served.stdin.close()
        served.stdout.close()
        served.wait()
        shutil.rmtree(place)

    atexit.register(end)
    return place


def serve(address: str) -> None:
    """Fork for whoever asks, until nobody can any more. Returns only in what was forked: there the command can run."""
    life = os.dup(0)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen(64)
    gc.collect()
    gc.freeze()  # or each child's collector would copy everything by looking at it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    os.write(1, b"warm\n")
    poll = select.poll()
    poll.register(life, select.POLLHUP)
    poll.register(listener, select.POLLIN)
    while life not in {ready for ready, _ in poll.poll()}:
        client, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            os.close(life)
            return _run(client)
        client.close()
    sys.exit(0)


def _run(client: socket.socket) -> None:
    """Fork the command and return in it; here, tell the client how it ended, and end it if the client goes."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MOST_BYTES)
    sent, streams, _, _ = socket.recv_fds(client, MOST_BYTES, STREAMS)
    command = os.fork()
    if command == 0:
        client.close()
        _become(sent.split(b"\0"), streams)
        return
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(command)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(client, select.POLLHUP)
    if ended not in {ready for ready, _ in poll.poll()}:
        os.kill(command, signal.SIGKILL)
    _, status = os.waitpid(command, 0)
    with contextlib.suppress(BrokenPipeError):
        client.send(b"%d" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _become(fields: list[bytes], streams: list[int]) -> None:
    """The client's folder, arguments, environment and streams."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(fields[0])
    count = int(fields[1])
    sys.argv = [str(SCRIPT), *map(os.fsdecode, fields[2 : count + 2])]
    os.environ.clear()
    for field in fields[count + 2 :]:
        name, _, value = field.partition(b"=")
        os.environb[name] = value


def _finish(main: Callable[[], None]) -> NoReturn:
    """Run the command and end as the interpreter would, but for freeing a memory that the kernel frees anyway."""
    status: object = 0
    try:
        main()
    except SystemExit as exc:
        status = exc.code or 0
    assert isinstance(status, int)
    threading._shutdown()  # the first two steps of Py_FinalizeEx
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _warm_up() -> None:
    """Import what a command may import."""
    import hsmkms  # noqa: PLC0415 - whoever uses folder() needs none of it

    for module in pkgutil.walk_packages(hsmkms.__path__, "hsmkms."):
        if not module.name.startswith(COLD):
            importlib.import_module(module.name)
    for name in LAZY:
        importlib.import_module(name)


if __name__ == "__main__":
    from hsmkms.cli.main import main

    _warm_up()
    serve(sys.argv[1])
    _finish(main)
