"""Load a PKCS#11 module once per process, thread-safe, never carried across a fork.

A module has one state per process, however many users it has here, so a registry counts the users of loaded modules and
finalises a module with its last user. python-pkcs11 would call ``C_Initialize(NULL)``, which declares that only one
thread will call: ``Cryptoki`` makes the call in its place, with CKF_OS_LOCKING_OK.
"""

import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Final, Protocol

from pkcs11.exceptions import PKCS11Error
from pkcs11.types import Slot

from hsmkms.errors import ConfigurationError, ModuleError
from hsmkms.hsm.ckr_names import ckr_name
from hsmkms.hsm.faults import translated
from hsmkms.hsm.return_codes import CKR_ARGUMENTS_BAD, CKR_CRYPTOKI_ALREADY_INITIALIZED, CKR_OK, error_of
from hsmkms.hsm.session.cryptoki import Cryptoki
from hsmkms.process import ForkGuard, uptime

RENEWAL_SECONDS: Final = 1.0
"""How long a renewal waits while another thread opens a token of the module."""

_QUOTED_PATH: Final = re.compile(r"""(['"])(?:\w+:)?(/[^'"]*)\1""")
"""A path in the parameters of C_Initialize: ``configdir='sql:/var/lib/nss'``."""

FIRST_PAUSE_SECONDS: Final = 2.0
LONGEST_PAUSE_SECONDS: Final = 30.0


class RenewalPace:
    """Exponential backoff for renewing the module while one of its tokens is away and another is in use."""

    def __init__(self) -> None:
        self._pause = FIRST_PAUSE_SECONDS
        self._next = 0.0

    def is_due(self, now: float) -> bool:
        """Return True if the module may be renewed now; if so, start the next pause."""
        if now < self._next:
            return False
        self._next, self._pause = now + self._pause, min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        return True


class ModuleLogin(Protocol):
    """A logged-in token that uses a module."""

    @property
    def is_away(self) -> bool:
        """True if none of its sessions is lent, so that a renewal interrupts no call."""

    def aside(self) -> AbstractContextManager[bool]:
        """Stop all calls for the block, and log in again after it if the module was renewed.

        Yields False if a call does not finish in time: then the module must not be renewed.
        """

    def login_died(self) -> None:
        """Record that the module was renewed, which closed all sessions."""


class Module:
    """A loaded and initialised PKCS#11 module. Get one with ``acquire``, return it with ``release``."""

    def __init__(self, path: Path, environment: Mapping[str, str], reserved: str | None) -> None:
        self.path = path
        self.environment = dict(environment)
        self.reserved = reserved
        self._guard = ForkGuard()
        self.users = 1
        self.logins: list[ModuleLogin] = []
        self._opening = threading.RLock()
        self._keeping = threading.Condition()
        self._keepers = 0
        """How many threads make calls beside the session pools of the logins."""
        self._renewing = False
        os.environ.update(environment)
        try:
            self.cryptoki = Cryptoki(str(path))
        except (OSError, LookupError, PKCS11Error) as exc:
            raise ModuleError(
                f"{path} cannot be loaded as a PKCS#11 module ({exc}): check the path (token.module, --module). If a "
                "library that it needs is not found, set LD_LIBRARY_PATH to its folder before hsmkms starts: "
                "the loader does not read it later, from token.environment"
            ) from exc
        self._initialize()
        try:
            self._library = self.cryptoki.library()
        except PKCS11Error as exc:
            self.cryptoki.finalize()
            raise ModuleError(f"{path} does not answer as a PKCS#11 module ({type(exc).__name__})") from exc

    def _initialize(self) -> None:
        self.loaded_at = uptime()
        """When the module was initialised: its view of its tokens may date from then."""
        code = self.cryptoki.initialize(self.reserved)
        if code == CKR_CRYPTOKI_ALREADY_INITIALIZED and _registry.inherited(self.path):
            # A forked child: the module still has the parent's state, which is useless here.
            self.cryptoki.finalize()
            code = self.cryptoki.initialize(self.reserved)
        if code == CKR_CRYPTOKI_ALREADY_INITIALIZED:
            raise ModuleError(
                f"{self.path} was initialised by another part of this process, maybe without locking: "
                "let hsmkms open it first, or use it in a process of its own"
            )
        if code != CKR_OK:
            error = error_of(code)
            raise ModuleError(
                f"{self.path} refused to start (C_Initialize: {ckr_name(error)}): "
                f"{_start_advice(code, self.environment, self.reserved)}"
            ) from error

    @property
    def description(self) -> str:
        """Manufacturer, description and version of the module, as it reports them."""
        library = self._library
        major, minor = library.library_version
        return f"{library.manufacturer_id} {library.library_description} {major}.{minor}".strip()

    @property
    def cryptoki_version(self) -> str:
        """Version of PKCS#11 that the module says it has."""
        return ".".join(map(str, self._library.cryptoki_version))

    def slots(self) -> list[Slot]:
        """Return all slots that hold a token, initialised or not."""
        self._guard.check()
        with translated():
            return self._library.get_slots(token_present=True)

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Keep other threads from renewing the module while a token is searched for and opened in the block."""
        with self._opening:
            yield

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep the module from being finalised while a call that no login waits for is made in the block."""
        with self._keeping:
            self._keeping.wait_for(lambda: not self._renewing)
            self._keepers += 1
        try:
            yield
        finally:
            with self._keeping:
                self._keepers -= 1

    @contextmanager
    def _not_kept(self) -> Iterator[bool]:
        """Let no block of ``kept`` begin in this one; yields False if one is running."""
        with self._keeping:
            self._renewing = not self._keepers
        try:
            yield self._renewing
        finally:
            with self._keeping:
                self._renewing = False
                self._keeping.notify_all()

    def others(self, login: ModuleLogin | None) -> list[ModuleLogin]:
        """Return the other tokens that use the module."""
        return [each for each in self.logins if each is not login]

    def renew(self, login: ModuleLogin | None = None) -> bool:
        """Finalise the module and initialise it again, for tokens that cannot be reached again otherwise.

        The caller, ``login``, has no call in progress; the module's other tokens stop their calls meanwhile and log in
        again afterwards. False if one of them cannot, if a token is being opened, or in a block of ``kept``. Raises
        ModuleError.
        """
        self._guard.check()
        if not self._opening.acquire(timeout=RENEWAL_SECONDS):
            return False
        try:
            with ExitStack() as aside:
                others = self.others(login)
                if not aside.enter_context(self._not_kept()):
                    return False
                if not all(aside.enter_context(each.aside()) for each in others):
                    return False
                os.environ.update(self.environment)
                self.cryptoki.finalize()
                for each in others:
                    each.login_died()
                self._initialize()
                return True
        finally:
            self._opening.release()

    def release(self) -> None:
        """Return the module; the last user's call finalises it."""
        _registry.release(self)

    def finalize(self) -> None:
        """Finalise the module, except in a forked child, which did not initialise it, or under a call that hangs."""
        if not self._guard.foreign and not self._keepers:
            self.cryptoki.finalize()


