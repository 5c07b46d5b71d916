"""Tags of keys. A change gives the key's record a new version."""

from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert

from hsmkms.store import keys
from hsmkms.store.proven_rows import ProvenRows
from hsmkms.store.schema import tag


def fetch(conn: Connection, key_id: str, region: str) -> dict[str, str]:
    """The values of all tags of a key by tag key, in the order of tag keys."""
    query = select(tag.c.tag_key, tag.c.tag_value).where(tag.c.key_id == key_id, tag.c.region == region)
    return {row.tag_key: row.tag_value for row in conn.execute(query.order_by(tag.c.tag_key))}


def proven(rows: ProvenRows, region: str) -> dict[str, str]:
    """The same, of a key whose rows these are."""
    return dict(sorted((row.tag_key, row.tag_value) for row in rows.of(tag) if row.region == region))


def put(tx: Connection, key_id: str, region: str, values: Mapping[str, str]) -> None:
    """Add tags, or replace the values of those that are there."""
    if not values:
        return
    statement = insert(tag)
    tx.execute(
        statement.on_conflict_do_update(
            index_elements=[tag.c.key_id, tag.c.region, tag.c.tag_key],
            set_={"tag_value": statement.excluded.tag_value},
        ),
        [{"key_id": key_id, "region": region, "tag_key": name, "tag_value": value} for name, value in values.items()],
    )
    keys.touch(tx, key_id, region)


def remove(tx: Connection, key_id: str, region: str, names: Iterable[str]) -> None:
    """Remove tags; those that are not there are passed over."""
    of_key = tag.delete().where(tag.c.key_id == key_id, tag.c.region == region)
    if tx.execute(of_key.where(tag.c.tag_key.in_(list(names)))).rowcount:
        keys.touch(tx, key_id, region)
