"""Run calls on a logged-in token, each in a session of its own.

Sessions are borrowed only for the device call. Idempotent calls are retried at most once, and only after a lost session
or an invalid handle. A missing object proves nothing unless the installation's own key is visible in the same session:
otherwise the token is away, or another one is in its place (token_login.py).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from time import perf_counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from msgspec.structs import replace
from pkcs11.constants import ObjectClass
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import Mechanism
from pkcs11.types import Object, Session

from hsmkms.errors import (
    HsmKmsError,
    ObjectLostError,
    PinError,
    RejectedDataError,
    SessionLostError,
    StoreError,
    TokenError,
    TokenFullError,
    TokenUnavailableError,
    TokenUnfitError,
)
from hsmkms.hsm.allowed_acts import MAY_CHANGE_PIN
from hsmkms.hsm.calls.function_list import session_handle
from hsmkms.hsm.faults import BUSY, SESSION_LOST, translate, translated
from hsmkms.hsm.objects.attributes import SecretTemplate
from hsmkms.hsm.objects.objects import find, handle_of, make_secret, read_back_secret
from hsmkms.hsm.probing.mechanism_info import MechanismInfo, mechanism_info
from hsmkms.hsm.probing.profile import mechanism_name
from hsmkms.hsm.serials import serial_of
from hsmkms.hsm.session.identity import NOTHING_SHOWN, Shown
from hsmkms.hsm.session.login import PinReader, set_pin
from hsmkms.hsm.session.module import Module
from hsmkms.hsm.session.replicated_login import ReplicatedLogin
from hsmkms.hsm.session.token_login import DeviceSettings
from hsmkms.hsm.session.write_lock import WriteLock
from hsmkms.model.permit import Permit
from hsmkms.model.token_check import CheckReport
from hsmkms.secret import Secret

if TYPE_CHECKING:  # its package loads all checks, which no other process needs
    from hsmkms.hsm.checks.messages import Job

__all__ = ["Connection", "DeviceSettings"]

Result = TypeVar("Result")
Made = TypeVar("Made")

OK: Final = "ok"
ENCRYPT: Final = "encrypt"
"""The calls that may leave a message operation active in their session (calls/messages.py); all others end it first."""

OTHER: Final = "other"
"""Name under which calls without their own name are counted."""

_NO_PARTS: Final[Mapping[bytes, int]] = MappingProxyType({})
_NOBODY: Final = bytes(16)
"""A CKA_ID that no object has."""


class Connection(ReplicatedLogin):
    """A logged-in token. Thread-safe; raises in a forked child."""

    def __init__(
        self, settings: DeviceSettings, module: Module, read_pin: PinReader, *, accept_final_try: bool = False
    ) -> None:
        super().__init__(settings, module, read_pin, accept_final_try=accept_final_try)
        self._write_lock = WriteLock(settings.write_lock_dir or settings.state_dir)
        self._keeps: TokenUnavailableError | None = None
        self.caches: list[dict[bytes, Any]] = []
        """What the users of this connection cache about objects, by CKA_ID; cleared with each login."""
        try:
            if self.member is None:  # else it was probed before it was taken into use
                with self.pool.session() as session:
                    self._require_shared_login(session)
                    self._prepare(session)
        except BaseException:
            self.close_sessions()
            raise

    def _require_shared_login(self, session: Session) -> None:
        """Raise TokenUnfitError if a session beside the one that holds the login is not reported as logged in."""
        logged_in = self.module.cryptoki.logged_in
        if not logged_in(session_handle(session)) and logged_in(self.login_handle):
            raise TokenUnfitError(
                "a second session of this process does not share the login (C_GetSessionInfo), so that a lost login "
                "would look like an empty token: hsmkms cannot keep keys on it"
            )

    def has(self, mechanism: Mechanism) -> bool:
        """True if the token has a mechanism, and it was not found to be of no use."""
        return mechanism.name in self.profile.mechanisms

    def forget(self, cka_id: bytes) -> None:
        """Drop everything that is cached about an object."""
        self.handles.forget(cka_id)
        self.messages.forget_key(cka_id)
        for each in self.caches:
            each.pop(cka_id, None)

    def _forget_objects(self) -> None:
        super()._forget_objects()
        self.messages.forget_sessions()
        for each in self.caches:
            each.clear()

    # -- calls --------------------------------------------------------------------------------------------------------

    def use(self, cka_id: bytes, attempt: Callable[..., Result], call: str = OTHER, *arguments: Any) -> Result:  # noqa: ANN401
        """Run an idempotent call on a key; retry once after a lost session or an invalid handle.

        ``attempt``: called with a session, the key's handle, and the arguments.
        """
        try:
            return self._attempt(cka_id, attempt, call, arguments)
        except (SessionLostError, ObjectLostError):
            self.handles.forget(cka_id)
            self.messages.forget_key(cka_id)
            self._recover()
        except TokenUnavailableError as exc:
            self._fail_over(exc)
        with self._suspected():
            return self._attempt(cka_id, attempt, call, arguments)

    def _attempt(self, cka_id: bytes, attempt: Callable[..., Result], call: str, arguments: tuple[Any, ...]) -> Result:
        session = self.pool.take()
        started = perf_counter()
        try:
            if call != ENCRYPT:
                self.messages.end(session)
            handle = self.handles.lookup(cka_id)
            if handle is None:
                self.messages.end(session)
                handle = self._search(session, cka_id)
            result = attempt(session, handle, *arguments)
        except PKCS11Error as exc:
            fault = translate(exc)
            if isinstance(fault, TokenFullError):  # the call stores no object, so its working memory is exhausted
                fault = TokenUnavailableError(BUSY)
            self._give_back(session, fault, call, started)
            raise fault from exc
        except BaseException as exc:
            self._give_back(session, exc, call, started)
            raise
        self.calls.note(call, OK, perf_counter() - started)
        self.pool.put(session)
        return result

    def handle(self, session: Session, cka_id: bytes) -> int:
        """Return the handle of a further key that a call in this session needs; ObjectLostError if it is absent."""
        known = self.handles.lookup(cka_id)
        return known if known is not None else self._search(session, cka_id)

    def _search(self, session: Session, cka_id: bytes) -> int:
        self.require_login(session)
        try:
            return self.handles.search(session, cka_id)
        except ObjectLostError as exc:
            self.require_identity(session)
            raise self._missing(cka_id) from exc

    def repeatable(self, attempt: Callable[[Session], Result], call: str = OTHER) -> Result:
        """Run an idempotent call that needs no key; retry once after a lost session."""
        try:
            return self.once(attempt, call)
        except SessionLostError:
            self._recover()
        except TokenUnavailableError as exc:
            self._fail_over(exc)
        with self._suspected():
            return self.once(attempt, call)

    def never_repeated(self, act: Callable[[Session], Result], call: str = OTHER) -> Result:
        """Run a call that creates an object, without retry: with its session lost, the object could not be traced."""
        self._recover()  # it must not run under a lost login
        with self._suspected():
            return self.once(act, call)

    def once(self, attempt: Callable[[Session], Result], call: str = OTHER) -> Result:
        """Run a call, and repeat it in no case; errors are translated."""
        session = self.pool.take()
        started, login = perf_counter(), self.login
        try:
            self.messages.end(session)
            result = attempt(session)
        except BaseException:  # noqa: BLE001 - raised again below, as what it means
            try:
                with self._classified_losses(session, login):  # only now: entering it takes as long as a quick call
                    raise
            except BaseException as exc:
                self._give_back(session, exc, call, started)
                raise
        self.calls.note(call, OK, perf_counter() - started)
        self.pool.put(session)
        return result

    @contextmanager
    def _classified_losses(self, session: Session, login: object) -> Iterator[None]:
        """Translate PKCS#11 errors; a handle that became invalid since this login was lost counts as a lost session."""
        try:
            with translated():
                yield
        except ObjectLostError as exc:
            self.require_login(session)
            if login is not self.login:
                raise SessionLostError(SESSION_LOST) from exc
            self.require_identity(session)
            raise
        except (TokenError, TokenUnfitError) as exc:
            # A fault of the created object counts only if it was created on the right token.
            if not isinstance(exc, TokenUnavailableError | RejectedDataError):
                self.require_identity(session)
            raise

    def _give_back(self, session: Session, fault: BaseException, call: str, started: float) -> None:
        self.calls.note(call, type(fault).__name__, perf_counter() - started)
        if isinstance(fault, SessionLostError):
            self.pool.discard(session)
        elif isinstance(fault, TokenUnavailableError) or type(fault) is TokenError:
            self.pool.discard_one(session)  # an operation may still be active in it
        else:
            self.pool.put(session)

    def find(self, session: Session, cka_id: bytes, object_class: ObjectClass | None = None) -> Object | None:
        """Find a key (without a class: secret key or private half); None if it is absent.

        Absence counts only if the same login was valid before and after the search.
        """
        login = self.login
        self.require_login(session)
        key = find(session, object_class, cka_id)
        if key is None:
            self.require_login(session)
            if login is not self.login:
                raise SessionLostError(SESSION_LOST)
            self.require_identity(session)
        return key

    # -- the token as a whole -----------------------------------------------------------------------------------------

    def change_pin(self, permit: Permit, old: str, new: str) -> None:
        """Change the user's PIN; logins go on. PinError if the token refuses either. Never repeated."""
        permit.require(MAY_CHANGE_PIN)

        def attempt(session: Session) -> None:
            self.require_identity(session)  # another token must not learn the new PIN
            set_pin(session, old, new)

        self.never_repeated(attempt)

    def pin_was_changed(self) -> bool:
        """True if the PIN was changed after the module was loaded, which may still compare with the old one."""
        return self.gate.changed_since(self.module.loaded_at)

    def checks(self, *, needed_only: bool = False) -> CheckReport:
        """Try everything that hsmkms needs of a token, in a process with a login of its own; nothing is left on it.

        ``needed_only``: leave out what a token can lack.
        """
        from hsmkms.hsm.token_check import OPTIONAL, run_checks  # noqa: PLC0415 - no other process needs the checks

        job = self.check_job()
        return run_checks(replace(job, done=OPTIONAL) if needed_only else job)

    def check_job(self) -> "Job":
        """Return what a process needs to check this token, once it answers."""
        from hsmkms.hsm.session.check_jobs import job_for  # noqa: PLC0415 - see checks

        self.ready()
        token, settings, pin = self.token, self.settings, self._read_pin()
        choice = replace(settings.choice, label=token.label, serial=serial_of(token))
        secret = pin if isinstance(pin, Secret) else Secret(pin)
        return job_for(replace(settings, choice=choice), secret, installed=True)

    def mechanisms(self) -> list[MechanismInfo]:
        """Return the token's mechanisms with the key sizes and uses that it reports."""
        self.ready()
        with self.alone(), translated():
            slot = self.token.slot
            present = slot.get_mechanisms()
            listed = [(mechanism_name(each), self.module.cryptoki.mechanism(slot.slot_id, each)) for each in present]
        return sorted((mechanism_info(name, info) for name, info in listed), key=lambda each: each.name)

    # -- making and destroying ----------------------------------------------------------------------------------------

    def make_nothing(self, fault: TokenUnavailableError | None) -> None:
        """Refuse to create keys on the token with this error, since it may disappear again; None: allow it again."""
        self._keeps = fault

    def ready_to_make(self) -> None:
        """Check that the token answers and that keys may be created on it, before the intent row is written."""
        self._recover()
        self._may_make()

    @contextmanager
    def making(self) -> Iterator[list[Shown]]:
        """Guard a block that creates a token object; the listeners, called before and after it, may forbid it.

        They check the token as after a login: it may have been replaced by another copy of itself under open sessions.
        They are called before as well because SoftHSM, once it has changed such a copy, does not notice that the right
        one is back (Generation::commit). TokenUnavailableError if another member of the HA group has taken over
        meanwhile, be it for a moment: whether the one in use has the object is not known, so it is not acknowledged.

        What the connection itself has just seen on the token is not asked for again. Before the block that is the
        identity key, a private object, which shows that the login is valid as C_GetSessionInfo would. The block appends
        what ``require_identity`` returned after the creation: an HMAC by the key that an older copy may lack shows more
        than its attributes.
        """
        self._may_make(always=True, shown=self._logged_in())
        takeovers = self.takeovers
        after: list[Shown] = []
        with self.write_lock(), self._suspected():
            yield after
        try:
            self._may_make(always=True, shown=after[-1] if after else NOTHING_SHOWN)
        except PinError as exc:  # PinError would claim that nothing was created
            raise TokenUnavailableError(str(exc)) from exc
        self.require_no_takeover(takeovers)

    def _logged_in(self) -> Shown:
        """Make sure that the login is valid, since a call that is never retried must not run under a lost one.

        Return the identity keys that were visible.
        """
        login = self._news
        if self._identities:
            with self._suspected(), suppress(SessionLostError):
                visible = self.once(lambda session: self._identities.visible(session, self.handles), "find")
                if visible:
                    return Shown(login, visible)
        self._recover()
        return NOTHING_SHOWN

    def _may_make(self, *, always: bool = False, shown: Shown = NOTHING_SHOWN) -> None:
        try:
            self._notify_listeners(always=always, shown=shown)
        except HsmKmsError:  # another process may have destroyed a note while it was read
            self._notify_or_refuse(always=always)
        fault = self._keeps
        if fault is not None:
            raise type(fault)(str(fault))

    def _notify_or_refuse(self, *, always: bool) -> None:
        """Call the listeners; TokenUnavailableError or PinError if one of them fails."""
        try:
            self._notify_listeners(always=always)
        except HsmKmsError as exc:
            self._reconnector.begin()
            fault = exc if isinstance(exc, PinError | TokenUnavailableError) else TokenUnavailableError(str(exc))
            raise fault from exc

    def keep(
        self,
        cka_id: bytes,
        make: Callable[[Session], Made],
        read_back: Callable[[Session, Made], Object],
        companions: tuple[bytes, ...] = (),
        parts: Mapping[bytes, int] = _NO_PARTS,
    ) -> None:
        """Create a key, and cache its handle if the login is still the one under which it was created.

        ``companions``: CKA_IDs of secret keys that are created with it. On an HA group, every member that could take
        over must have them all before this returns; else they are destroyed, and TokenUnavailableError is raised.
        ``parts``: their handles by CKA_ID, which ``read_back`` fills in.

        ``read_back`` compares the object with what was ordered, its CKA_ID included, and returns it. It is called after
        the token has proven its identity: a token that was swapped before that does not pass the proof, and one that
        is swapped between the two does not have the object.
        """
        with self.making() as shown:

            def attempt(session: Session) -> tuple[int, int]:
                made = make(session)
                shown.append(self.require_identity(session))
                return handle_of(read_back(session, made)), self.takeovers

            login = self.login
            handle, takeovers = self.once(attempt, "make")
        try:
            self.require_replicated((cka_id, *companions), takeovers)
        except (TokenUnavailableError, StoreError):
            self._take_back((cka_id, *companions))
            raise
        with self.alone():
            if login is self.login:
                for each, known in {cka_id: handle, **parts}.items():
                    self.handles.remember(each, known)

    def _take_back(self, cka_ids: tuple[bytes, ...]) -> None:
        """Destroy objects that were created just now and are not acknowledged, so that repeated attempts leave none."""
        with suppress(HsmKmsError):  # reconcile shows what is left
            for each in cka_ids:
                self.destroy_object(each, None)
                self.destroy_object(each, ObjectClass.PUBLIC_KEY)

    def keep_secret(self, template: SecretTemplate, cka_id: bytes, label: str) -> None:
        """Generate a secret key on the token; verified by reading its attributes back. Never repeated."""
        support = self.profile.attributes
        self.keep(
            cka_id,
            lambda session: make_secret(session, template, cka_id, label, support),
            lambda _, made: read_back_secret(made, template, cka_id, label, support),
        )

    def destroy_object(self, cka_id: bytes, object_class: ObjectClass | None) -> bool:
        """Destroy a key (without a class: secret key or private half); False if it was not there."""

        def attempt(session: Session) -> bool:
            key = self.find(session, cka_id, object_class)
            if key is not None:
                with translated():
                    key.destroy()
            return key is not None

        with self.write_lock():
            destroyed = self.repeatable(attempt)
        self.forget_unreplicated(cka_id)
        return destroyed

    @contextmanager
    def write_lock(self) -> Iterator[None]:
        """Hold the cross-process write lock of the token; if another process wrote last, refresh the view first."""
        with self._write_lock.held() as stale:
            if stale:
                self.repeatable(lambda session: find(session, None, _NOBODY), "find")
            yield
