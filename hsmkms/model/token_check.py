"""Results of ``token-check``: one check, all checks of a token, and the facts that the token reports."""

from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from msgspec import Struct


class Outcome(StrEnum):
    """How a check ended; ``FAILED`` makes the token unfit, ``UNTRIED`` leaves that open."""

    WORKS = "works"
    LIMITED = "limited"
    FAILED = "failed"
    UNTRIED = "not tried"


class Check(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of ``token-check``.

    ``ckr``: the return code of the token, by name, if one was the reason. ``affects``: the key specs and operations
    that do not work, or work in another way. ``advice``: what the operator can do.
    """

    name: str
    outcome: Outcome
    detail: str
    ckr: str = ""
    affects: str = ""
    advice: str = ""

    @property
    def failed(self) -> bool:
        """True if the token is unfit for this reason."""
        return self.outcome is Outcome.FAILED

    @property
    def passed(self) -> bool:
        """True if this check leaves no doubt that hsmkms can use the token."""
        return self.outcome in (Outcome.WORKS, Outcome.LIMITED)


class CheckReport(Struct, frozen=True, kw_only=True):
    """All checks of a token, over which it iterates, and ``facts``: names and versions that module and token report."""

    checks: list[Check]
    facts: dict[str, Any] = {}

    def __iter__(self) -> Iterator[Check]:
        return iter(self.checks)

    @property
    def passed(self) -> bool:
        """True if every check was made and none failed."""
        return all(each.passed for each in self.checks)

    @property
    def result(self) -> str:
        """Whether hsmkms can use the token, in words."""
        if self.passed:
            return "usable"
        return "not usable" if any(each.failed for each in self.checks) else "not known: not all checks were made"
