"""The device: one logged-in token with its sessions, profile and handles, shared by the whole process.

Every procedure that uses, makes or destroys an object asks for a ``Permit`` first. Calls that may be repeated are
repeated at most once, and only after a lost session or a dead handle.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct
from pkcs11.constants import MechanismFlag, ObjectClass
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Object, Session, Token

from hsmkms.errors import HsmKmsError, ObjectLostError, SessionLostError, TokenNotFoundError, TokenUnavailableError
from hsmkms.hsm import module as modules
from hsmkms.hsm.acts import (
    MAY_AUTHENTICATE,
    MAY_DECRYPT,
    MAY_DESTROY,
    MAY_DRAW_RANDOM,
    MAY_ENCRYPT,
    MAY_GENERATE,
    MAY_INITIALISE,
)
from hsmkms.hsm.attributes import AES_256_BACKING_KEY, INSTALLATION_MAC_KEY, SecretTemplate
from hsmkms.hsm.borrowed import BorrowedKey
from hsmkms.hsm.check import Check, run_checks
from hsmkms.hsm.choice import TokenChoice, choose
from hsmkms.hsm.cryptoki import TokenLimits
from hsmkms.hsm.faults import AWAY, OBJECT_LOST, SESSION_LOST, translate, translated
from hsmkms.hsm.gcm import explain_refusal, open_sealed, seal
from hsmkms.hsm.handles import HandleIndex
from hsmkms.hsm.iv import IvSource
from hsmkms.hsm.login import START_ATTEMPTS, START_PAUSE_SECONDS, LoginGate, PinReader, log_in, open_session
from hsmkms.hsm.module import Module
from hsmkms.hsm.objects import TokenObject, attest, find, generate, handle_of, list_keys
from hsmkms.hsm.pool import SessionPool
from hsmkms.hsm.profile import TokenProfile, mechanism_name, probe
from hsmkms.model.permit import Permit
from hsmkms.process import ForkGuard

Result = TypeVar("Result")


class DeviceSettings(Struct, frozen=True, kw_only=True):
    """How to reach a token. ``state_dir`` holds the lock and the mark of the login gate; times in seconds."""

    module: Path
    choice: TokenChoice
    state_dir: Path
    environment: dict[str, str] = {}
    init_reserved: str | None = None
    max_sessions: int = 16
    session_wait_seconds: float = 5.0


class MechanismInfo(Struct, frozen=True, kw_only=True):
    """What C_GetMechanismInfo tells: key sizes in the mechanism's own unit (bits or bytes), and uses by name."""

    name: str
    min_key_size: int | None
    max_key_size: int | None
    uses: tuple[str, ...]


def _uncounted() -> None:
    """For keys whose encryptions nobody counts."""


