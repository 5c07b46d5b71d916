"""Store rotations: the setting, the intent and the result of a new backing key, and candidates that may be due.

A rotation's intent is a material in state PENDING_ROTATION whose token object is INTENDED. Records do not include it
before ``switch`` makes it the current one.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import Connection, Select, and_, exists, func, select

from hsmkms.model.enums import KeyManager, KeySpec, KeyState, MaterialState, Origin, RotationType
from hsmkms.model.records import RotationSetting
from hsmkms.store import keys
from hsmkms.store.regions import LEADING
from hsmkms.store.schema import key, material, regional_key, rotation, token_object
from hsmkms.store.statuses import Lifecycle, ObjectPurpose, ObjectStatus


class Unfinished(Struct, frozen=True, kw_only=True):
    """A backing key of a live key that was begun and not completed: by rotation or import."""

    key_id: str
    region: str
    token_id: str
    cka_id: bytes
    label: str
    material_id: str
    created_at: datetime
    rotation_type: RotationType | None


class Candidate(Struct, frozen=True, kw_only=True):
    """The data that decides whether a key is due. ``rotation`` is None for service keys, which count from creation."""

    key_id: str
    region: str
    manager: KeyManager
    creation_date: datetime
    rotation: RotationSetting | None
    last_automatic: datetime | None


_ROTATES_NOW: Final = and_(
    key.c.origin == Origin.AWS_KMS,
    key.c.spec == KeySpec.SYMMETRIC_DEFAULT,
    regional_key.c.lifecycle == Lifecycle.LIVE,
    regional_key.c.state == KeyState.ENABLED,
)
"""``rules.rotation.rotates_now`` in SQL: generated keys for symmetric encryption that are Enabled."""


def set_setting(tx: Connection, key_id: str, setting: RotationSetting | None) -> None:
    """Enable or change automatic rotation in all regions of the key; None disables it."""
    tx.execute(rotation.delete().where(rotation.c.key_id == key_id))
    if setting is not None:
        tx.execute(rotation.insert().values(key_id=key_id, anchor=setting.anchor, period_days=setting.period_days))
    keys.touch_all(tx, key_id)


def candidates(conn: Connection, now: datetime) -> list[Candidate]:
    """Return all Enabled keys with automatic rotation, in all regions, with their last rotation until ``now``.

    Of multi-Region keys only the primary ones, which decide for their replicas.
    """
    last = (
        select(func.max(material.c.rotation_date))
        .where(
            material.c.key_id == key.c.key_id,
            material.c.rotation_type == RotationType.AUTOMATIC,
            material.c.rotation_date <= now,
        )
        .scalar_subquery()
    )
    query = (
        select(
            key.c.key_id,
            regional_key.c.region,
            key.c.manager,
            key.c.creation_date,
            rotation.c.anchor,
            rotation.c.period_days,
            last.label("last_automatic"),
        )
        .select_from(key.join(regional_key).outerjoin(rotation, rotation.c.key_id == key.c.key_id))
        .where(
            _ROTATES_NOW,
            rotation.c.anchor.is_not(None) | (key.c.manager == KeyManager.AWS),
            LEADING,
        )
        .order_by(key.c.key_id)
    )
    return [
        Candidate(
            key_id=row.key_id,
            region=row.region,
            manager=KeyManager(row.manager),
            creation_date=row.creation_date,
            rotation=RotationSetting(anchor=row.anchor, period_days=row.period_days) if row.anchor else None,
            last_automatic=row.last_automatic,
        )
        for row in conn.execute(query)
    ]


def generated_and_current(conn: Connection, material_ids: Collection[str]) -> list[tuple[str, str, str]]:
    """Filter materials: those that are generated and current for an Enabled key, as (key id, region, material id).

    For a multi-Region key, one of the regions where it is Enabled.
    """
    query = (
        select(key.c.key_id, func.min(regional_key.c.region).label("region"), material.c.material_id)
        .select_from(key.join(regional_key).join(material, material.c.key_id == key.c.key_id))
        .where(
            material.c.material_id.in_(material_ids),
            material.c.state == MaterialState.CURRENT,
            _ROTATES_NOW,
        )
        .group_by(key.c.key_id, material.c.material_id)
        .order_by(key.c.key_id)
    )
    return [(row.key_id, row.region, row.material_id) for row in conn.execute(query)]


def encrypting_elsewhere(conn: Connection, token_id: str) -> list[tuple[str, str]]:
    """Return generated, Enabled symmetric keys whose current material is only on other tokens: (key id, region).

    For a multi-Region key, one of the regions where it is Enabled.
    """
    at_home = exists().where(
        token_object.c.material == material.c.id,
        token_object.c.token_id == token_id,
        token_object.c.status == ObjectStatus.PRESENT,
    )
    query = (
        select(key.c.key_id, func.min(regional_key.c.region).label("region"))
        .select_from(key.join(regional_key).join(material, material.c.key_id == key.c.key_id))
        .where(
            material.c.state == MaterialState.CURRENT,
            ~at_home,
            _ROTATES_NOW,
        )
        .group_by(key.c.key_id)
        .order_by(key.c.key_id)
    )
    return [(row.key_id, row.region) for row in conn.execute(query)]


def unfinished(conn: Connection, key_id: str | None = None) -> list[Unfinished]:
    """Return the unfinished backing keys of all live keys (or of one key), oldest first."""
    query: Select[Any] = (
        select(
            material.c.key_id,
            regional_key.c.region,
            token_object.c.token_id,
            token_object.c.cka_id,
            token_object.c.label,
            material.c.material_id,
            token_object.c.created_at,
            material.c.rotation_type,
        )
        .select_from(
            token_object.join(material, material.c.id == token_object.c.material)
            .join(key, key.c.key_id == material.c.key_id)
            .join(regional_key, (regional_key.c.key_id == key.c.key_id) & LEADING)
        )
        .where(
            token_object.c.status == ObjectStatus.INTENDED,
            token_object.c.purpose == ObjectPurpose.BACKING_KEY,
            regional_key.c.lifecycle == Lifecycle.LIVE,
        )
        .order_by(token_object.c.created_at)
    )
    if key_id is not None:
        query = query.where(material.c.key_id == key_id)
    return [
        Unfinished(
            key_id=row.key_id,
            region=row.region,
            token_id=row.token_id,
            cka_id=row.cka_id,
            label=row.label,
            material_id=row.material_id,
            created_at=row.created_at,
            rotation_type=RotationType(row.rotation_type) if row.rotation_type else None,
        )
        for row in conn.execute(query)
    ]


def next_sequence(conn: Connection, key_id: str) -> int:
    """Return the sequence of the next material, counting intents."""
    return (conn.scalar(select(func.max(material.c.sequence)).where(material.c.key_id == key_id)) or 0) + 1


def switch(tx: Connection, key_id: str, region: str, material_id: str, kind: RotationType, now: datetime) -> bool:
    """Make a pending material, or one whose object was just created, current in all regions of the key.

    False if it is not pending (any more), or if the key or the object is being destroyed.
    """
    row_id = tx.scalar(
        select(material.c.id)
        .select_from(
            material.join(token_object, token_object.c.material == material.c.id).join(
                regional_key, regional_key.c.key_id == material.c.key_id
            )
        )
        .where(
            material.c.key_id == key_id,
            material.c.material_id == material_id,
            material.c.state == MaterialState.PENDING_ROTATION,
            token_object.c.status.in_((ObjectStatus.INTENDED, ObjectStatus.PRESENT)),
            regional_key.c.region == region,
            regional_key.c.lifecycle == Lifecycle.LIVE,
        )
    )
    if row_id is None:
        return False
    keys.retire_materials(tx, key_id)
    tx.execute(
        material.update()
        .where(material.c.id == row_id)
        .values(state=MaterialState.CURRENT, rotation_date=now, rotation_type=kind)
    )
    tx.execute(
        token_object.update()
        .where(token_object.c.material == row_id, token_object.c.status == ObjectStatus.INTENDED)
        .values(status=ObjectStatus.PRESENT)
    )
    keys.touch_all(tx, key_id)
    return True


def drop(tx: Connection, token_id: str, cka_id: bytes) -> bool:
    """Remove the intent of a backing key that is not on the token; False if it is not intended any more.

    A material that has no other object is removed as well.
    """
    this = (token_object.c.token_id == token_id) & (token_object.c.cka_id == cka_id)
    row_id = tx.scalar(select(token_object.c.material).where(this, token_object.c.status == ObjectStatus.INTENDED))
    if row_id is None:
        return False
    keys.touch_users(tx, row_id)
    tx.execute(token_object.delete().where(this))
    keys.forget_unused_material(tx, row_id)
    return True
