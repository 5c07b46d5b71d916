"""Decide whether a failed decryption means bad data or a bad device."""

from typing import Final

from pkcs11.exceptions import (
    ArgumentsBad,
    DataInvalid,
    DataLenRange,
    DeviceError,
    EncryptedDataInvalid,
    EncryptedDataLenRange,
    FunctionFailed,
    GeneralError,
    PKCS11Error,
    SignatureInvalid,
    SignatureLenRange,
)
from pkcs11.types import Session

from hsmkms.errors import RejectedDataError
from hsmkms.hsm.crypto.gcm import seal
from hsmkms.hsm.crypto.token_iv import IvOrigin, encrypt_sample
from hsmkms.hsm.faults import REJECTED, translate
from hsmkms.hsm.objects.attributes import AES_256_BACKING_KEY
from hsmkms.hsm.objects.objects import generate, handle_of
from hsmkms.hsm.objects.support import STANDARD, AttributeSupport

_PROBE: Final = (b"hsmkms probe", b"?", b"is the device well?")
"""IV, plaintext and AAD of the only encryption that is not counted: always the same, so it adds one message at most."""

_PROBE_ID: Final = b"hsmkms probe 003"
_PROBE_LABEL: Final = "hsmkms probe (a session object)"

_REFUSALS: Final = (
    EncryptedDataInvalid,
    EncryptedDataLenRange,
    SignatureInvalid,
    SignatureLenRange,
    DataInvalid,
    DataLenRange,
)
_AMBIGUOUS: Final = (GeneralError, FunctionFailed, DeviceError, ArgumentsBad)
"""Codes that may mean the data or the device."""


def is_refusal(error: PKCS11Error) -> bool:
    """Return True for a code that means bad data and nothing else."""
    return isinstance(error, _REFUSALS)


def is_ambiguous(error: PKCS11Error) -> bool:
    """Return True for a code that may mean the data or the device."""
    return isinstance(error, _AMBIGUOUS)


def explain_refusal(
    error: PKCS11Error, session: Session, handle: int, origin: IvOrigin, support: AttributeSupport = STANDARD
) -> Exception:
    """Return the error that a failed decryption means: RejectedDataError for bad data, else the device's error.

    SoftHSM reports a wrong tag as CKR_GENERAL_ERROR, the same code as for internal trouble. If the device still
    encrypts in the same session, it is well and the data was at fault.
    """
    if is_refusal(error):
        return RejectedDataError(REJECTED)
    if is_ambiguous(error):
        try:
            _try_device(session, handle, origin, support)
        except PKCS11Error as exc:
            return translate(exc)
        return RejectedDataError(REJECTED)
    return translate(error)


def _try_device(session: Session, handle: int, origin: IvOrigin, support: AttributeSupport) -> None:
    if origin is IvOrigin.CALLER:
        seal(session, handle, *_PROBE)
        return
    # With the backing key, each bad ciphertext would use one more IV chosen by the token, and it would not be counted.
    key = generate(session, AES_256_BACKING_KEY, _PROBE_ID, _PROBE_LABEL, support, store=False)
    try:
        encrypt_sample(session, handle_of(key))
    finally:
        key.destroy()
