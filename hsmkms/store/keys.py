"""Store KMS keys: intent and result of their creation, reads, and changes.

Every change gives the record a new version, which is the epoch of its row in the change log (optimistic locking). A
setter takes the version on which the caller based its decision; it returns False and changes nothing if the record has
another version by now: read it again and decide again. (A record read inside the same ``atomic`` cannot change.)
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Select, bindparam, case, exists, func, select, true

from hsmkms.model.enums import (
    ExpirationModel,
    KeyManager,
    KeySpec,
    KeyState,
    KeyUsage,
    MaterialState,
    Origin,
    RotationType,
)
from hsmkms.model.ids import key_arn
from hsmkms.model.records import KeyRecord, MaterialRecord, RotationSetting
from hsmkms.store import changes
from hsmkms.store.schema import (
    installation,
    key,
    material,
    material_presence,
    regional_key,
    rotation,
    tag,
    token_object,
)
from hsmkms.store.statuses import Lifecycle, ObjectPurpose, ObjectStatus

_SHARED: Final = ("spec", "usage", "origin", "manager", "multi_region", "primary_region")
_REGIONAL: Final = (
    *("key_id", "region", "state", "description", "policy", "creation_date", "version"),
    *("deletion_date", "pending_window_days"),
)
_MATERIAL: Final = (
    "id",
    "material_id",
    "sequence",
    "state",
    "created_at",
    "rotation_date",
    "rotation_type",
    "description",
    "host_unwrapped",
)


# Built once: building a statement takes longer than SQLite takes to run it, and each creation of a key runs these.
_KEY_COLUMNS: Final = (
    *("key_id", "spec", "usage", "origin", "manager"),
    *("multi_region", "creation_date", "primary_region"),
)
_NEW_MATERIAL_COLUMNS: Final = (
    *("material_id", "sequence", "state", "created_at"),
    *("rotation_date", "rotation_type", "description", "host_unwrapped"),
)
_INSERT_KEY: Final = key.insert()
_INSERT_REGIONAL_KEY: Final = regional_key.insert()
_INSERT_MATERIAL: Final = material.insert()
_INSERT_PRESENCE: Final = material_presence.insert()
_INSERT_OBJECT: Final = token_object.insert()
_REGIONS_OF: Final = select(regional_key.c.region).where(
    regional_key.c.key_id == bindparam("of"), regional_key.c.lifecycle != Lifecycle.DELETED
)
_MATERIALS: Final = select(material.c.id).where(material.c.key_id == bindparam("of_key"))
_RECORD: Final = (regional_key.c.key_id == bindparam("of_key"), regional_key.c.region == bindparam("of_region"))
_IS_DOOMED: Final = exists().where(
    token_object.c.material.in_(_MATERIALS), token_object.c.status == ObjectStatus.DESTROYING
)
_COMPLETE: Final = (
    regional_key.update()
    .where(*_RECORD, regional_key.c.lifecycle == Lifecycle.INTENDED, ~_IS_DOOMED)
    .values(lifecycle=Lifecycle.LIVE)
)
_COMPLETE_OBJECTS: Final = (
    token_object.update()
    .where(token_object.c.material.in_(_MATERIALS), token_object.c.status == ObjectStatus.INTENDED)
    .values(status=ObjectStatus.PRESENT)
)
_TOUCH: Final = regional_key.update().where(*_RECORD).values(version=bindparam("epoch"))


# -- creating a key ---------------------------------------------------------------------------------------------


def insert_intent(tx: Connection, record: KeyRecord, tags: Mapping[str, str], label: str) -> None:
    """Insert a new key, its materials and their token objects as intent, invisible until ``complete``.

    ``label`` is the CKA_LABEL of the token objects; ``record.version`` is not used.
    """
    new_key = {name: getattr(record, name) for name in _KEY_COLUMNS}
    tx.execute(_INSERT_KEY, new_key)
    new_regional_key = {
        "key_id": record.key_id,
        "region": record.region,
        "lifecycle": Lifecycle.INTENDED,
        "state": record.state,
        "description": record.description,
        "policy": record.policy,
        "creation_date": record.creation_date,
        "deletion_date": record.deletion_date,
        "pending_window_days": record.pending_window_days,
        "version": changes.note(tx, record.region, record.key_id),
    }
    tx.execute(_INSERT_REGIONAL_KEY, new_regional_key)
    for each in record.materials:
        _insert_material(tx, record.key_id, each, label, ObjectStatus.INTENDED)
    insert_tags(tx, record.key_id, record.region, tags)


def insert_tags(tx: Connection, key_id: str, region: str, tags: Mapping[str, str]) -> None:
    """Insert the tags of a new key."""
    rows = [{"key_id": key_id, "region": region, "tag_key": name, "tag_value": value} for name, value in tags.items()]
    if rows:
        tx.execute(tag.insert(), rows)


def complete(tx: Connection, key_id: str, region: str, state: KeyState | None = None) -> bool:
    """Record the result of an intent: the key is live, its intended objects are on the token.

    False if the intent does not exist (any more), or if its object is being destroyed. ``state`` replaces the intended
    state.
    """
    intended = _COMPLETE if state is None else _COMPLETE.values(state=state)
    if not tx.execute(intended, {"of_key": key_id, "of_region": region}).rowcount:
        return False
    tx.execute(_COMPLETE_OBJECTS, {"of_key": key_id})
    touch(tx, key_id, region)
    return True


def hand_over(tx: Connection, key_id: str) -> None:
    """Make the key customer-managed."""
    tx.execute(key.update().where(key.c.key_id == key_id).values(manager=KeyManager.CUSTOMER))


def drop_intent(tx: Connection, key_id: str, region: str) -> bool:
    """Remove all rows of a failed intent; False if there is none (a live key stays as it is)."""
    query = select(regional_key.c.lifecycle).where(regional_key.c.key_id == key_id, regional_key.c.region == region)
    if tx.scalar(query) != Lifecycle.INTENDED:
        return False
    changes.note(tx, region, key_id)
    for table in (tag, material_presence, regional_key):
        tx.execute(table.delete().where(table.c.key_id == key_id, table.c.region == region))
    if not tx.scalar(select(exists().where(regional_key.c.key_id == key_id))):
        tx.execute(token_object.delete().where(token_object.c.material.in_(_materials_of(key_id))))
        tx.execute(material.delete().where(material.c.key_id == key_id))
        tx.execute(key.delete().where(key.c.key_id == key_id))
    return True


def insert_material(
    tx: Connection, key_id: str, new: MaterialRecord, label: str, status: ObjectStatus = ObjectStatus.INTENDED
) -> None:
    """Add a material and its token object to an existing key, in all its regions."""
    _insert_material(tx, key_id, new, label, status)
    touch_all(tx, key_id)


def retire_materials(tx: Connection, key_id: str) -> None:
    """Mark a key's current material as non-current; its successor is written in the same transaction."""
    tx.execute(
        material.update()
        .where(material.c.key_id == key_id, material.c.state == MaterialState.CURRENT)
        .values(state=MaterialState.NON_CURRENT)
    )


