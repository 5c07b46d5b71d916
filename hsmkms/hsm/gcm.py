"""AES-256-GCM on the device, for a key known by its handle."""

from typing import Final

from pkcs11.exceptions import (
    DataInvalid,
    DataLenRange,
    EncryptedDataInvalid,
    EncryptedDataLenRange,
    GeneralError,
    PKCS11Error,
    SignatureInvalid,
)
from pkcs11.mechanisms import GCMParams, Mechanism
from pkcs11.types import Session

from hsmkms.errors import RejectedDataError
from hsmkms.hsm.borrowed import BorrowedKey
from hsmkms.hsm.faults import REJECTED, translate

TAG_BYTES: Final = 16
_BUFFER_SLACK: Final = 32

_PROBE: Final = (b"hsmkms probe", b"?", b"is the device well?")
"""IV, plaintext and AAD of the one encryption that is not counted: always the same, so it adds at most one."""

_REFUSALS: Final = (EncryptedDataInvalid, EncryptedDataLenRange, SignatureInvalid, DataInvalid, DataLenRange)
_MECHANISM: Final = Mechanism.AES_GCM


def seal(session: Session, handle: int, iv: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Return ciphertext || 16-byte tag. python-pkcs11's errors come out as they are."""
    sealed: bytes = BorrowedKey(session, handle).encrypt(
        plaintext,
        buffer_size=len(plaintext) + _BUFFER_SLACK,
        mechanism=_MECHANISM,
        mechanism_param=GCMParams(iv, aad, 128),
    )
    return sealed


def open_sealed(session: Session, handle: int, iv: bytes, body: bytes, aad: bytes) -> bytes:
    """Return the plaintext of ciphertext || tag. python-pkcs11's errors come out as they are."""
    plaintext: bytes = BorrowedKey(session, handle).decrypt(
        body,
        buffer_size=len(body) + _BUFFER_SLACK,
        mechanism=_MECHANISM,
        mechanism_param=GCMParams(iv, aad, 128),
    )
    return plaintext


def explain_refusal(error: PKCS11Error, session: Session, handle: int) -> Exception:
    """Say whether a failed decryption means bad data or a bad device.

    SoftHSM answers CKR_GENERAL_ERROR to a wrong tag, the same as to trouble of its own. If the key still encrypts in
    the same session, the device is well and the data was at fault.
    """
    if isinstance(error, _REFUSALS):
        return RejectedDataError(REJECTED)
    if isinstance(error, GeneralError):
        try:
            seal(session, handle, *_PROBE)
        except PKCS11Error as exc:
            return translate(exc)
        return RejectedDataError(REJECTED)
    return translate(error)
