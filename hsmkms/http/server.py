"""Running the endpoint: the PIN is proven once, then workers are started, each of which opens the token for itself.

The parent process never loads the PKCS#11 module, since a module is of no use after a fork. A PIN that is asked for at
the terminal is asked for once, by the parent, and is in the workers' memory when they begin; it is in no environment
and no argument. Every other source is read by each worker.
"""

import ipaddress
import multiprocessing
import os
import sys
import tempfile
from functools import partial
from typing import Any, Final

from hsmkms import config, wiring
from hsmkms.config import Secret, ServeSettings, Settings
from hsmkms.errors import ConfigurationError, HsmKmsError, SetupError

START_REFUSED: Final = 78
"""Exit status where starting again cannot help (EX_CONFIG): a refused PIN, a wrong setting, a wrong token."""

_LOG_OF_THE_PARENT: Final = {
    "handlers": {
        name: {"class": "logging.StreamHandler", "formatter": formatter, "stream": "ext://sys.stderr"}
        for name, formatter in {"console": "generic", "access": "access"}.items()
    }
}
"""Standard output is for what a command answers."""

HEADER_SECONDS: Final = 10
STOP_SECONDS: Final = 30
"""How long requests that run may take to finish when the server is stopped."""


def serve(settings: Settings, *, proven: bool = False) -> None:
    """Serve until told to stop. ``proven``: the installation was opened just now with the same PIN.

    Raises ConfigurationError; ends the process with status 78 where starting again cannot help.
    """
    _check_address(settings.serve)
    pin = _ask_pin(settings)
    if not proven:
        _prove(settings, pin)
    with tempfile.TemporaryDirectory(prefix="hsmkms-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        _server(settings.serve).serve(target_loader=partial(_load, settings, pin), wrap_loader=False)


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
    child = multiprocessing.get_context("fork").Process(target=_try_to_open, args=(settings, pin))
    child.start()
    child.join()
    if child.exitcode:
        sys.exit(child.exitcode)


def _try_to_open(settings: Settings, pin: Secret | None) -> None:
    try:
        _open(settings, pin).close()
    except SetupError as exc:
        sys.stderr.write(f"hsmkms: {type(exc).__name__}: {exc}\n")
        sys.exit(START_REFUSED)
    except HsmKmsError as exc:
        sys.stderr.write(f"hsmkms: {exc.code}: {exc}\n")
        sys.exit(1)


def _open(settings: Settings, pin: Secret | None) -> Any:  # noqa: ANN401 - Kms, imported in the process that needs it
    from hsmkms.service.kms import Kms  # noqa: PLC0415 - not in the parent: it must not load the module

    return Kms(wiring.core_of(settings, monotonic=wiring.boot_time, pin=pin))


def _load(settings: Settings, pin: Secret | None, target: str = "") -> Any:  # noqa: ANN401 - granian's callable
    """Called in each worker: the application, which opens the installation when the loop runs."""
    del target
    from hsmkms.http.app import Application  # noqa: PLC0415 - in the worker only
    from hsmkms.http.logs import set_up  # noqa: PLC0415
    from hsmkms.http.serving import Serving  # noqa: PLC0415

    set_up(settings.serve.log_format)
    return Application(lambda: Serving(_open(settings, pin), settings.serve, settings.serve.workers))


def _server(serve: ServeSettings) -> Any:  # noqa: ANN401 - granian's own type
    from granian import Granian  # noqa: PLC0415 - help must not pay for it
    from granian.constants import Interfaces, Loops, SSLProtocols  # noqa: PLC0415
    from granian.http import HTTP1Settings  # noqa: PLC0415
    from granian.log import LogLevels  # noqa: PLC0415

    return Granian(
        "hsmkms",
        address=serve.host,
        port=serve.port,
        interface=Interfaces.RSGI,
        workers=serve.workers,
        loop=Loops.uvloop,
        websockets=False,
        backlog=4096,
        backpressure=8192,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_SECONDS * 1000),
        ssl_cert=serve.certificate,
        ssl_key=serve.private_key,
        ssl_protocol_min=SSLProtocols.tls12,
        workers_kill_timeout=STOP_SECONDS,
        respawn_failed_workers=True,
        log_level=LogLevels.warning,
        log_dictconfig=_LOG_OF_THE_PARENT,
    )
