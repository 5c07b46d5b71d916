"""Requests and responses about rotation. Source: botocore's KMS model, shape by shape."""

from datetime import datetime

from hsmkms.model.shapes import (
    REQUIRED,
    ExpirationModelWord,
    ImportStateWord,
    IncludeKeyMaterialWord,
    KeyId,
    KeyMaterialDescription,
    KeyMaterialId,
    Limit,
    Marker,
    MaterialStateWord,
    RotationPeriodInDays,
    RotationTypeWord,
    Shape,
)


class EnableKeyRotationRequest(Shape, frozen=True, kw_only=True):
    """Enable automatic rotation."""

    key_id: KeyId = REQUIRED
    rotation_period_in_days: RotationPeriodInDays | None = None


class DisableKeyRotationRequest(Shape, frozen=True, kw_only=True):
    """Disable automatic rotation."""

    key_id: KeyId = REQUIRED


class GetKeyRotationStatusRequest(Shape, frozen=True, kw_only=True):
    """Request the rotation status of a key."""

    key_id: KeyId = REQUIRED


class GetKeyRotationStatusResponse(Shape, frozen=True, kw_only=True):
    """Period and next date only if rotation is enabled; the start date only while a rotation on demand is running."""

    key_rotation_enabled: bool
    key_id: KeyId
    rotation_period_in_days: RotationPeriodInDays | None = None
    next_rotation_date: datetime | None = None
    on_demand_rotation_start_date: datetime | None = None


class RotateKeyOnDemandRequest(Shape, frozen=True, kw_only=True):
    """Rotate a key now."""

    key_id: KeyId = REQUIRED


class RotateKeyOnDemandResponse(Shape, frozen=True, kw_only=True):
    """The key that rotates, by its ARN."""

    key_id: KeyId


class ListKeyRotationsRequest(Shape, frozen=True, kw_only=True):
    """Request a page of a key's rotations."""

    key_id: KeyId = REQUIRED
    include_key_material: IncludeKeyMaterialWord | None = None
    limit: Limit | None = None
    marker: Marker | None = None


class RotationsListEntry(Shape, frozen=True, kw_only=True):
    """One key material: its state, and the rotation that made it current.

    No date and no type for the first material; import state and expiration for imported material only.
    """

    key_id: KeyId
    key_material_id: KeyMaterialId
    key_material_description: KeyMaterialDescription | None = None
    import_state: ImportStateWord | None = None
    key_material_state: MaterialStateWord
    expiration_model: ExpirationModelWord | None = None
    valid_to: datetime | None = None
    rotation_date: datetime | None = None
    rotation_type: RotationTypeWord | None = None


class ListKeyRotationsResponse(Shape, frozen=True, kw_only=True):
    """A page of rotations; ``next_marker`` continues where ``truncated`` is true."""

    rotations: list[RotationsListEntry]
    next_marker: Marker | None = None
    truncated: bool
