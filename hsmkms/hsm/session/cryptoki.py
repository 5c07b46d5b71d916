"""Call through ctypes the seven Cryptoki functions that python-pkcs11 does not call as needed here.

``C_Initialize`` with CKF_OS_LOCKING_OK (python-pkcs11 passes NULL, which permits a module to be unsafe with threads,
and SoftHSM then crashes), its counterpart ``C_Finalize``, the whole of ``C_GetTokenInfo`` (session counts, memory),
``C_GetMechanismInfo`` (into zeroed memory), ``C_GetSessionInfo`` (a lost login shows an empty token without any
error), ``C_CloseSession`` without the logout that python-pkcs11 puts before it, and ``C_InitToken``. Everything is
reached through the module's function list, since some modules export nothing else.

Source: PKCS #11 Cryptographic Token Interface Base Specification 2.40, sections 3.4, 3.7 and 5.4 to 5.6.
"""

import ctypes
from ctypes import CFUNCTYPE, POINTER, byref, c_char, c_char_p, c_ubyte, c_ulong, c_void_p, cast
from typing import Final

from msgspec import Struct

CKR_OK: Final = 0x00
CKR_CRYPTOKI_ALREADY_INITIALIZED: Final = 0x191
CKF_OS_LOCKING_OK: Final = 0x02
CKS_RW_USER_FUNCTIONS: Final = 3

_UNAVAILABLE_INFORMATION: Final = ctypes.c_ulong(-1).value
_EFFECTIVELY_INFINITE: Final = 0


class _Version(ctypes.Structure):
    _fields_ = (("major", c_ubyte), ("minor", c_ubyte))


class _InitializeArgs(ctypes.Structure):
    _fields_ = (
        ("create_mutex", c_void_p),
        ("destroy_mutex", c_void_p),
        ("lock_mutex", c_void_p),
        ("unlock_mutex", c_void_p),
        ("flags", c_ulong),
        ("reserved", c_void_p),
    )


class _TokenInfo(ctypes.Structure):
    _fields_ = (
        ("label", c_char * 32),
        ("manufacturer", c_char * 32),
        ("model", c_char * 16),
        ("serial", c_char * 16),
        ("flags", c_ulong),
        ("max_sessions", c_ulong),
        ("sessions", c_ulong),
        ("max_rw_sessions", c_ulong),
        ("rw_sessions", c_ulong),
        ("max_pin_length", c_ulong),
        ("min_pin_length", c_ulong),
        ("total_public_memory", c_ulong),
        ("free_public_memory", c_ulong),
        ("total_private_memory", c_ulong),
        ("free_private_memory", c_ulong),
        ("hardware_version", _Version),
        ("firmware_version", _Version),
        ("utc_time", c_char * 16),
    )


class _FunctionList(ctypes.Structure):
    """The head of CK_FUNCTION_LIST, up to the last function used here."""

    _fields_ = (
        ("version", _Version),
        ("initialize", c_void_p),
        ("finalize", c_void_p),
        ("get_info", c_void_p),
        ("get_function_list", c_void_p),
        ("get_slot_list", c_void_p),
        ("get_slot_info", c_void_p),
        ("get_token_info", c_void_p),
        ("get_mechanism_list", c_void_p),
        ("get_mechanism_info", c_void_p),
        ("init_token", c_void_p),
        ("init_pin", c_void_p),
        ("set_pin", c_void_p),
        ("open_session", c_void_p),
        ("close_session", c_void_p),
        ("close_all_sessions", c_void_p),
        ("get_session_info", c_void_p),
    )


class _MechanismInfo(ctypes.Structure):
    _fields_ = (("min_key_size", c_ulong), ("max_key_size", c_ulong), ("flags", c_ulong))


class _SessionInfo(ctypes.Structure):
    _fields_ = (("slot_id", c_ulong), ("state", c_ulong), ("flags", c_ulong), ("device_error", c_ulong))