def forget_unused_material(tx: Connection, row_id: int | None) -> None:
    """Remove a material's row (by its row id) if no token object refers to it any more."""
    if row_id is None or tx.scalar(select(exists().where(token_object.c.material == row_id))):
        return
    tx.execute(material_presence.delete().where(material_presence.c.material == row_id))
    tx.execute(material.delete().where(material.c.id == row_id))


def _insert_material(tx: Connection, key_id: str, new: MaterialRecord, label: str, status: ObjectStatus) -> None:
    new_material = {"key_id": key_id} | {name: getattr(new, name) for name in _NEW_MATERIAL_COLUMNS}
    row_id: int = tx.execute(_INSERT_MATERIAL, new_material).inserted_primary_key[0]  # type: ignore[index]  # of one row
    presence = {
        "key_id": key_id,
        "material": row_id,
        "present": new.present,
        "expiration_model": new.expiration_model,
        "valid_to": new.valid_to,
    }
    regions = tx.scalars(_REGIONS_OF, {"of": key_id})
    tx.execute(_INSERT_PRESENCE, [presence | {"region": each} for each in regions])
    new_object = {
        "token_id": new.token_id,
        "cka_id": new.cka_id,
        "material": row_id,
        "purpose": ObjectPurpose.BACKING_KEY,
        "status": status,
        "label": label,
        "created_at": new.created_at,
    }
    tx.execute(_INSERT_OBJECT, new_object)


# -- reading ----------------------------------------------------------------------------------------------------


