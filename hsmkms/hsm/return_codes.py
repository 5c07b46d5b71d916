"""PKCS#11 return codes (CKR) and the exception that each of them is raised as.

python-pkcs11 has a class for each code that it knows; the calls of ``hsm/calls`` raise the same classes, so that
``faults.py`` stays the one place that says what a code means here. Codes without a class there get one below.

Source: PKCS #11 Specification 3.2, section 2 (return values), and ``pkcs11t.h``.
"""

from collections.abc import Mapping
from typing import Final

from pkcs11 import exceptions as ckr
from pkcs11.exceptions import PKCS11Error

CKR_OK: Final = 0x00
CKR_FUNCTION_FAILED: Final = 0x06
CKR_ARGUMENTS_BAD: Final = 0x07
CKR_ATTRIBUTE_SENSITIVE: Final = 0x11
CKR_ATTRIBUTE_TYPE_INVALID: Final = 0x12
CKR_BUFFER_TOO_SMALL: Final = 0x150
CKR_CRYPTOKI_ALREADY_INITIALIZED: Final = 0x191


class CurveNotSupportedError(PKCS11Error):
    """CKR_CURVE_NOT_SUPPORTED: the token has the mechanism, but not for this elliptic curve."""


class BufferTooSmallError(PKCS11Error):
    """CKR_BUFFER_TOO_SMALL, even with the size that the module itself named."""


class NotInitializedError(PKCS11Error):
    """CKR_CRYPTOKI_NOT_INITIALIZED: the module was finalised, or has lost its connection."""


class TokenResourceExceededError(PKCS11Error):
    """CKR_TOKEN_RESOURCE_EXCEEDED (PKCS #11 3.0): the token has no memory, or no place for another object."""


class UnknownReturnCodeError(PKCS11Error):
    """A code without a class: of a vendor's own, or of a newer standard."""


EXCEPTIONS: Final[Mapping[int, type[PKCS11Error]]] = {
    0x002: ckr.HostMemory,
    0x003: ckr.SlotIDInvalid,
    0x005: ckr.GeneralError,
    CKR_FUNCTION_FAILED: ckr.FunctionFailed,
    CKR_ARGUMENTS_BAD: ckr.ArgumentsBad,
    0x008: ckr.NoEvent,
    0x010: ckr.AttributeReadOnly,
    CKR_ATTRIBUTE_SENSITIVE: ckr.AttributeSensitive,
    CKR_ATTRIBUTE_TYPE_INVALID: ckr.AttributeTypeInvalid,
    0x013: ckr.AttributeValueInvalid,
    0x020: ckr.DataInvalid,
    0x021: ckr.DataLenRange,
    0x030: ckr.DeviceError,
    0x031: ckr.DeviceMemory,
    0x032: ckr.DeviceRemoved,
    0x040: ckr.EncryptedDataInvalid,
    0x041: ckr.EncryptedDataLenRange,
    0x050: ckr.FunctionCancelled,
    0x054: ckr.FunctionNotSupported,
    0x060: ckr.KeyHandleInvalid,
    0x062: ckr.KeySizeRange,
    0x063: ckr.KeyTypeInconsistent,
    0x064: ckr.KeyNotNeeded,
    0x066: ckr.KeyNeeded,
    0x067: ckr.KeyIndigestible,
    0x069: ckr.KeyNotWrappable,
    0x06A: ckr.KeyUnextractable,
    0x070: ckr.MechanismInvalid,
    0x071: ckr.MechanismParamInvalid,
    0x082: ckr.ObjectHandleInvalid,
    0x090: ckr.OperationActive,
    0x091: ckr.OperationNotInitialized,
    0x0A0: ckr.PinIncorrect,
    0x0A1: ckr.PinInvalid,
    0x0A2: ckr.PinLenRange,
    0x0A3: ckr.PinExpired,
    0x0A4: ckr.PinLocked,
    0x0B0: ckr.SessionClosed,
    0x0B1: ckr.SessionCount,
    0x0B3: ckr.SessionHandleInvalid,
    0x0B5: ckr.SessionReadOnly,
    0x0B6: ckr.SessionExists,
    0x0B7: ckr.SessionReadOnlyExists,
    0x0B8: ckr.SessionReadWriteSOExists,
    0x0C0: ckr.SignatureInvalid,
    0x0C1: ckr.SignatureLenRange,
    0x0D0: ckr.TemplateIncomplete,
    0x0D1: ckr.TemplateInconsistent,
    0x0E0: ckr.TokenNotPresent,
    0x0E1: ckr.TokenNotRecognised,
    0x0E2: ckr.TokenWriteProtected,
    0x0F0: ckr.UnwrappingKeyHandleInvalid,
    0x0F1: ckr.UnwrappingKeySizeRange,
    0x0F2: ckr.UnwrappingKeyTypeInconsistent,
    0x100: ckr.UserAlreadyLoggedIn,
    0x101: ckr.UserNotLoggedIn,
    0x102: ckr.UserPinNotInitialized,
    0x104: ckr.AnotherUserAlreadyLoggedIn,
    0x105: ckr.UserTooManyTypes,
    0x110: ckr.WrappedKeyInvalid,
    0x112: ckr.WrappedKeyLenRange,
    0x113: ckr.WrappingKeyHandleInvalid,
    0x114: ckr.WrappingKeySizeRange,
    0x115: ckr.WrappingKeyTypeInconsistent,
    0x120: ckr.RandomSeedNotSupported,
    0x121: ckr.RandomNoRNG,
    0x130: ckr.DomainParamsInvalid,
    0x140: CurveNotSupportedError,
    CKR_BUFFER_TOO_SMALL: BufferTooSmallError,
    0x190: NotInitializedError,
    0x1B5: ckr.ExceededMaxIterations,
    0x1B8: ckr.PinTooWeak,
    0x1B9: ckr.PublicKeyInvalid,
    0x200: ckr.FunctionRejected,
    0x201: TokenResourceExceededError,
}


def error_of(code: int) -> PKCS11Error:
    """Return the exception for a code other than CKR_OK."""
    kind = EXCEPTIONS.get(code)
    return kind() if kind is not None else UnknownReturnCodeError(f"CKR 0x{code:08x}")
