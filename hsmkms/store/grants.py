"""Store grants on keys. Every change is recorded in the change log under the key's id."""

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, exists, func, select

from hsmkms.model.records import GrantRecord
from hsmkms.store import changes
from hsmkms.store.proven_rows import ProvenRows
from hsmkms.store.schema import key_grant, regional_key
from hsmkms.store.statuses import Lifecycle


def insert(tx: Connection, grant: GrantRecord) -> None:
    """Insert a new grant."""
    tx.execute(
        key_grant.insert().values(
            grant_id=grant.grant_id,
            key_id=grant.key_id,
            region=grant.region,
            name=grant.name,
            grantee=grant.grantee,
            retiring=grant.retiring,
            operations=",".join(grant.operations),
            context_equals=_text(grant.context_equals),
            context_subset=_text(grant.context_subset),
            creation_date=grant.creation_date,
            source_arn=grant.source_arn,
        )
    )
    changes.note(tx, grant.region, grant.key_id)


def delete(tx: Connection, grant: GrantRecord) -> None:
    """Remove a grant; does nothing if it is gone already."""
    if tx.execute(key_grant.delete().where(key_grant.c.grant_id == grant.grant_id)).rowcount:
        changes.note(tx, grant.region, grant.key_id)


def fetch(conn: Connection, region: str, grant_id: str) -> GrantRecord | None:
    """Return a grant of the region by its id, or None."""
    row = conn.execute(_select(region).where(key_grant.c.grant_id == grant_id)).one_or_none()
    return None if row is None else _record(row)


def held_by(conn: Connection, region: str, key_id: str, grantee: str) -> list[GrantRecord]:
    """Return all grants of a principal on a key."""
    query = _select(region).where(key_grant.c.key_id == key_id, key_grant.c.grantee == grantee)
    return [_record(row) for row in conn.execute(query.order_by(key_grant.c.grant_id))]


def proven(rows: ProvenRows, region: str) -> list[GrantRecord]:
    """Build the grant records of a region from proven rows, by id, whether or not their keys are live."""
    return [_record(row) for row in sorted(rows.of(key_grant), key=lambda row: row.grant_id) if row.region == region]


def named(conn: Connection, region: str, key_id: str, name: str) -> list[GrantRecord]:
    """Return all grants of that name on a key."""
    query = _select(region).where(key_grant.c.key_id == key_id, key_grant.c.name == name)
    return [_record(row) for row in conn.execute(query.order_by(key_grant.c.grant_id))]


def count(conn: Connection, region: str, key_id: str) -> int:
    """Count a key's grants."""
    query = select(func.count(key_grant.c.grant_id))
    return conn.scalar(query.where(key_grant.c.key_id == key_id, key_grant.c.region == region)) or 0


def page(
    conn: Connection,
    region: str,
    after: str | None,
    limit: int,
    *,
    key_id: str | None = None,
    grant_id: str | None = None,
    grantee: str | None = None,
    retiring: str | None = None,
) -> list[GrantRecord]:
    """Return at most ``limit`` matching grants on live keys whose ids follow ``after``, by id."""
    wanted = {"key_id": key_id, "grant_id": grant_id, "grantee": grantee, "retiring": retiring}
    query = _select(region).where(key_grant.c.grant_id > (after or ""))
    for column, value in wanted.items():
        if value is not None:
            query = query.where(key_grant.c[column] == value)
    return [_record(row) for row in conn.execute(query.order_by(key_grant.c.grant_id).limit(limit))]


def rename_principal(tx: Connection, principal: str, stand_in: str) -> None:
    """Replace a principal by another name in all grants."""
    for column in (key_grant.c.grantee, key_grant.c.retiring):
        keys = tx.execute(select(key_grant.c.region, key_grant.c.key_id).where(column == principal).distinct()).all()
        tx.execute(key_grant.update().where(column == principal).values({column.name: stand_in}))
        for row in keys:
            changes.note(tx, row.region, row.key_id)


def _select(region: str) -> Select[Any]:
    live = exists().where(
        regional_key.c.key_id == key_grant.c.key_id,
        regional_key.c.region == key_grant.c.region,
        regional_key.c.lifecycle == Lifecycle.LIVE,
    )
    return select(
        key_grant.c.grant_id,
        key_grant.c.key_id,
        key_grant.c.region,
        key_grant.c.name,
        key_grant.c.grantee,
        key_grant.c.retiring,
        key_grant.c.operations,
        key_grant.c.context_equals,
        key_grant.c.context_subset,
        key_grant.c.creation_date,
        key_grant.c.source_arn,
    ).where(key_grant.c.region == region, live)


def _record(row: Any) -> GrantRecord:  # noqa: ANN401 - a row, or what is like one
    return GrantRecord(
        grant_id=row.grant_id,
        key_id=row.key_id,
        region=row.region,
        name=row.name,
        grantee=row.grantee,
        retiring=row.retiring,
        operations=tuple(row.operations.split(",")),
        context_equals=_pairs(row.context_equals),
        context_subset=_pairs(row.context_subset),
        creation_date=row.creation_date,
        source_arn=row.source_arn,
    )


def _text(pairs: Mapping[str, str] | None) -> str | None:
    return None if pairs is None else msgspec.json.encode(dict(sorted(pairs.items()))).decode()


def _pairs(text: str | None) -> dict[str, str] | None:
    return None if text is None else msgspec.json.decode(text, type=dict[str, str])
