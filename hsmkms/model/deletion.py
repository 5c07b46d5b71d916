"""Requests and responses about the deletion of keys, and about their last use before it.

Source: botocore's KMS model, shape by shape.
"""

from datetime import datetime

from hsmkms.model.shapes import (
    REQUIRED,
    KeyId,
    KeyStateWord,
    PendingWindowInDays,
    Shape,
    TrackedOperationWord,
)


class ScheduleKeyDeletionRequest(Shape, frozen=True, kw_only=True):
    """Delete a key after a waiting period."""

    key_id: KeyId = REQUIRED
    pending_window_in_days: PendingWindowInDays | None = None


class ScheduleKeyDeletionResponse(Shape, frozen=True, kw_only=True):
    """The key by its ARN, and its deletion date: none for a primary key that waits for its replicas."""

    key_id: KeyId
    deletion_date: datetime | None = None
    key_state: KeyStateWord
    pending_window_in_days: PendingWindowInDays


class CancelKeyDeletionRequest(Shape, frozen=True, kw_only=True):
    """Cancel the scheduled deletion of a key."""

    key_id: KeyId = REQUIRED


class CancelKeyDeletionResponse(Shape, frozen=True, kw_only=True):
    """The key by its ARN."""

    key_id: KeyId


class GetKeyLastUsageRequest(Shape, frozen=True, kw_only=True):
    """Request the last use of a key."""

    key_id: KeyId = REQUIRED


class KeyLastUsage(Shape, frozen=True, kw_only=True):
    """The last successful cryptographic operation; empty if there was none (KeyLastUsageData)."""

    operation: TrackedOperationWord | None = None
    timestamp: datetime | None = None
    cloud_trail_event_id: str | None = None
    kms_request_id: str | None = None


class GetKeyLastUsageResponse(Shape, frozen=True, kw_only=True):
    """The last use since ``tracking_start_date``."""

    key_id: KeyId
    key_last_usage: KeyLastUsage
    tracking_start_date: datetime
    key_creation_date: datetime
