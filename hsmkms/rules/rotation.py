"""Decide when a KMS key gets a new backing key.

One rule for all: a key with automatic rotation has an anchor (the instant of enabling; for service keys their creation)
and a period. It is due at anchor + period, anchor + 2 periods, and so on, a day being 24 hours of UTC. The next date is
the first of these after the last automatic rotation. So a late rotation, because the key was disabled or no sweeper
ran, does not move later dates, and several missed dates cause one rotation. An on-demand rotation moves no date.
Source: AWS KMS Developer Guide, "Rotate AWS KMS keys"; where the project's specification differs, that is the default.
"""

from datetime import datetime, timedelta
from typing import Final, Protocol

from msgspec import Struct

from hsmkms.errors import (
    ConflictException,
    KMSInvalidStateException,
    LimitExceededException,
    UnsupportedOperationException,
    ValidationException,
    silently,
)
from hsmkms.model.enums import KeyManager, KeySpec, KeyState, MaterialState, Origin, RotationType
from hsmkms.model.records import KeyRecord, MaterialRecord, RotationSetting
from hsmkms.rules import multi_region
from hsmkms.rules.states import effective_state

MAX_ON_DEMAND: Final = 25
"""Maximum number of on-demand rotations in the life of a key."""

NOT_WITHIN: Final = timedelta(minutes=20)
"""An on-demand rotation is refused if an automatic one is due within this time."""

UNDER_WAY: Final = timedelta(minutes=10)
"""A rotation that was begun longer ago counts as interrupted, and any process may finish it."""

_DELETION: Final = frozenset({KeyState.PENDING_DELETION, KeyState.PENDING_REPLICA_DELETION})
_WAITING: Final = frozenset({MaterialState.PENDING_ROTATION, MaterialState.PENDING_MULTI_REGION_IMPORT_AND_ROTATION})


class RotationPolicy(Struct, frozen=True, kw_only=True):
    """The operator's settings: periods in days, and which of today's AWS rules apply."""

    period_days: int = 365
    custom_period: bool = False
    managed_period_days: int = 1095
    imported_on_demand: bool = False


class Scheduled(Protocol):
    """The properties that decide when a key rotates, besides its last rotation: a key record, or an extract of one."""

    @property
    def manager(self) -> KeyManager:
        """Who manages the key."""

    @property
    def creation_date(self) -> datetime:
        """When the key was created."""

    @property
    def rotation(self) -> RotationSetting | None:
        """The user's setting, if automatic rotation is enabled."""


# -- which keys -------------------------------------------------------------------------------------------------


def rotates(key: KeyRecord) -> bool:
    """Return True for keys that can get new material without a user: generated ones for symmetric encryption."""
    return key.spec is KeySpec.SYMMETRIC_DEFAULT and key.origin is Origin.AWS_KMS


def rotates_now(key: KeyRecord) -> bool:
    """Return True for those of them that are Enabled. The store selects by the same rule (``store/rotation.py``)."""
    return rotates(key) and key.state is KeyState.ENABLED


# -- dates ------------------------------------------------------------------------------------------------------


def period_days(key: Scheduled, policy: RotationPolicy) -> int | None:
    """Return the key's period in days, or None if automatic rotation is off."""
    if key.manager is KeyManager.AWS:
        return policy.managed_period_days
    if key.rotation is None:
        return None
    return key.rotation.period_days or policy.period_days


def next_rotation(key: KeyRecord, policy: RotationPolicy, now: datetime) -> datetime | None:
    """Return when the next automatic rotation is due, possibly in the past; None if automatic rotation is off.

    Rotations dated after ``now`` were made under a wrong clock, and do not postpone the next one.
    """
    return date_after(last_automatic(key, now), key, policy)


def date_after(last: datetime | None, key: Scheduled, policy: RotationPolicy) -> datetime | None:
    """Return when a key is due whose last automatic rotation was at ``last``, if any; None if rotation is off."""
    days = period_days(key, policy)
    if days is None:
        return None
    anchor = key.rotation.anchor if key.rotation is not None else key.creation_date
    return next_date(anchor, days, last)


