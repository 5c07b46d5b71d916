"""Requests and responses about KMS keys. Source: botocore's KMS model, shape by shape."""

from datetime import datetime
from typing import Annotated

from msgspec import field

from hsmkms.model.constraints import OneOf
from hsmkms.model.enums import KeySpec
from hsmkms.model.shapes import (
    REQUIRED,
    CustomKeyStoreId,
    Description,
    GrantTokens,
    KeyId,
    KeySpecWord,
    KeyUsageWord,
    Limit,
    Marker,
    OriginWord,
    Policy,
    ResourceOwners,
    Shape,
    Tag,
    XksKeyId,
)


class MultiRegionKey(Shape, frozen=True, kw_only=True):
    """A member of a set of multi-Region keys."""

    arn: str
    region: str


class MultiRegionConfiguration(Shape, frozen=True, kw_only=True):
    """A set of multi-Region keys, as one of them tells it."""

    multi_region_key_type: str
    primary_key: MultiRegionKey
    replica_keys: list[MultiRegionKey]


class XksKeyConfiguration(Shape, frozen=True, kw_only=True):
    """A key in an external key store (XksKeyConfigurationType)."""

    id: str


class KeyMetadata(Shape, frozen=True, kw_only=True):
    """What DescribeKey tells. Of the algorithm lists exactly the one of the key's usage is there."""

    aws_account_id: str = field(name="AWSAccountId")
    key_id: str
    arn: str
    creation_date: datetime
    enabled: bool
    description: str
    key_usage: str
    key_state: str
    deletion_date: datetime | None = None
    valid_to: datetime | None = None
    origin: str
    custom_key_store_id: str | None = None
    cloud_hsm_cluster_id: str | None = None
    expiration_model: str | None = None
    key_manager: str
    customer_master_key_spec: str
    key_spec: str
    encryption_algorithms: list[str] | None = None
    signing_algorithms: list[str] | None = None
    key_agreement_algorithms: list[str] | None = None
    encapsulation_algorithms: list[str] | None = None
    multi_region: bool
    multi_region_configuration: MultiRegionConfiguration | None = None
    pending_deletion_window_in_days: int | None = None
    mac_algorithms: list[str] | None = None
    xks_key_configuration: XksKeyConfiguration | None = None
    current_key_material_id: str | None = None


class CreateKeyRequest(Shape, frozen=True, kw_only=True):
    """Make a KMS key."""

    policy: Policy | None = None
    description: Description | None = None
    key_usage: KeyUsageWord | None = None
    customer_master_key_spec: Annotated[str, OneOf(KeySpec)] | None = None
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
    """Ask for the metadata of a key."""

    key_id: KeyId = REQUIRED
    grant_tokens: GrantTokens | None = None


class DescribeKeyResponse(Shape, frozen=True, kw_only=True):
    """The metadata."""

    key_metadata: KeyMetadata


class ListKeysRequest(Shape, frozen=True, kw_only=True):
    """Ask for a page of the region's keys."""

    limit: Limit | None = None
    marker: Marker | None = None
    resource_owners: ResourceOwners | None = None


class KeyListEntry(Shape, frozen=True, kw_only=True):
    """One key of a list."""

    key_id: str
    key_arn: str


class ListKeysResponse(Shape, frozen=True, kw_only=True):
    """A page of keys; ``next_marker`` continues where ``truncated`` is true."""

    keys: list[KeyListEntry]
    next_marker: str | None = None
    truncated: bool


class UpdateKeyDescriptionRequest(Shape, frozen=True, kw_only=True):
    """Replace the description of a key."""

    key_id: KeyId = REQUIRED
    description: Description = REQUIRED


class EnableKeyRequest(Shape, frozen=True, kw_only=True):
    """Make a key usable again."""

    key_id: KeyId = REQUIRED


class DisableKeyRequest(Shape, frozen=True, kw_only=True):
    """Make a key unusable."""

    key_id: KeyId = REQUIRED
