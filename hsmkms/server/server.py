"""Run the server: the parent process defines what a worker does, and supervisor.py supervises the workers.

The first worker proves the PIN. The others meanwhile load the module and read the token, which takes seconds if it
holds many objects, and log in only after the first, so that a wrong PIN is refused once.

The parent never loads the PKCS#11 module, since a module cannot be used after a fork. A PIN from the terminal is read
once, here, and is in the workers' memory when they start; it is in no environment and no argument. Each worker reads
every other source itself.
"""

import asyncio
import ipaddress
import logging
import multiprocessing
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from hsmkms.config import settings as config
from hsmkms.config.settings import Secret, ServeSettings, Settings
from hsmkms.errors import ConfigurationError, HsmKmsError, SetupError, TokenNotFoundError, TokenUnavailableError
from hsmkms.server.heartbeat import Heartbeat
from hsmkms.server.process import systemd
from hsmkms.server.process.ports import PortOwner
from hsmkms.server.process.supervisor import (
    SIGNALS,
    START_AWAY,
    START_FAULT,
    START_REFUSED,
    ChildArguments,
    ChildMains,
    Inherited,
    Ready,
    Workers,
)
from hsmkms.server.unavailable_app import FAULT_FILE
from hsmkms.wiring import core as wiring
from hsmkms.wiring import tokens

log = logging.getLogger("hsmkms.server")

Reread = Callable[[], Settings]

_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing listens by this

WAIT_SECONDS: Final = 0.01
"""Pause between two checks whether the first worker has proven the PIN."""

_context: Final = multiprocessing.get_context("fork")


def report_ready(serve: ServeSettings, port: int, serves: str) -> None:
    """Print where clients are answered, by which installation and token, and report readiness to systemd."""
    sys.stderr.write(f"hsmkms: listening on {url_of(serve, port)} for {serves}\n")
    sys.stderr.flush()
    systemd.ready()


