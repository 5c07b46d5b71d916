"""Define the valid combinations of key specs, usages and algorithms.

One table holds them all; a new key spec is a new row. Source: AWS KMS Developer Guide, "Key spec reference".
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, TypeVar

from msgspec import Struct

from hsmkms.errors import InvalidKeyUsageException, UnsupportedOperationException, ValidationException
from hsmkms.model.enums import (
    DataKeySpec,
    EncapsulationAlgorithm,
    EncryptionAlgorithm,
    KeyAgreementAlgorithm,
    KeySpec,
    KeyUsage,
    MacAlgorithm,
    Operation,
    SigningAlgorithm,
)
from hsmkms.model.records import KeyRecord
from hsmkms.rules.constraints import check_range, word


class Family(StrEnum):
    """Type of a KMS key: AWS distinguishes symmetric encryption, asymmetric and HMAC keys."""

    SYMMETRIC = "SYMMETRIC"
    ASYMMETRIC = "ASYMMETRIC"
    HMAC = "HMAC"


class SpecFacts(Struct, frozen=True):
    """Properties of a key spec: ``usages`` are its possible usages, each with the algorithms reported for it."""

    family: Family
    usages: Mapping[KeyUsage, tuple[str, ...]]
    default_usage: KeyUsage | None = None


_RSA: Final = SpecFacts(
    Family.ASYMMETRIC,
    {
        KeyUsage.ENCRYPT_DECRYPT: (EncryptionAlgorithm.RSAES_OAEP_SHA_1, EncryptionAlgorithm.RSAES_OAEP_SHA_256),
        KeyUsage.SIGN_VERIFY: (
            SigningAlgorithm.RSASSA_PSS_SHA_256,
            SigningAlgorithm.RSASSA_PSS_SHA_384,
            SigningAlgorithm.RSASSA_PSS_SHA_512,
            SigningAlgorithm.RSASSA_PKCS1_V1_5_SHA_256,
            SigningAlgorithm.RSASSA_PKCS1_V1_5_SHA_384,
            SigningAlgorithm.RSASSA_PKCS1_V1_5_SHA_512,
        ),
    },
)


def _nist_curve(signing: SigningAlgorithm) -> SpecFacts:
    return SpecFacts(
        Family.ASYMMETRIC,
        {KeyUsage.SIGN_VERIFY: (signing,), KeyUsage.KEY_AGREEMENT: (KeyAgreementAlgorithm.ECDH,)},
    )


def _signing(*algorithms: SigningAlgorithm) -> SpecFacts:
    return SpecFacts(Family.ASYMMETRIC, {KeyUsage.SIGN_VERIFY: algorithms})


def _mac(algorithm: MacAlgorithm) -> SpecFacts:
    return SpecFacts(Family.HMAC, {KeyUsage.GENERATE_VERIFY_MAC: (algorithm,)})


_ML_KEM: Final = SpecFacts(Family.ASYMMETRIC, {KeyUsage.ENCAPSULATE_DECAPSULATE: (EncapsulationAlgorithm.ML_KEM,)})

SPECS: Final[Mapping[KeySpec, SpecFacts]] = {
    KeySpec.SYMMETRIC_DEFAULT: SpecFacts(
        Family.SYMMETRIC,
        {KeyUsage.ENCRYPT_DECRYPT: (EncryptionAlgorithm.SYMMETRIC_DEFAULT,)},
        default_usage=KeyUsage.ENCRYPT_DECRYPT,
    ),
    KeySpec.RSA_2048: _RSA,
    KeySpec.RSA_3072: _RSA,
    KeySpec.RSA_4096: _RSA,
    KeySpec.ECC_NIST_P256: _nist_curve(SigningAlgorithm.ECDSA_SHA_256),
    KeySpec.ECC_NIST_P384: _nist_curve(SigningAlgorithm.ECDSA_SHA_384),
    KeySpec.ECC_NIST_P521: _nist_curve(SigningAlgorithm.ECDSA_SHA_512),
    KeySpec.ECC_SECG_P256K1: _signing(SigningAlgorithm.ECDSA_SHA_256),
    KeySpec.ECC_NIST_EDWARDS25519: _signing(SigningAlgorithm.ED25519_SHA_512, SigningAlgorithm.ED25519_PH_SHA_512),
    KeySpec.ML_DSA_44: _signing(SigningAlgorithm.ML_DSA_SHAKE_256),
    KeySpec.ML_DSA_65: _signing(SigningAlgorithm.ML_DSA_SHAKE_256),
    KeySpec.ML_DSA_87: _signing(SigningAlgorithm.ML_DSA_SHAKE_256),
    KeySpec.ML_KEM_512: _ML_KEM,
    KeySpec.ML_KEM_768: _ML_KEM,
    KeySpec.ML_KEM_1024: _ML_KEM,
    KeySpec.HMAC_224: _mac(MacAlgorithm.HMAC_SHA_224),
    KeySpec.HMAC_256: _mac(MacAlgorithm.HMAC_SHA_256),
    KeySpec.HMAC_384: _mac(MacAlgorithm.HMAC_SHA_384),
    KeySpec.HMAC_512: _mac(MacAlgorithm.HMAC_SHA_512),
}

REQUIRED_USAGE: Final[Mapping[Operation, KeyUsage]] = {
    Operation.ENCRYPT: KeyUsage.ENCRYPT_DECRYPT,
    Operation.DECRYPT: KeyUsage.ENCRYPT_DECRYPT,
    Operation.RE_ENCRYPT: KeyUsage.ENCRYPT_DECRYPT,
    Operation.GENERATE_DATA_KEY: KeyUsage.ENCRYPT_DECRYPT,
    Operation.GENERATE_DATA_KEY_WITHOUT_PLAINTEXT: KeyUsage.ENCRYPT_DECRYPT,
    Operation.GENERATE_DATA_KEY_PAIR: KeyUsage.ENCRYPT_DECRYPT,
    Operation.GENERATE_DATA_KEY_PAIR_WITHOUT_PLAINTEXT: KeyUsage.ENCRYPT_DECRYPT,
    Operation.GENERATE_MAC: KeyUsage.GENERATE_VERIFY_MAC,
    Operation.VERIFY_MAC: KeyUsage.GENERATE_VERIFY_MAC,
    Operation.SIGN: KeyUsage.SIGN_VERIFY,
    Operation.VERIFY: KeyUsage.SIGN_VERIFY,
    Operation.DERIVE_SHARED_SECRET: KeyUsage.KEY_AGREEMENT,
    Operation.ENCAPSULATE: KeyUsage.ENCAPSULATE_DECAPSULATE,
    Operation.DECAPSULATE: KeyUsage.ENCAPSULATE_DECAPSULATE,
}
"""Required usage by operation; operations not listed accept keys of any usage."""

_REPORTED_AS: Final[Mapping[KeyUsage, str]] = {
    KeyUsage.ENCRYPT_DECRYPT: "encryption_algorithms",
    KeyUsage.SIGN_VERIFY: "signing_algorithms",
    KeyUsage.KEY_AGREEMENT: "key_agreement_algorithms",
    KeyUsage.ENCAPSULATE_DECAPSULATE: "encapsulation_algorithms",
    KeyUsage.GENERATE_VERIFY_MAC: "mac_algorithms",
}

SYMMETRIC_ONLY: Final = frozenset(
    {
        Operation.GENERATE_DATA_KEY,
        Operation.GENERATE_DATA_KEY_WITHOUT_PLAINTEXT,
        Operation.GENERATE_DATA_KEY_PAIR,
        Operation.GENERATE_DATA_KEY_PAIR_WITHOUT_PLAINTEXT,
    }
)

DATA_KEY_BYTES: Final[Mapping[DataKeySpec, int]] = {DataKeySpec.AES_128: 16, DataKeySpec.AES_256: 32}
MAX_DATA_KEY_BYTES: Final = 1024

Algorithm = TypeVar("Algorithm", bound=StrEnum)

_SYMMETRIC_DEFAULT: Final = KeySpec.SYMMETRIC_DEFAULT
_SYMMETRIC_ALGORITHM: Final = EncryptionAlgorithm.SYMMETRIC_DEFAULT


def family(spec: KeySpec) -> Family:
    """Return the type of keys of that spec."""
    return SPECS[spec].family


def algorithms(spec: KeySpec, usage: KeyUsage) -> tuple[str, ...]:
    """Return the algorithms that a key reports. ValidationException if the usage is impossible for the spec."""
    try:
        return SPECS[spec].usages[usage]
    except KeyError as exc:
        raise ValidationException(f"KeyUsage {usage} is not compatible with KeySpec {spec}") from exc


def reported_algorithms(key: KeyRecord) -> dict[str, Any]:
    """Return the algorithms that a key reports, under their member's name in KeyMetadata and GetPublicKey."""
    return {_REPORTED_AS[key.usage]: list(algorithms(key.spec, key.usage))}