def fetch(conn: Connection, region: str, key_id: str, token_id: str | None = None) -> KeyRecord | None:
    """Return a live key with its materials ordered by sequence, or None.

    Of several objects of a material the one chosen is, in this order: one that is present, one on ``token_id``, the
    oldest. A material whose objects are all still intended is left out.
    """
    query = _select_keys(region).where(regional_key.c.key_id == key_id)
    row = conn.execute(query).one_or_none()
    return None if row is None else key_record(row, _fetch_materials(conn, region, key_id, token_id))


def every(conn: Connection, region: str, token_id: str | None = None) -> Iterator[KeyRecord]:
    """Yield all live keys of the region by id, as ``fetch`` returns them, with two queries."""
    materials: dict[str, dict[int, MaterialRecord]] = {}
    for row in conn.execute(_select_materials(region, token_id)):
        materials.setdefault(row.key_id, {}).setdefault(row.id, material_record(row))
    for row in conn.execute(_select_keys(region).order_by(regional_key.c.key_id)):
        yield key_record(row, tuple(materials.get(row.key_id, {}).values()))


def exists_anywhere(conn: Connection, key_id: str) -> bool:
    """Return True if the key id is taken: in any region, by an intent, a live key, or a deleted one."""
    return bool(conn.scalar(select(exists().where(key.c.key_id == key_id))))


def page(conn: Connection, region: str, after: str | None, limit: int) -> list[str]:
    """Return at most ``limit`` ids of live keys in the region that follow ``after``, in order."""
    query = (
        select(regional_key.c.key_id)
        .where(
            regional_key.c.region == region,
            regional_key.c.key_id > (after or ""),
            regional_key.c.lifecycle == Lifecycle.LIVE,
        )
        .order_by(regional_key.c.key_id)
        .limit(limit)
    )
    return list(conn.scalars(query))


def _select_keys(region: str) -> Select[Any]:
    member = regional_key.alias()
    regions = select(func.aggregate_strings(member.c.region, " ")).where(
        member.c.key_id == key.c.key_id, member.c.lifecycle == Lifecycle.LIVE
    )
    return (
        select(
            *(regional_key.c[name] for name in _REGIONAL),
            *(key.c[name] for name in _SHARED),
            case((key.c.multi_region, regions.scalar_subquery())).label("regions"),
            installation.c.account,
            rotation.c.anchor,
            rotation.c.period_days,
        )
        .select_from(
            regional_key.join(key).join(installation, true()).outerjoin(rotation, rotation.c.key_id == key.c.key_id)
        )
        .where(regional_key.c.region == region, regional_key.c.lifecycle == Lifecycle.LIVE)
    )


def _fetch_materials(conn: Connection, region: str, key_id: str, token_id: str | None) -> tuple[MaterialRecord, ...]:
    query = _select_materials(region, token_id).where(material.c.key_id == key_id)
    chosen: dict[int, MaterialRecord] = {}
    for row in conn.execute(query):
        if row.id not in chosen:
            chosen[row.id] = material_record(row)
    return tuple(chosen.values())


def _select_materials(region: str, token_id: str | None) -> Select[Any]:
    """Select the materials of a region; the first row of each material is the one that ``fetch`` uses."""
    return (
        select(
            *(material.c[name] for name in _MATERIAL),
            material.c.key_id,
            material_presence.c.present,
            material_presence.c.expiration_model,
            material_presence.c.valid_to,
            token_object.c.token_id,
            token_object.c.cka_id,
            token_object.c.status,
        )
        .select_from(material.join(material_presence).join(token_object, token_object.c.material == material.c.id))
        .where(material_presence.c.region == region, token_object.c.status != ObjectStatus.INTENDED)
        .order_by(
            material.c.sequence,
            case((token_object.c.status == ObjectStatus.PRESENT, 0), else_=1),
            case((token_object.c.token_id == token_id, 0), else_=1),
            token_object.c.created_at,
            token_object.c.cka_id,
        )
    )


def key_record(row: Any, materials: tuple[MaterialRecord, ...]) -> KeyRecord:  # noqa: ANN401 - a row, or a namespace
    """Build the record of a row of ``fetch``, with its materials."""
    return KeyRecord(
        key_id=row.key_id,
        region=row.region,
        arn=key_arn(row.account, row.region, row.key_id),
        spec=KeySpec(row.spec),
        usage=KeyUsage(row.usage),
        origin=Origin(row.origin),
        manager=KeyManager(row.manager),
        multi_region=row.multi_region,
        state=KeyState(row.state),
        description=row.description,
        policy=row.policy,
        creation_date=row.creation_date,
        version=row.version,
        deletion_date=row.deletion_date,
        pending_window_days=row.pending_window_days,
        rotation=RotationSetting(anchor=row.anchor, period_days=row.period_days) if row.anchor else None,
        materials=materials,
        primary_region=row.primary_region,
        regions=tuple(sorted((row.regions or "").split())),
    )


