"""Enumerations of the API, whose values are in requests and responses.

Source: botocore's KMS model (service 2014-11-01), shape by shape; ``Operation`` holds its operation names.
"""

from enum import StrEnum


class Word(StrEnum):
    """A word, hashed as the string that it equals: ``Enum`` would call Python code for each look into a table."""

    __hash__ = str.__hash__


class KeyState(Word):
    """State of a KMS key in one region (AWS KMS Developer Guide, "Key states")."""

    CREATING = "Creating"
    ENABLED = "Enabled"
    DISABLED = "Disabled"
    PENDING_DELETION = "PendingDeletion"
    PENDING_IMPORT = "PendingImport"
    PENDING_REPLICA_DELETION = "PendingReplicaDeletion"
    UNAVAILABLE = "Unavailable"
    UPDATING = "Updating"


class KeySpec(Word):
    """Kind of key material. SM2 (China regions only) is not supported."""

    RSA_2048 = "RSA_2048"
    RSA_3072 = "RSA_3072"
    RSA_4096 = "RSA_4096"
    ECC_NIST_P256 = "ECC_NIST_P256"
    ECC_NIST_P384 = "ECC_NIST_P384"
    ECC_NIST_P521 = "ECC_NIST_P521"
    ECC_SECG_P256K1 = "ECC_SECG_P256K1"
    SYMMETRIC_DEFAULT = "SYMMETRIC_DEFAULT"
    HMAC_224 = "HMAC_224"
    HMAC_256 = "HMAC_256"
    HMAC_384 = "HMAC_384"
    HMAC_512 = "HMAC_512"
    ML_DSA_44 = "ML_DSA_44"
    ML_DSA_65 = "ML_DSA_65"
    ML_DSA_87 = "ML_DSA_87"
    ECC_NIST_EDWARDS25519 = "ECC_NIST_EDWARDS25519"
    ML_KEM_512 = "ML_KEM_512"
    ML_KEM_768 = "ML_KEM_768"
    ML_KEM_1024 = "ML_KEM_1024"


class KeyUsage(Word):
    """The use of a KMS key, which never changes."""

    SIGN_VERIFY = "SIGN_VERIFY"
    ENCRYPT_DECRYPT = "ENCRYPT_DECRYPT"
    GENERATE_VERIFY_MAC = "GENERATE_VERIFY_MAC"
    KEY_AGREEMENT = "KEY_AGREEMENT"
    ENCAPSULATE_DECAPSULATE = "ENCAPSULATE_DECAPSULATE"


class Origin(Word):
    """Where key material comes from."""

    AWS_KMS = "AWS_KMS"
    EXTERNAL = "EXTERNAL"
    AWS_CLOUDHSM = "AWS_CLOUDHSM"
    EXTERNAL_KEY_STORE = "EXTERNAL_KEY_STORE"


class KeyManager(Word):
    """``CUSTOMER``, or ``AWS`` for a service-managed key."""

    AWS = "AWS"
    CUSTOMER = "CUSTOMER"


class EncryptionAlgorithm(Word):
    """Algorithms of Encrypt, Decrypt and ReEncrypt."""

    SYMMETRIC_DEFAULT = "SYMMETRIC_DEFAULT"
    RSAES_OAEP_SHA_1 = "RSAES_OAEP_SHA_1"
    RSAES_OAEP_SHA_256 = "RSAES_OAEP_SHA_256"