def resolve(
    key_spec: str | None, customer_master_key_spec: str | None, key_usage: str | None
) -> tuple[KeySpec, KeyUsage]:
    """Return spec and usage of a new key from CreateKey's members; ``customer_master_key_spec`` is the older name."""
    spec = _resolve_spec(key_spec, customer_master_key_spec)
    usage = SPECS[spec].default_usage if key_usage is None else word(KeyUsage, key_usage, "keyUsage")
    if usage is None:
        raise ValidationException(
            "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys."
        )
    algorithms(spec, usage)
    return spec, usage


def _resolve_spec(key_spec: str | None, customer_master_key_spec: str | None) -> KeySpec:
    if key_spec is not None and customer_master_key_spec is not None:
        raise ValidationException(
            "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. "
            "CustomerMasterKeySpec is deprecated."
        )
    if customer_master_key_spec is not None:
        return word(KeySpec, customer_master_key_spec, "customerMasterKeySpec")
    return _SYMMETRIC_DEFAULT if key_spec is None else word(KeySpec, key_spec, "keySpec")


def require_usage(key: KeyRecord, operation: Operation) -> None:
    """Raise InvalidKeyUsageException if the key's usage or spec does not allow the operation."""
    required = REQUIRED_USAGE.get(operation)
    if required is not None and key.usage is not required:
        raise InvalidKeyUsageException(f"{key.arn} key usage is {key.usage} which is not valid for {operation}.")
    if operation in SYMMETRIC_ONLY and key.spec is not _SYMMETRIC_DEFAULT:
        raise incompatible(_SYMMETRIC_ALGORITHM, key.spec)


