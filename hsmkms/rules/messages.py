"""Prepare messages to be signed, and check lengths: of what fits into an RSA block, and of encapsulated secrets.

One row for each signing algorithm holds the types of message that it accepts, and the hash applied before signing.
Source: AWS KMS API Reference, Sign; AWS KMS Developer Guide, "Key spec reference"; RFC 8017, section 7.1.1, and
FIPS 203 and 204.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from hsmkms.errors import InvalidCiphertextException, UnsupportedOperationException, ValidationException
from hsmkms.model.enums import EncryptionAlgorithm, KeySpec, MessageType, SigningAlgorithm
from hsmkms.rules.constraints import word

NO_EXTERNAL_MU: Final = (
    "PKCS#11 has no signing of an external mu, since tokens hash the message by themselves: sign the message itself, "
    "of at most 4,096 bytes, with MessageType RAW instead of EXTERNAL_MU. The signature is the same kind, and Verify "
    "takes it with either."
)
_MU_BYTES: Final = 64
"""Length of an external mu of ML-DSA (FIPS 204, section 6.2)."""


class _Message(Struct, frozen=True):
    """Accepted ``types`` of an algorithm; ``hash_name`` of its digest, None if the message itself is signed."""

    types: tuple[MessageType, ...]
    hash_name: str | None


def _digested(hash_name: str) -> _Message:
    return _Message((MessageType.RAW, MessageType.DIGEST), hash_name)


_MESSAGES: Final[Mapping[SigningAlgorithm, _Message]] = {
    SigningAlgorithm.RSASSA_PSS_SHA_256: _digested("sha256"),
    SigningAlgorithm.RSASSA_PSS_SHA_384: _digested("sha384"),
    SigningAlgorithm.RSASSA_PSS_SHA_512: _digested("sha512"),
    SigningAlgorithm.RSASSA_PKCS1_V1_5_SHA_256: _digested("sha256"),
    SigningAlgorithm.RSASSA_PKCS1_V1_5_SHA_384: _digested("sha384"),
    SigningAlgorithm.RSASSA_PKCS1_V1_5_SHA_512: _digested("sha512"),
    SigningAlgorithm.ECDSA_SHA_256: _digested("sha256"),
    SigningAlgorithm.ECDSA_SHA_384: _digested("sha384"),
    SigningAlgorithm.ECDSA_SHA_512: _digested("sha512"),
    SigningAlgorithm.ED25519_SHA_512: _Message((MessageType.RAW,), None),
    SigningAlgorithm.ED25519_PH_SHA_512: _Message((MessageType.DIGEST,), "sha512"),
    SigningAlgorithm.ML_DSA_SHAKE_256: _Message((MessageType.RAW, MessageType.EXTERNAL_MU), None),
}


def to_sign(algorithm: SigningAlgorithm, message: bytes, message_type: str | None) -> bytes:
    """Return the bytes to sign: the digest, or the message for algorithms that hash it themselves.

    ValidationException if the algorithm does not accept that type of message, or the digest has the wrong length;
    UnsupportedOperationException for an external mu, which tokens do not sign.
    """
    row = _MESSAGES[algorithm]
    signable = [each for each in row.types if each is not MessageType.EXTERNAL_MU]
    given = _message_type(row, algorithm, message_type, signable)
    if given is MessageType.EXTERNAL_MU:
        raise UnsupportedOperationException(NO_EXTERNAL_MU)
    return _prepared(row, algorithm, message, given)


def to_verify(algorithm: SigningAlgorithm, message: bytes, message_type: str | None) -> bytes:
    """Return the bytes whose signature is verified, as ``to_sign``; of ML-DSA the message or its mu."""
    row = _MESSAGES[algorithm]
    given = _message_type(row, algorithm, message_type, row.types)
    if given is MessageType.EXTERNAL_MU:
        _check_external_mu(message)
    return _prepared(row, algorithm, message, given)


def _message_type(
    row: _Message, algorithm: SigningAlgorithm, message_type: str | None, suggested: Sequence[MessageType]
) -> MessageType:
    """Return the type of the message; ValidationException, which names the ``suggested`` ones, if it is not valid."""
    given = MessageType.RAW if message_type is None else word(MessageType, message_type, "messageType")
    if given not in row.types:
        raise ValidationException(f"MessageType {given} is not valid for {algorithm}: use {' or '.join(suggested)}.")
    return given


def _prepared(row: _Message, algorithm: SigningAlgorithm, message: bytes, message_type: MessageType) -> bytes:
    if row.hash_name is None:
        return message
    if message_type is MessageType.RAW:
        return hashlib.new(row.hash_name, message).digest()
    if len(message) != hashlib.new(row.hash_name).digest_size:
        raise ValidationException(f"Digest is invalid length for algorithm {algorithm}.")
    return message


def _check_external_mu(message: bytes) -> None:
    if len(message) != _MU_BYTES:
        raise ValidationException(f"An external mu has {_MU_BYTES} bytes, not {len(message)}.")


# -- ML-KEM ----------------------------------------------------------------------------------------------------------

ENCAPSULATED_BYTES: Final[Mapping[KeySpec, int]] = {
    KeySpec.ML_KEM_512: 768,
    KeySpec.ML_KEM_768: 1088,
    KeySpec.ML_KEM_1024: 1568,
}
"""Lengths of an encapsulated secret (FIPS 203, table 3)."""


def check_encapsulated(spec: KeySpec, length: int) -> None:
    """Raise InvalidCiphertextException if an encapsulated secret for such a key is not that long."""
    right = ENCAPSULATED_BYTES[spec]
    if length != right:
        raise InvalidCiphertextException(
            f"An encapsulated secret for a key of KeySpec {spec} has {right} bytes, not {length}: "
            "use the one that was encapsulated for this key."
        )


# -- RSAES-OAEP -----------------------------------------------------------------------------------------------------

MODULUS_BYTES: Final[Mapping[KeySpec, int]] = {KeySpec.RSA_2048: 256, KeySpec.RSA_3072: 384, KeySpec.RSA_4096: 512}
_HASH_BYTES: Final[Mapping[EncryptionAlgorithm, int]] = {
    EncryptionAlgorithm.RSAES_OAEP_SHA_1: 20,
    EncryptionAlgorithm.RSAES_OAEP_SHA_256: 32,
}


def check_fits(spec: KeySpec, algorithm: EncryptionAlgorithm, length: int) -> None:
    """Raise ValidationException if ``length`` bytes do not fit into one RSA block."""
    most = MODULUS_BYTES[spec] - 2 * _HASH_BYTES[algorithm] - 2
    if length > most:
        raise ValidationException(
            f"Algorithm {algorithm} and key spec {spec} cannot encrypt data larger than {most} bytes."
        )


def check_no_context(encryption_context: Mapping[str, str] | None) -> None:
    """Raise ValidationException for an encryption context, which an asymmetric ciphertext cannot authenticate."""
    if encryption_context:
        raise ValidationException(
            "An encryption context is only valid with a symmetric encryption key: leave EncryptionContext out."
        )