def _start_advice(code: int, environment: Mapping[str, str], reserved: str | None) -> str:
    """Say what keeps a module from starting: a path in what it is given that cannot be read, or else what to check."""
    named = [(f"{name} of token.environment", value) for name, value in environment.items()]
    named += [("token.init_reserved", found[2]) for found in _QUOTED_PATH.finditer(reserved or "")]
    for name, value in named:
        if value.startswith("/") and not os.access(value, os.R_OK, effective_ids=True):
            return f"{name} names {value}, which is missing or cannot be read by this user"
    if code == CKR_ARGUMENTS_BAD and reserved is None:
        return "it may want parameters (token.init_reserved, --init-reserved), as NSS softokn does"
    return (
        "check its variables (token.environment, --environment), its parameters (token.init_reserved, "
        "--init-reserved), its own configuration file, and that the service that it needs is running"
    )


class _Registry:
    """Modules that this process has open, by path."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[Path, Module] = {}
        self._inherited: set[Path] = set()

    def acquire(self, path: Path, environment: Mapping[str, str], reserved: str | None) -> Module:
        with self._lock:
            module = self._open.get(path)
            if module is None:
                module = self._open[path] = Module(path, environment, reserved)
                return module
            if module.environment != environment:
                raise ConfigurationError(
                    f"{path} is already open in this process with another token.environment: "
                    "a module has one state per process, so give all its tokens the same one"
                )
            if module.reserved != reserved:
                raise ConfigurationError(
                    f"{path} is already open in this process with another token.init_reserved: "
                    "a module is initialised once per process, so give all its tokens the same one"
                )
            module.users += 1
            return module

    def release(self, module: Module) -> None:
        with self._lock:
            if self._open.get(module.path) is not module:
                return
            module.users -= 1
            if module.users == 0:
                del self._open[module.path]
                module.finalize()

    def inherited(self, path: Path) -> bool:
        """True in a forked child whose parent had the module open."""
        return path in self._inherited

    def after_fork(self) -> None:
        self._inherited.update(self._open)
        self._open.clear()
        self._lock = threading.Lock()


_registry = _Registry()
os.register_at_fork(after_in_child=_registry.after_fork)


def acquire(path: Path, *, environment: Mapping[str, str] | None = None, reserved: str | None = None) -> Module:
    """Return the module at ``path``, loaded and initialised in this process.

    ``environment`` is set before the module is loaded (SoftHSM reads SOFTHSM2_CONF); ``reserved`` is passed as
    pReserved of C_Initialize (NSS wants a parameter string there). Raises ModuleError or ConfigurationError.
    """
    if not path.is_file():
        raise ModuleError(
            f"there is no PKCS#11 module at {path}: install it, or correct the path (token.module, --module)"
        )
    return _registry.acquire(path.resolve(), environment or {}, reserved)
