"""The parent of the workers: it proves the PIN once, and says what a worker does; workers.py looks after them.

It never loads the PKCS#11 module, since a module is of no use after a fork. A PIN that is asked for at the terminal is
asked for once, here, and is in the workers' memory when they begin; it is in no environment and no argument. Every
other source is read by each worker.
"""

import ipaddress
import multiprocessing
import resource
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, Final

from hsmkms import config, wiring
from hsmkms.config import Secret, ServeSettings, Settings
from hsmkms.errors import ConfigurationError, HsmKmsError, SetupError
from hsmkms.http import notify
from hsmkms.http.pulse import Pulse
from hsmkms.http.workers import SIGNALS, START_REFUSED, Inherited, Lives, Workers

Reread = Callable[[], Settings]

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
    reread: Reread | None = None,
) -> None:
    """Serve until SIGTERM; SIGHUP replaces the workers one by one, with the certificate that is on the disk then.

    ``proven``: the installation was opened just now with the same PIN. ``ready`` is told the port once the first worker
    answers. ``lifeline``: a file descriptor whose end stops the server like SIGTERM. ``scratch``: where workers keep
    their counts, if not in the system's folder for temporary files. ``reread`` reads the settings again, for tokens
    that are added while the server runs. Raises ConfigurationError; ends the process with status 78 where starting
    again cannot help.
    """
    with refusing():
        _check_address(settings.serve)
        pin = _ask_pin(settings)
    if not proven:
        _prove(settings, pin)
    _allow_connections()
    with tempfile.TemporaryDirectory(prefix="hsmkms-counts-", dir=scratch) as board:
        replaced = Pulse()
        shared = settings, Path(board), replaced
        opener = partial(_open, settings, pin, reread)
        lives = Lives(worker=partial(_work, opener, *shared), stand_in=partial(_stand_in, *shared))
        Workers(settings.serve, lives, replaced, ready, lifeline).run()


@contextmanager
def refusing() -> Iterator[None]:
    """End the process with status 78 for what the operator must mend first."""
    try:
        yield
    except SetupError as exc:
        _complain(exc, START_REFUSED)


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


def _allow_connections() -> None:
    """As many open files as the system lets this process have: the usual limit is meant for programs that poll less."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


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


def _open(settings: Settings, pin: Secret | None, reread: Reread | None = None) -> Any:  # noqa: ANN401 - Kms, imported in the process that needs it
    from hsmkms.service.kms import Kms  # noqa: PLC0415 - not in the parent: it must not load the module

    return Kms(wiring.core_of(settings, monotonic=wiring.boot_time, pin=pin, reread=reread))


def _work(
    opener: Callable[[], Any],
    settings: Settings,
    board: Path,
    replaced: Pulse,
    listener: socket.socket,
    told: Pipe,
    pulse: Pulse,
    others: Inherited,
) -> None:
    """The life of a worker. ``others``: what it inherits of the parent's and must not keep open."""
    _begin(others)

    from hsmkms.http import logs, worker  # noqa: PLC0415 - in the worker only
    from hsmkms.http.serving import Serving  # noqa: PLC0415

    logs.set_up(settings.serve.log_format)
    try:
        serving = Serving(opener(), settings.serve, board, replaced)
        worker.run(worker.application(serving), settings.serve, listener, partial(_tell, told), pulse)
    except SetupError as exc:
        _complain(exc, START_REFUSED)
    except HsmKmsError as exc:
        _complain(exc, 1)


def _stand_in(
    settings: Settings,
    board: Path,
    replaced: Pulse,
    listener: socket.socket,
    told: Pipe,
    pulse: Pulse,
    others: Inherited,
) -> None:
    """The life of what answers while a worker cannot open the token."""
    _begin(others)

    from hsmkms.http import worker  # noqa: PLC0415
    from hsmkms.http.stand_in import StandIn  # noqa: PLC0415

    worker.run(lambda *_: StandIn(board, replaced), settings.serve, listener, partial(_tell, told), pulse)


def _tell(told: Pipe) -> None:
    """Tell the parent that clients are answered; one that was killed hears nothing, and its workers end."""
    with suppress(BrokenPipeError):
        told.send(True)


def _begin(others: Inherited) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN if number == signal.SIGHUP else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    for each in others:
        each.close()