_Initialize = CFUNCTYPE(c_ulong, POINTER(_InitializeArgs))
_Finalize = CFUNCTYPE(c_ulong, c_void_p)
_GetTokenInfo = CFUNCTYPE(c_ulong, c_ulong, POINTER(_TokenInfo))
_GetMechanismInfo = CFUNCTYPE(c_ulong, c_ulong, c_ulong, POINTER(_MechanismInfo))
_GetSessionInfo = CFUNCTYPE(c_ulong, c_ulong, POINTER(_SessionInfo))
_CloseSession = CFUNCTYPE(c_ulong, c_ulong)
_InitToken = CFUNCTYPE(c_ulong, c_ulong, c_char_p, c_ulong, c_char_p)


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


class Cryptoki:
    """The entry points of one loaded module. Numbers returned are CKR codes."""

    def __init__(self, path: str) -> None:
        """Open the module file; OSError when it cannot be loaded, AttributeError when it is no PKCS#11 module."""
        self._library = ctypes.CDLL(path)
        functions = POINTER(_FunctionList)()
        entry = self._library.C_GetFunctionList
        entry.restype = c_ulong
        if entry(byref(functions)) != CKR_OK:
            raise AttributeError("C_GetFunctionList failed")
        self._functions = functions.contents

    @property
    def list_address(self) -> int:
        """Address of the function list: some modules give another list, with a state of its own, at each call."""
        return ctypes.addressof(self._functions)

    def initialize(self, reserved: str | None) -> int:
        """Call C_Initialize for use from many threads with the operating system's locks."""
        parameter = ctypes.create_string_buffer(reserved.encode()) if reserved is not None else None
        args = _InitializeArgs(flags=CKF_OS_LOCKING_OK, reserved=cast(parameter, c_void_p) if parameter else None)
        return int(_Initialize(self._functions.initialize)(byref(args)))

    def finalize(self) -> int:
        """Call C_Finalize."""
        return int(_Finalize(self._functions.finalize)(None))

    def token_limits(self, slot_id: int) -> TokenLimits | None:
        """Call C_GetTokenInfo for a slot; None if the token does not answer."""
        info = _TokenInfo()
        if _GetTokenInfo(self._functions.get_token_info)(slot_id, byref(info)) != CKR_OK:
            return None
        names = TokenLimits.__struct_fields__
        return TokenLimits(**{name: _number(name, getattr(info, name)) for name in names})

    def mechanism(self, slot_id: int, mechanism: int) -> tuple[int, int, int] | None:
        """Call C_GetMechanismInfo: smallest and largest key (bits or bytes) and CKF flags; None if it fails."""
        info = _MechanismInfo()  # zeroed: SoftHSM 2.6.1 only sets bits in the flags field that it is given
        code = _GetMechanismInfo(self._functions.get_mechanism_info)(slot_id, mechanism, byref(info))
        return (info.min_key_size, info.max_key_size, info.flags) if code == CKR_OK else None

    def logged_in(self, session_handle: int) -> bool:
        """Call C_GetSessionInfo: True if the session is open and the process is logged in as the user."""
        info = _SessionInfo()
        code = _GetSessionInfo(self._functions.get_session_info)(session_handle, byref(info))
        return bool(code == CKR_OK and info.state == CKS_RW_USER_FUNCTIONS)

    def close_session(self, session_handle: int) -> int:
        """Call C_CloseSession without a logout; the process stays logged in as long as it has another session."""
        return int(_CloseSession(self._functions.close_session)(session_handle))

    def init_token(self, slot_id: int, so_pin: str, label: str) -> int:
        """Call C_InitToken: create a new token in an empty slot. danger: it destroys every object of a token in use."""
        pin = so_pin.encode()
        padded = label.encode().ljust(32)
        return int(_InitToken(self._functions.init_token)(slot_id, pin, len(pin), padded))


def _number(name: str, value: int) -> int | None:
    infinite = name.startswith("max_") and value == _EFFECTIVELY_INFINITE
    return None if infinite or value == _UNAVAILABLE_INFORMATION else value
