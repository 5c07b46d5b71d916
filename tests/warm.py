"""Run `hsmkms` and the tests' programs in processes that need not import it: a warm process forks them.

Importing takes most of the time of a command, and the suite runs more than a thousand. The process (warm_process.py)
has imported all, has run a few commands on an installation of its own, and keeps nothing open: no database, no token,
no thread. A command gets its own streams, folder, arguments and environment. Commands of the API that a test runs
itself share a process, one after the other (warm_runner.py), until one fails. Where something acts before ``main`` (a
preloaded library, a variable of Python's), the installed script is run instead; but what `faketime` runs can be forked
from a warm process of its own. Those that a test talks to while they run are in forked.py.
"""

import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Final

import warm_client

from hsmkms.cli.api.build import command_names
from hsmkms.cli.arguments import command_of

SCRIPT: Final = Path(sys.executable).parent / "hsmkms"
EARLY: Final = ("LD_", "PYTHON", "FAKETIME", "LC_", "TZ", "MALLOC_", "OPENSSL_", "TYPER_", "_TYPER_")
"""How the names of variables begin that something reads before ``main``."""
LANG: Final = "C.UTF-8"
SOCKET: Final = "socket"
PIPE_BYTES: Final = 65536
"""What fits into a pipe without a reader."""

AWS: Final = Path(sys.executable).parent / "aws"
AWS_MODULES: Final = ("awscli.clidriver", "awscli.handlers")
"""What each command of the aws CLI imports: it takes most of its time."""
AWS_SOCKET: Final = "aws-socket"

RUNNER: Final = Path(__file__).with_name("warm_runner.py")
HELP: Final = frozenset({"help", "--help", "-h"})

FAKED: Final = ("LD_PRELOAD", "FAKETIME", "FAKETIME_SHARED")
"""The variables that `faketime` sets."""
FAKED_SOCKET: Final = "faked"

# What a shell finds as `hsmkms`. It imports next to nothing, or it would be no faster than what it stands for.
CLIENT: Final = """#!{python} -ISE
import os, sys
early = {{name for name in os.environ if name.startswith({early})}}
address = {address!r}
if early and early <= {faked} and "faketime" in os.environ.get("LD_PRELOAD", "") and os.path.exists({faked_address!r}):
    early, address = (), {faked_address!r}
if early or os.environ.get("LANG") != {lang!r}:
    os.execv({script!r}, [{script!r}, *sys.argv[1:]])
sys.path.insert(0, {here!r})
import warm_client
status = warm_client.ask(address, [{script!r}, *sys.argv[1:]], os.getcwd(), os.environ)
if status < 0:
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


@cache
def folder() -> Path:
    """The folder with the quick `hsmkms`, for the front of a PATH. The process behind it ends with this one."""
    place = Path(tempfile.mkdtemp(prefix="hsmkms-warm-"))
    atexit.register(shutil.rmtree, place)
    _start(place / SOCKET)
    _write_client(place / "hsmkms", SCRIPT, place / SOCKET)
    return place


@cache
def aws_kit() -> Path:
    """A folder whose ``bin`` has a quick `aws`: the unmodified aws CLI, forked from a process that has imported it."""
    place = folder() / "aws-kit"
    (place / "bin").mkdir(parents=True)
    _start(folder() / AWS_SOCKET, AWS, AWS_MODULES)
    _write_client(place / "bin" / "aws", AWS, folder() / AWS_SOCKET)
    return place


class _Runner:
    """A process (warm_runner.py) that runs one command after the other, and is replaced when it has ended."""

    def __init__(self) -> None:
        self._busy = threading.Lock()
        self._control: socket.socket | None = None
        self._server: socket.socket | None = None

    def ask(
        self, words: Sequence[str], cwd: str, environment: Mapping[str, str], streams: Sequence[int], seconds: float
    ) -> int | None:
        """Run a command there; its status. None while another thread's command runs: this one has not been begun."""
        if not self._busy.acquire(blocking=False):
            return None
        try:
            control = self._control or self._start()
            control.settimeout(seconds)
            warm_client.send(control, words, cwd, environment, streams)
            answer = control.recv(16)
            assert answer, f"the process that ran it has been killed: {words}"
            status, goes_on = map(int, answer.split())
            if not goes_on:
                self.end()
        except BaseException:
            self.end()
            raise
        finally:
            self._busy.release()
        return status

    def _start(self) -> socket.socket:
        self._server = warm_client.connected(str(folder() / SOCKET))
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, warm_client.MOST_BYTES)
        warm_client.send(self._server, [str(RUNNER)], "/", {}, (theirs.fileno(), 1, 2))
        theirs.close()
        return self._control

    def end(self) -> None:
        """End the process, if there is one: it is killed if it runs a command."""
        for end in (self._control, self._server):
            if end is not None:
                end.close()
        self._control = self._server = None


