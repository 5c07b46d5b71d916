"""The token that checks are made on, and how a check is made: none stops the others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from msgspec import Struct
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Object, Session, Token

from hsmkms.errors import HsmKmsError
from hsmkms.hsm.checks.advice import advice_for
from hsmkms.hsm.ckr_names import ckr_of
from hsmkms.hsm.faults import FAULTS
from hsmkms.hsm.objects.support import AttributeSupport
from hsmkms.hsm.probing.attributes import try_attributes
from hsmkms.model.token_check import Check, Outcome

CHECK_LABEL: Final = "hsmkms token-check"
"""Label of the objects that checks make; it fits into the 32 bytes that some tokens keep."""

SEND_REPORT: Final = "send this report as a bug report"
NO_INSTALLATION: Final = "no installation can be made on this token"

_SAYS_NO_MORE: Final = tuple({sentence for _, sentence in FAULTS.values()})
"""What a return code means in general: the code itself says more here."""


def _says_no_more(sentence: str) -> bool:
    """Return whether a sentence is only what its return code means in general, or leads to token-check itself."""
    return sentence.startswith(_SAYS_NO_MORE) or "hsmkms token-check" in sentence


class Finding(NamedTuple):
    """What a check found; ``advice`` if it is not ``WORKS`` and no return code was the reason."""

    outcome: Outcome
    detail: str
    advice: str = ""
    ckr: str = ""


class Bench:
    """A logged-in session on the token under test (None before the login), and a way to open more of them.

    ``run``: as in the job (messages.py).
    """

    def __init__(
        self, token: Token, session: Session | None, open_session: Callable[[], Session], run: str = "00000000"
    ) -> None:
        self.token = token
        self.run = run
        self._session = session
        self._open_session = open_session
        self._support: AttributeSupport | None = None

    @property
    def session(self) -> Session:
        """The logged-in session."""
        if self._session is None:
            raise RuntimeError("the check needs a login")
        return self._session

    @property
    def support(self) -> AttributeSupport:
        """What the token makes of the ordered attributes, tried at the first call."""
        if self._support is None:
            self._support = try_attributes(self.session)
        return self._support

    def mechanisms(self) -> frozenset[Mechanism]:
        """Return the token's mechanisms as it lists them. Raises PKCS11Error."""
        return frozenset(self.token.slot.get_mechanisms())

    @contextmanager
    def another_session(self) -> Iterator[Session]:
        """Open a session with the same login for the block; its session objects end with it."""
        session = self._open_session()
        try:
            yield session
        finally:
            session.close()


class Step(Struct, frozen=True, kw_only=True):
    """Checks that are made together, since one attempt shows them all.

    ``affects``: what does not work if they fail. ``needed``: without it the token is unfit, else it is only limited.
    ``advice``: what to do, where that does not depend on the return code.
    """

    names: tuple[str, ...]
    run: Callable[[Bench], dict[str, Finding]]
    affects: str
    needed: bool = False
    advice: str = ""

    def affected_by(self, outcome: Outcome) -> str:
        """Return what an outcome affects: a check that is needed and does not succeed prevents any installation."""
        if self.needed and outcome is not Outcome.LIMITED:
            return f"{self.affects}: {NO_INSTALLATION}"
        return self.affects

    def checks(self, bench: Bench) -> list[Check]:
        """Make the checks; an error of the token, or a failed comparison, is a finding of each of them."""
        try:
            findings = self.run(bench)
        except Exception as exc:  # noqa: BLE001 - python-pkcs11 raises what it likes on answers that it does not expect
            findings = dict.fromkeys(self.names, self.refused(exc))
        return [self.check(name, findings[name]) for name in self.names]

    def refused(self, error: Exception) -> Finding:
        """Describe an error that ended the step."""
        outcome = Outcome.FAILED if self.needed else Outcome.LIMITED
        ckr = ckr_of(error)
        if isinstance(error, HsmKmsError) and not (ckr and _says_no_more(str(error))):
            return Finding(outcome, str(error), ckr=ckr)
        if ckr:
            return Finding(outcome, f"the token answered {ckr}", ckr=ckr)
        return Finding(outcome, f"the token's answer could not be understood ({type(error).__name__})")

    def check(self, name: str, finding: Finding) -> Check:
        """Add to a finding what it means and what to do about it, unless all is well."""
        if finding.outcome is Outcome.WORKS:
            return Check(name=name, outcome=finding.outcome, detail=finding.detail)
        return Check(
            name=name,
            outcome=finding.outcome,
            detail=finding.detail,
            ckr=finding.ckr,
            affects=self.affected_by(finding.outcome),
            advice=finding.advice or self.advice or advice_for(finding.ckr) or SEND_REPORT,
        )


def step(name: str, check: Callable[[Bench], Finding], *, affects: str, needed: bool = False, advice: str = "") -> Step:
    """Make a step of one check."""
    return Step(names=(name,), run=lambda bench: {name: check(bench)}, affects=affects, needed=needed, advice=advice)


def published_key(session: Session, value: bytes) -> Object:
    """Make a session key of a published AES test key; PKCS11Error, not translated, if the token takes none."""
    template = {
        Attribute.CLASS: ObjectClass.SECRET_KEY,
        Attribute.KEY_TYPE: KeyType.AES,
        Attribute.TOKEN: False,
        Attribute.LABEL: CHECK_LABEL,
        Attribute.ENCRYPT: True,
        Attribute.DECRYPT: True,
        Attribute.VALUE: value,
    }
    return session.create_object(template)
