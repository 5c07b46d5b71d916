"""Store users' policies, groups and tags. Every change is recorded in the change log for each user it affects."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import Enum
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import Column, Connection, Select, Table, exists, select

from hsmkms.model.ids import ROOT_PATH, derived_user_id
from hsmkms.store import changes, upserts
from hsmkms.store.proven_rows import ProvenRows
from hsmkms.store.schema import group_member, group_policy, regional_key, user, user_group, user_policy, user_tag
from hsmkms.store.statuses import Lifecycle

EVERYWHERE = ""
"""Region in the change log: users are the same in every region."""


class Owner(Enum):
    """Kind of a policy's owner."""

    USER = "user"
    GROUP = "group"


_TABLES: Final = {Owner.USER: user_policy, Owner.GROUP: group_policy}


class IdentityRow(Struct, frozen=True, kw_only=True):
    """A user with their tags and groups, and the documents of their own and their groups' policies, by name."""

    name: str
    groups: tuple[str, ...]
    created_at: datetime
    unique_id: str
    path: str = ROOT_PATH
    tags: Mapping[str, str]
    policies: Mapping[str, str]
    group_policies: Mapping[tuple[str, str], str]


class GroupRow(Struct, frozen=True, kw_only=True):
    """A group and its members."""

    name: str
    created_at: datetime
    members: tuple[str, ...]


def subject(user_name: str) -> str:
    """Return the subject under which changes of a user are recorded."""
    return f"user/{user_name}"


def fetch(conn: Connection, name: str) -> IdentityRow | None:
    """Return a user with everything that decides their permissions, or None."""
    row = conn.execute(_users().where(user.c.name == name)).one_or_none()
    if row is None:
        return None
    of_groups = (
        select(group_policy.c.group_name, group_policy.c.policy_name, group_policy.c.document)
        .select_from(group_policy.join(group_member, group_member.c.group_name == group_policy.c.group_name))
        .where(group_member.c.user_name == name)
        .order_by(group_policy.c.group_name, group_policy.c.policy_name)
    )
    memberships = select(group_member.c.group_name).where(group_member.c.user_name == name)
    return IdentityRow(
        name=row.name,
        groups=tuple(conn.execute(memberships.order_by(group_member.c.group_name)).scalars()),
        created_at=row.created_at,
        unique_id=_unique_id(row),
        path=row.path or ROOT_PATH,
        tags=tags(conn, name),
        policies=policies(conn, Owner.USER, name),
        group_policies={(each.group_name, each.policy_name): each.document for each in conn.execute(of_groups)},
    )


def proven(rows: ProvenRows, of_groups: ProvenRows) -> IdentityRow | None:
    """Build a user's record from proven rows, or None; ``of_groups``: the rows of all their groups."""
    row = next(iter(rows.of(user)), None)
    if row is None:
        return None
    return IdentityRow(
        name=row.name,
        path=row.path or ROOT_PATH,
        groups=proven_groups(rows),
        created_at=row.created_at,
        unique_id=_unique_id(row),
        tags=dict(sorted((each.tag_key, each.tag_value) for each in rows.of(user_tag))),
        policies=dict(sorted((each.policy_name, each.document) for each in rows.of(user_policy))),
        group_policies=dict(
            sorted(((each.group_name, each.policy_name), each.document) for each in of_groups.of(group_policy))
        ),
    )


def proven_groups(rows: ProvenRows) -> tuple[str, ...]:
    """Return the groups of a user from their proven rows."""
    return tuple(sorted(each.group_name for each in rows.of(group_member)))


def user_exists(conn: Connection, name: str, path: str = ROOT_PATH) -> bool:
    """Return True if there is a user of that name under that path."""
    row = conn.execute(_users().where(user.c.name == name)).one_or_none()
    return row is not None and (row.path or ROOT_PATH) == path


def user_id_exists(conn: Connection, unique_id: str) -> bool:
    """Return True if there is a user with that unique id."""
    these = _users().where((user.c.unique_id == unique_id) | user.c.unique_id.is_(None))
    return any(_unique_id(row) == unique_id for row in conn.execute(these))


def delete_belongings(tx: Connection, name: str) -> None:
    """Remove policies, tags and memberships of a user."""
    for table in (user_policy, user_tag, group_member):
        tx.execute(table.delete().where(table.c.user_name == name))
    _note(tx, [name])


# -- policies ---------------------------------------------------------------------------------------------------


def put_policy(tx: Connection, kind: Owner, owner: str, policy_name: str, document: str) -> None:
    """Insert or replace a policy of a user or group."""
    table, owners = _table(kind)
    row = {owners.name: owner, "policy_name": policy_name, "document": document}
    upserts.put(tx, table, [row])
    _note(tx, _concerned(tx, kind, owner))


def delete_policy(tx: Connection, kind: Owner, owner: str, policy_name: str) -> bool:
    """Remove a policy of a user or group; False if there is none of that name."""
    table, owners = _table(kind)
    gone = tx.execute(table.delete().where(owners == owner, table.c.policy_name == policy_name)).rowcount
    if gone:
        _note(tx, _concerned(tx, kind, owner))
    return gone > 0


