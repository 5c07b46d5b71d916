"""Store the tree over the seals: one row for each node that is not empty."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from sqlalchemy import Connection, bindparam, delete, exists, insert, select

from hsmkms.store import schema
from hsmkms.store.row_seals import RootRow

# SQL text, and a single query: it runs at each read of a record.
_PATH: Final = (
    "SELECT r.number, r.nonce, r.value, t.value, n.value, l.value "
    "FROM (SELECT number, nonce, value FROM store_root ORDER BY number DESC LIMIT 1) AS r "
    "LEFT JOIN seal_tree AS t ON t.number = 0 LEFT JOIN seal_tree AS n ON n.number = ? "
    "LEFT JOIN seal_tree AS l ON l.number = ?"
)
_PART: Final = "SELECT value FROM seal_tree WHERE number = ?"
_PARTS: Final = "SELECT number, value FROM seal_tree"

# Built once: building a statement takes longer than SQLite takes to run it.
_DROP: Final = delete(schema.seal_tree).where(schema.seal_tree.c.number.in_(bindparam("numbers", expanding=True)))
_PUT: Final = insert(schema.seal_tree)


class Path(NamedTuple):
    """Path to a leaf: root, top, node and leaf; b"" for a missing part."""

    root: RootRow
    top: bytes
    node: bytes
    leaf: bytes


def path(conn: Connection, node: int, leaf: int) -> Path | None:
    """Return the path to a leaf, or None in a store that was never sealed."""
    row = conn.exec_driver_sql(_PATH, (node, leaf)).one_or_none()
    if row is None:
        return None
    return Path(RootRow(row[0], row[1], row[2]), row[3] or b"", row[4] or b"", row[5] or b"")


def part(conn: Connection, number: int) -> bytes:
    """Return the value of a part; b"" if there is none."""
    row = conn.exec_driver_sql(_PART, (number,)).one_or_none()
    return b"" if row is None else row[0]


def parts(conn: Connection) -> dict[int, bytes]:
    """Return the values of all parts that are stored, by number: a query for each would be thousands."""
    return {row[0]: row[1] for row in conn.exec_driver_sql(_PARTS)}


def planted(conn: Connection) -> bool:
    """Return True if any part of a tree is stored."""
    return bool(conn.scalar(select(exists().where(schema.seal_tree.c.number >= 0))))


def put(tx: Connection, values: Mapping[int, bytes]) -> None:
    """Replace parts; an empty value removes the part."""
    if not values:
        return
    tx.execute(_DROP, {"numbers": list(values)})
    rows = [{"number": number, "value": value} for number, value in values.items() if value]
    if rows:
        tx.execute(_PUT, rows)


def drop(tx: Connection) -> None:
    """Remove the whole tree."""
    tx.execute(delete(schema.seal_tree))
