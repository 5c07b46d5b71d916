"""Requests and responses of the cryptographic operations. Source: botocore's KMS model, shape by shape."""

from hsmkms.model.shapes import (
    REQUIRED,
    Ciphertext,
    CustomKeyStoreId,
    DataKeyPairSpecWord,
    DataKeySpecWord,
    DryRunModifiers,
    EncryptionAlgorithmWord,
    EncryptionContext,
    GrantTokens,
    KeyId,
    KeyMaterialId,
    NumberOfBytes,
    Plaintext,
    PublicKey,
    Recipient,
    Shape,
)


class EncryptRequest(Shape, frozen=True, kw_only=True):
    """Encrypt ``plaintext`` (1 to 4,096 bytes)."""

    key_id: KeyId = REQUIRED
    plaintext: Plaintext = REQUIRED
    encryption_context: EncryptionContext | None = None
    grant_tokens: GrantTokens | None = None
    encryption_algorithm: EncryptionAlgorithmWord | None = None
    dry_run: bool | None = None


class EncryptResponse(Shape, frozen=True, kw_only=True):
    """The ciphertext, and the ARN of its key."""

    ciphertext_blob: Ciphertext
    key_id: KeyId
    encryption_algorithm: EncryptionAlgorithmWord


class DecryptRequest(Shape, frozen=True, kw_only=True):
    """Decrypt ``ciphertext_blob``; a symmetric ciphertext contains the id of its key."""

    ciphertext_blob: Ciphertext | None = None
    encryption_context: EncryptionContext | None = None
    grant_tokens: GrantTokens | None = None
    key_id: KeyId | None = None
    encryption_algorithm: EncryptionAlgorithmWord | None = None
    recipient: Recipient | None = None
    dry_run: bool | None = None
    dry_run_modifiers: DryRunModifiers | None = None


class DecryptResponse(Shape, frozen=True, kw_only=True):
    """The plaintext, and the key and key material that decrypted it."""

    key_id: KeyId
    plaintext: Plaintext | None = None
    encryption_algorithm: EncryptionAlgorithmWord
    ciphertext_for_recipient: Ciphertext | None = None
    key_material_id: KeyMaterialId | None = None


class ReEncryptRequest(Shape, frozen=True, kw_only=True):
    """Decrypt under one key and encrypt under another."""

    ciphertext_blob: Ciphertext | None = None
    source_encryption_context: EncryptionContext | None = None
    source_key_id: KeyId | None = None
    destination_key_id: KeyId = REQUIRED
    destination_encryption_context: EncryptionContext | None = None
    source_encryption_algorithm: EncryptionAlgorithmWord | None = None
    destination_encryption_algorithm: EncryptionAlgorithmWord | None = None
    grant_tokens: GrantTokens | None = None
    dry_run: bool | None = None
    dry_run_modifiers: DryRunModifiers | None = None


class ReEncryptResponse(Shape, frozen=True, kw_only=True):
    """The new ciphertext, and the keys and key materials of both sides."""

    ciphertext_blob: Ciphertext
    source_key_id: KeyId
    key_id: KeyId
    source_encryption_algorithm: EncryptionAlgorithmWord
    destination_encryption_algorithm: EncryptionAlgorithmWord
    source_key_material_id: KeyMaterialId | None = None
    destination_key_material_id: KeyMaterialId | None = None


class GenerateDataKeyRequest(Shape, frozen=True, kw_only=True):
    """Generate a data key; its length is given by ``key_spec`` or by ``number_of_bytes``."""

    key_id: KeyId = REQUIRED
    encryption_context: EncryptionContext | None = None
    number_of_bytes: NumberOfBytes | None = None
    key_spec: DataKeySpecWord | None = None
    grant_tokens: GrantTokens | None = None
    recipient: Recipient | None = None
    dry_run: bool | None = None


class GenerateDataKeyResponse(Shape, frozen=True, kw_only=True):
    """The data key in plaintext and encrypted."""

    ciphertext_blob: Ciphertext
    plaintext: Plaintext | None = None
    key_id: KeyId
    ciphertext_for_recipient: Ciphertext | None = None
    key_material_id: KeyMaterialId | None = None


class GenerateDataKeyWithoutPlaintextRequest(Shape, frozen=True, kw_only=True):
    """Generate a data key and return it encrypted only."""

    key_id: KeyId = REQUIRED
    encryption_context: EncryptionContext | None = None
    key_spec: DataKeySpecWord | None = None
    number_of_bytes: NumberOfBytes | None = None
    grant_tokens: GrantTokens | None = None
    dry_run: bool | None = None


class GenerateDataKeyWithoutPlaintextResponse(Shape, frozen=True, kw_only=True):
    """The encrypted data key."""

    ciphertext_blob: Ciphertext
    key_id: KeyId
    key_material_id: KeyMaterialId | None = None


class GenerateDataKeyPairRequest(Shape, frozen=True, kw_only=True):
    """Generate a key pair for use outside of the token."""

    encryption_context: EncryptionContext | None = None
    key_id: KeyId = REQUIRED
    key_pair_spec: DataKeyPairSpecWord = REQUIRED
    grant_tokens: GrantTokens | None = None
    recipient: Recipient | None = None
    dry_run: bool | None = None


class GenerateDataKeyPairResponse(Shape, frozen=True, kw_only=True):
    """The private key (DER PKCS #8) encrypted and in plaintext, and the public key (DER SubjectPublicKeyInfo)."""

    private_key_ciphertext_blob: Ciphertext
    private_key_plaintext: Plaintext | None = None
    public_key: PublicKey
    key_id: KeyId
    key_pair_spec: DataKeyPairSpecWord
    ciphertext_for_recipient: Ciphertext | None = None
    key_material_id: KeyMaterialId | None = None


class GenerateDataKeyPairWithoutPlaintextRequest(Shape, frozen=True, kw_only=True):
    """Generate a key pair and return its private key encrypted only."""

    encryption_context: EncryptionContext | None = None
    key_id: KeyId = REQUIRED
    key_pair_spec: DataKeyPairSpecWord = REQUIRED
    grant_tokens: GrantTokens | None = None
    dry_run: bool | None = None


class GenerateDataKeyPairWithoutPlaintextResponse(Shape, frozen=True, kw_only=True):
    """The encrypted private key, and the public key."""

    private_key_ciphertext_blob: Ciphertext
    public_key: PublicKey
    key_id: KeyId
    key_pair_spec: DataKeyPairSpecWord
    key_material_id: KeyMaterialId | None = None


class GenerateRandomRequest(Shape, frozen=True, kw_only=True):
    """Generate ``number_of_bytes`` random bytes (1 to 1,024; required by AWS, though not by its model)."""

    number_of_bytes: NumberOfBytes | None = None
    custom_key_store_id: CustomKeyStoreId | None = None
    recipient: Recipient | None = None


class GenerateRandomResponse(Shape, frozen=True, kw_only=True):
    """The random bytes."""

    plaintext: Plaintext | None = None
    ciphertext_for_recipient: Ciphertext | None = None