class SigningAlgorithm(Word):
    """Algorithms of Sign and Verify."""

    RSASSA_PSS_SHA_256 = "RSASSA_PSS_SHA_256"
    RSASSA_PSS_SHA_384 = "RSASSA_PSS_SHA_384"
    RSASSA_PSS_SHA_512 = "RSASSA_PSS_SHA_512"
    RSASSA_PKCS1_V1_5_SHA_256 = "RSASSA_PKCS1_V1_5_SHA_256"
    RSASSA_PKCS1_V1_5_SHA_384 = "RSASSA_PKCS1_V1_5_SHA_384"
    RSASSA_PKCS1_V1_5_SHA_512 = "RSASSA_PKCS1_V1_5_SHA_512"
    ECDSA_SHA_256 = "ECDSA_SHA_256"
    ECDSA_SHA_384 = "ECDSA_SHA_384"
    ECDSA_SHA_512 = "ECDSA_SHA_512"
    ML_DSA_SHAKE_256 = "ML_DSA_SHAKE_256"
    ED25519_SHA_512 = "ED25519_SHA_512"
    ED25519_PH_SHA_512 = "ED25519_PH_SHA_512"


class MacAlgorithm(Word):
    """Algorithms of GenerateMac and VerifyMac, in the order of AWS's error message."""

    HMAC_SHA_384 = "HMAC_SHA_384"
    HMAC_SHA_256 = "HMAC_SHA_256"
    HMAC_SHA_224 = "HMAC_SHA_224"
    HMAC_SHA_512 = "HMAC_SHA_512"


class KeyAgreementAlgorithm(Word):
    """Algorithms of DeriveSharedSecret."""

    ECDH = "ECDH"


class EncapsulationAlgorithm(Word):
    """Algorithms of Encapsulate and Decapsulate."""

    ML_KEM = "ML_KEM"


class DataKeySpec(Word):
    """Lengths of data keys."""

    AES_256 = "AES_256"
    AES_128 = "AES_128"


class DataKeyPairSpec(Word):
    """Key specs of data key pairs."""

    RSA_2048 = "RSA_2048"
    RSA_3072 = "RSA_3072"
    RSA_4096 = "RSA_4096"
    ECC_NIST_P256 = "ECC_NIST_P256"
    ECC_NIST_P384 = "ECC_NIST_P384"
    ECC_NIST_P521 = "ECC_NIST_P521"
    ECC_SECG_P256K1 = "ECC_SECG_P256K1"
    ECC_NIST_EDWARDS25519 = "ECC_NIST_EDWARDS25519"
    ML_KEM_512 = "ML_KEM_512"
    ML_KEM_768 = "ML_KEM_768"
    ML_KEM_1024 = "ML_KEM_1024"


class MessageType(Word):
    """Form of the message of Sign and Verify."""

    RAW = "RAW"
    DIGEST = "DIGEST"
    EXTERNAL_MU = "EXTERNAL_MU"


class ExpirationModel(Word):
    """Whether imported key material expires."""

    KEY_MATERIAL_EXPIRES = "KEY_MATERIAL_EXPIRES"
    KEY_MATERIAL_DOES_NOT_EXPIRE = "KEY_MATERIAL_DOES_NOT_EXPIRE"


class ImportType(Word):
    """Whether an import adds new key material, or existing key material again."""

    NEW_KEY_MATERIAL = "NEW_KEY_MATERIAL"
    EXISTING_KEY_MATERIAL = "EXISTING_KEY_MATERIAL"


class ImportState(Word):
    """Whether imported key material is present."""

    IMPORTED = "IMPORTED"
    PENDING_IMPORT = "PENDING_IMPORT"


class MaterialState(Word):
    """State of a key material of a KMS key."""

    NON_CURRENT = "NON_CURRENT"
    CURRENT = "CURRENT"
    PENDING_ROTATION = "PENDING_ROTATION"
    PENDING_MULTI_REGION_IMPORT_AND_ROTATION = "PENDING_MULTI_REGION_IMPORT_AND_ROTATION"


class RotationType(Word):
    """What caused a rotation."""

    AUTOMATIC = "AUTOMATIC"
    ON_DEMAND = "ON_DEMAND"


class IncludeKeyMaterial(Word):
    """What ListKeyRotations lists."""

    ALL_KEY_MATERIAL = "ALL_KEY_MATERIAL"
    ROTATIONS_ONLY = "ROTATIONS_ONLY"


