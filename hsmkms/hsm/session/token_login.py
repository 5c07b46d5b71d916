"""The login of a token: kept, had again after it was lost, and proven to be that of the right token.

When a call found the token failing, one thread looks whether it is away (reconnect.py): then nothing is lent any more,
every call fails at once, and that thread logs in again when it can, at last with a module that it has initialised anew.

After each login the token proves its identity, if an opener has said which token it takes it for (identity.py). Until
then no session is lent.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from msgspec import Struct
from msgspec.structs import replace
from pkcs11.exceptions import PKCS11Error
from pkcs11.types import Session, Token

from hsmkms.call_stats import Tally
from hsmkms.errors import (
    ClosedError,
    HsmKmsError,
    PinError,
    SessionLostError,
    StoreError,
    TokenNotFoundError,
    TokenUnavailableError,
    WrongTokenError,
)
from hsmkms.hsm.faults import AWAY, SESSION_LOST
from hsmkms.hsm.probing.profile import TokenProfile
from hsmkms.hsm.serials import serial_of
from hsmkms.hsm.session.cryptoki import TokenLimits
from hsmkms.hsm.session.handles import HandleIndex
from hsmkms.hsm.session.identity import Candidate, Identities, Identity
from hsmkms.hsm.session.login import LoginGate, PinReader, StaleModuleError, log_in, open_session
from hsmkms.hsm.session.module import Module, RenewalPace
from hsmkms.hsm.session.pool import PoolUse, SessionPool
from hsmkms.hsm.session.reconnect import Comeback
from hsmkms.hsm.session.token_choice import TokenChoice, choose, namesakes
from hsmkms.process import ForkGuard

log = logging.getLogger("hsmkms.hsm")

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


class TokenLogin:
    """The login that all sessions of this process share with a token. Thread-safe; of no use in a forked child."""

    profile: TokenProfile
    token: Token

    def __init__(
        self, settings: DeviceSettings, module: Module, read_pin: PinReader, *, accept_final_try: bool = False
    ) -> None:
        self.settings = settings
        self.module = module
        self._read_pin = read_pin
        self.gate = LoginGate(settings.state_dir)
        self.calls = Tally()
        """Calls by name, with how they ended (the class of their fault) and how long they took."""
        self.guard = ForkGuard()
        self._recovering = threading.Lock()
        self.login_handle = 0
        self._namesakes: frozenset[str] = frozenset()
        self.handles = HandleIndex()
        self._identities = Identities()
        self._listeners: list[Callable[[], None]] = []
        self._telling = threading.Lock()
        self._news = self._told = object()
        """The newest event after which the listeners look at the token, and the last that they were told of."""
        self._looks = self._looked = 0
        """How many looks of the listeners have begun, and the number of the last that has ended well."""
        self._renewals = RenewalPace()
        try:
            self._log_in(accept_final_try=accept_final_try)
        except StaleModuleError:
            if not module.renew():
                raise
            self._log_in(accept_final_try=accept_final_try)
        self.pool = SessionPool(lambda: open_session(self.token), self._pool_size(), settings.session_wait_seconds)
        self.free = self.pool.free
        """True if a call that begins now need not wait for a session."""
        self._comeback = Comeback(self._come_back)
        module.lodgers.append(self)

    # -- identity ------------------------------------------------------------------------------------------------------

    def require(self, identity: Identity, logged_in: Callable[[], None]) -> None:
        """Use the token only as long as it proves that identity: now, and after each login from now on.

        ``logged_in`` is called after each later login: in a thread of its own, or by the next call that makes a key. So
        it must make none. WrongTokenError if it is another token.
        """
        with self.alone():
            self._identities.add(identity)
            try:
                self._prove(self._login)
            except BaseException:
                self._identities.remove(identity)
                raise
            self._listeners.append(logged_in)

    def release_identity(self, identity: Identity, logged_in: Callable[[], None]) -> None:
        """Ask no more for an identity that was required: its opener closes the token."""
        self._identities.remove(identity)
        with suppress(ValueError):
            self._listeners.remove(logged_in)

    def announce(self) -> None:
        """Have the listeners called as after a login: soon, and before a key is made on the token."""
        if self._listeners:
            self._news = object()
            self._comeback.begin()

    @property
    def members(self) -> frozenset[str]:
        """The serials of the group that the token is of, as the settings name them; without a group its own."""
        return frozenset(self.settings.choice.serials or (serial_of(self.token),))

    def is_for(self, token: Token, choice: TokenChoice) -> bool:
        """True if this is the login with a token of the module, or looks for its token by that choice."""
        own = self.token
        return choice == self.settings.choice or (token.label, token.serial) == (own.label, own.serial)

    def limits(self) -> TokenLimits | None:
        """Session counts and memory as the token tells them now."""
        self.guard.check()
        with self.alone():
            return self.module.cryptoki.token_limits(self.token.slot.slot_id)

    def sessions(self) -> PoolUse:
        """How the sessions of the pool are used now."""
        return self.pool.use()

    def ready(self) -> None:
        """Make sure that the token answers and that the login holds, before something is begun that needs both."""
        self._recover()

    @property
    def is_away(self) -> bool:
        """True if no session is lent, since the token is away."""
        return bool(self.pool.use().away)

    def require_login(self, session: Session) -> None:
        """Raise SessionLostError unless the session is logged in; without a login a search shows an empty token."""
        if not self.module.cryptoki.logged_in(session_handle(session)):
            raise SessionLostError(SESSION_LOST)

    def _prove(self, session: Session) -> None:
        """Challenge the token, in a session of it; WrongTokenError if it is not the one that each opener requires."""
        if not self._identities:
            return
        profile = replace(self.profile, label=self.token.label, serial=serial_of(self.token))
        try:
            self._identities.prove(Candidate(session, profile, self.members), self.handles)
        except WrongTokenError:
            self.require_login(session)  # without it nothing is to be seen
            raise

    def require_identity(self, session: Session) -> None:
        """Raise WrongTokenError, and lend nothing any more, unless a session shows the token that it should.

        Something is missing in it, or was made: that counts only if the installation's own key is to be seen there.
        """
        if not self._identities or self._identities.are_shown(session, self.handles):
            return
        try:
            self._prove(session)
        except WrongTokenError as exc:
            self._suspend(exc)
            self._comeback.begin()
            raise

    @contextmanager
    def _suspected(self) -> Iterator[None]:
        """Have it looked at whether the token is away, if the block finds it failing."""
        try:
            yield
        except (TokenUnavailableError, PinError):
            self._comeback.begin()
            raise

    # -- the login -----------------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Log in again if the login was lost; one thread does it, the others find it done.

        TokenUnavailableError while the token is away, PinError if it has refused the PIN.
        """
        self.guard.check()
        with self.alone(), self._suspected():
            self.pool.check()
            if not self.module.cryptoki.logged_in(self.login_handle):
                with self.pool.held(), self._else_away():
                    self._log_in_again()
        self._begin_telling()

    def _begin_telling(self) -> None:
        if self._told is not self._news:
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
        if self.pool.suspend(fault):
            log.error("the token is away, and calls fail until it is back: %s", fault)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let one thread at a time look after the login; nobody waits for long on one that may never come back."""
        if not self._recovering.acquire(timeout=self.settings.session_wait_seconds):
            raise TokenUnavailableError(AWAY)
        try:
            yield
        finally:
            self._recovering.release()

    def _log_in_again(self) -> None:
        lost = self.login_handle
        if lost:
            self.login_handle = 0  # closed once: a module may give its number to somebody else
            self.module.cryptoki.close_session(lost)  # it may live, logged out; Session.close() fails then
        self.pool.discard_idle()
        self._forget_objects()
        try:
            self._log_in()
            self._prove(self._login)
            if self._listeners:
                self._news = object()
        except TokenNotFoundError as exc:
            # It was there when this device was opened: not a wrong choice, but a token that is away.
            raise self._gone(exc) from exc

    def _gone(self, fault: TokenNotFoundError) -> TokenUnavailableError:
        """Return the fault of a token that is not found any more: WrongTokenError if one of its label is new."""
        label = self.token.label
        if namesakes(self.module, label) <= self._namesakes:
            return TokenUnavailableError(str(fault))
        return WrongTokenError(
            f"another token answers in the place of {label!r} (serial {serial_of(self.token)}), so it is not sent the "
            f"PIN: {fault}. Put the right one back"
        )

    def _forget_objects(self) -> None:
        """Drop all that is known of objects on the token: after another login they may not be the same."""
        self.handles.forget_all()

    def _answers(self) -> bool:
        """True if the login holds, the token does something in it, and it is the one that it should be.

        Raises ClosedError or StoreError where nobody can say which one that is: that is no fault of the token.
        """
        if not self.module.cryptoki.logged_in(self.login_handle):
            return False
        try:
            self._login.generate_random(_PROBE_BITS)
            self._prove(self._login)
        except (ClosedError, StoreError):
            raise
        except (PKCS11Error, HsmKmsError):
            return False
        return True

    # -- coming back ---------------------------------------------------------------------------------------------------

    def _come_back(self, number: int) -> bool:
        """Attempt ``number`` (from 0) to have the token again; True if it answers.

        A refused PIN is not tried again: the login gate sees to that, also here.
        """
        try:
            with self.alone():
                if not self._answers():
                    with suppress(TokenUnavailableError, PinError), self.pool.held(), self._else_away():
                        self._begin_anew(number)
                    if not self._answers():
                        return False
                if self.pool.resume():
                    self._renewals = RenewalPace()
                    log.warning("the token is back")
            self._tell_listeners()
        except HsmKmsError:
            return False
        return True

    def _tell_listeners(self, *, always: bool = False) -> None:
        """Call the listeners if there was a login since; who comes meanwhile waits until they are done.

        ``always``: also if there was none, unless another thread calls them after this was asked: one look does for all
        who wait for it, however long it takes on a token with many objects. Raises what keeps one of them from its
        work: then all are called again the next time.
        """
        asked = self._looks
        if self._told is self._news and not always:
            return
        if not self._telling.acquire(timeout=self.settings.session_wait_seconds):
            raise TokenUnavailableError(AWAY)
        try:
            news = self._news
            if self._told is not news or (always and self._looked <= asked):
                self._looks = number = self._looks + 1
                for each in list(self._listeners):
                    each()
                self._told, self._looked = news, number
        finally:
            self._telling.release()

    def _begin_anew(self, number: int) -> None:
        stale = self.gate.changed_since(self.module.loaded_at)
        if number or stale:
            # Else calls would begin while the pool is drained.
            self.pool.suspend(TokenUnavailableError(AWAY), unless_suspended=True)
            if self.pool.drain(DRAIN_SECONDS) and (stale or number > RENEW_AFTER):
                self._renew(urgent=stale)
        self._log_in_again()

    # -- another module ------------------------------------------------------------------------------------------------

    def _renew(self, *, urgent: bool) -> None:
        """Initialise the module anew, but not too often while another token of it is in use."""
        alone = all(each.is_away for each in self.module.others(self))
        if (urgent or alone or self._renewals.is_due(time.monotonic())) and self.module.renew(self):
            self.login_died()

    @contextmanager
    def aside(self) -> Iterator[bool]:
        """Have no call under way in the block, and log in again after it if the module was renewed; see ``Lodger``."""
        if not self._recovering.acquire(timeout=DRAIN_SECONDS):
            yield False
            return
        try:
            with self.pool.held():
                before = self.login_handle
                yield self.pool.drain(DRAIN_SECONDS)
                if before and not self.login_handle:
                    with suppress(HsmKmsError), self._suspected(), self._else_away():
                        self._log_in_again()
        finally:
            self._recovering.release()
        self._begin_telling()

    def login_died(self) -> None:
        """The module was renewed, and all sessions are gone."""
        self.login_handle = 0

    def _log_in(self, *, accept_final_try: bool = False) -> None:
        def find_token() -> Token:
            token = choose(self.module, self.settings.choice)
            self._identities.admit(serial_of(token))  # no PIN goes to a stranger that is known for one
            self.token = token
            return token

        self._login = log_in(
            find_token,
            self._read_pin,
            self.gate,
            loaded_at=self.module.loaded_at,
            accept_final_try=accept_final_try,
        )
        self.login_handle = session_handle(self._login)
        self._namesakes = namesakes(self.module, self.token.label)

    def _pool_size(self) -> int:
        """What the settings allow, within what the token allows besides the login session."""
        limits = self.limits()
        maxima = [limits.max_sessions, limits.max_rw_sessions] if limits else []
        return max(1, min([self.settings.max_sessions, *(each - 1 for each in maxima if each is not None)]))

    def close_sessions(self) -> None:
        """Log out, and close all that is open; what the module holds of a parent process is left to that."""
        if self.guard.foreign:
            return
        self._comeback.stop()
        self.module.lodgers.remove(self)
        self.pool.close()
        if self.login_handle:
            with suppress(PKCS11Error):  # a token that is gone cannot be logged out of
                self._login.close()


def session_handle(session: Session) -> int:
    """The number of a session."""
    return int(session.handle)  # type: ignore[attr-defined]  # the stub leaves it out
