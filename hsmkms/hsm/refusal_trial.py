"""Find out, without harm to this process, whether a module survives material that it cannot unwrap.

A process of its own tries it (``token-check``'s check of that name). What came of it is recorded in the data folder for
all processes, until the module's file or the token's firmware is another one.
"""

import hashlib
import logging
import threading
from typing import Final

from msgspec.structs import replace

from hsmkms import atomic_write
from hsmkms.errors import HsmKmsError
from hsmkms.hsm.session.connection import Connection
from hsmkms.model.token_check import Outcome

log = logging.getLogger("hsmkms.hsm")

SECONDS: Final = 60.0
"""How long the trial may take: a module that hangs at such material is as bad as one that crashes."""

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
            record = connection.settings.state_dir / f"refused-material-{name}"
            try:
                _known[name] = record.read_bytes() == _CRASHES
            except OSError:
                tried = _try(connection)
                if tried is None:
                    return False
                _known[name] = tried
                try:
                    atomic_write.replace(record, _CRASHES if tried else _SURVIVES)
                except OSError as exc:
                    log.warning("%s cannot be written, so each process tries it: %s", record, exc.strerror)
        return _known[name]


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
    if check.outcome is Outcome.UNTRIED:
        log.warning("whether the module survives material that it cannot unwrap could not be tried: %s", check.detail)
        return None
    return check.outcome is Outcome.FAILED  # all other faults of the trial are LIMITED


def _fingerprint(connection: Connection) -> str:
    """Return a name for the module's file and version, and the token's model and firmware."""
    module, token = connection.settings.module, connection.token
    try:
        status = module.stat()
        file = f"{status.st_size} {status.st_mtime_ns}"
    except OSError:  # a name that the loader searches for
        file = ""
    facts = (str(module), file, connection.module.description, token.manufacturer_id, token.model)
    firmware = ".".join(map(str, token.firmware_version))
    return hashlib.sha256("\n".join((*map(str, facts), firmware)).encode()).hexdigest()[:16]
