"""Log in with at most one refused PIN, however many processes start at once.

A token locks after a few wrong PINs, and a server that starts its workers, or a unit that restarts, would use up the
attempts within a second. So every login passes one gate per installation: an exclusive file lock, then the mark that an
earlier refusal left, then the token's own counters; after a refusal the mark is written before the lock is released.
Only ``hsmkms doctor --retry-pin`` tries again, and only if a person confirms that the PIN is to be sent (pin_marks.py).
"""

import hashlib
import hmac
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
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
from hsmkms.errors import ConfigurationError, DependencyTimeoutException, PinError, TokenUnavailableError
from hsmkms.hsm.faults import AWAY, translate
from hsmkms.hsm.objects.attributes import MAPPER
from hsmkms.hsm.serials import serial_of
from hsmkms.hsm.session.pin_marks import PinMark, PinMarks, SharedMarks
from hsmkms.process import HeldLock, exclusive, uptime
from hsmkms.secret import PinOrigin, Secret

log = logging.getLogger("hsmkms.hsm")

PinReader = Callable[[], str | Secret]

REFUSALS: Final = (PinIncorrect, PinInvalid, PinLenRange, PinExpired, PinLocked)
"""Errors that recur, and may cost an attempt, if the same PIN is sent again."""

LOCK_SECONDS: Final = 30.0

START_ATTEMPTS: Final = 4
START_PAUSE_SECONDS: Final = 0.15
"""Pause before a retry: of two processes that open one SoftHSM token at once, one may get CKR_GENERAL_ERROR, once."""


class StaleModuleError(TokenUnavailableError):
    """The module's cached state of the token's PIN is stale: the module must be reloaded before a login."""


class PinRefusedError(PinError):
    """C_SetPIN has compared the present PIN and refused it, which may have cost an attempt."""


class LoginGate:
    """Login lock and refusal marks of one installation, files in ``folder``: one mark per token that refused a PIN.

    ``members``: the serials of the HA group whose token is used; a mark of one member counts for all of them.
    ``standby``: for logins to a member beside the one in use, whose refusals count for that one alone.
    """

    def __init__(
        self,
        folder: Path,
        members: tuple[str, ...] = (),
        *,
        standby: bool = False,
        shared: SharedMarks | None = None,
    ) -> None:
        self._lock_path = folder / "login.lock"
        self._marks = PinMarks(folder, members, standby=standby, shared=shared)
        self._changed_path = folder / "pin-changed"
        self._group = members if len(members) > 1 else ()
        self._lock: HeldLock | None = None
        self._overdue = False

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the cross-process login lock: one process at a time tries a PIN.

        TokenUnavailableError if the login took so long that others were let in.
        """
        with exclusive(self._lock_path, LOCK_SECONDS) as self._lock:
            self._require_patience()
            yield

    def exchange_marks(self) -> None:
        """Exchange marks with the other nodes of the installation. Needs the lock."""
        self._marks.exchange()

    def publish_change(self, label: str, serial: str) -> None:
        """Let the other nodes know that the PIN of a token was changed: they do not send theirs unasked."""
        self._marks.note_change(label, serial)

    def expect_login(self) -> None:
        """Let the login that begins now hold the login lock."""
        self._overdue = False

    def let_others_in(self) -> None:
        """Release the login lock if a login through this gate holds it, since that hangs in the token.

        The login gets no lock any more. A PIN that it has sent may still be refused: until the token has answered it,
        ``awaiting_answer`` keeps others from sending it a second one.
        """
        self._overdue = True
        if self._lock is not None:
            self._lock.release()

    @contextmanager
    def awaiting_answer(self, token: Token) -> Iterator[None]:
        """Hold the lock of one member of the HA group while it has a PIN to answer, however long that takes.

        TokenUnavailableError if another login, of any process, has sent it one; or as ``exclusive``.
        """
        serial = serial_of(token)
        if serial not in self._group:  # nobody is let in while its login hangs
            yield
            return
        digest = hashlib.sha256(serial.encode()).hexdigest()[:16]
        with ExitStack() as lock:
            try:
                lock.enter_context(exclusive(self._lock_path.with_name(f"login-{digest}.lock"), 0))
            except DependencyTimeoutException as exc:
                raise TokenUnavailableError(
                    f"the HA member with serial {serial} has not answered the PIN of an earlier login yet, so none is "
                    "sent to it"
                ) from exc
            self._require_patience()
            yield

    def _require_patience(self) -> None:
        if self._overdue:
            raise TokenUnavailableError(AWAY)

    @contextmanager
    def _locked_again(self) -> Iterator[None]:
        """Hold the login lock, also if others were let in meanwhile; what a token has answered is noted in any case."""
        with ExitStack() as lock:
            with suppress(DependencyTimeoutException):
                lock.enter_context(exclusive(self._lock_path, LOCK_SECONDS))
            yield

    def changed_since(self, instant: float) -> bool:
        """True if the PIN was changed after that instant of ``uptime()``; changes before this boot do not count."""
        try:
            boot, _, changed = self._changed_path.read_text().partition(" ")
            return boot == _boot() and float(changed) >= instant
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as exc:
            raise ConfigurationError(f"{self._changed_path} cannot be read: remove it") from exc

    def note_change(self) -> None:
        """Record that the PIN was changed, so that processes that read the old one reread it. Needs the lock."""
        try:
            atomic_write.replace(self._changed_path, f"{_boot()} {uptime()}".encode())
        except OSError as exc:
            raise ConfigurationError(f"{self._changed_path} cannot be written: {exc.strerror}") from exc

    def mark(self, serial: str | None = None) -> PinMark | None:
        """Return the mark of an earlier refusal by that token, or by any; an unreadable mark counts for all tokens."""
        return self._marks.open_mark(serial)

    def refuse_if_marked(self, serial: str | None = None) -> None:
        """Raise PinError if there is a mark for the token of that serial, or without a serial, for any token."""
        mark = self.mark(serial)
        if mark is not None and mark.node:
            raise PinError(
                f"{mark.of_another_node}. Write the right PIN into its source, then run `hsmkms doctor --retry-pin`"
            )
        if mark is not None:
            raise PinError(
                f"the token {mark.label!r} (serial {mark.serial}) refused the PIN at {mark.refused_at}: "
                "correct the PIN, then run `hsmkms doctor --retry-pin`"
            )

    def refuse_if_refused(self, token: Token, pin: Secret) -> None:
        """Raise PinError if the token has or may have refused this PIN, unless a person confirmed that it be sent."""
        self._marks.refuse_if_refused(serial_of(token), pin)

    def knows_refused(self, token: Token, pin: Secret) -> bool:
        """True if a PIN from the same source was refused by the token."""
        return self._marks.knows(serial_of(token), pin)

    @contextmanager
    def mark_at_hand(self, label: str, serial: str, origin: PinOrigin | None) -> Iterator[Callable[[], None]]:
        """Prepare a mark on disk while a PIN of that origin is tried; the yielded function puts it in place.

        ConfigurationError if it cannot be prepared: then no PIN is tried.
        """
        with self._marks.at_hand(label, serial, origin) as put_in_place:

            def leave() -> None:
                with self._locked_again():
                    put_in_place()

            yield leave

    def settle(self, token: Token, pin: Secret) -> None:
        """Close the token's mark: it has accepted this PIN."""
        with self._locked_again():
            self._marks.settle(serial_of(token), pin.origin)

    def remove_unreadable_marks(self) -> None:
        """Remove the unreadable marks, once every token has accepted its PIN."""
        with self.exclusive():
            self._marks.remove_unreadable()


