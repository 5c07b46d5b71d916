"""Store imported material: import, loss, and the wrapping keys used for import.

A material row stays for the life of its key: a later import must equal it. Each import marks it present and adds a
token object; a loss clears that mark and has the object destroyed.
"""

from datetime import datetime
from typing import Final

from msgspec import Struct
from sqlalchemy import Connection, exists, func, select

from hsmkms.model.enums import ExpirationModel, MaterialState
from hsmkms.store import keys
from hsmkms.store.schema import material, material_presence, regional_key, token_object, wrapping_key
from hsmkms.store.statuses import Lifecycle, ObjectPurpose, ObjectStatus

PENDING: Final = (MaterialState.PENDING_ROTATION, MaterialState.PENDING_MULTI_REGION_IMPORT_AND_ROTATION)
"""States of material that waits for its rotation: all regions of the key have it, or at least one lacks it."""


class WrappingKeyRow(Struct, frozen=True, kw_only=True):
    """A wrapping key of a KMS key. ``status``: last recorded status of its token object.

    ``made_by``: the ARN of the principal that requested it; None for one created before that was recorded.
    """

    token_id: str
    cka_id: bytes
    key_id: str
    region: str
    created_at: datetime
    valid_to: datetime
    used_at: datetime | None
    made_by: str | None
    status: ObjectStatus


# -- material ---------------------------------------------------------------------------------------------------


def insert_object(
    tx: Connection, key_id: str, region: str, material_id: str, token_id: str, cka_id: bytes, label: str, now: datetime
) -> None:
    """Insert the intent of a further token object for an existing material."""
    tx.execute(
        token_object.insert().values(
            token_id=token_id,
            cka_id=cka_id,
            material=select(material.c.id).where(material.c.material_id == material_id).scalar_subquery(),
            purpose=ObjectPurpose.BACKING_KEY,
            status=ObjectStatus.INTENDED,
            label=label,
            created_at=now,
        )
    )
    keys.touch(tx, key_id, region)


def arrive(tx: Connection, token_id: str, cka_id: bytes) -> bool:
    """Record that an intended object is on the token; False if it is not intended any more."""
    return bool(
        tx.execute(
            token_object.update()
            .where(
                token_object.c.token_id == token_id,
                token_object.c.cka_id == cka_id,
                token_object.c.status == ObjectStatus.INTENDED,
            )
            .values(status=ObjectStatus.PRESENT)
        ).rowcount
    )


def set_present(
    tx: Connection,
    key_id: str,
    region: str,
    material_id: str,
    model: ExpirationModel,
    valid_to: datetime | None,
    description: str | None,
    *,
    host_unwrapped: bool,
) -> None:
    """Mark the material as present, until ``valid_to`` if given; a description of None keeps the old one.

    Material that once passed through this process in the clear stays marked so.
    """
    of_this = material.c.material_id == material_id
    tx.execute(
        material_presence.update()
        .where(
            material_presence.c.key_id == key_id,
            material_presence.c.region == region,
            material_presence.c.material == select(material.c.id).where(of_this).scalar_subquery(),
        )
        .values(present=True, expiration_model=model, valid_to=valid_to)
    )
    if description is not None:
        tx.execute(material.update().where(of_this).values(description=description))
    if host_unwrapped:
        tx.execute(material.update().where(of_this).values(host_unwrapped=True))
    settle_pending(tx, key_id)
    keys.touch_all(tx, key_id)


def is_on_token(conn: Connection, material_id: str) -> bool:
    """Return True if an object of the material is present, for any region."""
    there = exists().where(
        token_object.c.material == material.c.id,
        material.c.material_id == material_id,
        token_object.c.status == ObjectStatus.PRESENT,
    )
    return bool(conn.scalar(select(there)))


def lose(tx: Connection, key_id: str, region: str, material_id: str) -> None:
    """Mark the material as lost in this region, and its objects for destruction if no other region uses it."""
    row_id = select(material.c.id).where(material.c.material_id == material_id).scalar_subquery()
    of_this = material_presence.c.material == row_id
    tx.execute(
        material_presence.update()
        .where(of_this, material_presence.c.key_id == key_id, material_presence.c.region == region)
        .values(present=False, expiration_model=None, valid_to=None)
    )
    let_go(tx, key_id)
    keys.touch_all(tx, key_id)


def forget_region(tx: Connection, key_id: str, region: str) -> None:
    """Remove a deleted regional key's presences. The caller gives the records new versions."""
    tx.execute(
        material_presence.delete().where(material_presence.c.key_id == key_id, material_presence.c.region == region)
    )
    let_go(tx, key_id)


def let_go(tx: Connection, key_id: str) -> None:
    """Mark a key's unused objects for destruction, and update which regions lack material that waits for rotation."""
    used = exists().where(material_presence.c.material == token_object.c.material, material_presence.c.present)
    tx.execute(
        token_object.update()
        .where(
            token_object.c.material.in_(select(material.c.id).where(material.c.key_id == key_id)),
            token_object.c.status == ObjectStatus.PRESENT,
            ~used,
        )
        .values(status=ObjectStatus.DESTROYING)
    )
    settle_pending(tx, key_id)