def next_date(anchor: datetime, days: int, last: datetime | None) -> datetime:
    """Return the first date that is whole periods after the anchor, and after ``last`` if given."""
    period = timedelta(days=days)
    done = max((last - anchor) // period, 0) if last is not None else 0
    return anchor + (done + 1) * period


def is_due(key: KeyRecord, policy: RotationPolicy, now: datetime) -> bool:
    """Return True if the key must be rotated now. Keys that are not Enabled wait; replicas follow their primary key."""
    due = next_rotation(key, policy, now)
    return due is not None and due <= now and rotates_now(key) and not key.is_replica


def last_automatic(key: KeyRecord, now: datetime) -> datetime | None:
    """Return the date of the last automatic rotation until ``now``, or None."""
    dates = [each.rotation_date for each in key.materials if each.rotation_type is RotationType.AUTOMATIC]
    return max((date for date in dates if date is not None and date <= now), default=None)


def shown_status(key: KeyRecord, policy: RotationPolicy, now: datetime) -> tuple[int, datetime] | None:
    """Return period in days and next date as GetKeyRotationStatus reports them; None if the status is false."""
    days, due = period_days(key, policy), next_rotation(key, policy, now)
    if days is None or due is None or effective_state(key, now) in _DELETION:
        return None
    return days, max(due, now)


# -- the setting ------------------------------------------------------------------------------------------------


def check_rotatable(key: KeyRecord) -> None:
    """Raise UnsupportedOperationException, silent as at AWS, for asymmetric and HMAC keys, which never rotate."""
    if key.spec is not KeySpec.SYMMETRIC_DEFAULT:
        raise silently(
            UnsupportedOperationException(
                f"{key.arn} is of KeySpec {key.spec}, and only symmetric encryption keys rotate: "
                "create a new key and move the alias to it."
            )
        )


def check_startable(key: KeyRecord) -> None:
    """Raise UnsupportedOperationException for keys whose rotation cannot be started."""
    check_rotatable(key)
    multi_region.refuse_replica(key)


def check_automatic(key: KeyRecord) -> None:
    """Raise UnsupportedOperationException for keys that never rotate automatically."""
    check_startable(key)
    if key.origin is not Origin.AWS_KMS:
        raise UnsupportedOperationException(f"{key.arn} origin is {key.origin} which is not valid for this operation.")


def enabled(key: KeyRecord, policy: RotationPolicy, requested_days: int | None, now: datetime) -> RotationSetting:
    """Return the setting after EnableKeyRotation with that RotationPeriodInDays.

    If rotation is enabled already, only the period changes: it counts from the last rotation, else from the enabling.
    """
    days = _chosen_period(policy, requested_days)
    if key.rotation is None:
        return RotationSetting(anchor=now, period_days=days)
    if (days or policy.period_days) == period_days(key, policy):
        return key.rotation
    last = last_automatic(key, now)
    anchor = key.rotation.anchor if last is None else max(key.rotation.anchor, last)
    return RotationSetting(anchor=anchor, period_days=days)


def _chosen_period(policy: RotationPolicy, requested_days: int | None) -> int | None:
    """Return the period to store; None stands for the installation's period."""
    if requested_days is None or requested_days == policy.period_days:
        return None
    if not policy.custom_period:
        raise ValidationException(
            f"RotationPeriodInDays {requested_days} cannot be chosen: keys rotate every {policy.period_days} days "
            "here. Leave it out; the operator's setting rotation.custom_period lets users choose."
        )
    return requested_days


# -- rotating ---------------------------------------------------------------------------------------------------


def check_on_demand(key: KeyRecord, policy: RotationPolicy, now: datetime) -> None:
    """Raise if a symmetric encryption key may not be rotated on demand now."""
    multi_region.refuse_replica(key)
    if key.origin is not Origin.AWS_KMS and not policy.imported_on_demand:
        raise UnsupportedOperationException(f"{key.arn} origin is {key.origin} which is not valid for this operation.")
    if sum(each.rotation_type is RotationType.ON_DEMAND for each in key.materials) >= MAX_ON_DEMAND:
        raise LimitExceededException(
            "The on-demand rotations limit has been reached for the given keyId. "
            f"No more on-demand rotations can be performed for this key: {key.arn}"
        )
    due = next_rotation(key, policy, now)
    if due is not None and due - now <= NOT_WITHIN:
        when = "now" if due <= now else f"within {NOT_WITHIN.seconds // 60} minutes"
        raise ConflictException(
            f"{key.arn} is due for its automatic rotation {when}: let `hsmkms maintain` do it, or try again after it."
        )
    if key.origin is not Origin.AWS_KMS and pending(key) is None:
        raise KMSInvalidStateException(f"No available key material pending rotation for the key: {key.arn}.")


def pending(key: KeyRecord) -> MaterialRecord | None:
    """Return the imported material that can be rotated to, which all regions of the key have, or None."""
    material = waiting(key)
    return material if material is not None and material.state is MaterialState.PENDING_ROTATION else None


def waiting(key: KeyRecord) -> MaterialRecord | None:
    """Return the imported material that waits for a rotation, or first for its import into all regions, or None."""
    return next((each for each in key.materials if each.state in _WAITING and each.present), None)


def under_way(key: KeyRecord) -> ConflictException:
    """Return the error for a key that another process is rotating."""
    return ConflictException(f"A rotation of {key.arn} is under way: try again when it is done.")
