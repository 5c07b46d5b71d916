"""What an open installation gets handed by whoever opens it: narrow interfaces, and the facts of the installation."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from hsmkms.errors import HsmKmsError
from hsmkms.model.caller import Caller
from hsmkms.model.enums import Operation
from hsmkms.rules.iam.access import Decision
from hsmkms.rules.iam.question import Question

Clock = Callable[[], datetime]
"""Returns the present instant, aware and in UTC. Only entry points read a clock; tests pass their own."""

Checkpoint = Callable[[str], None]
"""Told of each numbered step that a procedure has completed; tests stop the process there."""


class Authoriser(Protocol):
    """The one place where it is decided who may do what."""

    def __call__(self, question: Question) -> None:
        """Raise AccessDeniedException unless the caller may."""

    def decide(self, question: Question) -> Decision:
        """The decision, and what gave it."""


class RecordedCall(Protocol):
    """What is recorded of a request, as far as the pipeline has brought it."""

    operation: Operation
    caller: Caller
    now: datetime
    resources: list[str]
    material_id: str | None


class Recorder(Protocol):
    """Writes the audit record of every request, allowed or refused."""

    def __call__(self, call: RecordedCall, request: Struct, response: Struct | None, error: HsmKmsError | None) -> None:
        """Record how a request ended: with its response, or with its error."""


class KnownEpoch(Protocol):
    """The newest change to the control plane that this process has read."""

    epoch: int


def no_checkpoint(step: str) -> None:
    """Go on."""


def never_drifted() -> bool:
    """For clocks that stand alone."""
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
        """What object labels carry: the first 8 digits of the id."""
        return self.id[:8]