class Device:
    """A logged-in token. Thread-safe; of no use in a forked child. Open with ``Device.open``."""

    def __init__(
        self, settings: DeviceSettings, module: Module, read_pin: PinReader, *, accept_final_try: bool = False
    ) -> None:
        self._settings = settings
        self._module = module
        self._read_pin = read_pin
        self._gate = LoginGate(settings.state_dir)
        self._guard = ForkGuard()
        self._recovering = threading.Lock()
        self._login_handle = 0
        self._ivs = IvSource()
        self._handles = HandleIndex()
        self._log_in(accept_final_try=accept_final_try)
        self._pool = SessionPool(lambda: open_session(self._token), self._pool_size(), settings.session_wait_seconds)
        try:
            with self._pool.session() as session:
                self.profile: TokenProfile = probe(self._token, session, module.description)
        except BaseException:
            self._close_sessions()
            raise

    @classmethod
    def open(cls, settings: DeviceSettings, read_pin: PinReader, *, accept_final_try: bool = False) -> "Device":
        """Load the module, choose the token, log in once, and probe what it can do.

        A token that this process has open already is shared: the login state is one for the whole process.
        ``accept_final_try``: try the PIN even if one more wrong one would lock the token.
        Raises ModuleError, TokenNotFoundError, PinError, TokenUnfitError or TokenUnavailableError.
        """
        return _open_devices.acquire(settings, read_pin, accept_final_try=accept_final_try)

    def close(self) -> None:
        """Give the device back; its last user closes the sessions, logs out and finalises the module."""
        _open_devices.release(self)

    # -- what an operation of the API does on the token ---------------------------------------------------------

    def encrypt(
        self, permit: Permit, cka_id: bytes, plaintext: bytes, aad: bytes, count: Callable[[], None] = _uncounted
    ) -> tuple[bytes, bytes]:
        """AES-256-GCM under a backing key: returns (96-bit IV from the token, ciphertext || 128-bit tag).

        ``count`` is called before each encryption on the token, so also before a repeated one.
        """
        permit.require(MAY_ENCRYPT, cka_id)

        def attempt(session: Session, handle: int) -> tuple[bytes, bytes]:
            count()
            iv = self._ivs.next(session)
            return iv, seal(session, handle, iv, plaintext, aad)

        return self._use(cka_id, attempt)

    def decrypt(self, permit: Permit, cka_id: bytes, iv: bytes, body: bytes, aad: bytes) -> bytes:
        """Open ciphertext || tag; RejectedDataError for everything that was not made by this key with this AAD."""
        permit.require(MAY_DECRYPT, cka_id)

        def attempt(session: Session, handle: int) -> bytes:
            try:
                return open_sealed(session, handle, iv, body, aad)
            except PKCS11Error as exc:
                raise explain_refusal(exc, session, handle) from exc

        return self._use(cka_id, attempt)

    def random(self, permit: Permit, count: int) -> bytes:
        """``count`` random bytes of the token's generator."""
        permit.require(MAY_DRAW_RANDOM)
        return self._repeatable(lambda session: session.generate_random(count * 8))

    def generate_backing_key(self, permit: Permit, cka_id: bytes, label: str) -> None:
        """Make an AES-256 backing key on the token, verified by reading its attributes back. Never repeated."""
        permit.require(MAY_GENERATE, cka_id)
        self._generate(AES_256_BACKING_KEY, cka_id, label)

    # -- what the installation does for itself ------------------------------------------------------------------

    def generate_mac_key(self, permit: Permit, cka_id: bytes, label: str) -> None:
        """Make an installation key (HMAC-SHA-256) on the token, verified by reading its attributes back."""
        permit.require(MAY_INITIALISE, cka_id)
        self._generate(INSTALLATION_MAC_KEY, cka_id, label)

    def mac(self, permit: Permit, cka_id: bytes, message: bytes) -> bytes:
        """HMAC-SHA-256 of ``message`` by an installation key: 32 bytes."""
        permit.require(MAY_AUTHENTICATE, cka_id)

        def attempt(session: Session, handle: int) -> bytes:
            key = BorrowedKey(session, handle, KeyType.GENERIC_SECRET)
            done: bytes = key.sign(message, mechanism=Mechanism.SHA256_HMAC)
            return done

        return self._use(cka_id, attempt)

    def destroy(self, permit: Permit, cka_id: bytes) -> bool:
        """Destroy a secret key on the token; False if it was not there. danger: nothing brings it back."""
        permit.require(MAY_DESTROY, cka_id)
        self._handles.forget(cka_id)

        def attempt(session: Session) -> bool:
            found = self._find(session, cka_id)
            if found is not None:
                with translated():
                    found.destroy()
            return found is not None

        return self._repeatable(attempt)

    def ready(self) -> None:
        """Make sure that the token answers and that the login holds, before something is begun that needs both."""
        self._recover()

    def holds(self, cka_id: bytes) -> bool:
        """True if a secret key with this CKA_ID is on the token now."""
        return self._repeatable(lambda session: self._find(session, cka_id) is not None)

    # -- what the token says of itself --------------------------------------------------------------------------

    def inventory(self, witness: bytes) -> list[TokenObject]:
        """All key objects on the token, foreign ones too.

        ``witness`` is the CKA_ID of an object that must be among them: a lost login shows an empty token without
        any error, so an inventory without it proves nothing and raises TokenUnavailableError.
        """

        def attempt(session: Session) -> list[TokenObject]:
            self._require_login(session)
            found = list(list_keys(session))
            if not any(each.cka_id == witness for each in found):
                raise SessionLostError("the token does not show the installation's own key: nothing is known about it")
            return found

        return self._repeatable(attempt)

    def attest(self, cka_id: bytes) -> tuple[dict[str, Any], list[str]]:
        """A backing key's attributes as the token reports them now, and how they differ from what was ordered.

        Raises ObjectLostError if the key is not there.
        """

        def attempt(session: Session) -> tuple[dict[str, Any], list[str]]:
            found = self._find(session, cka_id)
            if found is None:
                raise ObjectLostError(OBJECT_LOST)
            return attest(found, AES_256_BACKING_KEY)

        return self._repeatable(attempt)

    def checks(self) -> list[Check]:
        """Try everything that hsmkms needs of a token, step by step; nothing is left on it."""
        self._recover()
        with self._pool.session() as session:
            return run_checks(self._token, session)

    def mechanisms(self) -> list[MechanismInfo]:
        """The token's mechanisms with their key sizes and uses, as it tells them."""
        self._guard.check()
        slot = self._token.slot
        with translated():
            present = slot.get_mechanisms()
        told = ((mechanism_name(each), self._module.cryptoki.mechanism(slot.slot_id, each)) for each in present)
        return sorted((_mechanism_info(name, info) for name, info in told), key=lambda each: each.name)

    def limits(self) -> TokenLimits | None:
        """Session counts and memory as the token tells them now."""
        self._guard.check()
        return self._module.cryptoki.token_limits(self._token.slot.slot_id)

    # -- sessions -----------------------------------------------------------------------------------------------

    def _generate(self, template: SecretTemplate, cka_id: bytes, label: str) -> None:
        self._recover()  # what is never repeated must not meet a lost login
        login = self._login_handle
        session = self._pool.take()
        try:
            made = generate(session, template, cka_id, label)
        except HsmKmsError as exc:
            self._give_back(session, exc)
            raise
        except BaseException:
            self._pool.put(session)
            raise
        self._pool.put(session)
        with self._recovering:
            if login == self._login_handle:
                self._handles.remember(cka_id, handle_of(made))

    def _use(self, cka_id: bytes, attempt: Callable[[Session, int], Result]) -> Result:
        """Run an idempotent call on a key; once more after a lost session or a dead handle."""
        try:
            return self._attempt(cka_id, attempt)
        except (SessionLostError, ObjectLostError):
            self._handles.forget(cka_id)
            self._recover()
        return self._attempt(cka_id, attempt)

    def _attempt(self, cka_id: bytes, attempt: Callable[[Session, int], Result]) -> Result:
        session = self._pool.take()
        try:
            handle = self._handles.lookup(cka_id)
            if handle is None:
                self._require_login(session)
                handle = self._handles.search(session, cka_id)
            result = attempt(session, handle)
        except PKCS11Error as exc:
            fault = translate(exc)
            self._give_back(session, fault)
            raise fault from exc
        except BaseException as exc:
            self._give_back(session, exc)
            raise
        self._pool.put(session)
        return result

    def _repeatable(self, attempt: Callable[[Session], Result]) -> Result:
        """Run an idempotent call that needs no key; once more after a lost session."""
        try:
            return self._once(attempt)
        except SessionLostError:
            self._recover()
        return self._once(attempt)

    def _once(self, attempt: Callable[[Session], Result]) -> Result:
        session = self._pool.take()
        try:
            with translated():
                result = attempt(session)
        except BaseException as exc:
            self._give_back(session, exc)
            raise
        self._pool.put(session)
        return result

    def _give_back(self, session: Session, fault: BaseException) -> None:
        if isinstance(fault, SessionLostError):
            self._pool.discard(session)
        else:
            self._pool.put(session)

    def _find(self, session: Session, cka_id: bytes) -> Object | None:
        """A secret key, or None: absence counts only if one login held from before the search until after it."""
        login = self._login_handle
        self._require_login(session)
        found = find(session, ObjectClass.SECRET_KEY, cka_id)
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
        """Log in again if the login was lost; one thread does it, the others find it done."""
        self._guard.check()
        with self._recovering:
            lost = self._login_handle
            if not self._module.cryptoki.logged_in(lost):
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

    def _log_in(self, *, accept_final_try: bool = False) -> None:
        def find_token() -> Token:
            self._token = choose(self._module, self._settings.choice)
            return self._token

        self._login = log_in(find_token, self._read_pin, self._gate, accept_final_try=accept_final_try)
        self._login_handle = _handle(self._login)

    def _pool_size(self) -> int:
        """What the settings allow, within what the token allows besides the login session."""
        limits = self.limits()
        maxima = [limits.max_sessions, limits.max_rw_sessions] if limits else []
        return max(1, min([self._settings.max_sessions, *(each - 1 for each in maxima if each is not None)]))

    def _close_sessions(self) -> None:
        if self._guard.foreign:
            return
        self._pool.close()
        with suppress(PKCS11Error):  # a token that is gone cannot be logged out of
            self._login.close()