def incompatible(algorithm: str, spec: KeySpec) -> InvalidKeyUsageException:
    """Return the error for an algorithm that keys of that spec do not support."""
    return InvalidKeyUsageException(f"Algorithm {algorithm} is incompatible with key spec {spec}.")


def check_encryption_algorithm(key: KeyRecord, algorithm: str | None) -> EncryptionAlgorithm:
    """Return the algorithm of Encrypt or Decrypt; call ``require_usage`` first. Only symmetric keys have a default."""
    if algorithm is None:
        if key.spec is _SYMMETRIC_DEFAULT:
            return _SYMMETRIC_ALGORITHM
        raise ValidationException(
            f"EncryptionAlgorithm is required for a key of spec {key.spec}: "
            f"one of {', '.join(algorithms(key.spec, key.usage))}."
        )
    return check_algorithm(key, EncryptionAlgorithm, algorithm, "encryptionAlgorithm")


def check_names_its_key(algorithm: str | None) -> None:
    """Raise ValidationException if a ciphertext that does not name its key comes without a key."""
    if algorithm is not None and algorithm != _SYMMETRIC_ALGORITHM:
        raise ValidationException(f"A ciphertext of {algorithm} does not name its key: name it in the request.")


def shown_material(key: KeyRecord) -> str | None:
    """Return the id of the current material, which the API reports only for symmetric encryption keys."""
    return key.current.material_id if key.spec is _SYMMETRIC_DEFAULT and key.current is not None else None


def check_algorithm(key: KeyRecord, kind: type[Algorithm], algorithm: str, path: str) -> Algorithm:
    """Return the algorithm named by an operation, if the key supports it; call ``require_usage`` first."""
    chosen = word(kind, algorithm, path)
    if chosen not in algorithms(key.spec, key.usage):
        raise incompatible(chosen, key.spec)
    return chosen


def require_pair(key: KeyRecord) -> None:
    """Raise UnsupportedOperationException for a key without a public half."""
    if family(key.spec) is not Family.ASYMMETRIC:
        raise UnsupportedOperationException(
            f"{key.arn} is of KeySpec {key.spec}: only asymmetric keys have a public key."
        )


def data_key_length(key_spec: str | None, number_of_bytes: int | None) -> int:
    """Return the length of a data key in bytes, given by either its spec or its number of bytes (1 to 1024)."""
    if key_spec is not None and number_of_bytes is None:
        return DATA_KEY_BYTES[word(DataKeySpec, key_spec, "keySpec")]
    if key_spec is None and number_of_bytes is not None:
        check_range(number_of_bytes, "numberOfBytes", 1, MAX_DATA_KEY_BYTES)
        return number_of_bytes
    raise ValidationException("Please specify either number of bytes or key spec.")
