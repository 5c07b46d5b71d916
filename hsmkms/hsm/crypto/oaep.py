"""Decrypt RSAES-OAEP with a private half that stays on the token.

A token whose OAEP supports the hash does everything. Many support SHA-1 only; then the token does the raw RSA
decryption and the padding is removed in this process: the caller receives the plaintext anyway, and the private key
stays on the token. The reason of a refusal must not leak, not even through timing (Manger's attack): there is one
error, raised after all checks. Source: RFC 8017, section 7.1.2.
"""

import os
from typing import Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from pkcs11 import exceptions as ckr
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Session

from hsmkms.errors import RejectedDataError
from hsmkms.hsm.ckr_names import ckr_name
from hsmkms.hsm.crypto.oaep_padding import remove_padding
from hsmkms.hsm.crypto.oaep_params import OAEP_SHA_1, OAEP_SHA_256, Oaep, modulus_bytes
from hsmkms.hsm.faults import REJECTED, is_loss, translate
from hsmkms.hsm.objects.handle_keys import HandleKey
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


class Private:
    """Decrypts with the private half of an RSA pair, identified by its handle."""

    def __init__(self, session: Session, handle: int, public: RSAPublicKey) -> None:
        self._key = HandleKey(session, handle, KeyType.RSA)
        self._public = public

    def open_on_token(self, oaep: Oaep, block: bytes) -> bytes:
        """Decrypt on the token. RejectedDataError if the block was not encrypted to this key with this padding."""
        try:
            return self._decrypt(oaep, block)
        except PKCS11Error as exc:
            if isinstance(exc, _REFUSALS):
                raise RejectedDataError(REJECTED) from exc
            # Any other code may mean the data or the device, which a sample tells apart.
            if is_loss(exc) or not self.works(oaep):
                raise translate(exc) from exc
        try:  # the device is well now: only a second refusal shows that the first was not its trouble
            return self._decrypt(oaep, block)
        except PKCS11Error as exc:
            raise (translate(exc) if is_loss(exc) else RejectedDataError(REJECTED)) from exc

    def open_here(self, oaep: Oaep, block: bytes) -> bytes:
        """Decrypt on the token and remove the padding here. RejectedDataError as above; PKCS11Error not translated."""
        size = modulus_bytes(self._public)
        if len(block) != size or int.from_bytes(block) >= self._public.public_numbers().n:
            raise RejectedDataError(REJECTED)
        raw: bytes = self._key.decrypt(block, mechanism=Mechanism.RSA_X_509, buffer_size=size + _BUFFER_SLACK)
        return remove_padding(raw.rjust(size, b"\x00"), oaep)  # some tokens leave out leading zeros

    def works(self, oaep: Oaep) -> bool:
        """Return whether the token decrypts a sample encrypted here. Raises the PKCS11Error of a lost session."""
        return self.refusal(oaep) is None

    def refusal(self, oaep: Oaep) -> str | None:
        """Return how the token refuses a sample encrypted here, None if it decrypts it. Raises as ``works``."""
        sample = os.urandom(_SAMPLE_BYTES)
        try:
            right = self._decrypt(oaep, oaep_encrypt(self._public, oaep.algorithm, sample)) == sample
        except PKCS11Error as exc:
            if is_loss(exc):
                raise
            return f"answers {ckr_name(exc)}"
        return None if right else "gives a wrong plaintext"

    def _decrypt(self, oaep: Oaep, block: bytes) -> bytes:
        opened: bytes = self._key.decrypt(
            block,
            mechanism=Mechanism.RSA_PKCS_OAEP,
            mechanism_param=oaep.parameters,
            buffer_size=modulus_bytes(self._public) + _BUFFER_SLACK,
        )
        return opened