class MultiRegionKeyType(Word):
    """Role of a multi-Region key."""

    PRIMARY = "PRIMARY"
    REPLICA = "REPLICA"


class WrappingAlgorithm(Word):
    """Algorithms that wrap key material for import."""

    RSAES_PKCS1_V1_5 = "RSAES_PKCS1_V1_5"
    RSAES_OAEP_SHA_1 = "RSAES_OAEP_SHA_1"
    RSAES_OAEP_SHA_256 = "RSAES_OAEP_SHA_256"
    RSA_AES_KEY_WRAP_SHA_1 = "RSA_AES_KEY_WRAP_SHA_1"
    RSA_AES_KEY_WRAP_SHA_256 = "RSA_AES_KEY_WRAP_SHA_256"


class WrappingKeySpec(Word):
    """Sizes of wrapping keys."""

    RSA_2048 = "RSA_2048"
    RSA_3072 = "RSA_3072"
    RSA_4096 = "RSA_4096"


class TrackedOperation(Word):
    """Operations that count as a use of their key in GetKeyLastUsage."""

    DECRYPT = "Decrypt"
    DERIVE_SHARED_SECRET = "DeriveSharedSecret"
    ENCRYPT = "Encrypt"
    GENERATE_DATA_KEY = "GenerateDataKey"
    GENERATE_DATA_KEY_PAIR = "GenerateDataKeyPair"
    GENERATE_DATA_KEY_PAIR_WITHOUT_PLAINTEXT = "GenerateDataKeyPairWithoutPlaintext"
    GENERATE_DATA_KEY_WITHOUT_PLAINTEXT = "GenerateDataKeyWithoutPlaintext"
    GENERATE_MAC = "GenerateMac"
    RE_ENCRYPT = "ReEncrypt"
    SIGN = "Sign"
    VERIFY = "Verify"
    VERIFY_MAC = "VerifyMac"
    ENCAPSULATE = "Encapsulate"
    DECAPSULATE = "Decapsulate"


class DryRunModifier(Word):
    """Checks that a DryRun skips."""

    IGNORE_CIPHERTEXT = "IGNORE_CIPHERTEXT"


class KeyEncryptionMechanism(Word):
    """Algorithm of a Recipient."""

    RSAES_OAEP_SHA_256 = "RSAES_OAEP_SHA_256"


class ResourceOwner(Word):
    """Whose keys ListKeys lists."""

    SELF = "SELF"
    OTHER_ACCOUNTS_VIA_RAM = "OTHER_ACCOUNTS_VIA_RAM"


