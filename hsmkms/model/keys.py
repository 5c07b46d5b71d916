"""Requests and responses about KMS keys. Source: botocore's KMS model, shape by shape."""

from datetime import datetime

from msgspec import field

from hsmkms.model.shapes import (
    REQUIRED,
    Arn,
    CloudHsmClusterId,
    CustomerMasterKeySpecWord,
    CustomKeyStoreId,
    Description,
    EncapsulationAlgorithmWord,
    EncryptionAlgorithmWord,
    ExpirationModelWord,
    GrantTokens,
    KeyAgreementAlgorithmWord,
    KeyId,
    KeyManagerWord,
    KeyMaterialId,
    KeySpecWord,
    KeyStateWord,
    KeyUsageWord,
    Limit,
    MacAlgorithmWord,
    Marker,
    MultiRegionKeyTypeWord,
    OriginWord,
    PendingWindowInDays,
    Policy,
    Region,
    ResourceOwners,
    Shape,
    SigningAlgorithmWord,
    Tag,
    XksKeyId,
)


class MultiRegionKey(Shape, frozen=True, kw_only=True):
    """A member of a set of multi-Region keys."""

    arn: Arn
    region: Region


class MultiRegionConfiguration(Shape, frozen=True, kw_only=True):
    """A set of multi-Region keys, as shown by one of them."""

    multi_region_key_type: MultiRegionKeyTypeWord
    primary_key: MultiRegionKey
    replica_keys: list[MultiRegionKey]


class XksKeyConfiguration(Shape, frozen=True, kw_only=True):
    """A key in an external key store (XksKeyConfigurationType)."""

    id: XksKeyId


class KeyMetadata(Shape, frozen=True, kw_only=True):
    """The response of DescribeKey. Only the algorithm list of the key's usage is present.

    ``customer_master_key_spec`` repeats ``key_spec``, also for specs that its own enumeration does not have.
    """

    aws_account_id: str = field(name="AWSAccountId")
    key_id: KeyId
    arn: Arn
    creation_date: datetime
    enabled: bool
    description: Description
    key_usage: KeyUsageWord
    key_state: KeyStateWord
    deletion_date: datetime | None = None
    valid_to: datetime | None = None
    origin: OriginWord
    custom_key_store_id: CustomKeyStoreId | None = None
    cloud_hsm_cluster_id: CloudHsmClusterId | None = None
    expiration_model: ExpirationModelWord | None = None
    key_manager: KeyManagerWord
    customer_master_key_spec: KeySpecWord
    key_spec: KeySpecWord
    encryption_algorithms: list[EncryptionAlgorithmWord] | None = None
    signing_algorithms: list[SigningAlgorithmWord] | None = None
    key_agreement_algorithms: list[KeyAgreementAlgorithmWord] | None = None
    encapsulation_algorithms: list[EncapsulationAlgorithmWord] | None = None
    multi_region: bool
    multi_region_configuration: MultiRegionConfiguration | None = None
    pending_deletion_window_in_days: PendingWindowInDays | None = None
    mac_algorithms: list[MacAlgorithmWord] | None = None
    xks_key_configuration: XksKeyConfiguration | None = None
    current_key_material_id: KeyMaterialId | None = None


class CreateKeyRequest(Shape, frozen=True, kw_only=True):
    """Create a KMS key."""

    policy: Policy | None = None
    description: Description | None = None
    key_usage: KeyUsageWord | None = None
    customer_master_key_spec: CustomerMasterKeySpecWord | None = None
    key_spec: KeySpecWord | None = None
    origin: OriginWord | None = None
    custom_key_store_id: CustomKeyStoreId | None = None
    bypass_policy_lockout_safety_check: bool | None = None
    tags: list[Tag] | None = None
    multi_region: bool | None = None
    xks_key_id: XksKeyId | None = None


class CreateKeyResponse(Shape, frozen=True, kw_only=True):
    """The new key."""

    key_metadata: KeyMetadata


class DescribeKeyRequest(Shape, frozen=True, kw_only=True):
    """Request the metadata of a key."""

    key_id: KeyId = REQUIRED
    grant_tokens: GrantTokens | None = None


class DescribeKeyResponse(Shape, frozen=True, kw_only=True):
    """The metadata."""

    key_metadata: KeyMetadata


class ListKeysRequest(Shape, frozen=True, kw_only=True):
    """Request a page of the region's keys."""

    limit: Limit | None = None
    marker: Marker | None = None
    resource_owners: ResourceOwners | None = None


class KeyListEntry(Shape, frozen=True, kw_only=True):
    """One key of a list."""

    key_id: KeyId
    key_arn: Arn


class ListKeysResponse(Shape, frozen=True, kw_only=True):
    """A page of keys; ``next_marker`` continues where ``truncated`` is true."""

    keys: list[KeyListEntry]
    next_marker: Marker | None = None
    truncated: bool


class UpdateKeyDescriptionRequest(Shape, frozen=True, kw_only=True):
    """Replace the description of a key."""

    key_id: KeyId = REQUIRED
    description: Description = REQUIRED


class EnableKeyRequest(Shape, frozen=True, kw_only=True):
    """Enable a key."""

    key_id: KeyId = REQUIRED


class DisableKeyRequest(Shape, frozen=True, kw_only=True):
    """Disable a key."""

    key_id: KeyId = REQUIRED


class ReplicateKeyRequest(Shape, frozen=True, kw_only=True):
    """Create a replica of a multi-Region primary key in another region."""

    key_id: KeyId = REQUIRED
    replica_region: Region = REQUIRED
    policy: Policy | None = None
    bypass_policy_lockout_safety_check: bool | None = None
    description: Description | None = None
    tags: list[Tag] | None = None


class ReplicateKeyResponse(Shape, frozen=True, kw_only=True):
    """The new replica."""

    replica_key_metadata: KeyMetadata
    replica_policy: Policy
    replica_tags: list[Tag] | None = None


class UpdatePrimaryRegionRequest(Shape, frozen=True, kw_only=True):
    """Make the replica in ``primary_region`` the primary key of its set."""

    key_id: KeyId = REQUIRED
    primary_region: Region = REQUIRED
