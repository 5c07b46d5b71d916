"""Key specs, usages and algorithms against a second table, typed by hand from the reference."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from hsmkms.errors import InvalidKeyUsageException, ValidationException
from hsmkms.model.enums import EncryptionAlgorithm, KeySpec, KeyUsage, Operation
from hsmkms.model.records import KeyRecord
from hsmkms.rules import specs
from hsmkms.rules.states import ADMISSION

OAEP = "RSAES_OAEP_SHA_1 RSAES_OAEP_SHA_256"
RSA_SIGNING = (
    "RSASSA_PSS_SHA_256 RSASSA_PSS_SHA_384 RSASSA_PSS_SHA_512 "
    "RSASSA_PKCS1_V1_5_SHA_256 RSASSA_PKCS1_V1_5_SHA_384 RSASSA_PKCS1_V1_5_SHA_512"
)
# AWS KMS Developer Guide, "Key spec reference": spec, family, usage, algorithms.
TABLE = f"""
SYMMETRIC_DEFAULT      SYMMETRIC   ENCRYPT_DECRYPT          SYMMETRIC_DEFAULT
RSA_2048               ASYMMETRIC  ENCRYPT_DECRYPT          {OAEP}
RSA_3072               ASYMMETRIC  ENCRYPT_DECRYPT          {OAEP}
RSA_4096               ASYMMETRIC  ENCRYPT_DECRYPT          {OAEP}
RSA_2048               ASYMMETRIC  SIGN_VERIFY              {RSA_SIGNING}
RSA_3072               ASYMMETRIC  SIGN_VERIFY              {RSA_SIGNING}
RSA_4096               ASYMMETRIC  SIGN_VERIFY              {RSA_SIGNING}
ECC_NIST_P256          ASYMMETRIC  SIGN_VERIFY              ECDSA_SHA_256
ECC_NIST_P384          ASYMMETRIC  SIGN_VERIFY              ECDSA_SHA_384
ECC_NIST_P521          ASYMMETRIC  SIGN_VERIFY              ECDSA_SHA_512
ECC_NIST_P256          ASYMMETRIC  KEY_AGREEMENT            ECDH
ECC_NIST_P384          ASYMMETRIC  KEY_AGREEMENT            ECDH
ECC_NIST_P521          ASYMMETRIC  KEY_AGREEMENT            ECDH
ECC_SECG_P256K1        ASYMMETRIC  SIGN_VERIFY              ECDSA_SHA_256
ECC_NIST_EDWARDS25519  ASYMMETRIC  SIGN_VERIFY              ED25519_SHA_512 ED25519_PH_SHA_512
ML_DSA_44              ASYMMETRIC  SIGN_VERIFY              ML_DSA_SHAKE_256
ML_DSA_65              ASYMMETRIC  SIGN_VERIFY              ML_DSA_SHAKE_256
ML_DSA_87              ASYMMETRIC  SIGN_VERIFY              ML_DSA_SHAKE_256
ML_KEM_512             ASYMMETRIC  ENCAPSULATE_DECAPSULATE  ML_KEM
ML_KEM_768             ASYMMETRIC  ENCAPSULATE_DECAPSULATE  ML_KEM
ML_KEM_1024            ASYMMETRIC  ENCAPSULATE_DECAPSULATE  ML_KEM
HMAC_224               HMAC        GENERATE_VERIFY_MAC      HMAC_SHA_224
HMAC_256               HMAC        GENERATE_VERIFY_MAC      HMAC_SHA_256
HMAC_384               HMAC        GENERATE_VERIFY_MAC      HMAC_SHA_384
HMAC_512               HMAC        GENERATE_VERIFY_MAC      HMAC_SHA_512
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()]
POSSIBLE = {(row[0], row[2]): tuple(row[3:]) for row in ROWS}
USAGES = {
    KeyUsage.ENCRYPT_DECRYPT: "Encrypt Decrypt ReEncrypt GenerateDataKey GenerateDataKeyWithoutPlaintext "
    "GenerateDataKeyPair GenerateDataKeyPairWithoutPlaintext",
    KeyUsage.SIGN_VERIFY: "Sign Verify",
    KeyUsage.GENERATE_VERIFY_MAC: "GenerateMac VerifyMac",
    KeyUsage.KEY_AGREEMENT: "DeriveSharedSecret",
    KeyUsage.ENCAPSULATE_DECAPSULATE: "Encapsulate Decapsulate",
}
NEEDED = {name: usage for usage, names in USAGES.items() for name in names.split()}


