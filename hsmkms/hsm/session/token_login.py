"""Keep the login of a token, restore it after a loss, and prove that it is the right token.

When a call fails on the token, one thread checks whether it is away (reconnect.py): then no session is lent, every call
fails at once, and that thread retries the login, eventually after reinitialising the module.

After each login the token proves its identity, if an opener requires one (identity.py). Until then no session is lent.
"""

import logging
import threading
import time
from collections.abc import Iterator
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
from hsmkms.hsm.calls.function_list import session_handle
from hsmkms.hsm.faults import AWAY, SESSION_LOST
from hsmkms.hsm.probing.profile import TokenProfile
from hsmkms.hsm.serials import serial_of
from hsmkms.hsm.session.cryptoki import TokenLimits
from hsmkms.hsm.session.handles import HandleIndex
from hsmkms.hsm.session.identity import NOTHING_SHOWN, Candidate, Identities, Identity, Listener, Shown
from hsmkms.hsm.session.login import LoginGate, PinReader, StaleModuleError, log_in, open_session
from hsmkms.hsm.session.module import Module, RenewalPace
from hsmkms.hsm.session.pin_marks import SharedMarks
from hsmkms.hsm.session.pool import PoolUse, SessionPool
from hsmkms.hsm.session.reconnect import Reconnector
from hsmkms.hsm.session.token_choice import TokenChoice, choose, namesakes
from hsmkms.process import ForkGuard

log = logging.getLogger("hsmkms.hsm")

RENEW_AFTER: Final = 1
"""Login retries before the module is reinitialised."""

DRAIN_SECONDS: Final = 1.0
"""How long an attempt waits for calls in progress: the module must not be finalised under them."""

_PROBE_BITS: Final = 64


class DeviceSettings(Struct, frozen=True, kw_only=True):
    """How to reach a token, and what is allowed with it.

    ``state_dir`` holds the lock and the marks of the login gate; times in seconds. ``host_unwrap``: imported key
    material may pass through this process where the token cannot unwrap it itself. ``accept_crashes``: material is
    imported though the module crashes where it cannot unwrap it.
    """

    module: Path
    choice: TokenChoice
    state_dir: Path
    environment: dict[str, str] = {}
    init_reserved: str | None = None
    max_sessions: int = 16
    session_wait_seconds: float = 5.0
    host_unwrap: bool = False
    accept_crashes: bool = False
    first_member: str | None = None
    """Serial of the member of an HA group to try first; None: the one that answered last."""
    replication_seconds: float = 0.0
    """How long a creation waits until every member of an HA group that could take over has the object; 0: no wait."""
    shared_marks: SharedMarks | None = None
    """Marks of refused PINs that the nodes of an installation share."""
    write_lock_dir: Path | None = None
    """Folder of the lock of writers (write_lock.py), if it is shared by several nodes; None: ``state_dir``."""