def url_of(serve: ServeSettings, port: int) -> str:
    """Return where a client on this machine reaches a server; one that listens on every address, by loopback."""
    scheme = "http" if serve.certificate is None else "https"
    host = _LOOPBACK.get(serve.host, serve.host)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def serve(
    settings: Settings,
    *,
    proven: bool = False,
    ready: Ready | None = None,
    lifeline: int | None = None,
    scratch: Path | None = None,
    reread: Reread | None = None,
    join: bool = False,
) -> None:
    """Serve until SIGTERM; SIGHUP replaces the workers one by one, with the certificate that is on the disk then.

    ``proven``: the installation was opened just now with the same PIN. ``ready`` is called once the first worker
    answers, instead of ``report_ready``. ``lifeline``: a file descriptor whose end stops the server like SIGTERM.
    ``scratch``: where workers keep their counts, if not in the system's folder for temporary files. ``reread`` reads
    the settings again, for tokens that are added while the server runs. ``join``: share the port with a running server
    of this installation, to replace it. Raises ConfigurationError; ends the process with status 78 where starting again
    cannot help.
    """
    with refusing():
        _check_address(settings.serve)
        pin = _ask_pin(settings)
    _allow_connections()
    first = Heartbeat()
    if proven:
        first.beat()
    with tempfile.TemporaryDirectory(prefix="hsmkms-counts-", dir=scratch) as board:
        replaced = Heartbeat()
        shared = _Shared(settings, Path(board), replaced)
        opener = partial(_open, settings, pin, reread, first)
        mains = ChildMains(
            first=partial(_work, partial(opener, proving=True), shared),
            worker=partial(_work, opener, shared),
            stand_in=partial(_stand_in, shared),
        )
        ready = ready or partial(report_ready, settings.serve)
        owner, hung = PortOwner(settings.data_dir, join), partial(_leave_members, settings)
        Workers(settings.serve, mains, replaced, ready, lifeline, first, hung, owner).run()


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
    """Raise the limit of open files as far as the system allows: the usual one is too low for a server."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _ask_pin(settings: Settings) -> Secret | None:
    """Return the PIN, if it is read from the terminal."""
    if not settings.token.pin.prompt:
        return None
    return config.read_secret(settings.token.pin, interactive=config.terminal_prompt())


def _complain(error: HsmKmsError, status: int) -> None:
    sys.stderr.write(f"hsmkms: {type(error).__name__}: {error}\n")
    sys.exit(status)


def _leave_members(settings: Settings, started_at: float) -> None:
    """Let new processes begin with the next member of each HA group, since a worker has hung with the present one."""
    for serial in tokens.pass_on_members(settings, started_at):
        sys.stderr.write(f"hsmkms: new workers begin with the HA member with serial {serial}\n")


# -- in a worker ------------------------------------------------------------------------------------------------


class _Shared(Struct, frozen=True):
    """Arguments of all children: settings, the folder of their counts, and the count of replaced workers."""

    settings: Settings
    board: Path
    replaced: Heartbeat


def _open(
    settings: Settings,
    pin: Secret | None,
    reread: Reread | None,
    first: Heartbeat,
    heartbeat: Heartbeat,
    *,
    proving: bool = False,
) -> Any:  # noqa: ANN401 - Kms, imported in the process that needs it
    """Open the installation. ``first`` beats once the PIN is proven, which this process does if it is ``proving``."""
    from hsmkms.kms import Kms  # noqa: PLC0415 - not in the parent: it must not load the module

    turn = _at_once if proving else partial(_wait_for_first, first, heartbeat)
    try:
        kms = Kms(wiring.core_of(settings, monotonic=wiring.boot_time, pin=pin, reread=reread, before_login=turn))
    except HsmKmsError:
        turn()  # an error that the first worker meets as well is reported by that one only
        raise
    first.beat()
    return kms


def _at_once() -> None:
    """Do not wait: this is the first worker."""


def _wait_for_first(first: Heartbeat, heartbeat: Heartbeat) -> None:
    """Wait until the first worker has proven the PIN. If it has not, the parent ends this one."""
    parent = multiprocessing.parent_process()
    while not first.count:
        if parent is not None and not parent.is_alive():
            sys.exit(1)
        heartbeat.beat()
        time.sleep(WAIT_SECONDS)


def _check_certificate(settings: ServeSettings) -> None:
    from hsmkms.server.process.worker import tls_context  # noqa: PLC0415

    try:
        tls_context(settings)
    except OSError as exc:
        raise ConfigurationError(f"serve.certificate or serve.private_key cannot be used: {exc}") from exc


def _work(opener: Callable[[Heartbeat], Any], shared: _Shared, arguments: ChildArguments) -> None:
    """Run a worker. A fault of hsmkms ends it with a status of its own, since another worker may meet it again."""
    _begin(arguments.others)
    try:
        _run_worker(opener, shared, arguments)
    except Exception:
        log.exception("a worker has ended by a fault of hsmkms")
        sys.exit(START_FAULT)


def _run_worker(opener: Callable[[Heartbeat], Any], shared: _Shared, arguments: ChildArguments) -> None:
    from hsmkms.server.app import Application  # noqa: PLC0415 - in the worker only
    from hsmkms.server.monitoring import logs  # noqa: PLC0415
    from hsmkms.server.process import worker  # noqa: PLC0415
    from hsmkms.server.worker_state import WorkerState  # noqa: PLC0415

    settings, board = shared.settings, shared.board
    logs.set_up(settings.serve.log_format)
    try:
        _check_certificate(settings.serve)
        state = WorkerState(opener(arguments.heartbeat), settings.serve, board, shared.replaced)
        (board / FAULT_FILE).unlink(missing_ok=True)

        def make(loop: asyncio.AbstractEventLoop, secure: bool) -> Application:  # noqa: FBT001 - as the worker has it
            return Application(state, loop, secure=secure)

        ready = partial(_report_ready, arguments.ready, state.kms.operator.watch.title())
        worker.run(make, settings.serve, arguments.listener, ready, arguments.heartbeat)
    except (TokenUnavailableError, TokenNotFoundError) as exc:
        _complain_of_token(exc, settings, board)
    except SetupError as exc:
        _complain(exc, START_REFUSED)
    except HsmKmsError as exc:
        _complain(exc, 1)


def _complain_of_token(error: HsmKmsError, settings: Settings, board: Path) -> None:
    """End the worker, and leave the fault for its stand-in. A token that was never there is a wrong setting."""
    if isinstance(error, TokenNotFoundError) and not wiring.names_home(settings):
        _complain(error, START_REFUSED)
    (board / FAULT_FILE).write_text(str(error))
    _complain(error, START_AWAY)


def _stand_in(shared: _Shared, arguments: ChildArguments) -> None:
    """Run a stand-in, which answers while a worker cannot open the token."""
    _begin(arguments.others)

    from hsmkms.server.process import worker  # noqa: PLC0415
    from hsmkms.server.unavailable_app import StandIn  # noqa: PLC0415

    application = StandIn(shared.board, shared.replaced)
    ready = partial(_report_ready, arguments.ready, "")
    worker.run(lambda *_: application, shared.settings.serve, arguments.listener, ready, arguments.heartbeat)


def _report_ready(pipe: Pipe, serves: str) -> None:
    """Report to the supervisor that clients are answered, and by what installation.

    A supervisor that was killed is no error: workers end.
    """
    with suppress(BrokenPipeError):
        pipe.send(serves)


def _begin(others: Inherited) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN if number == signal.SIGHUP else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    for each in others:
        each.close()
