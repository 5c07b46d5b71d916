"""Store which objects should be on the tokens, and which unacknowledged ones (orphans) were seen there."""

from datetime import datetime
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, Row, Select, select

from hsmkms.store import keys, upserts
from hsmkms.store.regions import LEADING
from hsmkms.store.schema import key, material, orphan, regional_key, token_object
from hsmkms.store.statuses import Lifecycle, ObjectPurpose, ObjectStatus


class BackingObject(Struct, frozen=True, kw_only=True):
    """The row of a backing key's token object.

    ``region`` is the key's only region, or that of the primary key, ``lifecycle`` the key's there, and ``status`` the
    last recorded status of the object.
    """

    token_id: str
    cka_id: bytes
    status: ObjectStatus
    label: str
    created_at: datetime
    key_id: str
    region: str
    lifecycle: Lifecycle
    sequence: int
    material_id: str


def all_of_token(conn: Connection, token_id: str) -> dict[bytes, BackingObject]:
    """Return every row of a token by CKA_ID, whatever its status, oldest first."""
    return {row.cka_id: _object(row) for row in conn.execute(_select(token_id))}


def fetch(conn: Connection, token_id: str, cka_id: bytes) -> BackingObject | None:
    """Return the row of an object, whatever its status, or None."""
    row = conn.execute(_select(token_id).where(token_object.c.cka_id == cka_id)).one_or_none()
    return None if row is None else _object(row)


def present(conn: Connection) -> list[tuple[str, bytes, str, ObjectPurpose, str | None]]:
    """Return the objects recorded as present: token, CKA_ID, label, purpose, key id (None for a wrapping key)."""
    query = (
        select(
            token_object.c.token_id,
            token_object.c.cka_id,
            token_object.c.label,
            token_object.c.purpose,
            material.c.key_id,
        )
        .select_from(token_object.outerjoin(material, material.c.id == token_object.c.material))
        .where(token_object.c.status == ObjectStatus.PRESENT)
        .order_by(token_object.c.created_at, token_object.c.cka_id)
    )
    return [
        (row.token_id, row.cka_id, row.label, ObjectPurpose(row.purpose), row.key_id) for row in conn.execute(query)
    ]


def standing_ids(conn: Connection, token_id: str) -> list[bytes]:
    """Return the CKA_ID of each object of a token that is not destroyed yet, intents included."""
    query = select(token_object.c.cka_id).where(
        token_object.c.token_id == token_id, token_object.c.status != ObjectStatus.DESTROYED
    )
    return list(conn.execute(query).scalars())


def standing(conn: Connection, token_id: str) -> list[tuple[ObjectPurpose, ObjectStatus]]:
    """Return purpose and status of each object of a token that is not destroyed yet."""
    query = select(token_object.c.purpose, token_object.c.status).where(
        token_object.c.token_id == token_id, token_object.c.status != ObjectStatus.DESTROYED
    )
    return [(ObjectPurpose(row.purpose), ObjectStatus(row.status)) for row in conn.execute(query)]


def end_all(tx: Connection, token_id: str) -> None:
    """Record a token's objects that are marked for destruction as destroyed: the token is being left as it is."""
    doomed = (token_object.c.token_id == token_id) & (token_object.c.status == ObjectStatus.DESTROYING)
    tx.execute(token_object.update().where(doomed).values(status=ObjectStatus.DESTROYED))


def move_ended(tx: Connection, token_id: str, home_id: str) -> None:
    """Move the rows of a token's destroyed objects to the home token, because the token is being forgotten.

    A material keeps a row of an object even if that is destroyed: re-imported material must equal it.
    """
    ended = (token_object.c.token_id == token_id) & (token_object.c.status == ObjectStatus.DESTROYED)
    for row_id in tx.scalars(select(token_object.c.material).where(ended)).all():
        keys.touch_users(tx, row_id)
    tx.execute(token_object.update().where(ended).values(token_id=home_id))
    tx.execute(orphan.delete().where(orphan.c.token_id == token_id))


