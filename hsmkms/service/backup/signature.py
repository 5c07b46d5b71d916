"""Sign and verify backups with an operator's key, which proves the origin even without the token.

Ed25519 (RFC 8032), ECDSA with the hash of the curve's size (FIPS 186-5), or RSA-PSS with SHA-256 and a salt of 32 bytes
(RFC 8017): OpenSSL's command line can verify all of them.
"""

import hashlib
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from hsmkms.errors import ConfigurationError

LEAST_RSA_BITS: Final = 2048
_HASHES: Final[dict[str, type[HashAlgorithm]]] = {"secp256r1": SHA256, "secp384r1": SHA384, "secp521r1": SHA512}
_PSS: Final = PSS(MGF1(SHA256()), 32)
_KINDS: Final = "Ed25519, an EC key on P-256, P-384 or P-521, or RSA from 2048 bits"

SigningKey = Ed25519PrivateKey | EllipticCurvePrivateKey | RSAPrivateKey
VerifyingKey = Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey


def read_signing_key(name: str, pem: bytes) -> SigningKey:
    """Parse an unencrypted private key in PEM. ConfigurationError otherwise, which contains nothing of the file."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, SigningKey) or not _is_strong(key.public_key()):
        # Outside the handler, so that no chained exception contains parts of the file.
        raise ConfigurationError(
            f"{name} holds no signing key: give {_KINDS}, in PEM and not encrypted "
            "(`openssl genpkey -algorithm ed25519` makes one)"
        )
    return key


def read_verifying_key(name: str, pem: bytes) -> VerifyingKey:
    """Parse a public key in PEM. ConfigurationError for anything else."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, VerifyingKey) or not _is_strong(key):
        raise ConfigurationError(
            f"{name} holds no public half of a signing key: give {_KINDS}, in PEM "
            f"(`openssl pkey -in PRIVATE -pubout -out PUBLIC`)"
        )
    return key


def fingerprint(public: VerifyingKey | X25519PublicKey) -> str:
    """Return SHA-256 of a key's SubjectPublicKeyInfo, in hex: `openssl pkey -pubin -outform DER | sha256sum`."""
    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def sign(key: SigningKey, message: bytes) -> bytes:
    """Sign: 64 bytes for Ed25519, DER for ECDSA, or an RSA-PSS signature."""
    if isinstance(key, Ed25519PrivateKey):
        return key.sign(message)
    if isinstance(key, EllipticCurvePrivateKey):
        return key.sign(message, ECDSA(_HASHES[key.curve.name]()))
    return key.sign(message, _PSS, SHA256())


def verifies(key: VerifyingKey, message: bytes, signature: bytes) -> bool:
    """Return True if the signature over the message is valid."""
    try:
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, message)
        elif isinstance(key, EllipticCurvePublicKey):
            key.verify(signature, message, ECDSA(_HASHES[key.curve.name]()))
        else:
            key.verify(signature, message, _PSS, SHA256())
    except InvalidSignature:
        return False
    return True


def _is_strong(key: VerifyingKey) -> bool:
    if isinstance(key, RSAPublicKey):
        return key.key_size >= LEAST_RSA_BITS
    return isinstance(key, Ed25519PublicKey) or key.curve.name in _HASHES