def material_record(row: Any) -> MaterialRecord:  # noqa: ANN401 - as above
    """Build the record of a material, its presence in a region and one of its objects."""
    return MaterialRecord(
        material_id=row.material_id,
        sequence=row.sequence,
        state=MaterialState(row.state),
        created_at=row.created_at,
        token_id=row.token_id,
        cka_id=row.cka_id,
        present=row.present and row.status == ObjectStatus.PRESENT,
        expiration_model=ExpirationModel(row.expiration_model) if row.expiration_model else None,
        valid_to=row.valid_to,
        rotation_date=row.rotation_date,
        rotation_type=RotationType(row.rotation_type) if row.rotation_type else None,
        description=row.description,
        host_unwrapped=row.host_unwrapped,
    )


# -- changing ---------------------------------------------------------------------------------------------------


def set_state(tx: Connection, key_id: str, region: str, state: KeyState, expected_version: int) -> bool:
    """Replace the stored state; False if the record is not live in that version."""
    return _set(tx, key_id, region, expected_version, state=state)


def schedule_deletion(
    tx: Connection,
    key_id: str,
    region: str,
    state: KeyState,
    date: datetime | None,
    window_days: int,
    expected_version: int,
) -> bool:
    """Set state, window and date of a deletion (None: not known yet); False if not live in that version."""
    return _set(tx, key_id, region, expected_version, state=state, deletion_date=date, pending_window_days=window_days)


def cancel_deletion(tx: Connection, key_id: str, region: str, state: KeyState, expected_version: int) -> bool:
    """Remove the deletion date; False if the record is not live in that version."""
    return _set(tx, key_id, region, expected_version, state=state, deletion_date=None, pending_window_days=None)


def set_description(tx: Connection, key_id: str, region: str, description: str, expected_version: int) -> bool:
    """Replace the description; False if the record is not live in that version."""
    return _set(tx, key_id, region, expected_version, description=description)


def set_policy(tx: Connection, key_id: str, region: str, policy: str, expected_version: int) -> bool:
    """Replace the key policy; False if the record is not live in that version."""
    return _set(tx, key_id, region, expected_version, policy=policy)


def rewrite_policy(tx: Connection, key_id: str, region: str, policy: str) -> None:
    """Replace the policy of a live or intended key, whatever its version."""
    tx.execute(_of(regional_key.update(), key_id, region).values(policy=policy))
    touch(tx, key_id, region)


def touch(tx: Connection, key_id: str, region: str) -> None:
    """Give the record a new version, after a change of data that belongs to it in this region only."""
    epoch = changes.note(tx, region, key_id)
    tx.execute(_TOUCH, {"of_key": key_id, "of_region": region, "epoch": epoch})


def touch_users(tx: Connection, row_id: int) -> None:
    """Give new versions to the records, in all regions, of the key that a material (by its row id) belongs to."""
    key_id = tx.scalar(select(material.c.key_id).where(material.c.id == row_id))
    if key_id is not None:
        touch_all(tx, key_id)


def touch_all(tx: Connection, key_id: str) -> None:
    """Give the key's records in all regions new versions, after a change of data that they share."""
    for region in tx.scalars(select(regional_key.c.region).where(regional_key.c.key_id == key_id)).all():
        touch(tx, key_id, region)


def _set(tx: Connection, key_id: str, region: str, expected_version: int, **values: object) -> bool:
    changed = tx.execute(
        _of(regional_key.update(), key_id, region)
        .where(regional_key.c.version == expected_version, regional_key.c.lifecycle == Lifecycle.LIVE)
        .values(**values)
    )
    if not changed.rowcount:
        return False
    touch(tx, key_id, region)
    return True


def _of(statement: Any, key_id: str, region: str) -> Any:  # noqa: ANN401 - an update or a delete
    return statement.where(regional_key.c.key_id == key_id, regional_key.c.region == region)


def _materials_of(key_id: str) -> Any:  # noqa: ANN401 - a subquery
    return select(material.c.id).where(material.c.key_id == key_id)