def _handle(session: Session) -> int:
    return int(session.handle)  # type: ignore[attr-defined]  # the stub leaves it out


def _mechanism_info(name: str, told: tuple[int, int, int] | None) -> MechanismInfo:
    smallest, largest, flags = told or (0, 0, 0)
    uses = tuple(flag.name or "" for flag in MechanismFlag if flag & flags)
    return MechanismInfo(name=name, min_key_size=smallest or None, max_key_size=largest or None, uses=uses)


class _OpenDevices:
    """The devices of this process, by module and token: two logins on one token cannot be told apart."""

    def __init__(self) -> None:
        self.after_fork()

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._users: dict[tuple[Path, str, str], tuple[Device, int]] = {}

    def acquire(self, settings: DeviceSettings, read_pin: PinReader, *, accept_final_try: bool) -> Device:
        # SoftHSM writes to a token at each login, and a module that loads the token at that instant never shows it.
        for _ in range(START_ATTEMPTS - 1):
            with suppress(TokenNotFoundError):
                return self._acquire_now(settings, read_pin, accept_final_try=accept_final_try)
            time.sleep(START_PAUSE_SECONDS)
        return self._acquire_now(settings, read_pin, accept_final_try=accept_final_try)

    def _acquire_now(self, settings: DeviceSettings, read_pin: PinReader, *, accept_final_try: bool) -> Device:
        module = modules.acquire(settings.module, environment=settings.environment, reserved=settings.init_reserved)
        try:
            return self._share_or_open(settings, module, read_pin, accept_final_try=accept_final_try)
        except BaseException:
            module.release()
            raise

    def _share_or_open(
        self, settings: DeviceSettings, module: Module, read_pin: PinReader, *, accept_final_try: bool
    ) -> Device:
        token = choose(module, settings.choice)
        key = (module.path, token.label, token.serial.decode("utf-8", "replace"))
        with self._lock:
            device, users = self._users.get(key) or (
                Device(settings, module, read_pin, accept_final_try=accept_final_try),
                0,
            )
            self._users[key] = (device, users + 1)
            return device

    def release(self, device: Device) -> None:
        with self._lock:
            for key, (held, users) in self._users.items():
                if held is device:
                    if users > 1:
                        self._users[key] = (device, users - 1)
                    else:
                        del self._users[key]
                        device._close_sessions()  # noqa: SLF001 - the registry is the other half of the class
                    device._module.release()  # noqa: SLF001
                    return


_open_devices = _OpenDevices()
os.register_at_fork(after_in_child=_open_devices.after_fork)
