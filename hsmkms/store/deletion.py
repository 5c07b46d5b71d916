"""Delete keys: find due deletions, write tombstones, and mark token objects for destruction.

A deletion is one transaction: the key's record becomes a tombstone that is never shown, its aliases, tags, grants and
settings are removed, and its objects are marked for destruction. Destroying them on the token can be retried until it
succeeds.
"""

from datetime import datetime
from typing import Final

from msgspec import Struct
from sqlalchemy import Connection, exists, func, select

from hsmkms.model.enums import KeyState
from hsmkms.store import changes, keys, materials
from hsmkms.store.schema import (
    alias,
    installation,
    installation_key,
    key,
    key_grant,
    material,
    regional_key,
    rotation,
    tag,
    token_object,
    wrapping_key,
)
from hsmkms.store.statuses import Lifecycle, ObjectPurpose, ObjectStatus

_GOING: Final = (ObjectStatus.INTENDED, ObjectStatus.PRESENT)


class Doomed(Struct, frozen=True, kw_only=True):
    """An object marked for destruction. ``key_id`` is None if it no longer belongs to a key."""

    token_id: str
    cka_id: bytes
    purpose: ObjectPurpose
    key_id: str | None
    material_id: str | None


def due(conn: Connection, now: datetime) -> list[tuple[str, str]]:
    """Return the keys whose waiting period is over, as (key id, region), the longest overdue first."""
    query = (
        select(regional_key.c.key_id, regional_key.c.region)
        .where(
            regional_key.c.lifecycle == Lifecycle.LIVE,
            regional_key.c.state == KeyState.PENDING_DELETION,
            regional_key.c.deletion_date <= now,
        )
        .order_by(regional_key.c.deletion_date, regional_key.c.key_id)
    )
    return [(row.key_id, row.region) for row in conn.execute(query)]


def postpone(tx: Connection, until: datetime, date: datetime) -> list[tuple[str, str]]:
    """Set the end of each waiting period that ends by ``until`` to ``date``; return the keys, as (key id, region)."""
    rows = due(tx, until)
    for key_id, region in rows:
        of_key = (regional_key.c.key_id == key_id) & (regional_key.c.region == region)
        tx.execute(regional_key.update().where(of_key).values(deletion_date=date))
        keys.touch(tx, key_id, region)
    return rows


def first(conn: Connection) -> datetime | None:
    """Return the earliest end of a waiting period, or None."""
    query = select(func.min(regional_key.c.deletion_date))
    waiting = query.where(regional_key.c.lifecycle == Lifecycle.LIVE, regional_key.c.state == KeyState.PENDING_DELETION)
    earliest: datetime | None = conn.scalar(waiting)
    return earliest


def bury(tx: Connection, key_id: str, region: str) -> None:
    """Make the record a tombstone and mark its objects for destruction, unless another region still uses them."""
    names = tx.scalars(select(alias.c.name).where(alias.c.key_id == key_id, alias.c.region == region)).all()
    tx.execute(alias.delete().where(alias.c.key_id == key_id, alias.c.region == region))
    for name in names:
        changes.note(tx, region, name)
    for table in (tag, key_grant):
        tx.execute(table.delete().where(table.c.key_id == key_id, table.c.region == region))
    in_region = (regional_key.c.key_id == key_id) & (regional_key.c.region == region)
    tx.execute(regional_key.update().where(in_region).values(lifecycle=Lifecycle.DELETED, description=""))
    _doom_wrapping_keys(tx, key_id, region)
    materials.forget_region(tx, key_id, region)
    still_used = exists().where(regional_key.c.key_id == key_id, regional_key.c.lifecycle != Lifecycle.DELETED)
    if not tx.scalar(select(still_used)):
        tx.execute(rotation.delete().where(rotation.c.key_id == key_id))
        of_key = select(material.c.id).where(material.c.key_id == key_id)
        tx.execute(
            token_object.update()
            .where(token_object.c.material.in_(of_key), token_object.c.status.in_(_GOING))
            .values(status=ObjectStatus.DESTROYING)
        )
    keys.touch_all(tx, key_id)


def _doom_wrapping_keys(tx: Connection, key_id: str, region: str) -> None:
    of_key = select(wrapping_key.c.cka_id).where(wrapping_key.c.key_id == key_id, wrapping_key.c.region == region)
    tx.execute(
        token_object.update()
        .where(token_object.c.purpose == ObjectPurpose.WRAPPING_KEY, token_object.c.cka_id.in_(of_key))
        .values(status=ObjectStatus.DESTROYING)
    )


# -- destruction ------------------------------------------------------------------------------------------------


def doomed(conn: Connection) -> list[Doomed]:
    """Return the objects on all tokens to be destroyed, oldest first, except those of unfinished keys (reconcile's)."""
    of_intent = exists().where(
        regional_key.c.key_id == material.c.key_id, regional_key.c.lifecycle == Lifecycle.INTENDED
    )
    query = (
        select(
            token_object.c.token_id,
            token_object.c.cka_id,
            token_object.c.purpose,
            func.coalesce(material.c.key_id, wrapping_key.c.key_id).label("key_id"),
            material.c.material_id,
        )
        .select_from(
            token_object.outerjoin(material, material.c.id == token_object.c.material).outerjoin(
                wrapping_key,
                (wrapping_key.c.token_id == token_object.c.token_id) & (wrapping_key.c.cka_id == token_object.c.cka_id),
            )
        )
        .where(
            token_object.c.status == ObjectStatus.DESTROYING,
            ~of_intent,
        )
        .order_by(token_object.c.created_at, token_object.c.cka_id)
    )
    return [
        Doomed(
            token_id=row.token_id,
            cka_id=row.cka_id,
            purpose=ObjectPurpose(row.purpose),
            key_id=row.key_id,
            material_id=row.material_id,
        )
        for row in conn.execute(query)
    ]


def newest_instant(conn: Connection) -> datetime | None:
    """Return the latest recorded date; the clock must not be far behind it.

    Dates that are planned in advance (deletion, expiry) do not count.
    """
    columns = (
        installation.c.created_at,
        installation_key.c.created_at,
        key.c.creation_date,
        regional_key.c.creation_date,
        material.c.created_at,
        material.c.rotation_date,
        rotation.c.anchor,
        token_object.c.created_at,
        alias.c.last_updated_date,
        key_grant.c.creation_date,
    )
    newest = (conn.scalar(select(func.max(column))) for column in columns)
    return max((each for each in newest if each is not None), default=None)
