"""The connection: one logged-in token with its sessions and handles, shared by the whole process.

Sessions are borrowed for the device call alone. Calls that may be repeated are repeated at most once, and only after a
lost session or a dead handle. When a call found the token failing, one thread looks whether it is away (comeback.py):
then nothing is lent any more, every call fails at once, and that thread logs in again when it can, at last with a
module that it has initialised anew.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter
from typing import Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace
from pkcs11.constants import ObjectClass
from pkcs11.exceptions import PKCS11Error
from pkcs11.types import Object, Session, Token

from hsmkms.errors import (
    HsmKmsError,
    ObjectLostError,
    PinError,
    SessionLostError,
    TokenError,
    TokenFullError,
    TokenNotFoundError,
    TokenUnavailableError,
)
from hsmkms.hsm.choice import TokenChoice, choose, serial_of
from hsmkms.hsm.comeback import Comeback
from hsmkms.hsm.cryptoki import TokenLimits
from hsmkms.hsm.faults import AWAY, BUSY, SESSION_LOST, translate, translated
from hsmkms.hsm.handles import HandleIndex
from hsmkms.hsm.login import LoginGate, PinReader, StaleModuleError, log_in, open_session
from hsmkms.hsm.module import Module
from hsmkms.hsm.objects import find
from hsmkms.hsm.pool import PoolUse, SessionPool
from hsmkms.process import ForkGuard
from hsmkms.tally import Tally

log = logging.getLogger("hsmkms.hsm")

Result = TypeVar("Result")

OK: Final = "ok"
OTHER: Final = "other"
"""How calls are counted that have no name of their own."""

RENEW_AFTER: Final = 1
"""Attempts to log in again before the module is initialised anew."""

DRAIN_SECONDS: Final = 1.0
"""How long an attempt waits for calls that are under way: the module is not finalised under them."""

_PROBE_BITS: Final = 64


class DeviceSettings(Struct, frozen=True, kw_only=True):
    """How to reach a token, and what is allowed with it.

    ``state_dir`` holds the lock and the mark of the login gate; times in seconds. ``host_unwrap``: imported key
    material may pass through this process where the token cannot unwrap it by itself.
    """

    module: Path
    choice: TokenChoice
    state_dir: Path
    environment: dict[str, str] = {}
    init_reserved: str | None = None
    max_sessions: int = 16
    session_wait_seconds: float = 5.0
    host_unwrap: bool = False


class Connection:
    """A logged-in token. Thread-safe; of no use in a forked child."""

    def __init__(
        self, settings: DeviceSettings, module: Module, read_pin: PinReader, *, accept_final_try: bool = False
    ) -> None:
        self._settings = settings
        self._choice = settings.choice
        self._module = module
        self._read_pin = read_pin
        self._gate = LoginGate(settings.state_dir)
        self.calls = Tally()
        """Calls by name, with how they ended (the class of their fault) and how long they took."""
        self._guard = ForkGuard()
        self._recovering = threading.Lock()
        self._login_handle = 0
        self._handles = HandleIndex()
        try:
            self._log_in(accept_final_try=accept_final_try)
        except StaleModuleError:
            if module.connections:  # it serves another token of this process
                raise
            module.renew()
            self._log_in(accept_final_try=accept_final_try)
        self._pool = SessionPool(lambda: open_session(self._token), self._pool_size(), settings.session_wait_seconds)
        self.free = self._pool.free
        """True if a call that begins now need not wait for a session."""
        self._comeback = Comeback(self._come_back)
        module.connections += 1

    @property
    def members(self) -> frozenset[str]:
        """The serials of the group that the token is of, as the settings name them; without a group its own."""
        return frozenset(self._choice.serials)

    def limits(self) -> TokenLimits | None:
        """Session counts and memory as the token tells them now."""
        self._guard.check()
        with self._alone():
            return self._module.cryptoki.token_limits(self._token.slot.slot_id)

    def sessions(self) -> PoolUse:
        """How the sessions of the pool are used now."""
        return self._pool.use()

    def ready(self) -> None:
        """Make sure that the token answers and that the login holds, before something is begun that needs both."""
        self._recover()

    def _use(self, cka_id: bytes, attempt: Callable[[Session, int], Result], call: str = OTHER) -> Result:
        """Run an idempotent call on a key; once more after a lost session or a dead handle."""
        try:
            return self._attempt(cka_id, attempt, call)
        except (SessionLostError, ObjectLostError):
            self._handles.forget(cka_id)
            self._recover()
        except TokenUnavailableError:
            self._comeback.begin()
            raise
        with self._suspected():
            return self._attempt(cka_id, attempt, call)

    def _attempt(self, cka_id: bytes, attempt: Callable[[Session, int], Result], call: str) -> Result:
        session = self._pool.take()
        started = perf_counter()
        try:
            handle = self._handles.lookup(cka_id)
            if handle is None:
                self._require_login(session)
                handle = self._handles.search(session, cka_id)
            result = attempt(session, handle)
        except PKCS11Error as exc:
            fault = translate(exc)
            if isinstance(fault, TokenFullError):  # nothing is to be kept, so it is the memory for the work
                fault = TokenUnavailableError(BUSY)
            self._give_back(session, fault, call, started)
            raise fault from exc
        except BaseException as exc:
            self._give_back(session, exc, call, started)
            raise
        self.calls.note(call, OK, perf_counter() - started)
        self._pool.put(session)
        return result

    def _repeatable(self, attempt: Callable[[Session], Result], call: str = OTHER) -> Result:
        """Run an idempotent call that needs no key; once more after a lost session."""
        try:
            return self._once(attempt, call)
        except SessionLostError:
            self._recover()
        except TokenUnavailableError:
            self._comeback.begin()
            raise
        with self._suspected():
            return self._once(attempt, call)

    def _never_repeated(self, act: Callable[[Session], Result], call: str = OTHER) -> Result:
        """Run a call that makes something; what it makes is lost from sight if the session is, so one try it is."""
        self._recover()  # it must not meet a lost login
        with self._suspected():
            return self._once(act, call)

    def _once(self, attempt: Callable[[Session], Result], call: str = OTHER) -> Result:
        session = self._pool.take()
        started = perf_counter()
        try:
            with self._losses_told_apart(session):
                result = attempt(session)
        except BaseException as exc:
            self._give_back(session, exc, call, started)
            raise
        self.calls.note(call, OK, perf_counter() - started)
        self._pool.put(session)
        return result

    @contextmanager
    def _losses_told_apart(self, session: Session) -> Iterator[None]:
        """Translate faults; a handle that died with the login, as those of session objects do, is a lost session."""
        login = self._login_handle
        try:
            with translated():
                yield
        except ObjectLostError as exc:
            self._require_login(session)
            if login != self._login_handle:
                raise SessionLostError(SESSION_LOST) from exc
            raise

    def _give_back(self, session: Session, fault: BaseException, call: str, started: float) -> None:
        self.calls.note(call, type(fault).__name__, perf_counter() - started)
        if isinstance(fault, SessionLostError):
            self._pool.discard(session)
        elif isinstance(fault, TokenUnavailableError) or type(fault) is TokenError:
            self._pool.discard_one(session)  # an operation may have been begun in it
        else:
            self._pool.put(session)

    @contextmanager
    def _suspected(self) -> Iterator[None]:
        """Have it looked at whether the token is away, if the block finds it failing."""
        try:
            yield
        except (TokenUnavailableError, PinError):
            self._comeback.begin()
            raise

    def _find(self, session: Session, cka_id: bytes, object_class: ObjectClass | None = None) -> Object | None:
        """A key (without a class: secret key or private half), or None.

        Absence counts only if one login held from before the search until after it.
        """
        login = self._login_handle
        self._require_login(session)
        found = find(session, object_class, cka_id)
        if found is None:
            self._require_login(session)
            if login != self._login_handle:
                raise SessionLostError(SESSION_LOST)
        return found

    def _require_login(self, session: Session) -> None:
        """Raise SessionLostError unless the session is logged in; without a login a search shows an empty token."""
        if not self._module.cryptoki.logged_in(_handle(session)):
            raise SessionLostError(SESSION_LOST)

    def _recover(self) -> None:
        """Log in again if the login was lost; one thread does it, the others find it done.

        TokenUnavailableError while the token is away, PinError if it has refused the PIN.
        """
        self._guard.check()
        with self._alone(), self._suspected():
            self._pool.check()
            if not self._module.cryptoki.logged_in(self._login_handle):
                with self._else_away():
                    self._log_in_again()

    @contextmanager
    def _else_away(self) -> Iterator[None]:
        """Lend nothing any more if the block cannot have the login back: PinError, or else TokenUnavailableError."""
        try:
            yield
        except HsmKmsError as exc:
            fault = exc if isinstance(exc, PinError) else TokenUnavailableError(str(exc))
            if self._pool.suspend(fault):
                log.error("the token is away, and calls fail until it is back: %s", exc)  # noqa: TRY400 - no bug
            raise fault from exc

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one thread at a time look after the login; nobody waits for long on one that may never come back."""
        if not self._recovering.acquire(timeout=self._settings.session_wait_seconds):
            raise TokenUnavailableError(AWAY)
        try:
            yield
        finally:
            self._recovering.release()

    def _log_in_again(self) -> None:
        lost = self._login_handle
        if lost:
            self._login_handle = 0  # closed once: a module may give its number to somebody else
            self._module.cryptoki.close_session(lost)  # it may live, logged out; Session.close() fails then
        self._pool.discard_idle()
        self._handles.forget_all()
        try:
            self._log_in()
        except TokenNotFoundError as exc:
            # It was there when this device was opened: not a wrong choice, but a token that is away.
            raise TokenUnavailableError(AWAY) from exc

    def _answers(self) -> bool:
        """True if the login holds and the token does something in it."""
        if not self._module.cryptoki.logged_in(self._login_handle):
            return False
        try:
            self._login.generate_random(_PROBE_BITS)
        except PKCS11Error:
            return False
        return True

    def _come_back(self, number: int) -> bool:
        """Attempt ``number`` (from 0) to have the token again; True if it answers.

        A refused PIN is not tried again: the login gate sees to that, also here.
        """
        with self._alone():
            if not self._answers():
                with suppress(TokenUnavailableError, PinError), self._else_away():
                    self._begin_anew(number)
                if not self._answers():
                    return False
            if self._pool.resume():
                log.warning("the token is back")
            return True

    def _begin_anew(self, number: int) -> None:
        stale = self._gate.changed_since(self._module.loaded_at)
        if number or stale:
            self._pool.suspend(TokenUnavailableError(AWAY))  # else calls would begin while the pool is drained
            if self._pool.drain(DRAIN_SECONDS) and (number > RENEW_AFTER or stale) and self._module.renew():
                self._login_handle = 0  # it died with the module
        self._log_in_again()

    def _log_in(self, *, accept_final_try: bool = False) -> None:
        def find_token() -> Token:
            self._token = choose(self._module, self._choice)
            return self._token

        self._login = log_in(
            find_token,
            self._read_pin,
            self._gate,
            loaded_at=self._module.loaded_at,
            accept_final_try=accept_final_try,
        )
        self._login_handle = _handle(self._login)
        if self._choice.serial is None:  # after an outage a clone with the same label must not take its place
            self._choice = replace(self._choice, serial=serial_of(self._token))

    def _pool_size(self) -> int:
        """What the settings allow, within what the token allows besides the login session."""
        limits = self.limits()
        maxima = [limits.max_sessions, limits.max_rw_sessions] if limits else []
        return max(1, min([self._settings.max_sessions, *(each - 1 for each in maxima if each is not None)]))

    def _close_sessions(self) -> None:
        if self._guard.foreign:
            return
        self._comeback.stop()
        self._module.connections -= 1
        self._pool.close()
        with suppress(PKCS11Error):  # a token that is gone cannot be logged out of
            self._login.close()


def _handle(session: Session) -> int:
    return int(session.handle)  # type: ignore[attr-defined]  # the stub leaves it out
