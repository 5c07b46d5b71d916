"""Store the ends of the lanes of all nodes' audit logs, as each node publishes its own.

They are written by transactions of mere use, which take no write lock and signal no change: on a server both databases
are one. Where the databases are files there is one node, and nothing is published.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import Connection, Row, delete, select

from hsmkms.model.audit import Head, PublishedHead
from hsmkms.store import upserts
from hsmkms.store.schema import audit_head

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_COLUMNS: Final = audit_head.c
_KEY: Final = (_COLUMNS.node_id, _COLUMNS.lane)


class StoredHead(Struct, frozen=True):
    """A published end of a lane, and its HMAC, not verified."""

    published: PublishedHead
    mac: bytes


def fetch(conn: Connection) -> list[StoredHead]:
    """Return the ends of all lanes of all nodes, not proven."""
    return [_head_of(row) for row in conn.execute(select(audit_head).order_by(*_KEY))]


def publish(tx: Connection, heads: Iterable[StoredHead]) -> None:
    """Write ends of lanes, where the database has none that is later, or as late but of another record."""
    for each in heads:
        row = _row_of(each)
        statement = upserts.insert(tx, audit_head).values(**row)
        earlier = (_COLUMNS.acceptance < each.published.acceptance) | (
            (_COLUMNS.acceptance == each.published.acceptance) & (_COLUMNS.sequence < each.published.head.sequence)
        )
        same = (_COLUMNS.acceptance == each.published.acceptance) & (_COLUMNS.hash == each.published.head.hash)
        replaced = {name: value for name, value in row.items() if name not in ("node_id", "lane")}
        tx.execute(statement.on_conflict_do_update(index_elements=_KEY, set_=replaced, where=earlier | same))


def replace(tx: Connection, node_id: str, heads: Iterable[StoredHead]) -> None:
    """Replace the ends of a node's lanes, whatever the database has."""
    tx.execute(delete(audit_head).where(_COLUMNS.node_id == node_id))
    publish(tx, heads)


def _row_of(stored: StoredHead) -> dict[str, Any]:
    published = stored.published
    return {
        "node_id": published.node,
        "lane": published.lane,
        "acceptance": published.acceptance,
        "sequence": published.head.sequence,
        "segment": published.head.segment,
        "hash": published.head.hash,
        "published_at": (published.at - _EPOCH) // timedelta(microseconds=1),
        "mac": stored.mac,
    }


def _head_of(row: Row[Any]) -> StoredHead:
    head = Head(sequence=row.sequence, hash=row.hash, segment=row.segment)
    try:
        at = _EPOCH + timedelta(microseconds=row.published_at)
    except OverflowError:  # edited by hand: its HMAC does not fit either
        at = _EPOCH
    published = PublishedHead(node=row.node_id, lane=row.lane, acceptance=row.acceptance, head=head, at=at)
    return StoredHead(published, row.mac)
