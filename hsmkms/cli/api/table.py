"""Define the API's commands: panel in the help, summary and example of each; and the help of every option."""

from typing import Final

from msgspec import Struct

from hsmkms.model.enums import Operation

KEYS: Final = "Keys"
ROTATION: Final = "Rotation"
IMPORT: Final = "Imported key material"
DELETION: Final = "Deletion"
ALIASES: Final = "Aliases"
TAGS: Final = "Tags"
PERMISSIONS: Final = "Permissions"
CRYPTOGRAPHY: Final = "Cryptography"
KEY_PAIRS: Final = "Key pairs and HMAC keys"


class Command(Struct, frozen=True):
    """An operation's command: its panel, summary and example."""

    operation: Operation
    panel: str
    summary: str
    example: str


COMMANDS: Final = (
    Command(
        Operation.CREATE_KEY, KEYS, "Create a KMS key; its backing key never leaves the token.", "--description photos"
    ),
    Command(Operation.DESCRIBE_KEY, KEYS, "Show the metadata of a key.", "--key-id alias/photos"),
    Command(Operation.LIST_KEYS, KEYS, "List the keys of the region.", "--output text --query 'Keys[].KeyId'"),
    Command(
        Operation.DESCRIBE_CUSTOM_KEY_STORES,
        KEYS,
        "List the custom key stores: there are none.",
        "--query CustomKeyStores",
    ),
    Command(
        Operation.UPDATE_KEY_DESCRIPTION,
        KEYS,
        "Replace a key's description.",
        "--key-id KEY_ID --description 'old photos'",
    ),
    Command(Operation.ENABLE_KEY, KEYS, "Enable a disabled key.", "--key-id KEY_ID"),
    Command(Operation.DISABLE_KEY, KEYS, "Disable a key, at once and in all processes.", "--key-id KEY_ID"),
    Command(
        Operation.REPLICATE_KEY,
        KEYS,
        "Create a replica of a multi-Region key in another region.",
        "--key-id KEY_ID --replica-region eu-west-1",
    ),
    Command(
        Operation.UPDATE_PRIMARY_REGION,
        KEYS,
        "Make a replica the primary key of its set.",
        "--key-id KEY_ID --primary-region eu-west-1",
    ),
    Command(Operation.ENABLE_KEY_ROTATION, ROTATION, "Enable automatic rotation of a key.", "--key-id KEY_ID"),
    Command(Operation.DISABLE_KEY_ROTATION, ROTATION, "Disable automatic rotation of a key.", "--key-id KEY_ID"),
    Command(
        Operation.GET_KEY_ROTATION_STATUS,
        ROTATION,
        "Show whether a key rotates automatically, and when next.",
        "--key-id KEY_ID",
    ),
    Command(Operation.ROTATE_KEY_ON_DEMAND, ROTATION, "Rotate a key now.", "--key-id KEY_ID"),
    Command(
        Operation.LIST_KEY_ROTATIONS,
        ROTATION,
        "List a key's rotations, or all its key materials.",
        "--key-id KEY_ID --include-key-material ALL_KEY_MATERIAL",
    ),
    Command(
        Operation.GET_PARAMETERS_FOR_IMPORT,
        IMPORT,
        "Get a wrapping key and an import token, valid for 24 hours.",
        "--key-id KEY_ID --wrapping-algorithm RSA_AES_KEY_WRAP_SHA_1 --wrapping-key-spec RSA_4096",
    ),
    Command(
        Operation.IMPORT_KEY_MATERIAL,
        IMPORT,
        "Import wrapped key material, or change its expiry.",
        "--key-id KEY_ID --import-token fileb://token.bin --encrypted-key-material fileb://wrapped.bin "
        "--expiration-model KEY_MATERIAL_DOES_NOT_EXPIRE",
    ),
    Command(
        Operation.DELETE_IMPORTED_KEY_MATERIAL,
        IMPORT,
        "Destroy imported key material at once; it can be imported again.",
        "--key-id KEY_ID",
    ),
    Command(
        Operation.SCHEDULE_KEY_DELETION,
        DELETION,
        "Delete a key after a waiting period; its ciphertexts are then lost.",
        "--key-id KEY_ID --pending-window-in-days 30",
    ),
    Command(
        Operation.CANCEL_KEY_DELETION,
        DELETION,
        "Cancel the scheduled deletion of a key; it is then Disabled.",
        "--key-id KEY_ID",
    ),
    Command(Operation.GET_KEY_LAST_USAGE, DELETION, "Show when a key was last used.", "--key-id KEY_ID"),
    Command(
        Operation.CREATE_ALIAS, ALIASES, "Create an alias of a key.", "--alias-name alias/photos --target-key-id KEY_ID"
    ),
    Command(
        Operation.UPDATE_ALIAS,
        ALIASES,
        "Move an alias to another key (manual rotation).",
        "--alias-name alias/photos --target-key-id NEW_KEY_ID",
    ),
    Command(Operation.DELETE_ALIAS, ALIASES, "Delete an alias; the key stays.", "--alias-name alias/photos"),
    Command(Operation.LIST_ALIASES, ALIASES, "List the aliases of the region or of a key.", "--key-id KEY_ID"),
    Command(
        Operation.TAG_RESOURCE, TAGS, "Add or replace tags of a key.", "--key-id KEY_ID --tags TagKey=team,TagValue=red"
    ),
    Command(Operation.UNTAG_RESOURCE, TAGS, "Remove tags of a key.", "--key-id KEY_ID --tag-keys team"),
    Command(Operation.LIST_RESOURCE_TAGS, TAGS, "List the tags of a key.", "--key-id KEY_ID"),
    Command(
        Operation.PUT_KEY_POLICY,
        PERMISSIONS,
        "Replace a key's policy, at once and in all processes.",
        "--key-id KEY_ID --policy file://policy.json",
    ),
    Command(
        Operation.GET_KEY_POLICY,
        PERMISSIONS,
        "Show a key's policy.",
        "--key-id KEY_ID --query Policy --output text",
    ),
    Command(Operation.LIST_KEY_POLICIES, PERMISSIONS, "List the names of a key's policies.", "--key-id KEY_ID"),
    Command(
        Operation.CREATE_GRANT,
        PERMISSIONS,
        "Allow a user some operations with a key.",
        "--key-id KEY_ID --grantee-principal arn:aws:iam::111122223333:user/alice --operations Encrypt Decrypt",
    ),
    Command(Operation.LIST_GRANTS, PERMISSIONS, "List the grants on a key.", "--key-id KEY_ID"),
    Command(
        Operation.LIST_RETIRABLE_GRANTS,
        PERMISSIONS,
        "List the grants that a user may retire.",
        "--retiring-principal arn:aws:iam::111122223333:user/alice",
    ),
    Command(
        Operation.RETIRE_GRANT,
        PERMISSIONS,
        "Retire a grant whose task is done.",
        "--key-id KEY_ARN --grant-id GRANT_ID",
    ),
    Command(Operation.REVOKE_GRANT, PERMISSIONS, "Revoke a grant.", "--key-id KEY_ID --grant-id GRANT_ID"),
    Command(
        Operation.ENCRYPT,
        CRYPTOGRAPHY,
        "Encrypt 1 to 4,096 bytes.",
        "--key-id alias/photos --plaintext fileb://secret.txt --query CiphertextBlob --output text",
    ),
    Command(
        Operation.DECRYPT,
        CRYPTOGRAPHY,
        "Decrypt a ciphertext of encrypt, re-encrypt or generate-data-key.",
        "--ciphertext-blob fileb://secret.bin --query Plaintext --output text",
    ),
    Command(
        Operation.RE_ENCRYPT,
        CRYPTOGRAPHY,
        "Re-encrypt a ciphertext under another key or context; the plaintext is not shown.",
        "--ciphertext-blob fileb://secret.bin --destination-key-id alias/new",
    ),
    Command(
        Operation.GENERATE_DATA_KEY,
        CRYPTOGRAPHY,
        "Generate a data key: in the clear, and encrypted.",
        "--key-id alias/photos --key-spec AES_256",
    ),
    Command(
        Operation.GENERATE_DATA_KEY_WITHOUT_PLAINTEXT,
        CRYPTOGRAPHY,
        "Generate a data key, encrypted only.",
        "--key-id alias/photos --key-spec AES_256",
    ),
    Command(
        Operation.GENERATE_DATA_KEY_PAIR,
        CRYPTOGRAPHY,
        "Generate a key pair: its private key in the clear, and encrypted.",
        "--key-id alias/photos --key-pair-spec ECC_NIST_P256",
    ),
    Command(
        Operation.GENERATE_DATA_KEY_PAIR_WITHOUT_PLAINTEXT,
        CRYPTOGRAPHY,
        "Generate a key pair, its private key encrypted only.",
        "--key-id alias/photos --key-pair-spec ECC_NIST_P256",
    ),
    Command(
        Operation.GENERATE_RANDOM,
        CRYPTOGRAPHY,
        "Generate random bytes on the token.",
        "--number-of-bytes 32 --query Plaintext --output text",
    ),
    Command(
        Operation.SIGN,
        KEY_PAIRS,
        "Sign 1 to 4,096 bytes, or a digest.",
        "--key-id alias/releases --message fileb://notes.txt --signing-algorithm ECDSA_SHA_256",
    ),
    Command(
        Operation.VERIFY,
        KEY_PAIRS,
        "Verify a signature; an invalid one is an error.",
        "--key-id alias/releases --message fileb://notes.txt --signature fileb://notes.sig "
        "--signing-algorithm ECDSA_SHA_256",
    ),
    Command(
        Operation.GET_PUBLIC_KEY,
        KEY_PAIRS,
        "Show the public key of a key pair.",
        "--key-id alias/releases --output-format pem",
    ),
    Command(
        Operation.GENERATE_MAC,
        KEY_PAIRS,
        "Compute the HMAC of 1 to 4,096 bytes.",
        "--key-id alias/tokens --message fileb://token.json --mac-algorithm HMAC_SHA_256",
    ),
    Command(
        Operation.VERIFY_MAC,
        KEY_PAIRS,
        "Verify an HMAC; an invalid one is an error.",
        "--key-id alias/tokens --message fileb://token.json --mac fileb://token.mac --mac-algorithm HMAC_SHA_256",
    ),
    Command(
        Operation.DERIVE_SHARED_SECRET,
        KEY_PAIRS,
        "Derive a secret shared with the owner of a public key (ECDH).",
        "--key-id alias/talks --key-agreement-algorithm ECDH --public-key fileb://theirs.der",
    ),
    Command(
        Operation.ENCAPSULATE,
        KEY_PAIRS,
        "Generate a secret and encapsulate it for an ML-KEM key.",
        "--key-id alias/tunnel --encapsulation-algorithm ML_KEM",
    ),
    Command(
        Operation.DECAPSULATE,
        KEY_PAIRS,
        "Recover an encapsulated secret (ML-KEM).",
        "--key-id alias/tunnel --shared-secret-ciphertext-blob fileb://secret.bin --encapsulation-algorithm ML_KEM",
    ),
)

