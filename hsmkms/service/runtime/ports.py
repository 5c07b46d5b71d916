"""Interfaces that an open installation is given by ``wiring``, and the properties of an installation."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from hsmkms.errors import HsmKmsError
from hsmkms.rules.audit.record import RecordedCall
from hsmkms.rules.iam.access import Decision
from hsmkms.rules.iam.question import Question

Clock = Callable[[], datetime]
"""Returns the present instant, aware and in UTC. Only entry points read a clock; tests pass their own."""

Checkpoint = Callable[[str], None]
"""Test hook, called after each numbered step of a procedure; crash tests kill the process there."""


class Authoriser(Protocol):
    """Decides all requests."""

    def __call__(self, question: Question) -> bool:
        """Raise AccessDeniedException unless the request is allowed; True if so is any other of the caller's for it."""

    def decide(self, question: Question) -> Decision:
        """Return the decision with its reason."""


class Recorder(Protocol):
    """Writes the audit record of every request, allowed or refused."""

    def __call__(self, call: RecordedCall, request: Struct, response: Struct | None, error: HsmKmsError | None) -> None:
        """Record how a request ended: with its response, or with its error."""


class KnownEpoch(Protocol):
    """The newest change to the control plane that this process has read."""

    epoch: int


def no_checkpoint(step: str) -> None:
    """Do nothing."""


def never_drifted() -> bool:
    """Return False, for clocks without a monotonic one to compare with."""
    return False


class Installation(Struct, frozen=True, kw_only=True):
    """One account: the id of its installation (32 hex digits), account (12 digits) and regions.

    ``restored_at``: when its databases were last restored from a backup.
    """

    id: str
    account: str
    regions: tuple[str, ...]
    default_region: str
    restored_at: datetime | None = None

    @property
    def short_id(self) -> str:
        """Return the first 8 digits of the id, as object labels contain them."""
        return self.id[:8]
