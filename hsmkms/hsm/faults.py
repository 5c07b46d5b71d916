"""Translate PKCS#11 return codes to errors of this package; nothing else does so.

python-pkcs11 and our own calls raise a class per CKR code (return_codes.py); the tables below say what each means here.
A code that is in none of them is an internal error: the user gets one sentence with the code's name, the detail goes to
the log.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pkcs11 import exceptions as ckr

from hsmkms.errors import (
    HsmKmsError,
    ObjectLostError,
    RejectedDataError,
    SessionLostError,
    TokenError,
    TokenFullError,
    TokenUnavailableError,
    UnsupportedOperationException,
)
from hsmkms.hsm.ckr_names import ACTION_PROHIBITED, CURVE_NOT_SUPPORTED, KEY_FUNCTION_NOT_PERMITTED, ckr_name, number_of
from hsmkms.hsm.return_codes import (
    BufferTooSmallError,
    CurveNotSupportedError,
    NotInitializedError,
    TokenResourceExceededError,
)

log = logging.getLogger("hsmkms.hsm")

SESSION_LOST: Final = (
    "the session with the token was lost: try again; if it goes on, check the HSM with `hsmkms token-info`"
)
OBJECT_LOST: Final = "the backing key is not on the token now: check the token with `hsmkms reconcile`"
NO_PUBLIC_HALF: Final = "the public half of the key pair is not on the token: check the token with `hsmkms attest`"
WRAPPING_KEY_LOST: Final = "the wrapping key is not on the token now: get new parameters with GetParametersForImport"
AWAY: Final = "the token does not answer: check that the HSM is connected and running, then try again"
FULL: Final = "the token has no room for another object: free memory on it, or use a larger token"
LOCKED: Final = "the token calls its user PIN locked: its security officer must unlock it"
BUSY: Final = "the token, or its module, has no memory for the operation just now: try again later"
REJECTED: Final = "the token refused the data"
UNSUPPORTED: Final = "this token cannot do the operation: `hsmkms token-check` prints what it can"

TOO_MUCH: Final = "the token has more output than it announces: `hsmkms token-check` prints what it can"

_NOT_INITIALIZED: Final = "(not initialized)"
"""Text of python-pkcs11's error for CKR_CRYPTOKI_NOT_INITIALIZED, which has no class of its own."""

FAULTS: Final[dict[type[ckr.PKCS11Error], tuple[type[HsmKmsError], str]]] = {
    ckr.SessionHandleInvalid: (SessionLostError, SESSION_LOST),
    ckr.SessionClosed: (SessionLostError, SESSION_LOST),
    ckr.UserNotLoggedIn: (SessionLostError, SESSION_LOST),
    ckr.OperationActive: (SessionLostError, SESSION_LOST),
    ckr.OperationNotInitialized: (SessionLostError, SESSION_LOST),
    ckr.DeviceRemoved: (SessionLostError, AWAY),
    ckr.TokenNotPresent: (SessionLostError, AWAY),
    ckr.KeyHandleInvalid: (ObjectLostError, OBJECT_LOST),
    ckr.ObjectHandleInvalid: (ObjectLostError, OBJECT_LOST),
    ckr.UnwrappingKeyHandleInvalid: (ObjectLostError, WRAPPING_KEY_LOST),
    ckr.SlotIDInvalid: (SessionLostError, AWAY),
    ckr.PinLocked: (TokenUnavailableError, LOCKED),
    ckr.HostMemory: (TokenUnavailableError, BUSY),
    ckr.DeviceError: (TokenUnavailableError, AWAY),
    ckr.TokenNotRecognised: (TokenUnavailableError, AWAY),
    ckr.GeneralError: (TokenUnavailableError, AWAY),
    ckr.FunctionFailed: (TokenUnavailableError, AWAY),
    ckr.FunctionCancelled: (TokenUnavailableError, AWAY),
    ckr.SessionCount: (TokenUnavailableError, "the token has no free session: lower token.max_sessions"),
    ckr.DeviceMemory: (TokenFullError, FULL),
    ckr.EncryptedDataInvalid: (RejectedDataError, REJECTED),
    ckr.EncryptedDataLenRange: (RejectedDataError, REJECTED),
    ckr.SignatureInvalid: (RejectedDataError, REJECTED),
    ckr.SignatureLenRange: (RejectedDataError, REJECTED),
    ckr.WrappedKeyInvalid: (RejectedDataError, REJECTED),
    ckr.WrappedKeyLenRange: (RejectedDataError, REJECTED),
    **dict.fromkeys(
        (
            ckr.MechanismInvalid,
            ckr.MechanismParamInvalid,
            ckr.FunctionNotSupported,
            ckr.FunctionRejected,
            ckr.TemplateIncomplete,
            ckr.TemplateInconsistent,
            ckr.AttributeTypeInvalid,
            ckr.AttributeValueInvalid,
            ckr.AttributeReadOnly,
            ckr.DomainParamsInvalid,
            ckr.KeySizeRange,
            ckr.KeyTypeInconsistent,
            ckr.UnwrappingKeySizeRange,
            ckr.UnwrappingKeyTypeInconsistent,
            CurveNotSupportedError,
        ),
        (UnsupportedOperationException, UNSUPPORTED),
    ),
    ckr.TokenWriteProtected: (TokenError, "the token is write-protected: no object can be made or destroyed on it"),
    BufferTooSmallError: (TokenError, TOO_MUCH),
    NotInitializedError: (SessionLostError, AWAY),
    TokenResourceExceededError: (TokenFullError, FULL),
}

_UNSUPPORTED_NUMBERS: Final = (ACTION_PROHIBITED, KEY_FUNCTION_NOT_PERMITTED, CURVE_NOT_SUPPORTED)
"""Refusals of the operation for which python-pkcs11 has no class."""


def translate(error: ckr.PKCS11Error) -> HsmKmsError:
    """Return the error of this package for a PKCS#11 error; the caller raises it ``from`` the original."""
    for cls in type(error).__mro__:
        if cls in FAULTS:
            kind, sentence = FAULTS[cls]
            return unsupported(error) if kind is UnsupportedOperationException else kind(sentence)
    if number_of(error) in _UNSUPPORTED_NUMBERS:
        return unsupported(error)
    if type(error) is ckr.PKCS11Error and _NOT_INITIALIZED in str(error):
        return SessionLostError(AWAY)
    log.error("PKCS#11 fault %s (%s)", type(error).__name__, ckr_name(error), exc_info=error)
    return TokenError(
        f"the token answered {ckr_name(error)} to a call that it should accept: check it with `hsmkms token-check`"
    )


def unsupported(error: ckr.PKCS11Error, sentence: str = UNSUPPORTED) -> UnsupportedOperationException:
    """Return the error for an operation that the token refuses, with the name of its return code."""
    return UnsupportedOperationException(f"{sentence} ({ckr_name(error)})")


def is_loss(error: ckr.PKCS11Error) -> bool:
    """True if the session or an object was lost, so that the call says nothing of what the token can do."""
    return FAULTS.get(type(error), (None,))[0] in (SessionLostError, ObjectLostError)


def is_trouble(error: ckr.PKCS11Error) -> bool:
    """True if the code means that the device is in trouble, though some tokens refuse an operation with it as well."""
    return FAULTS.get(type(error), (None,))[0] is TokenUnavailableError


@contextmanager
def translated() -> Iterator[None]:
    """Turn every PKCS#11 error of the block into one of this package."""
    try:
        yield
    except ckr.PKCS11Error as exc:
        raise translate(exc) from exc
