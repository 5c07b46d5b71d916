"""Store aliases, by region and name.

Every change is recorded in the change log under the name, and under the keys that gain or lose it: a key's aliases can
affect who may use it.
"""

from collections import defaultdict
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, func, select, true

from hsmkms.errors import AlreadyExistsException, NotFoundException
from hsmkms.model.ids import alias_arn
from hsmkms.model.records import AliasRecord
from hsmkms.store import changes, faults
from hsmkms.store.faults import Violation
from hsmkms.store.proven_rows import ProvenRows
from hsmkms.store.schema import alias, installation


def insert(tx: Connection, region: str, name: str, key_id: str, now: datetime) -> None:
    """Insert a new alias of a key in the region.

    Raises AlreadyExistsException if the name is taken, and NotFoundException if there is no such key.
    """
    taken = AlreadyExistsException(f"An alias with the name {name} already exists in {region}")
    with faults.constraints(tx, {Violation.UNIQUE: taken, Violation.REFERENCE: _no_key(region, key_id)}):
        tx.execute(
            alias.insert().values(region=region, name=name, key_id=key_id, creation_date=now, last_updated_date=now)
        )
    _note(tx, region, name, key_id)


def update(tx: Connection, region: str, name: str, key_id: str, now: datetime) -> bool:
    """Move an alias to a key of the region; False if there is no such alias. NotFoundException: no such key."""
    before = fetch(tx, region, name)
    if before is None:
        return False
    statement = alias.update().where(alias.c.region == region, alias.c.name == name)
    with faults.constraints(tx, {Violation.REFERENCE: _no_key(region, key_id)}):
        tx.execute(statement.values(key_id=key_id, last_updated_date=now))
    _note(tx, region, name, before.target_key_id, key_id)
    return True


def delete(tx: Connection, region: str, name: str) -> bool:
    """Remove an alias; False if there is no such alias."""
    before = fetch(tx, region, name)
    if before is None:
        return False
    tx.execute(alias.delete().where(alias.c.region == region, alias.c.name == name))
    _note(tx, region, name, before.target_key_id)
    return True


def fetch(conn: Connection, region: str, name: str) -> AliasRecord | None:
    """Return the alias, or None."""
    row = conn.execute(_select().where(alias.c.region == region, alias.c.name == name)).one_or_none()
    return None if row is None else _record(row, row.account)


def proven(rows: ProvenRows, account: str) -> AliasRecord | None:
    """Build the alias record from proven rows, or None."""
    return next((_record(row, account) for row in rows.of(alias)), None)


def proven_names(rows: ProvenRows) -> list[str]:
    """Return the names of the aliases among proven rows."""
    return sorted(row.name for row in rows.of(alias))


def page(conn: Connection, region: str, key_id: str | None, after: str | None, limit: int) -> list[AliasRecord]:
    """Return at most ``limit`` aliases of the region, or of one of its keys, whose names follow ``after``, by name."""
    query = _select().where(alias.c.region == region, alias.c.name > (after or ""))
    if key_id is not None:
        query = query.where(alias.c.key_id == key_id)
    return [_record(row, row.account) for row in conn.execute(query.order_by(alias.c.name).limit(limit))]


def every(conn: Connection, region: str) -> list[AliasRecord]:
    """Return all aliases of the region, ordered by name."""
    return [
        _record(row, row.account)
        for row in conn.execute(_select().where(alias.c.region == region).order_by(alias.c.name))
    ]


def count(conn: Connection, region: str, key_id: str) -> int:
    """Count a key's aliases in the region."""
    query = select(func.count(alias.c.name)).where(alias.c.region == region, alias.c.key_id == key_id)
    return conn.scalar(query) or 0


def _select() -> Select[Any]:
    return select(
        alias.c.region,
        alias.c.name,
        alias.c.key_id,
        alias.c.creation_date,
        alias.c.last_updated_date,
        installation.c.account,
    ).select_from(alias.join(installation, true()))


def _record(row: Any, account: str) -> AliasRecord:  # noqa: ANN401 - a row, or what is like one
    return AliasRecord(
        name=row.name,
        region=row.region,
        arn=alias_arn(account, row.region, row.name),
        target_key_id=row.key_id,
        creation_date=row.creation_date,
        last_updated_date=row.last_updated_date,
    )


def _note(tx: Connection, region: str, name: str, *key_ids: str) -> None:
    for each in (name, *key_ids):
        changes.note(tx, region, each)


def _no_key(region: str, key_id: str) -> NotFoundException:
    return NotFoundException(f"Key '{key_id}' does not exist in {region}")


def names_by_key(conn: Connection, region: str) -> defaultdict[str, list[str]]:
    """Return the names of a region's aliases by the id of the key that they stand for."""
    names = defaultdict[str, list[str]](list)
    for each in every(conn, region):
        names[each.target_key_id].append(each.name)
    return names
