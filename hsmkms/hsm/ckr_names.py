"""Name the PKCS #11 return code behind an error of python-pkcs11.

python-pkcs11 raises one class for each code that it knows, and its base class with the number in the text for all
others. Source: PKCS #11 3.1, section 5.1 (return values).
"""

import re
from typing import Final

from pkcs11.exceptions import PKCS11Error

_SPELLED_OTHERWISE: Final = {
    "AnotherUserAlreadyLoggedIn": "CKR_USER_ANOTHER_ALREADY_LOGGED_IN",
    "FunctionCancelled": "CKR_FUNCTION_CANCELED",
    "NotInitialized": "CKR_CRYPTOKI_NOT_INITIALIZED",
    "RandomNoRNG": "CKR_RANDOM_NO_RNG",
    "SessionReadWriteSOExists": "CKR_SESSION_READ_WRITE_SO_EXISTS",
    "SlotIDInvalid": "CKR_SLOT_ID_INVALID",
    "TokenNotRecognised": "CKR_TOKEN_NOT_RECOGNIZED",
}

ACTION_PROHIBITED: Final = 0x1B
KEY_FUNCTION_NOT_PERMITTED: Final = 0x68
CURVE_NOT_SUPPORTED: Final = 0x140

_WITHOUT_CLASS: Final = {
    0x09: "CKR_NEED_TO_CREATE_THREADS",
    0x0A: "CKR_CANT_LOCK",
    ACTION_PROHIBITED: "CKR_ACTION_PROHIBITED",
    0x65: "CKR_KEY_CHANGED",
    KEY_FUNCTION_NOT_PERMITTED: "CKR_KEY_FUNCTION_NOT_PERMITTED",
    CURVE_NOT_SUPPORTED: "CKR_CURVE_NOT_SUPPORTED",
    0x160: "CKR_SAVED_STATE_INVALID",
    0x170: "CKR_INFORMATION_SENSITIVE",
    0x180: "CKR_STATE_UNSAVEABLE",
    0x1B6: "CKR_FIPS_SELF_TEST_FAILED",
    0x1B7: "CKR_LIBRARY_LOAD_FAILED",
    0x201: "CKR_TOKEN_RESOURCE_EXCEEDED",
    0x202: "CKR_OPERATION_CANCEL_FAILED",
    0x203: "CKR_KEY_EXHAUSTED",
}
_BY_TEXT: Final = {
    "Buffer was too small": "CKR_BUFFER_TOO_SMALL",
    "(already initialized)": "CKR_CRYPTOKI_ALREADY_INITIALIZED",
    "(not initialized)": "CKR_CRYPTOKI_NOT_INITIALIZED",
    "Parallel not supported": "CKR_SESSION_PARALLEL_NOT_SUPPORTED",
    "User type invalid": "CKR_USER_TYPE_INVALID",
}
_NUMBER: Final = re.compile(r"\b0x([0-9a-f]+)$")
_WORD: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def number_of(error: PKCS11Error) -> int | None:
    """Return the code of an error that python-pkcs11 has no class for; None for one that has a class."""
    matched = _NUMBER.search(str(error)) if _known_class(error) is PKCS11Error else None
    return int(matched[1], 16) if matched else None


def ckr_name(error: PKCS11Error) -> str:
    """Return the code's name in the standard, or its number for a code that the standard does not have."""
    kind, number = _known_class(error), number_of(error)
    if kind is not PKCS11Error:
        return _SPELLED_OTHERWISE.get(kind.__name__, _from(kind.__name__))
    if number is not None:
        return _WITHOUT_CLASS.get(number, f"CKR 0x{number:08x}")
    if type(error) is not PKCS11Error:
        name = type(error).__name__.removesuffix("Error")
        return _SPELLED_OTHERWISE.get(name, _from(name))
    return next((name for text, name in _BY_TEXT.items() if text in str(error)), "a return code without a name")


def _known_class(error: PKCS11Error) -> type[PKCS11Error]:
    """Return the class of python-pkcs11 that the error is of; its base class if it has no other."""
    return next(kind for kind in type(error).__mro__ if kind.__module__ == PKCS11Error.__module__)


def _from(class_name: str) -> str:
    return "CKR_" + _WORD.sub("_", class_name).upper()


def ckr_of(error: BaseException | None) -> str:
    """Return the name of the return code that caused an error; empty if none did."""
    while error is not None and not isinstance(error, PKCS11Error):
        error = error.__cause__
    return ckr_name(error) if error is not None else ""
