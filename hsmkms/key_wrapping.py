"""Wrap key material for import in software, as its owner does without a token; probes of a token use it too.

Source: AWS KMS API Reference, GetParametersForImport; RFC 8017, section 7.1 (OAEP, with the same hash in MGF1, and no
label); RFC 5649 (AES key wrap with padding). RSAES_PKCS1_V1_5 is not supported: its padding is an oracle.
"""

import base64
import os
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

from hsmkms.errors import ValidationException
from hsmkms.model.enums import WrappingAlgorithm

AES_KEY_BYTES: Final = 32
"""Length of the AES key of RSA_AES_KEY_WRAP."""

MOST_BYTES: Final = 6144
"""The maximum length of EncryptedKeyMaterial."""

_KEY_BITS: Final = (2048, 3072, 4096)
_PEM: Final = b"-----BEGIN"
_NO_PUBLIC_KEY: Final = (
    "The public key cannot be read: give the PublicKey of get-parameters-for-import, as DER, as PEM, or as the base64 "
    "text that --query PublicKey --output text prints."
)


class Method(NamedTuple):
    """How an algorithm wraps: the hash of OAEP, and whether OAEP encrypts the material or an AES key that wraps it."""

    hash: Callable[[], hashes.HashAlgorithm]
    key_wrap: bool


METHODS: Final[Mapping[WrappingAlgorithm, Method]] = {
    WrappingAlgorithm.RSAES_OAEP_SHA_256: Method(hashes.SHA256, key_wrap=False),
    WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_256: Method(hashes.SHA256, key_wrap=True),
    WrappingAlgorithm.RSAES_OAEP_SHA_1: Method(hashes.SHA1, key_wrap=False),  # OAEP needs no collision resistance
    WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_1: Method(hashes.SHA1, key_wrap=True),
}
"""The strongest first. RSAES_PKCS1_V1_5 is not among them and never will be."""


def read_public_key(data: bytes) -> RSAPublicKey:
    """Parse the public half of a wrapping key: DER SubjectPublicKeyInfo, PEM, or base64 of the DER.

    ValidationException for anything else, and for a key of a kind that hsmkms never issues.
    """
    try:
        loaded = _load(data)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ValidationException(_NO_PUBLIC_KEY) from exc
    if not isinstance(loaded, RSAPublicKey):
        raise ValidationException("The public key is no RSA key: wrapping keys are RSA_2048, RSA_3072 or RSA_4096.")
    if loaded.key_size not in _KEY_BITS:
        raise ValidationException(f"The public key has {loaded.key_size} bits: wrapping keys have 2048, 3072 or 4096.")
    return loaded


def wrap(public: RSAPublicKey, algorithm: str, material: bytes | bytearray) -> bytes:
    """Wrap key material under the public half of a wrapping key; return EncryptedKeyMaterial.

    ValidationException for an algorithm that is not in METHODS, and for material that is too long for it.
    """
    method = METHODS.get(algorithm)  # type: ignore[call-overload]  # a member of the enum, or any other text
    if method is None:
        raise ValidationException(f"{algorithm!r} is none of the wrapping algorithms: use one of {', '.join(METHODS)}.")
    if not method.key_wrap:
        _check_room(public, method, algorithm, len(material))
        return oaep_encrypt(public, method.hash, material)
    key = os.urandom(AES_KEY_BYTES)
    wrapped = oaep_encrypt(public, method.hash, key) + aes_key_wrap_with_padding(key, material)
    if len(wrapped) > MOST_BYTES:
        raise ValidationException(f"The wrapped key material has {len(wrapped)} bytes: the API takes {MOST_BYTES}.")
    return wrapped


def oaep_encrypt(public: RSAPublicKey, hash_: Callable[[], hashes.HashAlgorithm], secret: bytes | bytearray) -> bytes:
    """Encrypt by RSAES-OAEP with one hash, under the public half of a wrapping key."""
    # cryptography takes no bytearray here, so one copy stays in memory until that is reused.
    return public.encrypt(bytes(secret), OAEP(MGF1(hash_()), hash_(), None))


def _load(data: bytes) -> PublicKeyTypes:
    if data.lstrip().startswith(_PEM):
        return load_pem_public_key(data)
    try:
        # It may be in quotes (copied from the API's JSON) or on several lines (pasted).
        der = base64.b64decode(b"".join(data.strip().strip(b'"').split()), validate=True)
    except ValueError:
        der = data
    return load_der_public_key(der)


def _check_room(public: RSAPublicKey, method: Method, algorithm: str, length: int) -> None:
    most = public.key_size // 8 - 2 * method.hash().digest_size - 2
    if length > most:
        raise ValidationException(
            f"{algorithm} under a key of {public.key_size} bits takes {most} bytes, and the key material has {length}: "
            "use RSA_AES_KEY_WRAP_SHA_256 or RSA_AES_KEY_WRAP_SHA_1."
        )
