"""Logging in: at most one refused PIN, whoever asks and however many processes start at once.

A token locks after a few wrong PINs, and a server that starts its workers, or a unit that restarts, would use up the
tries within a second. So every login goes through one gate per installation: an exclusive file lock, then the mark
that an earlier refusal left, then the token's own counters; a refusal leaves the mark before the lock is let go.
Only ``hsmkms doctor --retry-pin`` takes the mark away. The mark says token and time, nothing of the PIN.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from msgspec import Struct
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

from hsmkms.errors import ConfigurationError, PinError, TokenUnavailableError
from hsmkms.hsm.attributes import MAPPER
from hsmkms.hsm.faults import AWAY, translate
from hsmkms.process import exclusive, uptime

log = logging.getLogger("hsmkms.hsm")

PinReader = Callable[[], str]

REFUSALS: Final = (PinIncorrect, PinInvalid, PinLenRange, PinExpired, PinLocked)
"""Answers that repeat, and may cost a try, if the same PIN is given again."""

LOCK_SECONDS: Final = 30.0

_MARK: Final = "pin-refused"
_UNKNOWN: Final = "?"

START_ATTEMPTS: Final = 4
START_PAUSE_SECONDS: Final = 0.15
"""Two processes that open one SoftHSM token at the same instant: one of them may see CKR_GENERAL_ERROR, once."""


class StaleModuleError(TokenUnavailableError):
    """What the module knows of the token's PIN is not what holds: it must be loaded again before a login."""


class PinMark(Struct, frozen=True, kw_only=True):
    """What a refused PIN left behind."""

    label: str
    serial: str
    refused_at: str


class LoginGate:
    """The lock and the marks of one installation, as files in ``folder``: one for each token that refused its PIN."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock_path = folder / "login.lock"
        self._mark_path = folder / f"{_MARK}.json"
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
            self._changed_path.touch(mode=0o600)
            self._changed_path.write_text(f"{_boot()} {uptime()}")
        except OSError as exc:
            raise ConfigurationError(f"{self._changed_path} cannot be written: {exc.strerror}") from exc

    def mark(self, serial: str | None = None) -> PinMark | None:
        """The mark of an earlier refusal by the token of that serial, or by any; an unreadable one counts for all."""
        marks = map(_read_mark, sorted(self._folder.glob(f"{_MARK}*.json")))
        return next((each for each in marks if serial is None or each.serial in (serial, _UNKNOWN)), None)

    def refuse_if_marked(self, token: Token | None = None) -> None:
        """Raise PinError if that token, or any, has left a mark."""
        mark = self.mark(_serial(token) if token is not None else None)
        if mark is not None:
            raise PinError(
                f"the token {mark.label!r} (serial {mark.serial}) refused the PIN at {mark.refused_at}: "
                "correct the PIN, then run `hsmkms doctor --retry-pin`"
            )

    @contextmanager
    def mark_at_hand(self, token: Token) -> Iterator[Callable[[], None]]:
        """Have the mark ready on the disk while a PIN is tried; the function that is lent puts it in its place.

        A mark that could not be written after the refusal would let the next process try again. ConfigurationError
        if it cannot be prepared: then no PIN is tried.
        """
        told = {
            "label": token.label,
            "serial": _serial(token),
            "refused_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        path = self._mark_path
        if path.exists():  # of another token, which keeps its own
            path = path.with_name(f"{_MARK}-{hashlib.sha256(told['serial'].encode()).hexdigest()[:16]}.json")
        prepared = path.with_suffix(".prepared")
        try:
            descriptor = os.open(prepared, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(told, file)
                file.flush()
                os.fsync(file.fileno())
        except OSError as exc:
            raise ConfigurationError(
                f"no PIN is tried, since {prepared} cannot be written ({exc.strerror}): make its folder writable"
            ) from exc
        try:
            yield lambda: _move(prepared, path)
        finally:
            prepared.unlink(missing_ok=True)

    def remove_mark(self) -> bool:
        """Take all marks away; True if there was one."""
        found = list(self._folder.glob(f"{_MARK}*.json"))
        for each in found:
            each.unlink(missing_ok=True)
        return bool(found)


def _read_mark(path: Path) -> PinMark:
    try:
        told = json.loads(path.read_text())
        return PinMark(label=told["label"], serial=told["serial"], refused_at=told["refused_at"])
    except (OSError, ValueError, KeyError, TypeError):
        return PinMark(label=_UNKNOWN, serial=_UNKNOWN, refused_at="an unknown time")


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
    before, or too risky) or TokenUnavailableError. ``accept_final_try`` is for ``doctor --retry-pin``.
    """

    def ready_token() -> Token:
        token = _first_answer(find_token)
        gate.refuse_if_marked(token)
        _check_counters(token, accept_final_try=accept_final_try)
        return token

    with gate.exclusive():
        ready_token()  # nobody is asked for a PIN that would not be tried
    pin = read_pin()  # not under the lock: a person may take long over it
    with gate.exclusive():
        if gate.changed_since(loaded_at):
            raise StaleModuleError(AWAY)
        return _try_pin(ready_token(), pin, gate)


def set_pin(session: Session, old: str, new: str) -> None:
    """C_SetPIN for the user. PinError if the token refuses either; then the PIN is the old one."""
    try:
        session.set_pin(old, new)
    except (PinLenRange, PinInvalid) as exc:
        raise PinError("the token does not take such a PIN: it has its own rules for length and characters") from exc
    except PinIncorrect as exc:
        raise PinError("the token refused the present PIN, so it was not changed: look at its PIN file") from exc
    except PKCS11Error as exc:
        raise translate(exc) from exc


def right_pin(token: Token, candidates: Sequence[str], gate: LoginGate) -> int | None:
    """Which of a few PINs the token takes, by its place; None if it takes none. Each wrong one costs a try.

    For a process that is not logged in. An earlier refusal's mark is taken away by a PIN that is taken.
    """
    _check_counters(token, accept_final_try=False)
    for place, pin in enumerate(candidates):
        try:
            token.open(user_pin=pin, attribute_mapper=MAPPER).close()
        except REFUSALS:
            continue
        except PKCS11Error as exc:
            raise translate(exc) from exc
        gate.remove_mark()
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


def _try_pin(token: Token, pin: str, gate: LoginGate) -> Session:
    if token.flags & TokenFlag.USER_PIN_COUNT_LOW:
        log.warning("somebody gave a wrong PIN for token %r since the last login", token.label)
    with gate.mark_at_hand(token) as leave_mark:
        try:
            return token.open(rw=True, user_pin=pin, attribute_mapper=MAPPER)
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


def _move(source: Path, target: Path) -> None:
    source.replace(target)


def check_counters(token: Token, gate: LoginGate) -> bool:
    """True if somebody gave a wrong PIN since the last login. Raises PinError if no PIN would be sent to the token."""
    gate.refuse_if_marked(token)
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
