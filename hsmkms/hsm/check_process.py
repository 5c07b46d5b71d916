"""The process that makes the checks of ``token-check``: it loads the module, logs in, and reports line by line.

Whatever is begun is reported first, so that the parent process knows what a crash was caused by. See token_check.py.
"""

import logging
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import msgspec
from pkcs11.constants import TokenFlag
from pkcs11.exceptions import PKCS11Error
from pkcs11.types import Session, Token

from hsmkms.errors import HsmKmsError, ModuleError, PinError, TokenNotFoundError
from hsmkms.hardening import keep_secrets
from hsmkms.hsm.calls.function_list import session_handle
from hsmkms.hsm.checks.bench import SEND_REPORT, Bench, Finding, Step
from hsmkms.hsm.checks.messages import CLOSING, LOGIN, MODULE, SESSIONS, TOKEN, Job, Message, module_facts
from hsmkms.hsm.checks.steps import BEFORE_LOGIN, CLEAN_UP, EVERYTHING, STEPS
from hsmkms.hsm.checks.stored import remove_leftovers
from hsmkms.hsm.ckr_names import ckr_of
from hsmkms.hsm.probing.mechanism_info import MechanismInfo, mechanism_info
from hsmkms.hsm.probing.profile import mechanism_name
from hsmkms.hsm.serials import serial_of
from hsmkms.hsm.session import module as modules
from hsmkms.hsm.session.login import LoginGate, log_in, open_session
from hsmkms.hsm.session.module import Module
from hsmkms.hsm.session.token_choice import TokenChoice, choose, tokens
from hsmkms.model.token_check import Check, Outcome
from hsmkms.secret import PinOrigin, Secret

_FEWEST_SESSIONS: Final = 2
_MODULE_ADVICE: Final = "check --module, and that what the module needs is there: its configuration, its service"
_CHOOSE: Final = "name one of them by --token-label, --token-serial or --uri"
_SHOWS_NONE: Final = (
    "connect the HSM, or initialise a token and set its user PIN, with the vendor's tool; if it shows the token, give "
    "the module the variables (--environment) or parameters (--init-reserved) that the tool has"
)


class _Reporter:
    """The pipe to the parent process."""

    def __init__(self, descriptor: int) -> None:
        self._pipe = os.fdopen(descriptor, "wb", buffering=0)

    def send(self, **members: Any) -> None:  # noqa: ANN401 - members of Message
        """Send one message."""
        self._pipe.write(msgspec.json.encode(Message(**members)) + b"\n")


