"""Notices that a token refused a PIN, or that its PIN was changed, for each node that must not send its own unasked.

A node's row is removed when the token has accepted a PIN from it. Nothing of a PIN is in them.
"""

from datetime import datetime

from msgspec import Struct
from sqlalchemy import Connection, select

from hsmkms.store import nodes, upserts
from hsmkms.store.node_schema import pin_notice


class PinNotice(Struct, frozen=True, kw_only=True):
    """A notice for a node: ``by``: the node that had the PIN refused, or changed it; ``source``: where it came from.

    ``alone``: of an HA group, the refusal counts for that member only.
    """

    serial: str
    label: str
    noted_at: datetime
    by: str
    changed: bool
    source: str = ""
    alone: bool = False


def publish(tx: Connection, notice: PinNotice) -> None:
    """Leave a notice for every node; that of a change not for the node that changed the PIN."""
    for each in nodes.fetch_all(tx):
        if not notice.changed or each.id != notice.by:
            upserts.put(tx, pin_notice, [{"node_id": each.id, **_row(notice)}])


def pending(conn: Connection, node_id: str | None = None) -> list[tuple[str, PinNotice]]:
    """Return the notices for a node, or for all, each with the node that it is for."""
    query = select(*pin_notice.c).order_by(pin_notice.c.noted_at, pin_notice.c.node_id)
    if node_id is not None:
        query = query.where(pin_notice.c.node_id == node_id)
    return [
        (
            row.node_id,
            PinNotice(
                serial=row.serial,
                label=row.label,
                noted_at=row.noted_at,
                by=row.by_node,
                changed=row.changed,
                source=row.source,
                alone=row.alone,
            ),
        )
        for row in conn.execute(query)
    ]


def settle(tx: Connection, node_id: str, serials: frozenset[str]) -> None:
    """Remove the notices of these tokens for a node, from which one of them has accepted a PIN."""
    mine = (pin_notice.c.node_id == node_id) & pin_notice.c.serial.in_(serials)
    tx.execute(pin_notice.delete().where(mine))


def forget(tx: Connection, node_id: str) -> None:
    """Remove the notices for a node that is removed."""
    tx.execute(pin_notice.delete().where(pin_notice.c.node_id == node_id))


def _row(notice: PinNotice) -> dict[str, object]:
    return {
        "serial": notice.serial,
        "label": notice.label,
        "noted_at": notice.noted_at,
        "by_node": notice.by,
        "changed": notice.changed,
        "source": notice.source,
        "alone": notice.alone,
    }