def _boot() -> str:
    """Return the kernel's id of the current boot."""
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
    PIN of that moment until it is reloaded, and would refuse the right one.
    ``find_token`` is called again after an error at start; the PIN itself is sent once. Raises PinError (refused now or
    before, or too risky) or TokenUnavailableError. ``accept_final_try`` is for ``doctor --retry-pin``: the last attempt
    may be used, and a mark does not block a PIN that a person confirmed; UnknownPinError if it was not confirmed.
    """

    def ready_token() -> Token:
        token = _first_answer(find_token)
        if not accept_final_try:
            gate.refuse_if_marked(serial_of(token))
        _check_counters(token, accept_final_try=accept_final_try)
        return token

    with gate.exclusive():
        ready_token()  # do not ask for a PIN that would not be tried
    text = read_pin()  # not under the lock: a person may take long to type it
    pin = text if isinstance(text, Secret) else Secret(text)
    with gate.exclusive():
        gate.exchange_marks()
        if gate.changed_since(loaded_at):
            raise StaleModuleError(AWAY)
        token = ready_token()
        with gate.awaiting_answer(token):
            gate.refuse_if_refused(token, pin)
            return _try_pin(token, pin, gate)


def set_pin(session: Session, old: str, new: str) -> None:
    """Call C_SetPIN for the user. PinError if the token rejects the new PIN, PinRefusedError if it refuses the old."""
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
    """Return the index of the candidate PIN that the token accepts; None if it accepts none.

    Candidates that it refused before are not sent. For a process that is not logged in; needs the lock. Each wrong PIN
    costs an attempt and leaves a mark; PinError before an attempt that could be the last. A text that was refused is
    not sent again, even if it also comes from another source.
    """
    token = find_token()
    refused = [each for each in candidates if gate.knows_refused(token, each)]
    for place, pin in enumerate(candidates):
        token = find_token()  # read again: its counters have changed
        if any(hmac.compare_digest(pin.reveal().encode(), each.reveal().encode()) for each in refused):
            continue
        _check_counters(token, accept_final_try=False)
        with gate.mark_at_hand(token.label, serial_of(token), pin.origin) as leave_mark:
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
    """Return the token once it opens a session without an error; retries CKR_GENERAL_ERROR."""
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
        log.warning("a wrong PIN was given for token %r since the last login", token.label)
    with gate.mark_at_hand(token.label, serial_of(token), pin.origin) as leave_mark:
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
            # Its flags said that it has a PIN. SoftHSM rewrites the token's file at each login, and a process that
            # loads it in that instant sees no PIN; nothing was compared, so this is not a refusal.
            raise StaleModuleError(AWAY) from exc
        except PKCS11Error as exc:
            raise translate(exc) from exc
    gate.settle(token, pin)
    return session


def check_counters(token: Token, gate: LoginGate) -> bool:
    """Return True if a wrong PIN was given since the last login. PinError if no PIN would be sent to the token."""
    gate.refuse_if_marked(serial_of(token))
    _check_counters(token, accept_final_try=False)
    return bool(token.flags & TokenFlag.USER_PIN_COUNT_LOW)


def has_usable_pin(token: Token, *, accept_final_try: bool) -> bool:
    """Return True if the token's counters allow a login."""
    try:
        _check_counters(token, accept_final_try=accept_final_try)
    except PinError:
        return False
    return True


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
