"""Logging in: at most one refused PIN, whoever asks and however many processes start at once.

A token locks after a few wrong PINs, and a server that starts its workers, or a unit that restarts, would use up the
tries within a second. So every login goes through one gate per installation: an exclusive file lock, then the mark
that an earlier refusal left, then the token's own counters; a refusal leaves the mark before the lock is let go.
Only ``hsmkms doctor --retry-pin`` tries again, and only if a person says that the PIN is to be sent (pin_marks.py).
"""

import hmac
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from pkcs11.constants import TokenFlag
from pkcs11.exceptions import (
    GeneralError,
    PinExpired,
    PinIncorrect,
    PinInvalid,
    PinLenRange,
    PinLocked,
    PKCS11Error,
    UserAlreadyLoggedIn,
    UserPinNotInitialized,
)
from pkcs11.types import Session, Token

from hsmkms import atomic_write
from hsmkms.errors import ConfigurationError, PinError, TokenUnavailableError
from hsmkms.hsm.faults import AWAY, translate
from hsmkms.hsm.objects.attributes import MAPPER
from hsmkms.hsm.session.pin_marks import PinMark, PinMarks
from hsmkms.process import exclusive, uptime
from hsmkms.secret import PinOrigin, Secret

log = logging.getLogger("hsmkms.hsm")

PinReader = Callable[[], str | Secret]

REFUSALS: Final = (PinIncorrect, PinInvalid, PinLenRange, PinExpired, PinLocked)
"""Answers that repeat, and may cost a try, if the same PIN is given again."""

LOCK_SECONDS: Final = 30.0

START_ATTEMPTS: Final = 4
START_PAUSE_SECONDS: Final = 0.15
"""Two processes that open one SoftHSM token at the same instant: one of them may see CKR_GENERAL_ERROR, once."""


class StaleModuleError(TokenUnavailableError):
    """What the module knows of the token's PIN is not what holds: it must be loaded again before a login."""


class PinRefusedError(PinError):
    """C_SetPIN has compared the present PIN and refused it, which may have cost a try."""


class LoginGate:
    """The lock and the marks of one installation, as files in ``folder``: one for each token that refused its PIN."""

    def __init__(self, folder: Path) -> None:
        self._lock_path = folder / "login.lock"
        self._marks = PinMarks(folder)
        self._changed_path = folder / "pin-changed"

    def exclusive(self) -> AbstractContextManager[None]:
        """Let one process at a time try a PIN."""
        return exclusive(self._lock_path, LOCK_SECONDS)

    def changed_since(self, instant: float) -> bool:
        """True if the PIN was changed after that instant of ``uptime()``; what was before this boot is no matter."""
        try:
            boot, _, changed = self._changed_path.read_text().partition(" ")
            return boot == _boot() and float(changed) >= instant
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as exc:
            raise ConfigurationError(f"{self._changed_path} cannot be read: remove it") from exc

    def note_change(self) -> None:
        """The PIN has been changed: who has read the old one reads again. Under the lock."""
        try:
            atomic_write.replace(self._changed_path, f"{_boot()} {uptime()}".encode())
        except OSError as exc:
            raise ConfigurationError(f"{self._changed_path} cannot be written: {exc.strerror}") from exc

    def mark(self, serial: str | None = None) -> PinMark | None:
        """The mark of an earlier refusal by the token of that serial, or by any; an unreadable one counts for all."""
        return self._marks.open_mark(serial)

    def refuse_if_marked(self, serial: str | None = None) -> None:
        """Raise PinError if the token of that serial, or any, has left a mark."""
        mark = self.mark(serial)
        if mark is not None:
            raise PinError(
                f"the token {mark.label!r} (serial {mark.serial}) refused the PIN at {mark.refused_at}: "
                "correct the PIN, then run `hsmkms doctor --retry-pin`"
            )

    def refuse_if_refused(self, token: Token, pin: Secret) -> None:
        """Raise PinError if the token has refused this PIN, or may have: unless a person insists on it."""
        self._marks.refuse_if_refused(_serial(token), pin)

    def knows_refused(self, token: Token, pin: Secret) -> bool:
        """True if what the token has refused came from the same source."""
        return self._marks.knows(_serial(token), pin)

    def mark_at_hand(
        self, label: str, serial: str, origin: PinOrigin | None
    ) -> AbstractContextManager[Callable[[], None]]:
        """Have a mark ready on the disk while a PIN of that origin is tried; the function that is lent leaves it.

        ConfigurationError if it cannot be prepared: then no PIN is tried.
        """
        return self._marks.at_hand(label, serial, origin)

    def settle(self, token: Token, pin: Secret) -> None:
        """The token has taken this PIN: close its mark."""
        self._marks.settle(_serial(token), pin.origin)

    def remove_unreadable_marks(self) -> None:
        """Remove the marks that name no token, once every token has taken its PIN."""
        with self.exclusive():
            self._marks.remove_unreadable()


def _serial(token: Token) -> str:
    return token.serial.decode("utf-8", "replace")


def _boot() -> str:
    """Names the time since the machine was started last."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def open_session(token: Token) -> Session:
    """Open a read-write session that shares the process's login."""
    return token.open(rw=True, attribute_mapper=MAPPER)


