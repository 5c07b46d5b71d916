"""Outbox of the audit log: a change's record is committed with the change, and moved to the log afterwards.

Each node moves the records of its own processes, to its own log. So a row's lane has the node's id before it. Records
of a node that was removed are moved by another one, which takes them over in a transaction first: only one does so.
"""

from collections.abc import Collection
from typing import Final

from msgspec import Struct
from sqlalchemy import Connection, bindparam, delete, insert, select, update

from hsmkms.store.schema import audit_outbox

# Built once: building a statement takes longer than SQLite takes to run it, and each change runs both.
_PUT: Final = insert(audit_outbox)
_REMOVE: Final = delete(audit_outbox).where(audit_outbox.c.id.in_(bindparam("ids", expanding=True)))


class OutboxRow(Struct, frozen=True):
    """A record that the log may not have yet. ``lane``: the lane of the process that wrote it, after its node."""

    id: int
    lane: str
    event_id: str
    record: bytes


def address(node_id: str, lane: str) -> str:
    """Return the name of a node's lane in the outbox; a database in files has rows of one node, without its id."""
    return f"{node_id}/{lane}" if node_id else lane


def lanes(conn: Connection, node_id: str) -> set[str]:
    """Return the lanes of a node that have rows in the outbox."""
    named = [each.rpartition("/") for each in conn.scalars(select(audit_outbox.c.lane).distinct())]
    return {lane for node, _, lane in named if node == node_id}


def abandoned(conn: Connection, node_ids: Collection[str]) -> set[str]:
    """Return the names in the outbox of lanes of other nodes than these, which move no records any more."""
    names = conn.scalars(select(audit_outbox.c.lane).distinct())
    return {name for name in names if name.rpartition("/")[0] not in node_ids}


def readdress(tx: Connection, names: Collection[str], name: str) -> int:
    """Give the records of lanes to another one; return how many there were."""
    moved = update(audit_outbox).where(audit_outbox.c.lane.in_(names)).values(lane=name)
    return tx.execute(moved).rowcount


def put(tx: Connection, lane: str, event_id: str, record: bytes) -> int:
    """Add a record; returns the id of its row."""
    done = tx.execute(_PUT, {"lane": lane, "event_id": event_id, "record": record})
    row_id: int = done.inserted_primary_key[0]  # type: ignore[index]  # an insert of one row always has one
    return row_id


def remove(tx: Connection, row_ids: Collection[int]) -> None:
    """Remove records that the log has."""
    tx.execute(_REMOVE, {"ids": list(row_ids)})


def fetch(conn: Connection, lane: str | None = None) -> list[OutboxRow]:
    """Return the records in the outbox, of one lane or of all, oldest first."""
    query = select(audit_outbox.c.id, audit_outbox.c.lane, audit_outbox.c.event_id, audit_outbox.c.record)
    if lane is not None:
        query = query.where(audit_outbox.c.lane == lane)
    rows = conn.execute(query.order_by(audit_outbox.c.id))
    return [OutboxRow(row.id, row.lane, row.event_id, row.record) for row in rows]