_runner: Final = _Runner()
atexit.register(_runner.end)


def _may_share(words: Sequence[str]) -> bool:
    """Return True for a command of the API, but for its help: others change more in their process."""
    return words[0] == str(SCRIPT) and command_of(words[1:]) in command_names() and HELP.isdisjoint(words)


def _write_client(client: Path, script: Path, address: Path) -> None:
    client.write_text(
        CLIENT.format(
            python=sys.executable,
            early=EARLY,
            faked=set(FAKED),
            lang=LANG,
            script=str(script),
            here=str(Path(__file__).parent),
            address=str(address),
            faked_address=str(address.with_name(FAKED_SOCKET)),
        )
    )
    client.chmod(0o700)


@cache
def prepare_faketime() -> None:
    """Make commands quick that `faketime` runs: they are forked from a process whose clock is set by each."""
    faketime = ["faketime", "-f", "+0d", sys.executable, "-c", "import os; print(os.environ['LD_PRELOAD'])"]
    library = subprocess.run(faketime, check=True, capture_output=True, text=True).stdout.strip()
    _start(folder() / FAKED_SOCKET, LD_PRELOAD=library, FAKETIME="+0d", FAKETIME_NO_CACHE="1")


def _start(address: Path, script: Path = SCRIPT, modules: Sequence[str] = (), **environment: str) -> None:
    """Start a warm process that ends with this one."""
    served = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("warm_process.py"), script, address, *modules],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=address.parent,
        env={"PATH": os.environ["PATH"], "LANG": LANG, **environment},
    )
    assert served.stdin is not None
    assert served.stdout is not None
    assert served.stdout.readline() == b"warm\n"

    def end() -> None:
        served.stdin.close()
        served.stdout.close()
        served.wait()

    atexit.register(end)


def acts_early(environment: Mapping[str, str]) -> bool:
    """Return whether something in an environment acts before ``main``, which a forked process has behind it."""
    return any(name.startswith(EARLY) for name in environment) or environment.get("LANG") != LANG


def run(
    arguments: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    stdin: bytes,
    seconds: float,
    *,
    one_output: bool = False,
) -> "subprocess.CompletedProcess[bytes]":
    """Run `hsmkms` without a terminal, as ``subprocess.run`` would, but without a client's process.

    ``one_output``: standard error goes where standard output goes.
    """
    if acts_early(environment) or len(stdin) > PIPE_BYTES:
        command = [SCRIPT, *arguments]
        errors = subprocess.STDOUT if one_output else subprocess.PIPE
        return subprocess.run(
            command,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=errors,
            check=False,
            timeout=seconds,
            cwd=cwd,
            env=environment,
        )
    return _ask([str(SCRIPT), *arguments], cwd, environment, stdin, seconds, one_output=one_output)


def run_program(
    program: Path, arguments: Sequence[str], environment: Mapping[str, str], seconds: float, cwd: Path | None = None
) -> "subprocess.CompletedProcess[bytes]":
    """Run one of the programs of the tests in a process of its own; its standard input is empty.

    TimeoutError after so many ``seconds``: the program is killed. The loader reads LD_LIBRARY_PATH when a process
    starts, so with it a new one is started.
    """
    if "LD_LIBRARY_PATH" in environment:
        command = [sys.executable, str(program), *arguments]
        nothing = subprocess.DEVNULL
        return subprocess.run(
            command, stdin=nothing, capture_output=True, check=False, timeout=seconds, cwd=cwd, env=environment
        )
    return _ask([str(program), *arguments], cwd or Path.cwd(), environment, b"", seconds)


def _ask(
    words: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    stdin: bytes,
    seconds: float,
    *,
    one_output: bool = False,
) -> "subprocess.CompletedProcess[bytes]":
    """Run a command in a process that the warm one forks. Its output goes to files in memory."""
    address = str(folder() / SOCKET)
    with ExitStack() as files:
        output, errors = (files.enter_context(os.fdopen(os.memfd_create(name), "rb")) for name in ("out", "err"))
        reading, writing = os.pipe()
        files.callback(os.close, reading)
        os.write(writing, stdin)
        os.close(writing)
        streams = (reading, output.fileno(), (output if one_output else errors).fileno())
        status = _runner.ask(words, str(cwd), environment, streams, seconds) if _may_share(words) else None
        if status is None:
            status = warm_client.ask(address, words, str(cwd), environment, streams, seconds)
        for file in (output, errors):
            file.seek(0)
        return subprocess.CompletedProcess(words, status, output.read(), errors.read())
