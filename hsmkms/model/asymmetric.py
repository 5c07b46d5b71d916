"""Requests and responses of key pairs and HMAC keys. Source: botocore's KMS model, shape by shape."""

from hsmkms.model.shapes import (
    REQUIRED,
    Ciphertext,
    CustomerMasterKeySpecWord,
    EncapsulationAlgorithmWord,
    EncryptionAlgorithmWord,
    GrantTokens,
    KeyAgreementAlgorithmWord,
    KeyId,
    KeySpecWord,
    KeyUsageWord,
    MacAlgorithmWord,
    MessageTypeWord,
    OriginWord,
    Plaintext,
    PublicKey,
    Recipient,
    Shape,
    SigningAlgorithmWord,
)


class SignRequest(Shape, frozen=True, kw_only=True):
    """Sign ``message`` (1 to 4,096 bytes), which is a digest if ``message_type`` is DIGEST."""

    key_id: KeyId = REQUIRED
    message: Plaintext = REQUIRED
    message_type: MessageTypeWord | None = None
    grant_tokens: GrantTokens | None = None
    signing_algorithm: SigningAlgorithmWord = REQUIRED
    dry_run: bool | None = None


class SignResponse(Shape, frozen=True, kw_only=True):
    """The signature: DER for ECDSA, else the bytes of its standard."""

    key_id: KeyId
    signature: Ciphertext
    signing_algorithm: SigningAlgorithmWord


class VerifyRequest(Shape, frozen=True, kw_only=True):
    """Verify a signature of ``message``, which is a digest if ``message_type`` is DIGEST."""

    key_id: KeyId = REQUIRED
    message: Plaintext = REQUIRED
    message_type: MessageTypeWord | None = None
    signature: Ciphertext = REQUIRED
    signing_algorithm: SigningAlgorithmWord = REQUIRED
    grant_tokens: GrantTokens | None = None
    dry_run: bool | None = None


class VerifyResponse(Shape, frozen=True, kw_only=True):
    """The signature is valid: an invalid one is an error."""

    key_id: KeyId
    signature_valid: bool
    signing_algorithm: SigningAlgorithmWord


class GetPublicKeyRequest(Shape, frozen=True, kw_only=True):
    """Request the public key of a key pair."""

    key_id: KeyId = REQUIRED
    grant_tokens: GrantTokens | None = None


class GetPublicKeyResponse(Shape, frozen=True, kw_only=True):
    """DER SubjectPublicKeyInfo, and the algorithms that the key supports.

    ``customer_master_key_spec`` repeats ``key_spec``, except for specs that its own enumeration does not have.
    """

    key_id: KeyId
    public_key: PublicKey
    customer_master_key_spec: CustomerMasterKeySpecWord | None = None
    key_spec: KeySpecWord
    key_usage: KeyUsageWord
    encryption_algorithms: list[EncryptionAlgorithmWord] | None = None
    signing_algorithms: list[SigningAlgorithmWord] | None = None
    key_agreement_algorithms: list[KeyAgreementAlgorithmWord] | None = None
    encapsulation_algorithms: list[EncapsulationAlgorithmWord] | None = None


class GenerateMacRequest(Shape, frozen=True, kw_only=True):
    """Compute an HMAC of ``message`` (1 to 4,096 bytes)."""

    message: Plaintext = REQUIRED
    key_id: KeyId = REQUIRED
    mac_algorithm: MacAlgorithmWord = REQUIRED
    grant_tokens: GrantTokens | None = None
    dry_run: bool | None = None


class GenerateMacResponse(Shape, frozen=True, kw_only=True):
    """The HMAC, in full length."""

    mac: Ciphertext
    mac_algorithm: MacAlgorithmWord
    key_id: KeyId


class VerifyMacRequest(Shape, frozen=True, kw_only=True):
    """Verify an HMAC of ``message``."""

    message: Plaintext = REQUIRED
    key_id: KeyId = REQUIRED
    mac_algorithm: MacAlgorithmWord = REQUIRED
    mac: Ciphertext = REQUIRED
    grant_tokens: GrantTokens | None = None
    dry_run: bool | None = None


class VerifyMacResponse(Shape, frozen=True, kw_only=True):
    """The HMAC is valid: an invalid one is an error."""

    key_id: KeyId
    mac_valid: bool
    mac_algorithm: MacAlgorithmWord


class DeriveSharedSecretRequest(Shape, frozen=True, kw_only=True):
    """Derive a shared secret with the owner of ``public_key`` (DER SubjectPublicKeyInfo, on the key's own curve)."""

    key_id: KeyId = REQUIRED
    key_agreement_algorithm: KeyAgreementAlgorithmWord = REQUIRED
    public_key: PublicKey = REQUIRED
    grant_tokens: GrantTokens | None = None
    dry_run: bool | None = None
    recipient: Recipient | None = None


class DeriveSharedSecretResponse(Shape, frozen=True, kw_only=True):
    """The raw shared secret: the x coordinate of the shared point."""

    key_id: KeyId
    shared_secret: Plaintext | None = None
    ciphertext_for_recipient: Ciphertext | None = None
    key_agreement_algorithm: KeyAgreementAlgorithmWord
    key_origin: OriginWord


class EncapsulateRequest(Shape, frozen=True, kw_only=True):
    """Generate a secret and encapsulate it for the owner of the key."""

    key_id: KeyId = REQUIRED
    encapsulation_algorithm: EncapsulationAlgorithmWord = REQUIRED
    grant_tokens: GrantTokens | None = None
    dry_run: bool | None = None


class EncapsulateResponse(Shape, frozen=True, kw_only=True):
    """The secret, and its encapsulation."""

    key_id: KeyId
    shared_secret: Plaintext
    shared_secret_ciphertext_blob: Ciphertext
    encapsulation_algorithm: EncapsulationAlgorithmWord


class DecapsulateRequest(Shape, frozen=True, kw_only=True):
    """Decapsulate a secret."""

    key_id: KeyId = REQUIRED
    shared_secret_ciphertext_blob: Ciphertext = REQUIRED
    encapsulation_algorithm: EncapsulationAlgorithmWord = REQUIRED
    grant_tokens: GrantTokens | None = None
    dry_run: bool | None = None


class DecapsulateResponse(Shape, frozen=True, kw_only=True):
    """The secret."""

    key_id: KeyId
    shared_secret: Plaintext
    encapsulation_algorithm: EncapsulationAlgorithmWord
