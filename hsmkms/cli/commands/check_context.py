"""What the checks of doctor work on, and how they end."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from hsmkms.errors import HsmKmsError

if TYPE_CHECKING:
    from hsmkms.config.settings import Settings
    from hsmkms.kms import Kms

Resource = TypeVar("Resource")


class Outcome(StrEnum):
    """How a check ended. Only WRONG sets the status to 1. SKIPPED: an earlier check names what prevents it.

    URGENT is a warning about what becomes wrong within days.
    """

    OK = "ok"
    SKIPPED = "not checked"
    WARNING = "warning"
    URGENT = "urgent"
    WRONG = "wrong"


class Verdict(NamedTuple):
    """The result of a check; unless it is OK, the detail says what to do."""

    outcome: Outcome
    detail: str


class CheckContext:
    """What the checks work on: the settings, and the installation, which is opened once."""

    def __init__(self, settings: "Settings", exits: ExitStack) -> None:
        self.settings = settings
        self._exits = exits
        self._kms: Kms | None = None
        self._fault: HsmKmsError | None = None

    def keep_open(self, resource: AbstractContextManager[Resource]) -> Resource:
        """Enter a context until all checks are done: opening a token again would read all of it again."""
        return self._exits.enter_context(resource)

    @property
    def kms(self) -> "Kms":
        """The open installation; raises the same error each time if it cannot be opened."""
        from hsmkms import Kms  # noqa: PLC0415 - help must not pay for the database and the token
        from hsmkms.wiring import core as wiring  # noqa: PLC0415 - help must not pay for the database and the token

        if self._fault is not None:
            raise self._fault
        if self._kms is None:
            try:
                self._kms = self._exits.enter_context(Kms(wiring.core_of(self.settings, monotonic=wiring.boot_time)))
            except HsmKmsError as exc:
                self._fault = exc
                raise
        return self._kms


Check = Callable[[CheckContext], Verdict]
