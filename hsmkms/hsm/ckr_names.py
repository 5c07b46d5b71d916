"""Names of PKCS#11 return codes, as the standard writes them, for messages and reports.

python-pkcs11 raises a class for each code that it knows, named after the code; its base class carries all others.
"""

import re
from typing import Final

from pkcs11.exceptions import PKCS11Error

_OTHERWISE: Final = {
    "AnotherUserAlreadyLoggedIn": "CKR_USER_ANOTHER_ALREADY_LOGGED_IN",
    "FunctionCancelled": "CKR_FUNCTION_CANCELED",
    "NotInitialized": "CKR_CRYPTOKI_NOT_INITIALIZED",
    "RandomNoRNG": "CKR_RANDOM_NO_RNG",
    "SessionReadWriteSOExists": "CKR_SESSION_READ_WRITE_SO_EXISTS",
    "SlotIDInvalid": "CKR_SLOT_ID_INVALID",
    "TokenNotRecognised": "CKR_TOKEN_NOT_RECOGNIZED",
}
"""Classes that are not named after their code word by word."""

_ERRORS: Final = ("DeviceError", "GeneralError")
"""Codes whose name ends with ERROR; elsewhere that is Python's ending."""

_WITHOUT_CLASS: Final = {
    "buffer": "CKR_BUFFER_TOO_SMALL",
    "not initialized": "CKR_CRYPTOKI_NOT_INITIALIZED",
    "already initialized": "CKR_CRYPTOKI_ALREADY_INITIALIZED",
}
"""What the text of python-pkcs11's base class says for three codes; only shown, nothing is decided by it."""

_WORD: Final = re.compile(r"(?<!^)(?=[A-Z])")
_NUMBER: Final = re.compile(r"0x[0-9a-fA-F]+")


def ckr_name(error: PKCS11Error) -> str:
    """Return the name of the error's return code, or its number if the code has no class here."""
    name = type(error).__name__
    name = name if name in _ERRORS else name.removesuffix("Error")
    if name in _OTHERWISE:
        return _OTHERWISE[name]
    number = _NUMBER.search(str(error))
    if number is not None:
        return f"CKR {number.group()}"
    if type(error) is PKCS11Error:
        return next((ckr for words, ckr in _WITHOUT_CLASS.items() if words in str(error).lower()), "CKR unknown")
    return f"CKR_{_WORD.sub('_', name).upper()}"


def ckr_of(error: BaseException | None) -> str:
    """Return the name of the return code that caused an error; empty if none did."""
    while error is not None and not isinstance(error, PKCS11Error):
        error = error.__cause__
    return ckr_name(error) if error is not None else ""
