"""Load a PKCS#11 module, and call those functions that python-pkcs11 does not call as needed here.

``C_Initialize`` with CKF_OS_LOCKING_OK (python-pkcs11 passes NULL, which permits a module to be unsafe with threads,
and SoftHSM then crashes), its counterpart ``C_Finalize``, the whole of ``C_GetTokenInfo`` (session counts, memory),
``C_GetMechanismInfo`` (into zeroed memory), ``C_GetSessionInfo`` (a lost login shows an empty token without any
error), ``C_CloseSession`` without the logout that python-pkcs11 puts before it, and ``C_InitToken``. Everything is
reached through python-pkcs11's own function list (calls/function_list.py).

Source: PKCS #11 Cryptographic Token Interface Base Specification 2.40, sections 3.4, 3.7 and 5.4 to 5.6.
"""

from typing import Any, Final

from msgspec import Struct
from pkcs11 import _pkcs11

from hsmkms.hsm.calls.declarations import ffi
from hsmkms.hsm.calls.function_list import MessageFunctions, lists_of, register
from hsmkms.hsm.return_codes import CKR_OK
from hsmkms.hsm.session.module_descriptors import ModuleDescriptors

CKF_OS_LOCKING_OK: Final = 0x02
CKS_RW_USER_FUNCTIONS: Final = 3

_UNAVAILABLE_INFORMATION: Final = int(ffi.cast("CK_ULONG", -1))
_EFFECTIVELY_INFINITE: Final = 0
_NO_LIMIT: Final = 1 << 31
"""More sessions than any process has: opencryptoki reports 2^64 - 2 where it has no limit."""

_descriptors: Final[dict[str, ModuleDescriptors]] = {}
"""By path of the module: what it leaves behind outlives an instance of ``Cryptoki``."""

_loaded: Final[dict[str, Any]] = {}
"""Modules by path. They stay loaded until the process ends: unloading one takes away functions that may be running."""


class TokenLimits(Struct, frozen=True, kw_only=True):
    """Numbers of CK_TOKEN_INFO; None where the token reports "unlimited" or "unavailable". Memory in bytes."""

    max_sessions: int | None
    sessions: int | None
    max_rw_sessions: int | None
    rw_sessions: int | None
    total_private_memory: int | None
    free_private_memory: int | None
    total_public_memory: int | None
    free_public_memory: int | None


_LIMITS: Final = {
    "max_sessions": "ulMaxSessionCount",
    "sessions": "ulSessionCount",
    "max_rw_sessions": "ulMaxRwSessionCount",
    "rw_sessions": "ulRwSessionCount",
    "total_private_memory": "ulTotalPrivateMemory",
    "free_private_memory": "ulFreePrivateMemory",
    "total_public_memory": "ulTotalPublicMemory",
    "free_public_memory": "ulFreePublicMemory",
}
"""Members of CK_TOKEN_INFO."""


class _InitializedLibrary(_pkcs11.lib):
    """python-pkcs11's library object for a module that ``Cryptoki.initialize`` initialises."""

    def initialize(self) -> None:
        """Call nothing: python-pkcs11 would call C_Initialize(NULL) here."""


class Cryptoki:
    """The entry points of one loaded module. Numbers returned are CKR codes."""

    def __init__(self, path: str) -> None:
        """Load the module, and have python-pkcs11 ask for its function list.

        OSError when it cannot be loaded; LookupError or PKCS11Error when it is no PKCS#11 module.
        """
        if path not in _loaded:
            loaded = ffi.dlopen(path)
            try:
                loaded.C_GetFunctionList  # noqa: B018 - only whether it is there
            except ffi.error as exc:
                raise LookupError(str(exc)) from exc
            _loaded[path] = loaded
        self._path = path
        self._descriptors = _descriptors.setdefault(path, ModuleDescriptors())
        self._library = _InitializedLibrary.__new__(_InitializedLibrary, path)  # type: ignore[call-arg]
        self._functions = register(lists_of(self._library)[0])

    def library(self) -> _pkcs11.lib:
        """Return python-pkcs11's library object, once the module is initialised. PKCS11Error if it does not answer."""
        self._library.__init__(self._path)  # type: ignore[misc]  # it asks the module, so not before
        return self._library

    def message_functions(self) -> MessageFunctions | None:
        """Return the functions for messages of PKCS#11 3.x that python-pkcs11 was given by C_GetInterface, or None.

        They exist once ``library`` was called.
        """
        newer = [MessageFunctions(each) for each in lists_of(self._library)[1:] if each]
        return next((each for each in newer if each.is_complete), None)

    def initialize(self, reserved: str | None) -> int:
        """Call C_Initialize for use from many threads with the operating system's locks."""
        parameter = ffi.new("char[]", reserved.encode()) if reserved is not None else ffi.NULL
        arguments = ffi.new("CK_C_INITIALIZE_ARGS *", {"flags": CKF_OS_LOCKING_OK, "pReserved": parameter})
        with self._descriptors.initialising():
            return self._functions.initialize(arguments)

    def finalize(self) -> int:
        """Call C_Finalize."""
        with self._descriptors.finalising():
            return self._functions.finalize(ffi.NULL)

    def token_limits(self, slot_id: int) -> TokenLimits | None:
        """Call C_GetTokenInfo for a slot; None if the token does not answer."""
        info = ffi.new("CK_TOKEN_INFO *")
        if self._functions.get_token_info(slot_id, info) != CKR_OK:
            return None
        return TokenLimits(**{name: _number(name, getattr(info, member)) for name, member in _LIMITS.items()})

    def mechanism(self, slot_id: int, mechanism: int) -> tuple[int, int, int] | None:
        """Call C_GetMechanismInfo: smallest and largest key (bits or bytes) and CKF flags; None if it fails."""
        info = ffi.new(
            "CK_MECHANISM_INFO *"
        )  # zeroed: SoftHSM 2.6.1 only sets bits in the flags field that it is given
        code = self._functions.get_mechanism_info(slot_id, mechanism, info)
        return (info.ulMinKeySize, info.ulMaxKeySize, info.flags) if code == CKR_OK else None

    def logged_in(self, session_handle: int) -> bool:
        """Call C_GetSessionInfo: True if the session is open and the process is logged in as the user."""
        info = ffi.new("CK_SESSION_INFO *")
        code = self._functions.get_session_info(session_handle, info)
        return bool(code == CKR_OK and info.state == CKS_RW_USER_FUNCTIONS)

    def close_session(self, session_handle: int) -> int:
        """Call C_CloseSession without a logout; the process stays logged in as long as it has another session."""
        return self._functions.close_session(session_handle)

    def init_token(self, slot_id: int, so_pin: str, label: str) -> int:
        """Call C_InitToken: create a new token in an empty slot. danger: it destroys every object of a token in use."""
        pin = so_pin.encode()
        return self._functions.init_token(slot_id, pin, len(pin), label.encode().ljust(32))


def _number(name: str, value: int) -> int | None:
    infinite = name.startswith("max_") and (value == _EFFECTIVELY_INFINITE or value >= _NO_LIMIT)
    return None if infinite or value == _UNAVAILABLE_INFORMATION else value