@pytest.mark.parametrize("spec", list(KeySpec))
@pytest.mark.parametrize("usage", list(KeyUsage))
def test_specs_and_usages(spec: KeySpec, usage: KeyUsage) -> None:
    """Each spec has the usages and algorithms of the reference and no others."""
    expected = POSSIBLE.get((spec, usage))
    if expected is not None:
        assert specs.algorithms(spec, usage) == expected
        assert specs.resolve(spec, None, usage) == (spec, usage)
        return
    with pytest.raises(ValidationException) as caught:
        specs.resolve(spec, None, usage)
    assert str(caught.value) == f"KeyUsage {usage} is not compatible with KeySpec {spec}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{row[2]}")
def test_families(row: list[str]) -> None:
    """Each spec belongs to the family of the reference."""
    assert specs.family(KeySpec(row[0])) == row[1]


def test_default_is_symmetric_encryption() -> None:
    """A key of which nothing is said is a symmetric encryption key."""
    assert specs.resolve(None, None, None) == (KeySpec.SYMMETRIC_DEFAULT, KeyUsage.ENCRYPT_DECRYPT)


def test_older_name_of_the_spec() -> None:
    """CustomerMasterKeySpec names the spec as KeySpec does."""
    assert specs.resolve(None, "RSA_2048", "SIGN_VERIFY") == (KeySpec.RSA_2048, KeyUsage.SIGN_VERIFY)


@pytest.mark.parametrize("spec", sorted(set(KeySpec) - {KeySpec.SYMMETRIC_DEFAULT}))
def test_usage_is_required(spec: KeySpec) -> None:
    """Only SYMMETRIC_DEFAULT has a default usage."""
    with pytest.raises(ValidationException) as caught:
        specs.resolve(spec, None, None)
    message = "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys."
    assert str(caught.value) == message


def test_two_specs() -> None:
    """Both names of the spec in one request are refused, even if they agree."""
    with pytest.raises(ValidationException) as caught:
        specs.resolve("RSA_2048", "RSA_2048", "SIGN_VERIFY")
    assert str(caught.value) == (
        "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. CustomerMasterKeySpec is deprecated."
    )


@pytest.mark.parametrize(
    ("arguments", "value", "path"),
    [
        (("RSA_1024", None, None), "RSA_1024", "keySpec"),
        ((None, "rsa_2048", None), "rsa_2048", "customerMasterKeySpec"),
        ((None, None, ""), "", "keyUsage"),
    ],
)
def test_unknown_words(arguments: tuple[str | None, str | None, str | None], value: str, path: str) -> None:
    """A word that is not in the enumeration is refused in AWS's form, with its path."""
    with pytest.raises(ValidationException) as caught:
        specs.resolve(*arguments)
    start = f"1 validation error detected: Value '{value}' at '{path}' failed to satisfy constraint: "
    assert str(caught.value).startswith(start + "Member must satisfy enum value set: [")


OF_ANY_USAGE = """
CancelKeyDeletion CreateAlias CreateGrant DeleteAlias DeleteImportedKeyMaterial DescribeKey DisableKey
DisableKeyRotation EnableKey EnableKeyRotation GetKeyLastUsage GetKeyPolicy GetKeyRotationStatus
GetParametersForImport GetPublicKey ImportKeyMaterial ListAliases ListGrants ListKeyPolicies ListKeyRotations
ListResourceTags PutKeyPolicy ReplicateKey RetireGrant RevokeGrant RotateKeyOnDemand ScheduleKeyDeletion TagResource
UntagResource UpdateAlias UpdateKeyDescription UpdatePrimaryRegion
"""
"""Operations that take keys of any usage."""


def test_the_usage_of_every_operation_is_decided() -> None:
    """Every operation on a key either requires a usage or takes any: none is left out, none is both."""
    assert sorted(map(str, ADMISSION)) == sorted([*map(str, NEEDED), *OF_ANY_USAGE.split()])


@pytest.mark.parametrize("operation", list(Operation))
@pytest.mark.parametrize("usage", list(KeyUsage))
def test_required_usage(make_key: Callable[..., KeyRecord], operation: Operation, usage: KeyUsage) -> None:
    """Each operation takes keys of its own usage only, and those without one take any."""
    key = make_key(usage=usage)
    before = replace(key)
    if NEEDED.get(operation, usage) == usage:
        specs.require_usage(key, operation)
    else:
        with pytest.raises(InvalidKeyUsageException) as caught:
            specs.require_usage(key, operation)
        assert str(caught.value) == f"{key.arn} key usage is {usage} which is not valid for {operation}."
    assert key == before


