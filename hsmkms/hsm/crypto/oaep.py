"""RSAES-OAEP with a private half that stays on the token.

A token whose OAEP has the hash does it all. Many have SHA-1 only; then the token does the bare RSA decryption, and the
padding is removed in this process: the plaintext is the caller's anyway, and the private key is not touched by it.
What is wrong with a ciphertext must not be told, not even by the time it takes (Manger's attack): there is one refusal,
after everything has been looked at. Source: RFC 8017, section 7.1.2.
"""

import os
from typing import Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from pkcs11 import exceptions as ckr
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Session

from hsmkms.errors import RejectedDataError
from hsmkms.hsm.crypto.oaep_padding import remove_padding
from hsmkms.hsm.crypto.oaep_params import OAEP_SHA_1, OAEP_SHA_256, Oaep, modulus_bytes
from hsmkms.hsm.faults import REJECTED, is_loss, translate
from hsmkms.hsm.objects.handle_keys import BorrowedKey
from hsmkms.key_wrapping import oaep_encrypt
from hsmkms.model.enums import EncryptionAlgorithm

OAEPS: Final = {
    EncryptionAlgorithm.RSAES_OAEP_SHA_1: OAEP_SHA_1,
    EncryptionAlgorithm.RSAES_OAEP_SHA_256: OAEP_SHA_256,
}

_BUFFER_SLACK: Final = 32
_SAMPLE_BYTES: Final = 32

_REFUSALS: Final = (
    ckr.EncryptedDataInvalid,
    ckr.EncryptedDataLenRange,
    ckr.DataInvalid,
    ckr.DataLenRange,
)
_AMBIGUOUS: Final = (ckr.GeneralError, ckr.FunctionFailed, ckr.ArgumentsBad)
"""Codes that may mean the data or the device."""


class Private:
    """The private half of an RSA pair, by its handle, with its public key."""

    def __init__(self, session: Session, handle: int, public: RSAPublicKey) -> None:
        self._key = BorrowedKey(session, handle, KeyType.RSA)
        self._public = public

    def open_on_token(self, oaep: Oaep, block: bytes) -> bytes:
        """Decrypt all on the token. RejectedDataError for what was not encrypted to this key in this way."""
        try:
            return self._decrypt(oaep, block)
        except PKCS11Error as exc:
            if isinstance(exc, _REFUSALS) or (isinstance(exc, _AMBIGUOUS) and self.works(oaep)):
                raise RejectedDataError(REJECTED) from exc
            raise translate(exc) from exc

    def open_here(self, oaep: Oaep, block: bytes) -> bytes:
        """Decrypt on the token and remove the padding here. RejectedDataError as above; python-pkcs11's as they are."""
        size = modulus_bytes(self._public)
        if len(block) != size or int.from_bytes(block) >= self._public.public_numbers().n:
            raise RejectedDataError(REJECTED)
        raw: bytes = self._key.decrypt(block, mechanism=Mechanism.RSA_X_509, buffer_size=size + _BUFFER_SLACK)
        return remove_padding(raw.rjust(size, b"\x00"), oaep)  # some tokens leave out leading zeros

    def works(self, oaep: Oaep) -> bool:
        """Whether the token decrypts what this process encrypted."""
        sample = os.urandom(_SAMPLE_BYTES)
        try:
            return self._decrypt(oaep, oaep_encrypt(self._public, oaep.algorithm, sample)) == sample
        except PKCS11Error as exc:
            if is_loss(exc):
                raise
            return False

    def _decrypt(self, oaep: Oaep, block: bytes) -> bytes:
        opened: bytes = self._key.decrypt(
            block,
            mechanism=Mechanism.RSA_PKCS_OAEP,
            mechanism_param=oaep.parameters,
            buffer_size=modulus_bytes(self._public) + _BUFFER_SLACK,
        )
        return opened
