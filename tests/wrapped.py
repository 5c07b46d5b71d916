"""Key material as a client wraps it: with ``cryptography``, and nothing of hsmkms but the names of the algorithms."""

import hmac
import os
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmkms.model.enums import WrappingAlgorithm

_SHA_1: Final = hashes.SHA1()  # noqa: S303 - OAEP needs no collision resistance

HASHES: Final = {
    WrappingAlgorithm.RSAES_OAEP_SHA_1: _SHA_1,
    WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_1: _SHA_1,
    WrappingAlgorithm.RSAES_OAEP_SHA_256: hashes.SHA256(),
    WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_256: hashes.SHA256(),
}
KEY_WRAP: Final = {WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_1, WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_256}

EMPTY_INTEGRITY_VALUE: Final = bytes.fromhex("a65959a600000000")
"""RFC 5649, section 3, for a secret of no bytes, which ``cryptography`` refuses to wrap."""


def load(public_key: bytes) -> RSAPublicKey:
    """The public half of a wrapping key, as the API hands it out."""
    loaded = load_der_public_key(public_key)
    assert isinstance(loaded, RSAPublicKey)
    return loaded


def oaep(public_key: bytes, algorithm: WrappingAlgorithm, secret: bytes) -> bytes:
    """One RSA block: the whole of RSAES_OAEP, the first part of RSA_AES_KEY_WRAP."""
    used = HASHES[algorithm]
    return load(public_key).encrypt(secret, OAEP(MGF1(used), used, None))


def key_wrap(key: bytes, secret: bytes) -> bytes:
    """AES key wrap with padding: the second part of RSA_AES_KEY_WRAP."""
    if secret:
        return aes_key_wrap_with_padding(key, secret)
    encryptor = Cipher(AES(key), ECB()).encryptor()  # noqa: S305 - that is how RFC 5649 wraps one block
    return encryptor.update(EMPTY_INTEGRITY_VALUE + bytes(8))


def wrap(public_key: bytes, algorithm: WrappingAlgorithm, secret: bytes, *, aes_key_bytes: int = 32) -> bytes:
    """EncryptedKeyMaterial."""
    if algorithm not in KEY_WRAP:
        return oaep(public_key, algorithm, secret)
    key = os.urandom(aes_key_bytes)
    return oaep(public_key, algorithm, key) + key_wrap(key, secret)


def expected_fingerprints(secret: bytes, key_id: str) -> dict[str, bytes]:
    """What each PRF makes of a key id under the material, computed without a token."""
    message = b"hsmkms imported material v1\0" + key_id.encode()
    cmac = CMAC(AES(secret))
    cmac.update(message)
    return {"AES_CMAC": cmac.finalize(), "SHA256_HMAC": hmac.digest(secret, message, "sha256")}
