"""The parent of the workers: it proves the PIN once, starts them, replaces those that die, and stops them.

It never loads the PKCS#11 module, since a module is of no use after a fork. A PIN that is asked for at the terminal is
asked for once, here, and is in the workers' memory when they begin; it is in no environment and no argument. Every
other source is read by each worker. Each worker has a listening socket of its own on the same port (SO_REUSEPORT),
which the parent holds, so that nobody is refused while a worker is replaced.
"""

import ipaddress
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from hsmkms import config, wiring
from hsmkms.config import Secret, ServeSettings, Settings
from hsmkms.errors import ConfigurationError, HsmKmsError, SetupError
from hsmkms.http import notify

START_REFUSED: Final = 78
"""Exit status where starting again cannot help (EX_CONFIG): a refused PIN, a wrong setting, a wrong token."""

STOP_SECONDS: Final = 35.0
"""A worker that has not stopped by then is killed."""

AGAIN_SECONDS: Final = 1.0
"""A worker that died is replaced after that time."""

_context: Final = multiprocessing.get_context("fork")


def tell_systemd(port: int) -> None:
    """Everybody else asks ``/readyz``."""
    del port
    notify.ready()


def serve(
    settings: Settings,
    *,
    proven: bool = False,
    ready: Callable[[int], None] = tell_systemd,
    lifeline: int | None = None,
    scratch: Path | None = None,
) -> None:
    """Serve until SIGTERM; SIGHUP replaces the workers one by one, with the certificate that is on the disk then.

    ``proven``: the installation was opened just now with the same PIN. ``ready`` is told the port once the first worker
    answers. ``lifeline``: a file descriptor whose end stops the server like SIGTERM. ``scratch``: where workers keep
    their counts, if not in the system's folder for temporary files. Raises ConfigurationError; ends the process with
    status 78 where starting again cannot help.
    """
    with refusing():
        _check_address(settings.serve)
        pin = _ask_pin(settings)
    if not proven:
        _prove(settings, pin)
    with tempfile.TemporaryDirectory(prefix="hsmkms-counts-", dir=scratch) as board:
        _Workers(settings, pin, Path(board), ready, lifeline).run()


@contextmanager
def refusing() -> Iterator[None]:
    """End the process with status 78 for what the operator must mend first."""
    try:
        yield
    except SetupError as exc:
        _complain(exc, START_REFUSED)


class _Worker(Struct):
    """A process, the socket that it serves, and the pipe on which it says that it is ready."""

    process: BaseProcess
    listener: socket.socket
    told: Pipe
    ready: bool = False


