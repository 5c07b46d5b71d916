"""Processes that the warm one forks (see warm.py), and that a test talks to while they run: servers and programs.

They have the methods and members of ``subprocess.Popen`` that the tests use.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Final

import warm
import warm_client

_OWN_SESSION: Final = "its own"


class Forked:
    """A process that the warm one has forked. Wait for it: it is killed when its connection is closed before."""

    def __init__(
        self, words: Sequence[str], cwd: Path, environment: Mapping[str, str], streams: Sequence[int], session: str = ""
    ) -> None:
        self._server = warm_client.connected(str(warm.folder() / warm.SOCKET))
        warm_client.send(self._server, words, str(cwd), environment, streams, session)
        self.pid = int(self._server.recv(16))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return its status, or minus the signal that ended it; None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the same once it has ended. Raises TimeoutExpired after so many seconds."""
        if self.returncode is None:
            if not select.select([self._server], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self.returncode = int(self._server.recv(16))
            self._server.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it alone."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)


class ForkedProgram(Forked):
    """One of the tests' programs with pipes for its input and output; what it complains about is kept in memory."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        (reads_input, writes_input), (reads_output, writes_output) = os.pipe(), os.pipe()
        complaints = os.memfd_create("stderr")
        self.stdin = os.fdopen(writes_input, "w")
        self.stdout = os.fdopen(reads_output)
        self.stderr = Path(f"/proc/self/fd/{complaints}").open()  # noqa: SIM115 - communicate closes it
        ends = reads_input, writes_output, complaints
        super().__init__(words, Path.cwd(), environment, ends)
        for end in ends:
            os.close(end)
        self._rest: list[str] = []
        self._reader = Thread(target=lambda: self._rest.append(self.stdout.read()), daemon=True)

    def communicate(self, input: str | None = None, timeout: float | None = None) -> tuple[str, str]:  # noqa: A002
        """Write the rest of its input; return what else it prints until it ends, and what it complains about."""
        with suppress(BrokenPipeError):
            if input:
                self.stdin.write(input)
            self.stdin.close()
        if self._reader.ident is None:
            self._reader.start()
        self.wait(timeout)
        self._reader.join()
        self.stdout.close()
        with self.stderr:
            return self._rest[0], self.stderr.read()


Process = Forked | subprocess.Popen[bytes]
"""A server of a test."""
Program = ForkedProgram | subprocess.Popen[str]
"""A program of a test."""


def start(arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], output: int) -> Process:
    """Start `hsmkms` in a session of its own, without input; ``output``: where both its outputs go."""
    with Path(os.devnull).open("rb") as nothing:
        if not warm.acts_early(environment):
            words = [str(warm.SCRIPT), *arguments]
            return Forked(words, cwd, environment, (nothing.fileno(), output, output), _OWN_SESSION)
        return subprocess.Popen(
            [warm.SCRIPT, *arguments],
            stdin=nothing,
            stdout=output,
            stderr=output,
            cwd=cwd,
            env=environment,
            start_new_session=True,
        )


def start_program(program: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> Program:
    """Start one of the programs of the tests; with LD_LIBRARY_PATH, which the loader reads, it is not forked."""
    words = [str(program), *arguments]
    if "LD_LIBRARY_PATH" not in environment:
        return ForkedProgram(words, environment)
    pipe = subprocess.PIPE
    command = [sys.executable, "-X", "faulthandler", *words]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)
