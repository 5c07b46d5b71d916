"""What the process that makes the checks is given, and what it reports: JSON, one line a message."""

from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from hsmkms.model.token_check import Check

MODULE: Final = "module"
TOKEN: Final = "token"  # noqa: S105 - the name of a check
LOGIN: Final = "login"
SESSIONS: Final = "sessions"
CLOSING: Final = "closing"


class Pin(Struct, frozen=True, kw_only=True):
    """The PIN, and what is remembered of its origin. For the pipe between two processes alone: never printed."""

    text: str
    name: str = ""
    version: str = ""
    comparable: bool = False
    typed: bool = False
    insisted: bool = False

    def __repr__(self) -> str:
        return "Pin(...)"


class Job(Struct, frozen=True, kw_only=True):
    """Which token to check, and which checks have been made by processes before.

    ``choice``: the members of a ``TokenChoice``. ``installed``: there is an installation, whose marks of refused PINs
    are in ``state_dir``. ``run``: 8 hexadecimal digits, the mark of what this run stores.
    """

    module: str
    choice: dict[str, Any]
    state_dir: str
    installed: bool
    environment: dict[str, str] = {}
    init_reserved: str | None = None
    pin: Pin | None = None
    run: str = "00000000"
    done: tuple[str, ...] = ()


def module_facts(job: Job) -> dict[str, Any]:
    """Return how the module is loaded, for the report: no value of a variable, no path, no parameters."""
    return {
        "File": Path(job.module).name,
        "Environment": sorted(job.environment),
        "InitReserved": job.init_reserved is not None,
    }


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line: the checks that begin now, checks that were made, facts, or that all is done."""

    begins: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    facts: dict[str, Any] = {}
    finished: bool = False