class _Workers:
    """The workers of one server."""

    def __init__(
        self,
        settings: Settings,
        pin: Secret | None,
        board: Path,
        ready: Callable[[int], None],
        lifeline: int | None,
    ) -> None:
        self._settings = settings
        self._pin = pin
        self._board = board
        self._ready = ready
        self._listeners: list[socket.socket] = []
        self._workers: list[_Worker] = []
        self._signals: list[int] = []
        self._wake_read, self._wake_write = os.pipe()
        self._lifeline = [lifeline] if lifeline is not None else []

    def run(self) -> None:
        """Start all, then look after them."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note)
        self._listeners = _listeners(self._settings.serve)
        self._workers = [self._start(each) for each in self._listeners]
        announced = False
        while True:
            self._wait()
            if not announced and any(each.ready for each in self._workers):
                announced = True
                self._ready(self._listeners[0].getsockname()[1])
            if signal.SIGTERM in self._signals or signal.SIGINT in self._signals:
                self._stop_all()
                return
            if signal.SIGHUP in self._signals:
                self._signals.clear()
                self._renew()
            self._replace_dead()

    def _note(self, number: int, frame: object) -> None:
        del frame
        self._signals.append(number)
        os.write(self._wake_write, b"!")

    def _wait(self) -> None:
        """Until a worker says something or dies, or a signal comes."""
        pipes = [each.told for each in self._workers if not each.ready]
        sentinels = [each.process.sentinel for each in self._workers]
        happened = wait([self._wake_read, *self._lifeline, *pipes, *sentinels])
        if any(each in happened and not os.read(each, 4096) for each in self._lifeline):
            self._lifeline.clear()
            self._signals.append(signal.SIGTERM)
        if self._wake_read in happened:
            os.read(self._wake_read, 4096)
        for each in self._workers:
            if each.told in happened:
                each.ready = each.told.poll() and _heard(each.told)

    def _start(self, listener: socket.socket) -> _Worker:
        here, there = _context.Pipe(duplex=False)
        others = [here, *(each for each in self._listeners if each is not listener)]
        process = _context.Process(target=_work, args=(self._settings, self._pin, self._board, listener, there, others))
        process.start()
        there.close()
        return _Worker(process, listener, here)

    def _replace_dead(self) -> None:
        for place, each in enumerate(self._workers):
            if each.process.is_alive():
                continue
            each.process.join()
            if each.process.exitcode == START_REFUSED:
                self._stop_all()
                sys.exit(START_REFUSED)
            sys.stderr.write(f"hsmkms: a worker ended with status {each.process.exitcode}: it is replaced\n")
            time.sleep(AGAIN_SECONDS)
            self._workers[place] = self._start(each.listener)

    def _renew(self) -> None:
        """Replace the workers one by one: the new one serves before the old one stops."""
        for place, old in enumerate(self._workers):
            new = self._start(old.listener)
            while not new.ready and new.process.is_alive():
                if new.told.poll(0.1):
                    new.ready = _heard(new.told)
            if not new.ready:
                sys.stderr.write("hsmkms: a new worker did not start, so the old ones go on: see the message above\n")
                return
            self._workers[place] = new
            self._stop([old.process])

    def _stop_all(self) -> None:
        """New clients are refused from now on, not kept waiting for workers that finish what they have."""
        for each in self._listeners:
            each.close()
        self._stop([each.process for each in self._workers])

    @staticmethod
    def _stop(processes: list[BaseProcess]) -> None:
        for each in processes:
            each.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for each in processes:
            each.join(max(deadline - time.monotonic(), 0.0))
            if each.is_alive():
                each.kill()
                each.join()


def _heard(pipe: Pipe) -> bool:
    """What a worker says: True when it is ready; a closed pipe says nothing any more."""
    try:
        return bool(pipe.recv())
    except EOFError:
        return False


def _listeners(serve: ServeSettings) -> list[socket.socket]:
    """One listening socket for each worker, all on one port."""
    port = serve.port
    listeners = []
    try:
        for _ in range(serve.workers):
            family = socket.AF_INET6 if ":" in serve.host else socket.AF_INET
            listener = socket.socket(family)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind((serve.host, port))
            listener.listen(4096)
            port = listener.getsockname()[1]
            listeners.append(listener)
    except OSError as exc:
        raise ConfigurationError(f"cannot listen on {serve.host} port {port}: {exc.strerror}") from exc
    return listeners


# -- before the workers -----------------------------------------------------------------------------------------


def _check_address(serve: ServeSettings) -> None:
    if serve.certificate is None and not serve.plain_http and not _is_loopback(serve.host):
        raise ConfigurationError(
            f"serve.host = {serve.host!r} is no loopback address, and there is no TLS: name serve.certificate and "
            "serve.private_key, or say serve.plain_http = true if something else protects the way"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _ask_pin(settings: Settings) -> Secret | None:
    """The PIN, if it is asked for at the terminal."""
    if not settings.token.pin.prompt:
        return None
    return Secret(config.read_pin(settings.token.pin, interactive=config.terminal_prompt()))


def _prove(settings: Settings, pin: Secret | None) -> None:
    """Open the installation once in a process of its own: a wrong PIN is then refused once, and not by each worker."""
    child = _context.Process(target=_try_to_open, args=(settings, pin))
    child.start()
    child.join()
    if child.exitcode:
        sys.exit(child.exitcode)


def _try_to_open(settings: Settings, pin: Secret | None) -> None:
    from hsmkms.http.worker import tls_context  # noqa: PLC0415 - not in the parent

    try:
        tls_context(settings.serve)
        _open(settings, pin).close()
    except SetupError as exc:
        _complain(exc, START_REFUSED)
    except OSError as exc:
        _complain(ConfigurationError(f"serve.certificate or serve.private_key cannot be used: {exc}"), START_REFUSED)
    except HsmKmsError as exc:
        _complain(exc, 1)


def _complain(error: HsmKmsError, status: int) -> None:
    sys.stderr.write(f"hsmkms: {type(error).__name__}: {error}\n")
    sys.exit(status)


def _open(settings: Settings, pin: Secret | None) -> Any:  # noqa: ANN401 - Kms, imported in the process that needs it
    from hsmkms.service.kms import Kms  # noqa: PLC0415 - not in the parent: it must not load the module

    return Kms(wiring.core_of(settings, monotonic=wiring.boot_time, pin=pin))


def _work(
    settings: Settings,
    pin: Secret | None,
    board: Path,
    listener: socket.socket,
    told: Pipe,
    others: Sequence[Pipe | socket.socket],
) -> None:
    """The life of a worker. ``others``: what it inherits of the parent's and must not keep open."""
    from hsmkms.http import logs, worker  # noqa: PLC0415 - in the worker only
    from hsmkms.http.serving import Serving  # noqa: PLC0415

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN if number == signal.SIGHUP else signal.SIG_DFL)
    for each in others:
        each.close()
    logs.set_up(settings.serve.log_format)
    try:
        serving = Serving(_open(settings, pin), settings.serve, board)
        worker.run(serving, settings.serve, listener, lambda: told.send(True))
    except SetupError as exc:
        _complain(exc, START_REFUSED)
    except HsmKmsError as exc:
        _complain(exc, 1)
