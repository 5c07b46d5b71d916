"""The connection: the calls to a logged-in token, each in a session of its own.

Sessions are borrowed for the device call alone. Calls that may be repeated are repeated at most once, and only after a
lost session or a dead handle. An object that is missing proves nothing as long as the same session does not show the
installation's own key: then the token is away, or another one is in its place (token_login.py).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, Final, TypeVar

from pkcs11.constants import Attribute, ObjectClass
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import Mechanism
from pkcs11.types import Object, Session

from hsmkms.errors import (
    HsmKmsError,
    ObjectLostError,
    PinError,
    RejectedDataError,
    SessionLostError,
    TokenError,
    TokenFullError,
    TokenUnavailableError,
    TokenUnfitError,
)
from hsmkms.hsm.allowed_acts import MAY_CHANGE_PIN
from hsmkms.hsm.faults import AWAY, BUSY, SESSION_LOST, translate, translated
from hsmkms.hsm.objects.objects import find, handle_of, tell
from hsmkms.hsm.probing.mechanism_info import MechanismInfo, mechanism_info
from hsmkms.hsm.probing.profile import mechanism_name, probe
from hsmkms.hsm.session.login import PinReader, set_pin
from hsmkms.hsm.session.module import Module
from hsmkms.hsm.session.token_login import DeviceSettings, TokenLogin
from hsmkms.hsm.session.write_lock import Turns
from hsmkms.hsm.token_check import Check, run_checks
from hsmkms.model.permit import Permit

__all__ = ["Connection", "DeviceSettings"]

Result = TypeVar("Result")

OK: Final = "ok"
OTHER: Final = "other"
"""How calls are counted that have no name of their own."""

_NOBODY: Final = bytes(16)
"""The CKA_ID of no object."""


class Connection(TokenLogin):
    """A logged-in token. Thread-safe; of no use in a forked child."""

    def __init__(
        self, settings: DeviceSettings, module: Module, read_pin: PinReader, *, accept_final_try: bool = False
    ) -> None:
        super().__init__(settings, module, read_pin, accept_final_try=accept_final_try)
        self._turns = Turns(settings.state_dir)
        self._keeps: TokenUnavailableError | None = None
        self.caches: list[dict[bytes, Any]] = []
        """What the users of this connection know of objects, by CKA_ID; nothing of it outlives the login."""
        try:
            with self.pool.session() as session:
                self.profile = probe(self.token, session, module.description)
        except BaseException:
            self.close_sessions()
            raise

    def has(self, mechanism: Mechanism) -> bool:
        """True if the token has a mechanism, and it was not found to be of no use."""
        return mechanism.name in self.profile.mechanisms

    def forget(self, cka_id: bytes) -> None:
        """Drop what is known of an object."""
        self.handles.forget(cka_id)
        for each in self.caches:
            each.pop(cka_id, None)

    def _forget_objects(self) -> None:
        super()._forget_objects()
        for each in self.caches:
            each.clear()

    # -- calls --------------------------------------------------------------------------------------------------------

    def use(self, cka_id: bytes, attempt: Callable[[Session, int], Result], call: str = OTHER) -> Result:
        """Run an idempotent call on a key; once more after a lost session or a dead handle."""
        try:
            return self._attempt(cka_id, attempt, call)
        except (SessionLostError, ObjectLostError):
            self.handles.forget(cka_id)
            self._recover()
        except TokenUnavailableError:
            self._comeback.begin()
            raise
        with self._suspected():
            return self._attempt(cka_id, attempt, call)

    def _attempt(self, cka_id: bytes, attempt: Callable[[Session, int], Result], call: str) -> Result:
        session = self.pool.take()
        started = perf_counter()
        try:
            handle = self.handles.lookup(cka_id)
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
        self.pool.put(session)
        return result

    def _search(self, session: Session, cka_id: bytes) -> int:
        self.require_login(session)
        try:
            return self.handles.search(session, cka_id)
        except ObjectLostError:
            self.require_identity(session)
            raise

    def repeatable(self, attempt: Callable[[Session], Result], call: str = OTHER) -> Result:
        """Run an idempotent call that needs no key; once more after a lost session."""
        try:
            return self.once(attempt, call)
        except SessionLostError:
            self._recover()
        except TokenUnavailableError:
            self._comeback.begin()
            raise
        with self._suspected():
            return self.once(attempt, call)

    def never_repeated(self, act: Callable[[Session], Result], call: str = OTHER) -> Result:
        """Run a call that makes something; what it makes is lost from sight if the session is, so one try it is."""
        self._recover()  # it must not meet a lost login
        with self._suspected():
            return self.once(act, call)

    def once(self, attempt: Callable[[Session], Result], call: str = OTHER) -> Result:
        """Run a call, and repeat it in no case; errors are translated."""
        session = self.pool.take()
        started = perf_counter()
        try:
            with self._losses_told_apart(session):
                result = attempt(session)
        except BaseException as exc:
            self._give_back(session, exc, call, started)
            raise
        self.calls.note(call, OK, perf_counter() - started)
        self.pool.put(session)
        return result

    @contextmanager
    def _losses_told_apart(self, session: Session) -> Iterator[None]:
        """Translate faults; a handle that died with the login, as those of session objects do, is a lost session."""
        login = self.login_handle
        try:
            with translated():
                yield
        except ObjectLostError as exc:
            self.require_login(session)
            if login != self.login_handle:
                raise SessionLostError(SESSION_LOST) from exc
            self.require_identity(session)
            raise
        except (TokenError, TokenUnfitError) as exc:
            # Whatever is wrong with what was made: that counts only if it was made on the right token.
            if not isinstance(exc, TokenUnavailableError | RejectedDataError):
                self.require_identity(session)
            raise

    def _give_back(self, session: Session, fault: BaseException, call: str, started: float) -> None:
        self.calls.note(call, type(fault).__name__, perf_counter() - started)
        if isinstance(fault, SessionLostError):
            self.pool.discard(session)
        elif isinstance(fault, TokenUnavailableError) or type(fault) is TokenError:
            self.pool.discard_one(session)  # an operation may have been begun in it
        else:
            self.pool.put(session)

    def find(self, session: Session, cka_id: bytes, object_class: ObjectClass | None = None) -> Object | None:
        """A key (without a class: secret key or private half), or None.

        Absence counts only if one login held from before the search until after it.
        """
        login = self.login_handle
        self.require_login(session)
        found = find(session, object_class, cka_id)
        if found is None:
            self.require_login(session)
            if login != self.login_handle:
                raise SessionLostError(SESSION_LOST)
            self.require_identity(session)
        return found

    # -- the token as a whole -----------------------------------------------------------------------------------------

    def change_pin(self, permit: Permit, old: str, new: str) -> None:
        """Change the user's PIN; logins go on. PinError if the token refuses either. Never repeated."""
        permit.require(MAY_CHANGE_PIN)

        def attempt(session: Session) -> None:
            self.require_identity(session)  # a stranger is not told the new one
            set_pin(session, old, new)

        self.never_repeated(attempt)

    def pin_was_changed(self) -> bool:
        """True if the PIN was changed after the module was loaded: it may go by the one before."""
        return self.gate.changed_since(self.module.loaded_at)

    def checks(self) -> list[Check]:
        """Try everything that hsmkms needs of a token, step by step; nothing is left on it."""
        self.ready()
        with self.pool.session() as session:
            return run_checks(self.token, session)

    def mechanisms(self) -> list[MechanismInfo]:
        """The token's mechanisms with their key sizes and uses, as it tells them."""
        self.ready()
        with self.alone(), translated():
            slot = self.token.slot
            present = slot.get_mechanisms()
            told = [(mechanism_name(each), self.module.cryptoki.mechanism(slot.slot_id, each)) for each in present]
        return sorted((mechanism_info(name, info) for name, info in told), key=lambda each: each.name)

    # -- making and destroying ----------------------------------------------------------------------------------------

    def make_nothing(self, fault: TokenUnavailableError | None) -> None:
        """Make no key on the token from here on, since it may go again; None: make them again."""
        self._keeps = fault

    def ready_to_make(self) -> None:
        """Make sure that the token answers and that keys may be made on it, before the intent to make one is kept."""
        self._recover()
        self._may_make()

    @contextmanager
    def making(self) -> Iterator[None]:
        """Make something that stays in the block; refused if the listeners, called before and after it, forbid it.

        They look at the token as after a login: it may have become another copy of itself in the same sessions.
        Before: SoftHSM, which has changed such a copy, does not see that the right one is back (Generation::commit).
        """
        self._recover()  # what is never repeated must not meet a lost login
        self._may_make(always=True)
        with self.turn(), self._suspected():
            yield
        try:
            self._may_make(always=True)
        except PinError as exc:  # which would say that nothing was made
            raise TokenUnavailableError(str(exc)) from exc

    def _may_make(self, *, always: bool = False) -> None:
        try:
            self._tell_listeners(always=always)
        except HsmKmsError:  # another process may have destroyed a note while it was read
            self._tell_or_refuse(always=always)
        fault = self._keeps
        if fault is not None:
            raise type(fault)(str(fault))

    def _tell_or_refuse(self, *, always: bool) -> None:
        """Call the listeners; TokenUnavailableError or PinError if one of them cannot do its work."""
        try:
            self._tell_listeners(always=always)
        except HsmKmsError as exc:
            self._comeback.begin()
            fault = exc if isinstance(exc, PinError | TokenUnavailableError) else TokenUnavailableError(str(exc))
            raise fault from exc

    def keep(self, cka_id: bytes, make: Callable[[Session], Object]) -> None:
        """Make a secret key, and remember its handle while the login is the one under which it was made."""

        def attempt(session: Session) -> int:
            made = make(session)
            self._require_made(session, made)
            return handle_of(made)

        with self.making():
            login = self.login_handle
            handle = self.once(attempt, "make")
        with self.alone():
            if login == self.login_handle:
                self.handles.remember(cka_id, handle)

    def _require_made(self, session: Session, made: Object) -> None:
        """Raise TokenUnavailableError unless what was just made is on the token that it should be on.

        First the identity, then the object: a token that was changed for another one between the two lacks it.
        """
        if self._identities:
            self.require_identity(session)
            if tell(made, (Attribute.CLASS,))[Attribute.CLASS] is None:
                raise TokenUnavailableError(AWAY)

    def destroy_object(self, cka_id: bytes, object_class: ObjectClass | None) -> bool:
        """Destroy a key (without a class: secret key or private half); False if it was not there."""

        def attempt(session: Session) -> bool:
            found = self.find(session, cka_id, object_class)
            if found is not None:
                with translated():
                    found.destroy()
            return found is not None

        with self.turn():
            return self.repeatable(attempt)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Change the token in this block; what others have changed since this process did so is looked at first."""
        with self._turns.turn() as stale:
            if stale:
                self.repeatable(lambda session: find(session, None, _NOBODY), "find")
            yield
