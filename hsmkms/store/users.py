"""Store users and their access keys. Every change of an access key is recorded in the change log under its id."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, Select, func, select

from hsmkms.model.ids import ROOT_PATH, derived_user_id
from hsmkms.store import changes, upserts
from hsmkms.store.engine import Store
from hsmkms.store.log_schema import access_key_use
from hsmkms.store.proven_rows import ProvenRows
from hsmkms.store.schema import access_key, user
from hsmkms.store.statuses import AccessKeyStatus

NO_REGION = ""
"""Region in the change log: access keys are valid in every region."""


class UserRow(Struct, frozen=True, kw_only=True):
    """A user, and the number of their access keys."""

    name: str
    created_at: datetime
    unique_id: str
    path: str = ROOT_PATH
    access_keys: int


class AccessKeyRow(Struct, frozen=True, kw_only=True):
    """An access key; without ``user_name`` it is the root's. ``sealed`` is its secret, encrypted with ``iv``.

    ``user_path``: the path of its user, which never changes.
    """

    access_key_id: str
    user_name: str | None
    user_path: str = ROOT_PATH
    status: AccessKeyStatus
    created_at: datetime
    key_version: int
    iv: bytes
    sealed: bytes


def insert_user(tx: Connection, name: str, now: datetime, unique_id: str, path: str = ROOT_PATH) -> bool:
    """Insert a new user; False if the name is taken, whatever the paths are."""
    stored_path = None if path == ROOT_PATH else path
    return upserts.put_new(tx, user, {"name": name, "created_at": now, "unique_id": unique_id, "path": stored_path})


def delete_user(tx: Connection, name: str) -> bool:
    """Remove a user, who has no access keys any more; False if there is none of that name."""
    return bool(tx.execute(user.delete().where(user.c.name == name)).rowcount)


def users(conn: Connection) -> list[UserRow]:
    """Return all users, ordered by name."""
    count = (
        select(func.count(access_key.c.access_key_id)).where(access_key.c.user_name == user.c.name).scalar_subquery()
    )
    columns = (user.c.name, user.c.created_at, user.c.unique_id, user.c.path)
    query = select(*columns, count.label("access_keys")).order_by(user.c.name)
    return [
        UserRow(
            name=row.name,
            created_at=row.created_at,
            unique_id=row.unique_id or derived_user_id(row.name, row.created_at),
            path=row.path or ROOT_PATH,
            access_keys=row.access_keys,
        )
        for row in conn.execute(query)
    ]


def insert_access_key(tx: Connection, row: AccessKeyRow) -> None:
    """Insert a new access key."""
    tx.execute(
        access_key.insert().values(
            access_key_id=row.access_key_id,
            user_name=row.user_name,
            status=row.status,
            created_at=row.created_at,
            key_version=row.key_version,
            iv=row.iv,
            sealed=row.sealed,
        )
    )
    changes.note(tx, NO_REGION, row.access_key_id)


def access_keys(conn: Connection, user_name: str | None) -> list[AccessKeyRow]:
    """Return the access keys of a user, or of the root, oldest first."""
    query = _select().where(access_key.c.user_name.is_not_distinct_from(user_name))
    oldest_first = query.order_by(access_key.c.created_at, access_key.c.access_key_id)
    return [_row(row, row.path) for row in conn.execute(oldest_first)]


def all_access_keys(conn: Connection) -> list[AccessKeyRow]:
    """Return all access keys, ordered by id."""
    return [_row(row, row.path) for row in conn.execute(_select().order_by(access_key.c.access_key_id))]


def set_secret(tx: Connection, old: AccessKeyRow, new: AccessKeyRow) -> bool:
    """Replace the encrypted secret; False if the access key has changed meanwhile."""
    same = (access_key.c.access_key_id == old.access_key_id) & (access_key.c.sealed == old.sealed)
    values = {"key_version": new.key_version, "iv": new.iv, "sealed": new.sealed}
    return _noted(tx, old.access_key_id, tx.execute(access_key.update().where(same).values(**values)).rowcount)


def fetch_access_key(conn: Connection, access_key_id: str) -> AccessKeyRow | None:
    """Return an access key by its id, or None."""
    row = conn.execute(_select().where(access_key.c.access_key_id == access_key_id)).one_or_none()
    return None if row is None else _row(row, row.path)


def proven_access_key(rows: ProvenRows, access_key_id: str) -> AccessKeyRow | None:
    """Build an access key's record from proven rows, or None."""
    paths = {each.name: each.path for each in rows.of(user)}
    matching = (each for each in rows.of(access_key) if each.access_key_id == access_key_id)
    return next((_row(each, paths.get(each.user_name)) for each in matching), None)


def set_status(tx: Connection, access_key_id: str, status: AccessKeyStatus) -> bool:
    """Make an access key active or inactive; False if there is none."""
    this = access_key.c.access_key_id == access_key_id
    return _noted(tx, access_key_id, tx.execute(access_key.update().where(this).values(status=status)).rowcount)


def delete_access_key(tx: Connection, access_key_id: str) -> bool:
    """Remove an access key for good; False if there is none."""
    gone = tx.execute(access_key.delete().where(access_key.c.access_key_id == access_key_id))
    return _noted(tx, access_key_id, gone.rowcount)


def note_uses(store: Store, uses: Mapping[str, tuple[datetime, str]]) -> None:
    """Store when and for which region access keys were last used, in log.db, unless later uses are stored already."""
    rows = [{"access_key_id": key, "region": region, "used_at": at} for key, (at, region) in sorted(uses.items())]
    store.log.run(lambda tx: upserts.put(tx, access_key_use, rows, unless_newer=access_key_use.c.used_at))


def last_uses(store: Store) -> dict[str, tuple[datetime, str]]:
    """Return when, and for which region, each access key was last used."""
    query = select(access_key_use.c.access_key_id, access_key_use.c.used_at, access_key_use.c.region)
    with store.log.reading() as conn:
        return {row.access_key_id: (row.used_at, row.region) for row in conn.execute(query)}


def _select() -> Select[tuple[str, str | None, str | None, str, datetime, int, bytes, bytes]]:
    return select(
        access_key.c.access_key_id,
        access_key.c.user_name,
        user.c.path,
        access_key.c.status,
        access_key.c.created_at,
        access_key.c.key_version,
        access_key.c.iv,
        access_key.c.sealed,
    ).select_from(access_key.outerjoin(user, user.c.name == access_key.c.user_name))


def _row(row: Any, path: str | None) -> AccessKeyRow:  # noqa: ANN401 - a row, or what is like one
    return AccessKeyRow(
        access_key_id=row.access_key_id,
        user_name=row.user_name,
        user_path=path or ROOT_PATH,
        status=AccessKeyStatus(row.status),
        created_at=row.created_at,
        key_version=row.key_version,
        iv=row.iv,
        sealed=row.sealed,
    )


def _noted(tx: Connection, access_key_id: str, rows: int) -> bool:
    if rows:
        changes.note(tx, NO_REGION, access_key_id)
    return rows > 0