class Operation(Word):
    """Names of all operations of the KMS API."""

    CANCEL_KEY_DELETION = "CancelKeyDeletion"
    CONNECT_CUSTOM_KEY_STORE = "ConnectCustomKeyStore"
    CREATE_ALIAS = "CreateAlias"
    CREATE_CUSTOM_KEY_STORE = "CreateCustomKeyStore"
    CREATE_GRANT = "CreateGrant"
    CREATE_KEY = "CreateKey"
    DECAPSULATE = "Decapsulate"
    DECRYPT = "Decrypt"
    DELETE_ALIAS = "DeleteAlias"
    DELETE_CUSTOM_KEY_STORE = "DeleteCustomKeyStore"
    DELETE_IMPORTED_KEY_MATERIAL = "DeleteImportedKeyMaterial"
    DERIVE_SHARED_SECRET = "DeriveSharedSecret"
    DESCRIBE_CUSTOM_KEY_STORES = "DescribeCustomKeyStores"
    DESCRIBE_KEY = "DescribeKey"
    DISABLE_KEY = "DisableKey"
    DISABLE_KEY_ROTATION = "DisableKeyRotation"
    DISCONNECT_CUSTOM_KEY_STORE = "DisconnectCustomKeyStore"
    ENABLE_KEY = "EnableKey"
    ENABLE_KEY_ROTATION = "EnableKeyRotation"
    ENCAPSULATE = "Encapsulate"
    ENCRYPT = "Encrypt"
    GENERATE_DATA_KEY = "GenerateDataKey"
    GENERATE_DATA_KEY_PAIR = "GenerateDataKeyPair"
    GENERATE_DATA_KEY_PAIR_WITHOUT_PLAINTEXT = "GenerateDataKeyPairWithoutPlaintext"
    GENERATE_DATA_KEY_WITHOUT_PLAINTEXT = "GenerateDataKeyWithoutPlaintext"
    GENERATE_MAC = "GenerateMac"
    GENERATE_RANDOM = "GenerateRandom"
    GET_KEY_LAST_USAGE = "GetKeyLastUsage"
    GET_KEY_POLICY = "GetKeyPolicy"
    GET_KEY_ROTATION_STATUS = "GetKeyRotationStatus"
    GET_PARAMETERS_FOR_IMPORT = "GetParametersForImport"
    GET_PUBLIC_KEY = "GetPublicKey"
    IMPORT_KEY_MATERIAL = "ImportKeyMaterial"
    LIST_ALIASES = "ListAliases"
    LIST_GRANTS = "ListGrants"
    LIST_KEY_POLICIES = "ListKeyPolicies"
    LIST_KEY_ROTATIONS = "ListKeyRotations"
    LIST_KEYS = "ListKeys"
    LIST_RESOURCE_TAGS = "ListResourceTags"
    LIST_RETIRABLE_GRANTS = "ListRetirableGrants"
    PUT_KEY_POLICY = "PutKeyPolicy"
    RE_ENCRYPT = "ReEncrypt"
    REPLICATE_KEY = "ReplicateKey"
    RETIRE_GRANT = "RetireGrant"
    REVOKE_GRANT = "RevokeGrant"
    ROTATE_KEY_ON_DEMAND = "RotateKeyOnDemand"
    SCHEDULE_KEY_DELETION = "ScheduleKeyDeletion"
    SIGN = "Sign"
    TAG_RESOURCE = "TagResource"
    UNTAG_RESOURCE = "UntagResource"
    UPDATE_ALIAS = "UpdateAlias"
    UPDATE_CUSTOM_KEY_STORE = "UpdateCustomKeyStore"
    UPDATE_KEY_DESCRIPTION = "UpdateKeyDescription"
    UPDATE_PRIMARY_REGION = "UpdatePrimaryRegion"
    VERIFY = "Verify"
    VERIFY_MAC = "VerifyMac"


class GrantOperation(Word):
    """Operations that a grant can allow."""

    DECRYPT = "Decrypt"
    ENCRYPT = "Encrypt"
    GENERATE_DATA_KEY = "GenerateDataKey"
    GENERATE_DATA_KEY_WITHOUT_PLAINTEXT = "GenerateDataKeyWithoutPlaintext"
    RE_ENCRYPT_FROM = "ReEncryptFrom"
    RE_ENCRYPT_TO = "ReEncryptTo"
    SIGN = "Sign"
    VERIFY = "Verify"
    GET_PUBLIC_KEY = "GetPublicKey"
    CREATE_GRANT = "CreateGrant"
    RETIRE_GRANT = "RetireGrant"
    DESCRIBE_KEY = "DescribeKey"
    GENERATE_DATA_KEY_PAIR = "GenerateDataKeyPair"
    GENERATE_DATA_KEY_PAIR_WITHOUT_PLAINTEXT = "GenerateDataKeyPairWithoutPlaintext"
    GENERATE_MAC = "GenerateMac"
    VERIFY_MAC = "VerifyMac"
    DERIVE_SHARED_SECRET = "DeriveSharedSecret"
    ENCAPSULATE = "Encapsulate"
    DECAPSULATE = "Decapsulate"
