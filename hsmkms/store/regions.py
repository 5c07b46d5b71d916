"""Store the regions of keys: replicas of multi-Region keys, which of them is the primary key, and counts.

Shared data is stored once (key, materials, token objects); a replica is a further regional key, with one row per
material that says whether the region has it. So replicating or moving the primary key is one transaction.
"""

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection, func, literal, select

from hsmkms.model.enums import Origin
from hsmkms.model.records import KeyRecord
from hsmkms.store import changes, keys, materials, upserts
from hsmkms.store.schema import key, material, material_presence, regional_key
from hsmkms.store.statuses import Lifecycle

LEADING: Final = key.c.primary_region.is_(None) | (key.c.primary_region == regional_key.c.region)
"""Condition that selects one region per key: its only one, or that of the primary key."""


def in_use(conn: Connection) -> list[str]:
    """Return the regions with keys that are not deleted, sorted."""
    query = select(regional_key.c.region).where(regional_key.c.lifecycle != Lifecycle.DELETED).distinct()
    return sorted(conn.execute(query).scalars())


def insert_replica(tx: Connection, record: KeyRecord, tags: Mapping[str, str]) -> None:
    """Add a live regional key to a multi-Region key, replacing an earlier deleted one in the region.

    Generated materials are present at once, imported ones must be imported. ``record.version`` is not used.
    """
    values = {
        "lifecycle": Lifecycle.LIVE,
        "state": record.state,
        "description": record.description,
        "policy": record.policy,
        "creation_date": record.creation_date,
        "deletion_date": None,
        "pending_window_days": None,
        "version": changes.note(tx, record.region, record.key_id),
    }
    upserts.put(tx, regional_key, [{"key_id": record.key_id, "region": record.region, **values}])
    generated = literal(record.origin is Origin.AWS_KMS)
    known = select(material.c.key_id, literal(record.region), material.c.id, generated)
    tx.execute(
        material_presence.insert().from_select(
            ["key_id", "region", "material", "present"], known.where(material.c.key_id == record.key_id)
        )
    )
    keys.insert_tags(tx, record.key_id, record.region, tags)
    materials.settle_pending(tx, record.key_id)
    keys.touch_all(tx, record.key_id)


def primary_region(conn: Connection, key_id: str) -> str | None:
    """Return the region of a multi-Region key's primary key; None for other keys, and for unknown ones."""
    region: str | None = conn.scalar(select(key.c.primary_region).where(key.c.key_id == key_id))
    return region


def set_primary(tx: Connection, key_id: str, region: str) -> None:
    """Make the replica in the region the primary key, and the primary key a replica."""
    tx.execute(key.update().where(key.c.key_id == key_id).values(primary_region=region))
    keys.touch_all(tx, key_id)


def count_by_state(conn: Connection) -> dict[str, int]:
    """Count the live keys of each stored state, over all regions."""
    query = select(regional_key.c.state, func.count()).where(regional_key.c.lifecycle == Lifecycle.LIVE)
    return {row[0]: row[1] for row in conn.execute(query.group_by(regional_key.c.state))}