def set_status(tx: Connection, token_id: str, cka_id: bytes, status: ObjectStatus) -> bool:
    """Set an object's status; the key gets a new version in all its regions. False: no such row."""
    this = (token_object.c.token_id == token_id) & (token_object.c.cka_id == cka_id)
    if not tx.execute(token_object.update().where(this).values(status=status)).rowcount:
        return False
    row_id = tx.scalar(select(token_object.c.material).where(this))
    if row_id is not None:
        keys.touch_users(tx, row_id)
    return True


# -- objects that are to be removed ------------------------------------------------------------------------------


def doom(tx: Connection, token_id: str, cka_id: bytes, label: str, now: datetime) -> None:
    """Mark an object for destruction; an object without a row gets one without a key."""
    this = (token_object.c.token_id == token_id) & (token_object.c.cka_id == cka_id)
    if tx.execute(token_object.update().where(this).values(status=ObjectStatus.DESTROYING)).rowcount:
        return
    tx.execute(
        token_object.insert().values(
            token_id=token_id,
            cka_id=cka_id,
            purpose=ObjectPurpose.BACKING_KEY,
            status=ObjectStatus.DESTROYING,
            label=label,
            created_at=now,
        )
    )


def is_doomed(conn: Connection, token_id: str, cka_id: bytes) -> bool:
    """Return True if the object is marked for destruction."""
    query = select(token_object.c.status).where(token_object.c.token_id == token_id, token_object.c.cka_id == cka_id)
    return conn.scalar(query) == ObjectStatus.DESTROYING


def forget_doomed(tx: Connection, token_id: str, cka_id: bytes) -> None:
    """Remove the row of a destroyed object that belongs to no key."""
    this = (token_object.c.token_id == token_id) & (token_object.c.cka_id == cka_id)
    tx.execute(token_object.delete().where(this, token_object.c.material.is_(None)))


# -- orphans: objects seen and not acknowledged -----------------------------------------------------------------


def note_seen(tx: Connection, token_id: str, cka_id: bytes, now: datetime) -> datetime:
    """Record an unacknowledged object on the token, and return when it was first seen."""
    upserts.put_new(tx, orphan, {"token_id": token_id, "cka_id": cka_id, "first_seen": now})
    query = select(orphan.c.first_seen).where(orphan.c.token_id == token_id, orphan.c.cka_id == cka_id)
    since: datetime = tx.execute(query).scalar_one()
    return since


def first_seen(conn: Connection, token_id: str) -> dict[bytes, datetime]:
    """Return when each unacknowledged object was first seen on a token, by CKA_ID."""
    query = select(orphan.c.cka_id, orphan.c.first_seen).where(orphan.c.token_id == token_id)
    return {row.cka_id: row.first_seen for row in conn.execute(query.order_by(orphan.c.first_seen))}


def forget_seen(tx: Connection, token_id: str, cka_id: bytes) -> None:
    """Remove the record of an unacknowledged object that is gone, or acknowledged now."""
    tx.execute(orphan.delete().where(orphan.c.token_id == token_id, orphan.c.cka_id == cka_id))


def _select(token_id: str) -> Select[Any]:
    return (
        select(
            token_object.c.token_id,
            token_object.c.cka_id,
            token_object.c.status,
            token_object.c.label,
            token_object.c.created_at,
            key.c.key_id,
            regional_key.c.region,
            regional_key.c.lifecycle,
            material.c.sequence,
            material.c.material_id,
        )
        .select_from(
            token_object.join(material, material.c.id == token_object.c.material)
            .join(key, key.c.key_id == material.c.key_id)
            .join(regional_key, (regional_key.c.key_id == key.c.key_id) & LEADING)
        )
        .where(token_object.c.token_id == token_id, token_object.c.purpose == ObjectPurpose.BACKING_KEY)
        .order_by(token_object.c.created_at, token_object.c.cka_id)
    )


def _object(row: Row[Any]) -> BackingObject:
    return BackingObject(
        token_id=row.token_id,
        cka_id=row.cka_id,
        status=ObjectStatus(row.status),
        label=row.label,
        created_at=row.created_at,
        key_id=row.key_id,
        region=row.region,
        lifecycle=Lifecycle(row.lifecycle),
        sequence=row.sequence,
        material_id=row.material_id,
    )
