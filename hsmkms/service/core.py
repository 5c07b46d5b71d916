"""What every procedure of the service works with, and the two stages that later issues fill."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from hsmkms.errors import HsmKmsError
from hsmkms.hsm.device import Device
from hsmkms.model.caller import Caller
from hsmkms.model.enums import Operation
from hsmkms.service.cache import RecordCache
from hsmkms.service.leases import LeaseBook
from hsmkms.store.engine import Store

Clock = Callable[[], datetime]
"""Returns the present instant, aware and in UTC. Only entry points read a clock; tests pass their own."""

Checkpoint = Callable[[str], None]
"""Told of each numbered step that a procedure has completed; tests stop the process there."""


class Authoriser(Protocol):
    """The one place where it is decided who may do what."""

    def __call__(self, caller: Caller, action: str, resource: str) -> None:
        """Raise AccessDeniedException unless the caller may do ``action`` (``kms:Encrypt``) on the ARN."""


class Recorder(Protocol):
    """The one place that hears of every request, allowed or not."""

    def __call__(self, caller: Caller, operation: Operation, resources: list[str], error: HsmKmsError | None) -> None:
        """Note the outcome of a request: the ARNs that it touched, and its error if it had one."""


def everybody_may(caller: Caller, action: str, resource: str) -> None:
    """Allow everything: permissions are not built yet."""


def record_nothing(caller: Caller, operation: Operation, resources: list[str], error: HsmKmsError | None) -> None:
    """Write nowhere: the audit log is not built yet."""


def no_checkpoint(step: str) -> None:
    """Go on."""


class Installation(Struct, frozen=True, kw_only=True):
    """One account on one token: its id (32 hex digits), account (12 digits), regions, and its own key's CKA_ID."""

    id: str
    account: str
    regions: tuple[str, ...]
    default_region: str
    token_id: str
    mac_key: bytes

    @property
    def short_id(self) -> str:
        """What object labels carry: the first 8 digits of the id."""
        return self.id[:8]


class Core(Struct, kw_only=True):
    """The parts of an open installation.

    ``grace_hours``: how long an object without a key stays before it may be removed. ``reached`` is told of each
    completed step.
    """

    installation: Installation
    store: Store
    device: Device
    cache: RecordCache
    leases: LeaseBook
    clock: Clock
    grace_hours: float
    authorise: Authoriser = everybody_may
    record: Recorder = record_nothing
    reached: Checkpoint = no_checkpoint
