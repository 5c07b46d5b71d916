"""What every procedure of the service works with."""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct, field

from hsmkms.errors import HsmKmsError
from hsmkms.hsm.device import Device
from hsmkms.rules.iam.access import Decision
from hsmkms.rules.iam.grant_token import Claims
from hsmkms.rules.iam.question import Question
from hsmkms.rules.importing import ImportPolicy
from hsmkms.rules.rotation import RotationPolicy
from hsmkms.service.audit import AuditBook
from hsmkms.service.cache import RecordCache
from hsmkms.service.leases import LeaseBook
from hsmkms.service.row_seals import SealBook
from hsmkms.service.tokens import Tokens
from hsmkms.service.usage import UsageBook
from hsmkms.store.engine import Store

if TYPE_CHECKING:
    from hsmkms.service.pipeline import Call

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


class Recorder(Protocol):
    """The one place that hears of every request, allowed or not."""

    def __call__(self, call: "Call", request: Struct, response: Struct | None, error: HsmKmsError | None) -> None:
        """Note how a request ended: with its response, or with its error."""


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


class Core(Struct, kw_only=True):
    """The parts of an open installation.

    ``rotation`` and ``imports``: what the operator has set. ``services``: those that have a key of their own, or ``*``.
    ``grace_hours``: how long an object without a key stays before it may be removed. ``accept_unknown_principals``:
    policies and grants may name users and roles who are not there. ``drifted``: true once the clock
    was moved under this process. ``grant_tokens``: those that were found good, and what they say. ``warned``: key
    materials of which the log has told. ``reached`` is told of each completed step. ``witnesses``: the CKA_ID of
    the key by which each token shows that it is the one, by the token's id. ``older``: tokens that were found to be
    older copies of themselves, by their id, with what is wrong.
    """

    installation: Installation
    store: Store
    tokens: Tokens
    witnesses: dict[str, bytes]
    cache: RecordCache
    leases: LeaseBook
    uses: UsageBook
    clock: Clock
    rotation: RotationPolicy
    imports: ImportPolicy
    services: tuple[str, ...]
    grace_hours: float
    accept_unknown_principals: bool = False
    authorise: Authoriser
    drifted: Callable[[], bool] = never_drifted
    grant_tokens: dict[str, Claims] = field(default_factory=dict)
    warned: set[str] = field(default_factory=set)
    older: dict[str, str] = field(default_factory=dict)
    audit: AuditBook
    seals: SealBook
    record: Recorder
    reached: Checkpoint = no_checkpoint

    @property
    def device(self) -> Device:
        """The token on which keys are made."""
        return self.tokens.home

    @property
    def mac_key(self) -> bytes:
        """The CKA_ID of the installation's MAC key on it, as far as this process knows."""
        return self.witnesses.get(self.tokens.home_id, b"")