def policies(conn: Connection, kind: Owner, owner: str) -> dict[str, str]:
    """Return the documents of a user's or group's own policies, by name."""
    table, owners = _table(kind)
    query = select(table.c.policy_name, table.c.document).where(owners == owner).order_by(table.c.policy_name)
    return {row.policy_name: row.document for row in conn.execute(query)}


# -- groups -----------------------------------------------------------------------------------------------------


def insert_group(tx: Connection, name: str, now: datetime) -> bool:
    """Insert a new group; False if the name is taken."""
    return upserts.put_new(tx, user_group, {"name": name, "created_at": now})


def delete_group(tx: Connection, name: str) -> bool:
    """Remove a group with its policies and memberships; False if there is none of that name."""
    _note(tx, _members(tx, name))
    for table in (group_policy, group_member):
        tx.execute(table.delete().where(table.c.group_name == name))
    return bool(tx.execute(user_group.delete().where(user_group.c.name == name)).rowcount)


def groups(conn: Connection, user_name: str | None = None) -> list[GroupRow]:
    """Return all groups, or those of a user, ordered by name."""
    query = select(user_group.c.name, user_group.c.created_at).order_by(user_group.c.name)
    if user_name is not None:
        query = query.where(
            exists().where(group_member.c.group_name == user_group.c.name, group_member.c.user_name == user_name)
        )
    return [
        GroupRow(name=row.name, created_at=row.created_at, members=tuple(_members(conn, row.name)))
        for row in conn.execute(query).all()
    ]


def group_exists(conn: Connection, name: str) -> bool:
    """Return True if there is a group of that name."""
    return bool(conn.scalar(select(exists().where(user_group.c.name == name))))


def add_member(tx: Connection, group_name: str, user_name: str) -> None:
    """Add a user to a group."""
    upserts.put_new(tx, group_member, {"group_name": group_name, "user_name": user_name})
    _note(tx, [user_name])


def remove_member(tx: Connection, group_name: str, user_name: str) -> bool:
    """Remove a user from a group; False if they were not a member."""
    these = (group_member.c.group_name == group_name) & (group_member.c.user_name == user_name)
    gone = tx.execute(group_member.delete().where(these)).rowcount
    if gone:
        _note(tx, [user_name])
    return gone > 0


# -- tags -------------------------------------------------------------------------------------------------------


def tags(conn: Connection, user_name: str) -> dict[str, str]:
    """Return a user's tags, ordered by tag key."""
    query = select(user_tag.c.tag_key, user_tag.c.tag_value).where(user_tag.c.user_name == user_name)
    return {row.tag_key: row.tag_value for row in conn.execute(query.order_by(user_tag.c.tag_key))}


def put_tags(tx: Connection, user_name: str, values: Mapping[str, str]) -> None:
    """Add tags to a user, replacing the values of existing ones."""
    rows = [{"user_name": user_name, "tag_key": name, "tag_value": value} for name, value in values.items()]
    upserts.put(tx, user_tag, rows)
    _note(tx, [user_name])


def remove_tags(tx: Connection, user_name: str, names: Iterable[str]) -> None:
    """Remove tags of a user; missing ones are ignored."""
    tx.execute(user_tag.delete().where(user_tag.c.user_name == user_name, user_tag.c.tag_key.in_(list(names))))
    _note(tx, [user_name])


def every_own_policy(conn: Connection) -> list[tuple[str, str]]:
    """Return all policies of users and groups: (a phrase that names the policy, its document)."""
    named_documents: list[tuple[str, str]] = []
    for kind in Owner:
        table, owners = _table(kind)
        query = select(owners.label("owner"), table.c.policy_name, table.c.document).order_by(
            owners, table.c.policy_name
        )
        named_documents += [
            (f"policy {row.policy_name} of {kind.value} {row.owner}", row.document) for row in conn.execute(query)
        ]
    return named_documents


# -- key policies -----------------------------------------------------------------------------------------------


def key_policies(conn: Connection) -> list[tuple[str, str, str]]:
    """Return the policies of all live and intended keys: (key id, region, text)."""
    query = select(regional_key.c.key_id, regional_key.c.region, regional_key.c.policy).where(
        regional_key.c.lifecycle != Lifecycle.DELETED
    )
    return [(row.key_id, row.region, row.policy) for row in conn.execute(query)]


def _users() -> Select[tuple[str, datetime, str | None, str | None]]:
    return select(user.c.name, user.c.created_at, user.c.unique_id, user.c.path)


def _unique_id(row: Any) -> str:  # noqa: ANN401 - a row, or what is like one
    return row.unique_id or derived_user_id(row.name, row.created_at)


def _members(conn: Connection, group_name: str) -> list[str]:
    query = select(group_member.c.user_name).where(group_member.c.group_name == group_name)
    return list(conn.scalars(query.order_by(group_member.c.user_name)))


def _concerned(tx: Connection, kind: Owner, owner: str) -> list[str]:
    return [owner] if kind is Owner.USER else _members(tx, owner)


def _table(kind: Owner) -> tuple[Table, Column[str]]:
    """Return the table of policies for a kind of owner, and its owner column."""
    table = _TABLES[kind]
    return table, table.c[f"{kind.value}_name"]


def _note(tx: Connection, names: Iterable[str]) -> None:
    for name in names:
        changes.note(tx, EVERYWHERE, subject(name))