class TokenLogin:
    """The login that all sessions of this process share with a token. Thread-safe; raises in a forked child."""

    profile: TokenProfile
    token: Token

    def __init__(
        self, settings: DeviceSettings, module: Module, read_pin: PinReader, *, accept_final_try: bool = False
    ) -> None:
        self.settings = settings
        self.module = module
        self._read_pin = read_pin
        self.gate = LoginGate(settings.state_dir, settings.choice.serials, shared=settings.shared_marks)
        self.calls = Tally()
        """Call statistics by name and outcome (the class of the error), with durations."""
        self.guard = ForkGuard()
        self._recovering = threading.Lock()
        self._set_login(0)
        self._namesakes: frozenset[str] = frozenset()
        self.handles = HandleIndex()
        self._identities = Identities()
        self._listeners: list[Listener] = []
        self._notifying = threading.Lock()
        self._news = self._notified = object()
        """The newest event for which the listeners must be called, and the last one for which they were called."""
        self._looks = self._looked = 0
        """How many rounds of listener calls have begun, and the number of the last round that succeeded."""
        self._renewals = RenewalPace()
        try:
            self._log_in(accept_final_try=accept_final_try)
        except StaleModuleError:
            if not module.renew():
                raise
            self._log_in(accept_final_try=accept_final_try)
        self.pool = SessionPool(lambda: open_session(self.token), self._pool_size(), settings.session_wait_seconds)
        self.free = self.pool.free
        """Returns True if a call that begins now would not wait for a session."""
        self._reconnector = Reconnector(self._try_to_reconnect)
        module.logins.append(self)

    # -- identity ------------------------------------------------------------------------------------------------------

    def require(self, identity: Identity, logged_in: Listener) -> None:
        """Require that the token proves this identity now and after each later login.

        ``logged_in`` is called after each later login: in the reconnect thread, or by the next call that creates a key.
        So it must not create one itself. WrongTokenError if it is another token.
        """
        with self.alone():
            self._identities.add(identity)
            try:
                self._prove(self._login)
            except BaseException:
                self._identities.remove(identity)
                raise
            self._listeners.append(logged_in)

    def release_identity(self, identity: Identity, logged_in: Listener) -> None:
        """Stop requiring an identity, whose opener closes the token."""
        self._identities.remove(identity)
        with suppress(ValueError):
            self._listeners.remove(logged_in)

    def announce(self) -> None:
        """Have the listeners called as after a login: soon, and before a key is created on the token."""
        if self._listeners:
            self._news = object()
            self._reconnector.begin()

    @property
    def members(self) -> frozenset[str]:
        """Serials of the token's HA group, as the settings name them; without a group only its own."""
        return frozenset(self.settings.choice.serials or (serial_of(self.token),))

    def is_for(self, token: Token, choice: TokenChoice) -> bool:
        """Return True if this login is with that token, or was configured with that choice."""
        own, group = self.token, self.settings.choice
        same_group = group.is_group and set(group.serials) == set(choice.serials)
        return same_group or choice == group or (token.label, token.serial) == (own.label, own.serial)

    def limits(self) -> TokenLimits | None:
        """Return session counts and memory as the token reports them now."""
        self.guard.check()
        with self.alone():
            return self.module.cryptoki.token_limits(self.token.slot.slot_id)

    def sessions(self) -> PoolUse:
        """Return a snapshot of the session pool."""
        return self.pool.use()

    def ready(self) -> None:
        """Check that the token answers and the login is valid, restoring it if needed, before work that needs both."""
        self._recover()

    @property
    def is_away(self) -> bool:
        """True if no session is lent because the token is away."""
        return bool(self.pool.use().away)

    def require_login(self, session: Session) -> None:
        """Raise SessionLostError unless the session is logged in; without a login, a search finds an empty token."""
        if not self.module.cryptoki.logged_in(session_handle(session)):
            raise SessionLostError(SESSION_LOST)

    def _prove(self, session: Session) -> frozenset[bytes]:
        """Challenge the token in this session; WrongTokenError if it is not the one that every opener requires.

        Return the CKA_IDs of the keys that answered.
        """
        if not self._identities:
            return frozenset()
        profile = replace(self.profile, label=self.token.label, serial=serial_of(self.token))
        try:
            return self._identities.prove(Candidate(session, profile, self.members), self.handles)
        except WrongTokenError:
            self.require_login(session)  # without a login no object is visible, which proves nothing
            raise

    def require_identity(self, session: Session) -> Shown:
        """Raise WrongTokenError and suspend the pool unless the session is with the right token.

        A missing or newly created object counts only if the installation's own key is visible in the same session.
        """
        login = self._news
        try:
            return Shown(login, self._identities.shown(session, self.handles) or self._prove(session))
        except WrongTokenError as exc:
            self._suspend(exc)
            self._reconnector.begin()
            raise

    @contextmanager
    def _suspected(self) -> Iterator[None]:
        """Start the reconnect thread if the block raises an error that suggests that the token is away."""
        try:
            yield
        except (TokenUnavailableError, PinError):
            self._suspect()
            raise

    def _suspect(self) -> None:
        """Have the token checked, in the reconnect thread: it may be away."""
        self._reconnector.begin()

    # -- the login -----------------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Log in again if the login was lost; one thread does it while the others wait.

        TokenUnavailableError while the token is away, PinError if it has refused the PIN.
        """
        self.guard.check()
        with self.alone(), self._suspected():
            self.pool.check()
            if not self.module.cryptoki.logged_in(self.login_handle):
                with self.pool.held(), self._else_away():
                    self._log_in_again()
        self._begin_notifying()

    def _begin_notifying(self) -> None:
        if self._notified is not self._news:
            self._reconnector.begin()

    @contextmanager
    def _else_away(self) -> Iterator[None]:
        """Suspend the pool if the block fails to log in: PinError, WrongTokenError, or else TokenUnavailableError."""
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
        """Hold the login lock: one thread at a time. The wait is limited, since the holder may hang in the token."""
        if not self._recovering.acquire(timeout=self.settings.session_wait_seconds):
            raise TokenUnavailableError(AWAY)
        try:
            yield
        finally:
            self._recovering.release()

    def _log_in_again(self) -> None:
        lost = self.login_handle
        if lost:
            self._set_login(0)  # closed only once: a module may reuse the number for another session
            self.module.cryptoki.close_session(lost)  # it may be open but logged out; Session.close() fails then
        self.pool.discard_idle()
        self._forget_objects()
        try:
            self._log_in()
            if self._listeners:
                self._news = object()
        except TokenNotFoundError as exc:
            # It was present when this device was opened: not a wrong choice, but a token that is away.
            raise self._gone(exc) from exc

    def _gone(self, fault: TokenNotFoundError) -> TokenUnavailableError:
        """Return the error for a token that is no longer found: WrongTokenError if a new token has its label."""
        label = self.token.label
        if namesakes(self.module, label) <= self._namesakes:
            return TokenUnavailableError(str(fault))
        return WrongTokenError(
            f"another token answers in the place of {label!r} (serial {serial_of(self.token)}), so it is not sent the "
            f"PIN: {fault}. Put the right one back"
        )

    def _forget_objects(self) -> None:
        """Drop all cached handles: after another login the objects may not be the same."""
        self.handles.forget_all()

    def _answers(self) -> bool:
        """Return True if the login is valid, the token works in it, and it is the right token.

        Raises ClosedError or StoreError if the required identity cannot be read: that is not the token's fault.
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

    # -- reconnecting --------------------------------------------------------------------------------------------------

    def _try_to_reconnect(self, number: int) -> bool:
        """Run reconnect attempt ``number`` (from 0); True if the token answers.

        A refused PIN is not tried again: the login gate prevents that, here as well.
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
            self._notify_listeners()
        except HsmKmsError:
            return False
        return True

    def _notify_listeners(self, *, always: bool = False, shown: Shown = NOTHING_SHOWN) -> None:
        """Call the listeners if there was a login since they were last called; other callers wait until they are done.

        ``always``: also without a new login, unless another thread begins a round of calls after this method was
        entered: one round serves all waiting threads, however long it takes on a token with many objects. ``shown``:
        what the caller has seen on the token just before; it does not count after another login. Raises a listener's
        error; then all listeners are called again the next time.
        """
        asked = self._looks
        if self._notified is self._news and not always:
            return
        if not self._notifying.acquire(timeout=self.settings.session_wait_seconds):
            raise TokenUnavailableError(AWAY)
        try:
            news = self._news
            if self._notified is not news or (always and self._looked <= asked):
                self._looks = number = self._looks + 1
                known = shown.cka_ids if shown.login is news else frozenset[bytes]()
                for listener in list(self._listeners):
                    listener(known)
                self._notified, self._looked = news, number
        finally:
            self._notifying.release()

    def _begin_anew(self, number: int) -> None:
        stale = self.gate.changed_since(self.module.loaded_at)
        if number or stale:
            # Otherwise new calls would begin while the pool is drained.
            self.pool.suspend(TokenUnavailableError(AWAY), unless_suspended=True)
            if self.pool.drain(DRAIN_SECONDS) and (stale or number > RENEW_AFTER):
                self._renew(urgent=stale)
        self._log_in_again()

    # -- another module ------------------------------------------------------------------------------------------------

    def _renew(self, *, urgent: bool) -> None:
        """Reinitialise the module, but not too often while another of its tokens is in use."""
        alone = all(each.is_away for each in self.module.others(self))
        if (urgent or alone or self._renewals.is_due(time.monotonic())) and self.module.renew(self):
            self.login_died()

    @contextmanager
    def aside(self) -> Iterator[bool]:
        """Stop all calls for the block, and log in again after it if the module was renewed; see ``ModuleLogin``."""
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
        self._begin_notifying()

    def _set_login(self, handle: int) -> None:
        self.login_handle = handle
        """The handle of the session that holds the login; 0 while there is none."""
        self.login = object()
        """Identity of the present login, to compare with ``is``: opencryptoki gives a new session an old handle."""

    def login_died(self) -> None:
        """Record that the module was renewed, which closed all sessions."""
        self._set_login(0)

    def _log_in(self, *, accept_final_try: bool = False) -> None:
        """Log in to the token, which must then prove its identity."""
        self._log_in_to(self.settings.choice, accept_final_try=accept_final_try)

    def _log_in_to(self, choice: TokenChoice, *, accept_final_try: bool) -> None:
        def find_token() -> Token:
            token = choose(self.module, choice)
            self._identities.admit(serial_of(token))  # no PIN is sent to a token that is known to be a wrong one
            self.token = token
            return token

        self._login = log_in(
            find_token,
            self._read_pin,
            self.gate,
            loaded_at=self.module.loaded_at,
            accept_final_try=accept_final_try,
        )
        self._set_login(session_handle(self._login))
        self._namesakes = namesakes(self.module, self.token.label)
        self._prove(self._login)

    def _pool_size(self) -> int:
        """Return the configured number of sessions, limited to what the token allows besides the login session."""
        limits = self.limits()
        maxima = [limits.max_sessions, limits.max_rw_sessions] if limits else []
        return max(1, min([self.settings.max_sessions, *(each - 1 for each in maxima if each is not None)]))

    def close_sessions(self) -> None:
        """Log out, and close all that is open; what the module holds of a parent process is left to that."""
        if self.guard.foreign:
            return
        self._reconnector.stop()
        self.module.logins.remove(self)
        self.pool.close()
        if self.login_handle:
            with suppress(PKCS11Error):  # a token that is gone cannot be logged out of
                self._login.close()