HELP: Final = {
    "alias_name": "Alias; the prefix alias/ may be left out.",
    "bypass_policy_lockout_safety_check": "Accept a policy that locks out the caller.",
    "ciphertext_blob": "base64, fileb://FILE, or - for standard input.",
    "constraints": "EncryptionContextSubset or EncryptionContextEquals, as JSON.",
    "custom_key_store_id": "Not available: there are no custom key stores.",
    "custom_key_store_name": "Not available: there are no custom key stores.",
    "customer_master_key_spec": "Older name of --key-spec.",
    "description": "Free text.",
    "destination_encryption_algorithm": "Algorithm of the new ciphertext.",
    "destination_encryption_context": "Context of the new ciphertext.",
    "destination_key_id": "Key of the new ciphertext.",
    "dry_run": "Only check whether it would succeed.",
    "dry_run_modifiers": "IGNORE_CIPHERTEXT: check the permission only.",
    "encrypted_key_material": "Wrapped key material: base64, or fileb://FILE.",
    "encapsulation_algorithm": "ML_KEM.",
    "encryption_algorithm": "SYMMETRIC_DEFAULT (the default), or RSAES_OAEP_SHA_1 or _256.",
    "encryption_context": "name=value,... or JSON; needed again to decrypt.",
    "expiration_model": "KEY_MATERIAL_DOES_NOT_EXPIRE, or KEY_MATERIAL_EXPIRES (the default).",
    "grant_id": "Id of the grant.",
    "grant_token": "Token of the grant.",
    "grant_tokens": "Grant tokens.",
    "grantee_principal": "ARN of the user, role or account that is allowed.",
    "grantee_service_principal": "AWS service such as rds.amazonaws.com; it never calls hsmkms.",
    "import_token": "Import token: base64, or fileb://FILE.",
    "import_type": "NEW_KEY_MATERIAL or EXISTING_KEY_MATERIAL.",
    "include_key_material": "ROTATIONS_ONLY (the default) or ALL_KEY_MATERIAL.",
    "key_agreement_algorithm": "ECDH.",
    "key_id": "Key id, key ARN, alias or alias ARN.",
    "key_material_description": "Free text about the key material.",
    "key_material_id": "Id of the key material; default: the current one.",
    "key_pair_spec": "Such as RSA_2048, ECC_NIST_P256, ECC_NIST_EDWARDS25519 or ML_KEM_768.",
    "key_spec": "Of keys: SYMMETRIC_DEFAULT, RSA_2048, ECC_NIST_P256, ML_DSA_65, ... Of data keys: AES_128, AES_256.",
    "key_usage": "ENCRYPT_DECRYPT, SIGN_VERIFY, GENERATE_VERIFY_MAC, KEY_AGREEMENT or ENCAPSULATE_DECAPSULATE.",
    "limit": "Entries per page; default: all pages.",
    "mac": "HMAC: base64, or fileb://FILE.",
    "mac_algorithm": "HMAC_SHA_224, _256, _384 or _512: that of the key.",
    "marker": "NextMarker of the previous page.",
    "message": "base64, fileb://FILE, or - for standard input.",
    "message_type": "RAW (the default): a message. DIGEST: its digest. EXTERNAL_MU: its mu (verify, ML-DSA).",
    "multi_region": "Create a multi-Region key, which can have replicas in other regions.",
    "name": "Name for idempotence: repeated requests create one grant.",
    "number_of_bytes": "Number of bytes, 1 to 1,024.",
    "operations": "Such as Encrypt Decrypt GenerateDataKey.",
    "origin": "AWS_KMS: generated on the token. EXTERNAL: to be imported.",
    "pending_window_in_days": "Waiting period, 7 to 30 days; default 30.",
    "plaintext": "base64, fileb://FILE, or - for standard input.",
    "policy": "Key policy: JSON, or file://FILE in UTF-8.",
    "policy_name": "default; there is no other.",
    "primary_region": "Region of the replica.",
    "public_key": "DER SubjectPublicKeyInfo: base64, or fileb://FILE.",
    "recipient": "Not available: Nitro attestations cannot be verified.",
    "replica_region": "Region of the new replica.",
    "resource_owners": "SELF; there is one account.",
    "retiring_principal": "ARN of the user, role or account that may retire it.",
    "retiring_service_principal": "AWS service such as rds.amazonaws.com; it never calls hsmkms.",
    "rotation_period_in_days": "Period, where the operator lets users choose it.",
    "shared_secret_ciphertext_blob": "Encapsulated secret: base64, or fileb://FILE.",
    "signature": "Signature: base64, or fileb://FILE.",
    "signing_algorithm": "Such as RSASSA_PSS_SHA_256, ECDSA_SHA_256, ED25519_SHA_512 or ML_DSA_SHAKE_256.",
    "source_encryption_algorithm": "Algorithm of the ciphertext.",
    "source_encryption_context": "Context of the ciphertext.",
    "source_key_id": "Required key of the ciphertext; default: any.",
    "tag_keys": "Keys of the tags.",
    "tags": "TagKey=...,TagValue=... for each tag, or JSON.",
    "target_key_id": "Key id or key ARN.",
    "valid_to": "When the material expires: 2027-01-31T12:00:00Z, or seconds since 1970.",
    "wrapping_algorithm": "Such as RSA_AES_KEY_WRAP_SHA_1; token-check shows those that the token supports.",
    "wrapping_key_spec": "RSA_2048, RSA_3072 or RSA_4096.",
    "xks_key_id": "Not available: there are no custom key stores.",
}
