"""The warm process (see warm.py): it has imported hsmkms, and forks a command for each client that connects.

Run as a program: SCRIPT SOCKET [MODULE...]. It serves the socket until its standard input is closed. With modules it
has imported these instead, for a script that is another program.
"""

import atexit
import contextlib
import faulthandler
import gc
import importlib
import io
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from typer.main import get_command
from warm_client import MOST_BYTES

import hsmkms
from hsmkms.cli.main import application, main

COLD: Final = ("hsmkms.testing", "hsmkms.store.migrations", "hsmkms.__main__")
"""What the commands do not import, or what does something when it is imported."""
LAZY: Final = (
    "pydantic.json_schema",
    "pydantic.plugin._loader",
    "pydantic.plugin._schema_validator",
    "rich.markdown",
    "sqlalchemy.dialects.sqlite",
    "tomllib",
    "typer._adapters",
    "typer._click.decorators",
    "zoneinfo",
)
"""What libraries import when they first need it."""
COMMANDS: Final = (
    "create-key --query KeyMetadata.KeyId --output text",
    "describe-key --key-id {key}",
    "encrypt --key-id {key} --plaintext aGVsbG8=",
    "list-keys",
)
"""What is run before the first fork; the first prints the key of the others."""
STREAMS: Final = 3
STDIN: Final = 0


class Command(NamedTuple):
    """A command that runs: the connection of the client that waits for it, its process id, and a pidfd of it."""

    client: socket.socket
    pid: int
    pidfd: int

    @property
    def descriptors(self) -> tuple[int, int]:
        """What shows that it has ended, or that its client has gone."""
        return self.pidfd, self.client.fileno()

    def kill(self) -> None:
        """End it; it has not been waited for, so that its process id is still its own."""
        os.kill(self.pid, signal.SIGKILL)

    def finish(self) -> None:
        """Wait for its end, and send its status to the client."""
        _, status = os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        with contextlib.suppress(ConnectionError):
            self.client.send(b"%d" % os.waitstatus_to_exitcode(status))
        self.client.close()


class Server:
    """Forks commands for the clients of a socket. ``variables``: what the imports have put into the environment."""

    def __init__(self, address: str, variables: Mapping[str, str]) -> None:
        self._variables = variables
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(address)
        self._listener.listen(64)
        self._running: dict[int, Command] = {}
        self._poll = select.poll()
        self._poll.register(STDIN, select.POLLHUP)
        self._poll.register(self._listener, select.POLLIN)

    def serve(self) -> None:
        """Serve until standard input is closed. Returns only in a forked process: there the command can run."""
        while True:
            for ready, _ in self._poll.poll():
                if ready == STDIN:
                    for command in set(self._running.values()):
                        command.kill()
                    sys.exit(0)
                if ready in self._running:
                    self._end(self._running[ready], has_ended=ready == self._running[ready].pidfd)
                elif ready == self._listener.fileno() and self._fork():
                    return

    def _fork(self) -> bool:
        """Fork the command that the next client sends; return True in the forked process."""
        client, _ = self._listener.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MOST_BYTES)
        sent, streams, _, _ = socket.recv_fds(client, MOST_BYTES, STREAMS)
        pid = os.fork()
        if pid == 0:
            become(sent, streams)
            with contextlib.suppress(ConnectionError):
                client.send(b"%d" % os.getpid())
            keep_no_file()
            os.environ.update(self._variables)
            return True
        for stream in streams:
            os.close(stream)
        command = Command(client, pid, os.pidfd_open(pid))
        for descriptor, event in zip(command.descriptors, (select.POLLIN, select.POLLHUP), strict=True):
            self._running[descriptor] = command
            self._poll.register(descriptor, event)
        return False

    def _end(self, command: Command, *, has_ended: bool) -> None:
        """Finish a command; one whose client has gone is killed."""
        if not has_ended:
            command.kill()
        for descriptor in command.descriptors:
            del self._running[descriptor]
            self._poll.unregister(descriptor)
        command.finish()


def become(sent: bytes, streams: list[int]) -> None:
    """Take over the streams, session, folder, arguments and environment that a client has sent."""
    session, *fields = sent.split(b"\0")
    if session:
        os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(fields[0])
    count = int(fields[1])
    sys.argv = [*map(os.fsdecode, fields[2 : count + 2])]
    os.environ.clear()
    for field in fields[count + 2 :]:
        name, _, value = field.partition(b"=")
        os.environb[name] = value


def keep_no_file() -> None:
    """Close all files but the standard streams."""
    os.closerange(STREAMS, max(open_files()) + 1)


def open_files() -> set[int]:
    """Return the numbers of all open files; one of them was of the folder that lists them."""
    return {int(path.name) for path in Path("/proc/self/fd").iterdir()}


def _run_program() -> None:
    """Run the program that the first argument names, as an interpreter of its own would."""
    paths = [str(Path(sys.argv[0]).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    sys.path[:0] = [path for path in paths if path]
    faulthandler.enable()
    runpy.run_path(sys.argv[0], run_name="__main__")


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


def _import_all() -> None:
    """Import what a command may import."""
    for module in pkgutil.walk_packages(hsmkms.__path__, "hsmkms."):
        if not module.name.startswith(COLD):
            importlib.import_module(module.name)
    for name in LAZY:
        importlib.import_module(name)


def _run_commands() -> None:
    """Run some commands on an installation of its own, for what libraries compile and cache when they first need it.

    They leave nothing open: no thread and no file, and so no database and no session of a token.
    """
    variables, files = dict(os.environ), open_files()
    with tempfile.TemporaryDirectory(prefix="hsmkms-warm-") as folder:
        os.environ["HSMKMS_CONFIG"] = f"{folder}/data/hsmkms.toml"
        _printed(f"init --data-dir {folder}/data --create-softhsm-token")
        first, *others = COMMANDS
        key = _printed(first).strip()
        for line in others:
            _printed(line.format(key=key))
    os.environ.clear()
    os.environ.update(variables)
    assert threading.active_count() == 1
    assert open_files() == files


def _printed(line: str) -> str:
    """Run a command in this process; return what it printed."""
    words = line.split()
    with contextlib.redirect_stdout(io.StringIO()) as output:
        get_command(application(words[0]))(args=words, prog_name="hsmkms", standalone_mode=False)
    return output.getvalue()


if __name__ == "__main__":
    script, address, *modules = sys.argv[1:]
    before = dict(os.environ)
    for module in modules:
        importlib.import_module(module)
    if not modules:
        _import_all()
        _run_commands()
    server = Server(address, {name: value for name, value in os.environ.items() if name not in before})
    gc.collect()
    gc.freeze()  # or the collector of each command would copy every page by looking at it
    os.write(1, b"warm\n")
    server.serve()
    _finish(main if sys.argv[0] == script and not modules else _run_program)
