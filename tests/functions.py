"""Calls of PKCS#11 functions behind a device's back, through the function list that the device uses itself.

Another list may be another connection to the token (p11-kit), and some modules export nothing but what gives the list.

Source: PKCS #11 2.40, section 3.6 (CK_FUNCTION_LIST).
"""

import ctypes
from enum import IntEnum

from hsmkms.hsm.device import TokenDevice


class Function(IntEnum):
    """Place of a function in the list, counted from the first after the version."""

    C_CLOSE_ALL_SESSIONS = 14
    C_GET_SESSION_INFO = 15
    C_LOGOUT = 19


def call(device: TokenDevice, function: Function, *arguments: object) -> int:
    """Call a function; its CKR code."""
    functions = device.connection.module.cryptoki._functions
    start = getattr(functions, "address", None) or ctypes.addressof(functions)
    address = ctypes.c_void_p.from_address(start + ctypes.sizeof(ctypes.c_void_p) * (1 + function)).value
    return int(ctypes.CFUNCTYPE(ctypes.c_ulong)(address)(*arguments))


def log_out(device: TokenDevice) -> int:
    """Log the process out."""
    return call(device, Function.C_LOGOUT, ctypes.c_ulong(device.connection.login_handle))


def close_all_sessions(device: TokenDevice) -> int:
    """Close all sessions that the process has with the token."""
    return call(device, Function.C_CLOSE_ALL_SESSIONS, ctypes.c_ulong(device.connection.token.slot.slot_id))


def is_open(device: TokenDevice, session: int) -> bool:
    """True if there is a session with this handle."""
    information = (ctypes.c_ulong * 4)()
    return call(device, Function.C_GET_SESSION_INFO, ctypes.c_ulong(session), information) == 0