def settle_pending(tx: Connection, key_id: str) -> None:
    """Update the state of material that waits for its rotation: whether all regions of the key have it."""
    lacking = exists().where(material_presence.c.material == material.c.id, ~material_presence.c.present)
    waiting = material.update().where(material.c.key_id == key_id, material.c.state.in_(PENDING))
    for state, which in zip(PENDING, (~lacking, lacking), strict=True):
        tx.execute(waiting.where(which).values(state=state))


def doom(tx: Connection, token_id: str, cka_id: bytes) -> None:
    """Mark an object for destruction; its material is removed if it has no other object, so was never completed."""
    this = (token_object.c.token_id == token_id) & (token_object.c.cka_id == cka_id)
    row_id = tx.scalar(select(token_object.c.material).where(this))
    if row_id is None:
        return
    keys.touch_users(tx, row_id)
    others = tx.scalar(select(func.count()).where(token_object.c.material == row_id, ~this))
    tx.execute(token_object.update().where(this).values(status=ObjectStatus.DESTROYING))
    if not others:
        tx.execute(token_object.update().where(this).values(material=None))
        keys.forget_unused_material(tx, row_id)


def forget_pending(tx: Connection, material_id: str) -> None:
    """Remove a material that waited for its rotation and never was current, so that another one can be imported.

    It is removed from all regions. Rows of its objects stay without it until the objects are destroyed.
    """
    row_id = tx.scalar(select(material.c.id).where(material.c.material_id == material_id))
    if row_id is None:
        return
    keys.touch_users(tx, row_id)
    of_this = token_object.update().where(token_object.c.material == row_id)
    tx.execute(of_this.where(token_object.c.status == ObjectStatus.PRESENT).values(status=ObjectStatus.DESTROYING))
    tx.execute(of_this.values(material=None))
    keys.forget_unused_material(tx, row_id)


def first_expiry(conn: Connection) -> datetime | None:
    """Return the earliest expiry of a present material of a live key, or None."""
    query = select(func.min(material_presence.c.valid_to)).select_from(material_presence.join(regional_key))
    present = query.where(material_presence.c.present, regional_key.c.lifecycle == Lifecycle.LIVE)
    earliest: datetime | None = conn.scalar(present)
    return earliest


def expired(conn: Connection, now: datetime) -> list[tuple[str, str]]:
    """Return the keys, as (key id, region), with expired material that is still marked present."""
    query = (
        select(material_presence.c.key_id, material_presence.c.region)
        .select_from(material_presence.join(regional_key))
        .where(
            material_presence.c.present,
            material_presence.c.valid_to <= now,
            regional_key.c.lifecycle == Lifecycle.LIVE,
        )
        .distinct()
        .order_by(material_presence.c.key_id, material_presence.c.region)
    )
    return [(row.key_id, row.region) for row in conn.execute(query)]


# -- wrapping keys ----------------------------------------------------------------------------------------------


def insert_wrapping_key(tx: Connection, row: WrappingKeyRow, label: str) -> None:
    """Insert a wrapping key and its token object with the status of ``row``."""
    tx.execute(
        token_object.insert().values(
            token_id=row.token_id,
            cka_id=row.cka_id,
            purpose=ObjectPurpose.WRAPPING_KEY,
            status=row.status,
            label=label,
            created_at=row.created_at,
        )
    )
    tx.execute(
        wrapping_key.insert().values(
            token_id=row.token_id,
            cka_id=row.cka_id,
            key_id=row.key_id,
            region=row.region,
            valid_to=row.valid_to,
            used_at=row.used_at,
            made_by=row.made_by,
        )
    )


def wrapping_keys(conn: Connection) -> list[WrappingKeyRow]:
    """Return all wrapping keys that are, or may be, on a token, oldest first."""
    query = (
        select(
            wrapping_key.c.token_id,
            wrapping_key.c.cka_id,
            wrapping_key.c.key_id,
            wrapping_key.c.region,
            token_object.c.created_at,
            wrapping_key.c.valid_to,
            wrapping_key.c.used_at,
            wrapping_key.c.made_by,
            token_object.c.status,
        )
        .select_from(wrapping_key.join(token_object))
        .order_by(token_object.c.created_at, wrapping_key.c.cka_id)
    )
    return [
        WrappingKeyRow(
            token_id=row.token_id,
            cka_id=row.cka_id,
            key_id=row.key_id,
            region=row.region,
            created_at=row.created_at,
            valid_to=row.valid_to,
            used_at=row.used_at,
            made_by=row.made_by,
            status=ObjectStatus(row.status),
        )
        for row in conn.execute(query)
    ]


def doom_wrapping_key(tx: Connection, token_id: str, cka_id: bytes) -> None:
    """Mark a wrapping key for destruction."""
    this = (token_object.c.token_id == token_id) & (token_object.c.cka_id == cka_id)
    tx.execute(token_object.update().where(this).values(status=ObjectStatus.DESTROYING))


def set_used(tx: Connection, token_id: str, cka_id: bytes, now: datetime) -> None:
    """Record that a wrapping key was used: used ones are destroyed first when room is needed."""
    this = (wrapping_key.c.token_id == token_id) & (wrapping_key.c.cka_id == cka_id)
    tx.execute(wrapping_key.update().where(this).values(used_at=now))


def forget_wrapping_key(tx: Connection, token_id: str, cka_id: bytes) -> None:
    """Remove the rows of a wrapping key that is no longer on the token."""
    for table in (wrapping_key, token_object):
        tx.execute(table.delete().where(table.c.token_id == token_id, table.c.cka_id == cka_id))