@pytest.mark.parametrize("operation", [op for op in Operation if op.startswith("GenerateDataKey")])
def test_data_keys_need_a_symmetric_key(make_key: Callable[..., KeyRecord], operation: Operation) -> None:
    """An RSA key that encrypts makes no data keys."""
    with pytest.raises(InvalidKeyUsageException) as caught:
        specs.require_usage(make_key(spec=KeySpec.RSA_2048), operation)
    assert str(caught.value) == "Algorithm SYMMETRIC_DEFAULT is incompatible with key spec RSA_2048."


@pytest.mark.parametrize("algorithm", [None, "SYMMETRIC_DEFAULT"])
def test_algorithm_of_symmetric_keys(make_key: Callable[..., KeyRecord], algorithm: str | None) -> None:
    """A symmetric key has one algorithm, which may be left out."""
    assert specs.check_encryption_algorithm(make_key(), algorithm) is EncryptionAlgorithm.SYMMETRIC_DEFAULT


def test_algorithm_of_rsa_keys(make_key: Callable[..., KeyRecord]) -> None:
    """An RSA key takes both OAEP algorithms, and none by default."""
    key = make_key(spec=KeySpec.RSA_3072)
    for name in OAEP.split():
        assert specs.check_encryption_algorithm(key, name) == name
    with pytest.raises(ValidationException) as caught:
        specs.check_encryption_algorithm(key, None)
    assert str(caught.value) == (
        "EncryptionAlgorithm is required for a key of spec RSA_3072: one of RSAES_OAEP_SHA_1, RSAES_OAEP_SHA_256."
    )


@pytest.mark.parametrize(
    ("spec", "algorithm"),
    [(KeySpec.SYMMETRIC_DEFAULT, "RSAES_OAEP_SHA_256"), (KeySpec.RSA_2048, "SYMMETRIC_DEFAULT")],
)
def test_incompatible_algorithm(make_key: Callable[..., KeyRecord], spec: KeySpec, algorithm: str) -> None:
    """An algorithm of other specs is refused in AWS's words."""
    with pytest.raises(InvalidKeyUsageException) as caught:
        specs.check_encryption_algorithm(make_key(spec=spec), algorithm)
    assert str(caught.value) == f"Algorithm {algorithm} is incompatible with key spec {spec}."


def test_unknown_algorithm(make_key: Callable[..., KeyRecord]) -> None:
    """A word that is no algorithm is refused in AWS's form."""
    with pytest.raises(ValidationException) as caught:
        specs.check_encryption_algorithm(make_key(), "ROT13")
    assert str(caught.value) == (
        "1 validation error detected: Value 'ROT13' at 'encryptionAlgorithm' failed to satisfy constraint: "
        "Member must satisfy enum value set: [SYMMETRIC_DEFAULT, RSAES_OAEP_SHA_1, RSAES_OAEP_SHA_256]"
    )


@pytest.mark.parametrize(
    ("key_spec", "number", "expected"),
    [("AES_128", None, 16), ("AES_256", None, 32), (None, 1, 1), (None, 1024, 1024)],
)
def test_data_key_length(key_spec: str | None, number: int | None, expected: int) -> None:
    """A data key's length is given by name or by number, 1 to 1024."""
    assert specs.data_key_length(key_spec, number) == expected


@pytest.mark.parametrize(("key_spec", "number"), [(None, None), ("AES_256", 32)])
def test_exactly_one_data_key_length(key_spec: str | None, number: int | None) -> None:
    """Neither and both are refused alike."""
    with pytest.raises(ValidationException) as caught:
        specs.data_key_length(key_spec, number)
    assert str(caught.value) == "Please specify either number of bytes or key spec."


@pytest.mark.parametrize(
    ("key_spec", "number", "value", "path", "constraint"),
    [
        (None, 0, 0, "numberOfBytes", "Member must have value greater than or equal to 1"),
        (None, 1025, 1025, "numberOfBytes", "Member must have value less than or equal to 1024"),
        ("AES_192", None, "AES_192", "keySpec", "Member must satisfy enum value set: [AES_256, AES_128]"),
    ],
)
def test_bad_data_key_length(
    key_spec: str | None, number: int | None, value: object, path: str, constraint: str
) -> None:
    """A length out of range and an unknown name are refused in AWS's form."""
    with pytest.raises(ValidationException) as caught:
        specs.data_key_length(key_spec, number)
    assert str(caught.value) == (
        f"1 validation error detected: Value '{value}' at '{path}' failed to satisfy constraint: {constraint}"
    )