def log_in(
    find_token: Callable[[], Token],
    read_pin: PinReader,
    gate: LoginGate,
    *,
    loaded_at: float,
    accept_final_try: bool = False,
) -> Session:
    """Open the session that holds this process's login, and log in with it; at most one PIN is tried.

    StaleModuleError if the PIN was changed after ``loaded_at``, when the module was loaded: SoftHSM compares with the
    PIN of that moment until it is loaded again, and would refuse the right one.
    ``find_token`` is asked again after a fault at start; the PIN itself is sent once. Raises PinError (refused now or
    before, or too risky) or TokenUnavailableError. ``accept_final_try`` is for ``doctor --retry-pin``: the last
    try may be spent, and a mark does not block a PIN that a person wants to be sent; UnknownPinError if none does.
    """

    def ready_token() -> Token:
        token = _first_answer(find_token)
        if not accept_final_try:
            gate.refuse_if_marked(_serial(token))
        _check_counters(token, accept_final_try=accept_final_try)
        return token

    with gate.exclusive():
        ready_token()  # nobody is asked for a PIN that would not be tried
    told = read_pin()  # not under the lock: a person may take long over it
    pin = told if isinstance(told, Secret) else Secret(told)
    with gate.exclusive():
        if gate.changed_since(loaded_at):
            raise StaleModuleError(AWAY)
        token = ready_token()
        gate.refuse_if_refused(token, pin)
        return _try_pin(token, pin, gate)


def set_pin(session: Session, old: str, new: str) -> None:
    """C_SetPIN for the user. PinError if the token does not take the new one, PinRefusedError if it refuses the old."""
    try:
        session.set_pin(old, new)
    except (PinLenRange, PinInvalid) as exc:
        raise PinError("the token does not take such a PIN: it has its own rules for length and characters") from exc
    except REFUSALS as exc:
        raise PinRefusedError(
            f"the token refused the present PIN ({type(exc).__name__}), so it was not changed: correct its PIN file, "
            "then run `hsmkms doctor --retry-pin`"
        ) from exc
    except PKCS11Error as exc:
        raise translate(exc) from exc


def right_pin(find_token: Callable[[], Token], candidates: Sequence[Secret], gate: LoginGate) -> int | None:
    """Which of a few PINs the token takes, by its place; None if it takes none of those that it has not refused before.

    For a process that is not logged in, under the lock. Each wrong one costs a try and leaves a mark; PinError before a
    try that could be the last. A text that was refused in one place is not sent from another one.
    """
    token = find_token()
    refused = [each for each in candidates if gate.knows_refused(token, each)]
    for place, pin in enumerate(candidates):
        token = find_token()  # anew: its counters have changed
        if any(hmac.compare_digest(pin.reveal().encode(), each.reveal().encode()) for each in refused):
            continue
        _check_counters(token, accept_final_try=False)
        with gate.mark_at_hand(token.label, _serial(token), pin.origin) as leave_mark:
            try:
                token.open(user_pin=pin.reveal(), attribute_mapper=MAPPER).close()
            except REFUSALS:
                leave_mark()
                refused.append(pin)
                continue
            except PKCS11Error as exc:
                raise translate(exc) from exc
        gate.settle(token, pin)
        return place
    return None


def _first_answer(find_token: Callable[[], Token]) -> Token:
    """The token, once it opens a session without a fault."""
    for remaining in reversed(range(START_ATTEMPTS)):
        try:
            token = find_token()
            open_session(token).close()
        except GeneralError as exc:
            if not remaining:
                raise TokenUnavailableError(AWAY) from exc
            time.sleep(START_PAUSE_SECONDS)
        except PKCS11Error as exc:
            raise translate(exc) from exc
        else:
            return token
    raise AssertionError("unreachable: the last attempt returns or raises")


def _try_pin(token: Token, pin: Secret, gate: LoginGate) -> Session:
    if token.flags & TokenFlag.USER_PIN_COUNT_LOW:
        log.warning("somebody gave a wrong PIN for token %r since the last login", token.label)
    with gate.mark_at_hand(token.label, _serial(token), pin.origin) as leave_mark:
        try:
            session = token.open(rw=True, user_pin=pin.reveal(), attribute_mapper=MAPPER)
        except UserAlreadyLoggedIn:
            return open_session(token)
        except REFUSALS as exc:
            leave_mark()
            raise PinError(
                f"the token {token.label!r} refused the PIN ({type(exc).__name__}); it will not be tried again: "
                "correct the PIN, then run `hsmkms doctor --retry-pin`"
            ) from exc
        except UserPinNotInitialized as exc:
            # Its flags said that it has a PIN. SoftHSM writes the token's file anew at each login, and who loads it in
            # that instant finds none; the PIN was compared with nothing, so this is no refusal.
            raise StaleModuleError(AWAY) from exc
        except PKCS11Error as exc:
            raise translate(exc) from exc
    gate.settle(token, pin)
    return session


def check_counters(token: Token, gate: LoginGate) -> bool:
    """True if somebody gave a wrong PIN since the last login. Raises PinError if no PIN would be sent to the token."""
    gate.refuse_if_marked(_serial(token))
    _check_counters(token, accept_final_try=False)
    return bool(token.flags & TokenFlag.USER_PIN_COUNT_LOW)


def _check_counters(token: Token, *, accept_final_try: bool) -> None:
    if token.flags & TokenFlag.USER_PIN_LOCKED:
        raise PinError(f"the user PIN of token {token.label!r} is locked: its security officer must unlock it")
    if token.flags & TokenFlag.USER_PIN_FINAL_TRY and not accept_final_try:
        raise PinError(
            f"one more wrong PIN locks token {token.label!r}, so none is tried: "
            "make sure that the PIN is right, then run `hsmkms doctor --retry-pin`"
        )
    if not token.flags & TokenFlag.USER_PIN_INITIALIZED:
        raise PinError(f"token {token.label!r} has no user PIN yet: set one with the token's own tool")
