"""Store tags of keys. A change gives the key's record a new version."""

from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, select

from hsmkms.store import keys, upserts
from hsmkms.store.proven_rows import ProvenRows
from hsmkms.store.schema import tag


def fetch(conn: Connection, key_id: str, region: str) -> dict[str, str]:
    """Return the tags of a key, ordered by tag key."""
    query = select(tag.c.tag_key, tag.c.tag_value).where(tag.c.key_id == key_id, tag.c.region == region)
    return {row.tag_key: row.tag_value for row in conn.execute(query.order_by(tag.c.tag_key))}


def proven(rows: ProvenRows, region: str) -> dict[str, str]:
    """Build a key's tags from its proven rows."""
    return dict(sorted((row.tag_key, row.tag_value) for row in rows.of(tag) if row.region == region))


def put(tx: Connection, key_id: str, region: str, values: Mapping[str, str]) -> None:
    """Add tags, replacing the values of existing ones."""
    if not values:
        return
    rows = [{"key_id": key_id, "region": region, "tag_key": name, "tag_value": value} for name, value in values.items()]
    upserts.put(tx, tag, rows)
    keys.touch(tx, key_id, region)


def remove(tx: Connection, key_id: str, region: str, names: Iterable[str]) -> None:
    """Remove tags; missing ones are ignored."""
    of_key = tag.delete().where(tag.c.key_id == key_id, tag.c.region == region)
    if tx.execute(of_key.where(tag.c.tag_key.in_(list(names)))).rowcount:
        keys.touch(tx, key_id, region)
