"""The connection: one logged-in token with its sessions and handles, shared by the whole process.

Sessions are borrowed for the device call alone. Calls that may be repeated are repeated at most once, and only after a
lost session or a dead handle. When a call found the token failing, one thread looks whether it is away (comeback.py):
then nothing is lent any more, every call fails at once, and that thread logs in again when it can, at last with a
module that it has initialised anew.

After each login the token proves its identity, if an opener has said which token it takes it for (identity.py). Until
then no session is lent. An object that is missing proves nothing as long as the same session does not show the
installation's own key: then the token is away, or another one is in its place.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter
from typing import Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace
from pkcs11.constants import Attribute, ObjectClass
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
    WrongTokenError,
)
from hsmkms.hsm.choice import TokenChoice, choose
from hsmkms.hsm.comeback import Comeback
from hsmkms.hsm.cryptoki import TokenLimits
from hsmkms.hsm.faults import AWAY, BUSY, SESSION_LOST, translate, translated
from hsmkms.hsm.handles import HandleIndex
from hsmkms.hsm.identity import Candidate, Identity, Proof, mac_by_handle
from hsmkms.hsm.login import LoginGate, PinReader, StaleModuleError, log_in, open_session
from hsmkms.hsm.module import Module
from hsmkms.hsm.objects import find, tell
from hsmkms.hsm.pool import PoolUse, SessionPool
from hsmkms.hsm.profile import TokenProfile
from hsmkms.process import ForkGuard
from hsmkms.tally import Tally

log = logging.getLogger("hsmkms.hsm")

Result = TypeVar("Result")

OK: Final = "ok"
OTHER: Final = "other"
"""How calls are counted that have no name of their own."""

RENEW_AFTER: Final = 1
"""Attempts to log in again before the module is initialised anew."""

FIRST_RENEWAL_PAUSE_SECONDS: Final = 2.0
LONGEST_RENEWAL_PAUSE_SECONDS: Final = 30.0
"""How often a token that is away lets another token of the same module, which is in use, step aside for a renewal."""

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

    profile: TokenProfile

    def __init__(
        self, settings: DeviceSettings, module: Module, read_pin: PinReader, *, accept_final_try: bool = False
    ) -> None:
        self._settings = settings
        self._module = module
        self._read_pin = read_pin
        self._gate = LoginGate(settings.state_dir)
        self.calls = Tally()
        """Calls by name, with how they ended (the class of their fault) and how long they took."""
        self._guard = ForkGuard()
        self._recovering = threading.Lock()
        self._login_handle = 0
        self._handles = HandleIndex()
        self._identities: list[Identity] = []
        self._proofs: list[Proof] = []
        self._listeners: list[Callable[[], None]] = []
        self._is_news = False
        self._renewal_pause = FIRST_RENEWAL_PAUSE_SECONDS
        self._next_renewal = 0.0
        try:
            self._log_in(accept_final_try=accept_final_try)
        except StaleModuleError:
            if not module.renew():
                raise
            self._log_in(accept_final_try=accept_final_try)
        self._pool = SessionPool(lambda: open_session(self._token), self._pool_size(), settings.session_wait_seconds)
        self.free = self._pool.free
        """True if a call that begins now need not wait for a session."""
        self._comeback = Comeback(self._come_back)
        module.lodgers.append(self)

    def require(self, identity: Identity, logged_in: Callable[[], None]) -> None:
        """Use the token only as long as it proves that identity: now, and after each login from now on.

        ``logged_in`` is called after each later login, in a thread of its own. WrongTokenError if it is another token.
        """
        with self._alone():
            self._identities.append(identity)
            try:
                self._prove(self._login)
            except BaseException:
                self._identities.remove(identity)
                raise
            self._listeners.append(logged_in)

    def release_identity(self, identity: Identity, logged_in: Callable[[], None]) -> None:
        """Ask no more for an identity that was required: its opener closes the token."""
        for held, each in ((self._identities, identity), (self._listeners, logged_in)):
            with suppress(ValueError):
                held.remove(each)  # type: ignore[arg-type]
        self._proofs = []

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
                handle = self._search(session, cka_id)
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

    def _search(self, session: Session, cka_id: bytes) -> int:
        self._require_login(session)
        try:
            return self._handles.search(session, cka_id)
        except ObjectLostError:
            self._require_identity(session)
            raise

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
            self._require_identity(session)
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
            self._require_identity(session)
        return found

    def _require_login(self, session: Session) -> None:
        """Raise SessionLostError unless the session is logged in; without a login a search shows an empty token."""
        if not self._module.cryptoki.logged_in(_handle(session)):
            raise SessionLostError(SESSION_LOST)

    # -- identity ---------------------------------------------------------------------------------------------------

    def _prove(self, session: Session) -> None:
        """Challenge the token, in a session of it; WrongTokenError if it is not the one that each opener requires."""
        if not self._identities:
            return
        candidate = Candidate(session, replace(self.profile, label=self._token.label, serial=_serial(self._token)))
        try:
            proofs = [each.prove(candidate) for each in list(self._identities)]
        except WrongTokenError:
            self._require_login(session)  # without it nothing is to be seen
            raise
        for each in proofs:
            self._handles.remember(each.cka_id, candidate.handle(each.cka_id))
        self._proofs = proofs

    def _require_identity(self, session: Session) -> None:
        """Raise WrongTokenError, and lend nothing any more, unless a session shows the token that it should.

        Something is missing in it, or was made: that counts only if the installation's own key is to be seen there.
        """
        if not self._identities or self._answers_as_proven(session):
            return
        try:
            self._prove(session)
        except WrongTokenError as exc:
            self._suspend(exc)
            self._comeback.begin()
            raise

    def _answers_as_proven(self, session: Session) -> bool:
        """True if the keys with which the token has proven its identity still give the same answers, by their handles.

        That is quick; False says nothing.
        """
        proofs = self._proofs
        for each in proofs:
            handle = self._handles.lookup(each.cka_id)
            if handle is None:
                return False
            try:
                if mac_by_handle(session, handle, each.challenge) != each.response:
                    return False
            except PKCS11Error:
                return False
        return bool(proofs)

    def _require_made(self, session: Session, made: Object) -> None:
        """Raise TokenUnavailableError unless what was just made is on the token that it should be on.

        First the identity, then the object: a token that was changed for another one between the two lacks it.
        """
        if self._identities:
            self._require_identity(session)
            if tell(made, (Attribute.CLASS,))[Attribute.CLASS] is None:
                raise TokenUnavailableError(AWAY)

    # -- the login --------------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Log in again if the login was lost; one thread does it, the others find it done.

        TokenUnavailableError while the token is away, PinError if it has refused the PIN.
        """
        self._guard.check()
        with self._alone(), self._suspected():
            self._pool.check()
            if not self._module.cryptoki.logged_in(self._login_handle):
                with self._pool.held(), self._else_away():
                    self._log_in_again()
        if self._is_news:
            self._comeback.begin()

    @contextmanager
    def _else_away(self) -> Iterator[None]:
        """Lend nothing any more if the block cannot have the login back: PinError, or else TokenUnavailableError."""
        try:
            yield
        except HsmKmsError as exc:
            fault = exc if isinstance(exc, PinError | WrongTokenError) else TokenUnavailableError(str(exc))
            self._suspend(fault)
            raise fault from exc

    def _suspend(self, fault: HsmKmsError) -> None:
        if self._pool.suspend(fault):
            log.error("the token is away, and calls fail until it is back: %s", fault)

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
        self._forget_objects()
        try:
            self._log_in()
            self._prove(self._login)
            self._is_news = bool(self._listeners)
        except TokenNotFoundError as exc:
            # It was there when this device was opened: not a wrong choice, but a token that is away.
            raise TokenUnavailableError(AWAY) from exc

    def _forget_objects(self) -> None:
        """Drop all that is known of objects on the token: after another login they may not be the same."""
        self._handles.forget_all()

    def _answers(self) -> bool:
        """True if the login holds, the token does something in it, and it is the one that it should be."""
        if not self._module.cryptoki.logged_in(self._login_handle):
            return False
        try:
            self._login.generate_random(_PROBE_BITS)
            self._prove(self._login)
        except (PKCS11Error, HsmKmsError):
            return False
        return True

    def _come_back(self, number: int) -> bool:
        """Attempt ``number`` (from 0) to have the token again; True if it answers.

        A refused PIN is not tried again: the login gate sees to that, also here.
        """
        with self._alone():
            if not self._answers():
                with suppress(TokenUnavailableError, PinError), self._pool.held(), self._else_away():
                    self._begin_anew(number)
                if not self._answers():
                    return False
            if self._pool.resume():
                self._renewal_pause, self._next_renewal = FIRST_RENEWAL_PAUSE_SECONDS, 0.0
                log.warning("the token is back")
        return self._tell_listeners()

    def _tell_listeners(self) -> bool:
        """Tell of a new login whoever wants to know of it; False if one of them could not do what he does then."""
        if self._is_news:
            self._is_news = False
            try:
                for each in list(self._listeners):
                    each()
            except HsmKmsError:
                self._is_news = True
                return False
        return True

    def _begin_anew(self, number: int) -> None:
        stale = self._gate.changed_since(self._module.loaded_at)
        if number or stale:
            # Else calls would begin while the pool is drained.
            self._pool.suspend(TokenUnavailableError(AWAY), unless_suspended=True)
            if self._pool.drain(DRAIN_SECONDS) and (stale or number > RENEW_AFTER):
                self._renew(urgent=stale)
        self._log_in_again()

    # -- another module ---------------------------------------------------------------------------------------------

    def _renew(self, *, urgent: bool) -> None:
        """Initialise the module anew, but not too often while another token of it is in use."""
        if not urgent and not all(each.is_away for each in self._module.others(self)):
            now = time.monotonic()
            if now < self._next_renewal:
                return
            self._next_renewal = now + self._renewal_pause
            self._renewal_pause = min(2 * self._renewal_pause, LONGEST_RENEWAL_PAUSE_SECONDS)
        if self._module.renew(self):
            self.login_died()

    @property
    def is_away(self) -> bool:
        """True if no session is lent, since the token is away."""
        return bool(self._pool.use().away)

    @contextmanager
    def aside(self) -> Iterator[bool]:
        """Have no call under way in the block, and log in again after it if the module was renewed; see ``Lodger``."""
        if not self._recovering.acquire(timeout=DRAIN_SECONDS):
            yield False
            return
        try:
            with self._pool.held():
                before = self._login_handle
                yield self._pool.drain(DRAIN_SECONDS)
                if before and not self._login_handle:
                    with suppress(HsmKmsError), self._suspected(), self._else_away():
                        self._log_in_again()
        finally:
            self._recovering.release()

    def login_died(self) -> None:
        """The module was renewed, and all sessions are gone."""
        self._login_handle = 0

    def _log_in(self, *, accept_final_try: bool = False) -> None:
        def find_token() -> Token:
            token = choose(self._module, self._settings.choice)
            for each in list(self._identities):
                each.admit(_serial(token))  # no PIN goes to a stranger that is known for one
            self._token = token
            return token

        self._login = log_in(
            find_token,
            self._read_pin,
            self._gate,
            loaded_at=self._module.loaded_at,
            accept_final_try=accept_final_try,
        )
        self._login_handle = _handle(self._login)

    def _pool_size(self) -> int:
        """What the settings allow, within what the token allows besides the login session."""
        limits = self.limits()
        maxima = [limits.max_sessions, limits.max_rw_sessions] if limits else []
        return max(1, min([self._settings.max_sessions, *(each - 1 for each in maxima if each is not None)]))

    def _close_sessions(self) -> None:
        if self._guard.foreign:
            return
        self._comeback.stop()
        self._module.lodgers.remove(self)
        self._pool.close()
        if self._login_handle:
            with suppress(PKCS11Error):  # a token that is gone cannot be logged out of
                self._login.close()


def _serial(token: Token) -> str:
    return token.serial.decode("utf-8", "replace")


def _handle(session: Session) -> int:
    return int(session.handle)  # type: ignore[attr-defined]  # the stub leaves it out