class _Checks:
    """The checks of one process, in their order."""

    def __init__(self, job: Job, reporter: _Reporter) -> None:
        self._job = job
        self._reporter = reporter
        self._choice = msgspec.convert(job.choice, TokenChoice)
        self._open = ExitStack()

    def run(self) -> None:
        """Open the token as far as it can be opened, make the checks that are left, and close it."""
        with suppress(_EndedError):
            module = self._first(MODULE, self._load)
            token = self._first(TOKEN, lambda: self._find(module))
            for each in BEFORE_LOGIN:
                self._make(each, Bench(token, None, lambda: open_session(token), self._job.run))
            session = self._first(LOGIN, lambda: self._log_in(module, token))
            bench = Bench(token, session, lambda: open_session(token), self._job.run)
            self._check_sessions(module, bench)
            if CLEAN_UP not in self._job.done:
                self._reporter.send(begins=(CLEAN_UP,))
                with suppress(PKCS11Error):  # said by the check of that name, which comes last
                    remove_leftovers(session, self._job.run)
            for each in STEPS:
                self._make(each, bench)
        self._close()
        self._reporter.send(finished=True)

    def _make(self, step: Step, bench: Bench) -> None:
        left = tuple(name for name in step.names if name not in self._job.done)
        if left:
            self._reporter.send(begins=left)
            self._reporter.send(checks=step.checks(bench))

    # -- opening the token --------------------------------------------------------------------------------------------

    def _first(self, name: str, attempt: Callable[[], tuple[Finding, Any, dict[str, Any]]]) -> Any:  # noqa: ANN401
        """Make a check that opens the token, and return what it opened; _EndedError if it did not succeed."""
        self._reporter.send(begins=(name,))
        try:
            finding, opened, facts = attempt()
        except (HsmKmsError, PKCS11Error) as exc:
            finding, opened, facts = self._fault(exc), None, {}
        check = Step(names=(name,), run=lambda _: {}, affects=EVERYTHING, needed=True).check(name, finding)
        self._reporter.send(checks=(check,), facts=facts)
        if opened is None:
            raise _EndedError
        return opened

    def _load(self) -> tuple[Finding, Module, dict[str, Any]]:
        job = self._job
        module = modules.acquire(Path(job.module), environment=job.environment, reserved=job.init_reserved)
        self._open.callback(module.release)
        shown = module.description
        facts = module_facts(job) | {"Description": shown, "Cryptoki": module.cryptoki_version}
        return (
            Finding(Outcome.WORKS, f"loaded and started for use by several threads: {shown}"),
            module,
            {"Module": facts},
        )

    def _find(self, module: Module) -> tuple[Finding, Token | None, dict[str, Any]]:
        try:
            token = choose(module, self._choice)
        except TokenNotFoundError as exc:
            return Finding(Outcome.FAILED, str(exc), _CHOOSE if tokens(module) else _SHOWS_NONE), None, {}
        facts = {"Token": _token_facts(module, token)}
        if serial_of(token):
            return Finding(Outcome.WORKS, f"label {token.label!r}, serial {serial_of(token)!r}"), token, facts
        detail = f"label {token.label!r}; it reports no serial, so it is known by its label and its own key alone"
        return Finding(Outcome.LIMITED, detail, "give no other token of the module this label"), token, facts

    def _log_in(self, module: Module, token: Token) -> tuple[Finding, Session | None, dict[str, Any]]:
        job = self._job
        if job.pin is None:
            return Finding(Outcome.UNTRIED, "no PIN was given", "name its file with --pin-file"), None, {}
        if not job.installed and token.flags & TokenFlag.USER_PIN_FINAL_TRY:
            detail = "one more wrong PIN locks the token, so none is tried"
            return Finding(Outcome.FAILED, detail, "log in once with the token's own tool"), None, {}
        wrong_before = token.flags & TokenFlag.USER_PIN_COUNT_LOW
        origin = PinOrigin(
            name=job.pin.name, version=job.pin.version, comparable=job.pin.comparable, typed=job.pin.typed
        )
        secret = Secret(job.pin.text, origin if job.pin.name else None, insisted=job.pin.insisted)
        gate = LoginGate(Path(job.state_dir), self._choice.serials)
        session = log_in(lambda: choose(module, self._choice), lambda: secret, gate, loaded_at=module.loaded_at)
        self._open.callback(_close_session, session)
        if wrong_before:
            detail = "the PIN is right; a wrong one was given since the last login"
            return Finding(Outcome.LIMITED, detail, "find out which program gave it"), session, {}
        return Finding(Outcome.WORKS, "the PIN is right"), session, {}

    def _fault(self, error: HsmKmsError | PKCS11Error) -> Finding:
        """Describe why the token could not be opened, without the place of its PIN."""
        ckr = ckr_of(error)
        if isinstance(error, PKCS11Error):
            return Finding(Outcome.FAILED, f"the token answered {ckr}", ckr=ckr)
        if isinstance(error, PinError) and ckr:
            return Finding(Outcome.FAILED, "the token refused the PIN", ckr=ckr)
        source = self._job.pin.name if self._job.pin is not None else ""
        sentence = str(error).replace(source, "the source of the PIN") if source else str(error)
        advice = _MODULE_ADVICE if isinstance(error, ModuleError) or not ckr else ""
        return Finding(Outcome.FAILED, sentence, advice, ckr)

    def _check_sessions(self, module: Module, bench: Bench) -> None:
        def look(bench: Bench) -> dict[str, Finding]:
            return {SESSIONS: _sessions(module, bench)}

        self._make(Step(names=(SESSIONS,), run=look, affects=EVERYTHING, needed=True), bench)

    def _close(self) -> None:
        if CLOSING in self._job.done:
            return
        self._reporter.send(begins=(CLOSING,))
        self._open.close()
        check = Check(name=CLOSING, outcome=Outcome.WORKS, detail="logged out, and the module ended (C_Finalize)")
        self._reporter.send(checks=(check,))


class _EndedError(Exception):
    """The token could not be opened: no other check can be made."""


def _sessions(module: Module, bench: Bench) -> Finding:
    """Open a second session, which must share the login, and compare the number of sessions with what is needed."""
    limits = module.cryptoki.token_limits(bench.token.slot.slot_id)
    most = [each for each in (limits.max_sessions, limits.max_rw_sessions) if each is not None] if limits else []
    if most and min(most) < _FEWEST_SESSIONS:
        return Finding(Outcome.FAILED, f"the token has {min(most)} session, and hsmkms needs {_FEWEST_SESSIONS}")
    with bench.another_session() as session:
        if not module.cryptoki.logged_in(session_handle(session)):
            detail = "a second session of this process does not share the login (C_GetSessionInfo)"
            return Finding(Outcome.FAILED, detail, SEND_REPORT)
    return Finding(Outcome.WORKS, f"a second one shares the login; the token has {min(most) if most else 'no limit'}")


def _token_facts(module: Module, token: Token) -> dict[str, Any]:
    """Return the token's names, versions and limits, none of which is secret."""
    slot = token.slot
    limits = module.cryptoki.token_limits(slot.slot_id)
    present: list[MechanismInfo] = []
    with suppress(PKCS11Error):  # said by the check "mechanisms"
        present = [
            mechanism_info(mechanism_name(each), module.cryptoki.mechanism(slot.slot_id, each))
            for each in slot.get_mechanisms()
        ]
    return {
        "Label": token.label,
        "Serial": serial_of(token),
        "Manufacturer": token.manufacturer_id,
        "Model": token.model,
        "Hardware": ".".join(map(str, token.hardware_version)),
        "Firmware": ".".join(map(str, token.firmware_version)),
        "Flags": [flag.name for flag in TokenFlag if flag & token.flags],
        "Limits": msgspec.to_builtins(limits),
        "Mechanisms": msgspec.to_builtins(sorted(present, key=lambda each: each.name)),
    }


def _close_session(session: Session) -> None:
    with suppress(PKCS11Error):  # a token that is gone cannot be logged out of
        session.close()


def main() -> None:
    """Read the job from standard input, make its checks, and report on the descriptor that is the first argument."""
    keep_secrets()
    log = logging.getLogger("hsmkms")
    log.addHandler(logging.NullHandler())  # what would be logged is in the findings
    log.propagate = False
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    _Checks(job, _Reporter(int(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
