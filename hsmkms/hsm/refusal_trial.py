"""Find out, without harm to this process, whether a module survives material that it cannot unwrap.

A process of its own tries it (the check ``refused material``): at ``init``, ``token-check``, ``migrate-token``, or
else at the first import. The result is recorded in the data folder for all processes, and holds for this file of the
module and this firmware and these mechanisms of the token.
"""

import hashlib
import logging
import threading
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from hsmkms import atomic_write
from hsmkms.errors import HsmKmsError
from hsmkms.hsm.session.connection import Connection
from hsmkms.model.token_check import Check, CheckReport, Outcome

log = logging.getLogger("hsmkms.hsm")

SECONDS: Final = 120.0
"""How long the trial may take: a module that hangs at such material is as bad as one that crashes. Samples are sent for
20 seconds; a smart card may need the rest to generate an RSA key pair."""

_SURVIVES: Final = b"survives\n"
_CRASHES: Final = b"crashes\n"

_trying = threading.Lock()
_known: dict[str, bool] = {}
"""What this process has read or tried, by module and token."""


def crashes(connection: Connection) -> bool:
    """Return whether the module crashes, or hangs, where it should refuse material; tried if that is not known.

    False if it cannot be tried, since the token takes no login of a second process, say: then the log has a warning.
    """
    name = _fingerprint(connection)
    with _trying:
        if name not in _known:
            try:
                _known[name] = _record(connection, name).read_bytes() == _CRASHES
            except OSError:
                tried = _try(connection)
                if tried is None:
                    return False
                _known[name] = tried
        _write(connection, name)
        return _known[name]


def record(connection: Connection, report: CheckReport) -> None:
    """Record what ``token-check`` has found in place of an earlier result; nothing if it came to no result."""
    from hsmkms.hsm.checks.refused import NAME  # noqa: PLC0415 - see _try

    crashed = next((_crashed(each) for each in report if each.name == NAME), None)
    if crashed is not None:
        with _trying:
            name = _fingerprint(connection)
            _known[name] = crashed
            _write(connection, name)


def _record(connection: Connection, name: str) -> Path:
    return connection.settings.state_dir / f"refused-material-{name}"


def _write(connection: Connection, name: str) -> None:
    """Write the result to the data folder of this installation, unless that has the same one."""
    file, result = _record(connection, name), _CRASHES if _known[name] else _SURVIVES
    try:
        if not file.exists() or file.read_bytes() != result:
            atomic_write.replace(file, result)
    except OSError as exc:
        log.warning("%s cannot be written, so each process tries it: %s", file, exc.strerror)


def _try(connection: Connection) -> bool | None:
    """Let a process of its own unwrap what cannot be unwrapped; None if it came to no result."""
    from hsmkms.hsm.checks.refused import NAME  # noqa: PLC0415 - only a process that tries it needs the checks
    from hsmkms.hsm.token_check import ALL, run_checks  # noqa: PLC0415 - see above

    try:
        job = connection.check_job()
        (check,) = run_checks(replace(job, done=tuple(each for each in ALL if each != NAME)), SECONDS).checks
    except HsmKmsError as exc:
        log.warning("whether the module survives material that it cannot unwrap could not be tried: %s", exc)
        return None
    crashed = _crashed(check)
    if crashed is None:
        log.warning("whether the module survives material that it cannot unwrap could not be tried: %s", check.detail)
    return crashed


def _crashed(check: Check) -> bool | None:
    """Return whether the module crashed or hung in the check; None if it was not made."""
    if check.outcome is Outcome.UNTRIED:
        return None
    return check.outcome is Outcome.FAILED  # all other faults of the trial are LIMITED


def _fingerprint(connection: Connection) -> str:
    """Return a name for the module's file and version, and the token's model, firmware and mechanisms."""
    module, token = connection.settings.module, connection.token
    try:
        status = module.stat()
        file = f"{status.st_size} {status.st_mtime_ns}"
    except OSError:  # a name that the loader searches for
        file = ""
    facts = (str(module), file, connection.module.description, token.manufacturer_id, token.model)
    firmware = ".".join(map(str, token.firmware_version))
    mechanisms = " ".join(sorted(connection.profile.mechanisms))  # nothing was tried where RSA was missing
    return hashlib.sha256("\n".join((*map(str, facts), firmware, mechanisms)).encode()).hexdigest()[:16]
