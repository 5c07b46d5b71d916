"""Store the tree over the seals: one row for each node that is not empty."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from sqlalchemy import Connection, delete, exists, select

from hsmkms.store import schema, seal_engine
from hsmkms.store.row_seals import RootRow, binary, root_row

# SQL text, and a single query: it runs at each read of a record, and the last two at each change.
_PATH: Final = (
    "SELECT r.number, r.nonce, r.value, t.value, n.value, l.value "
    "FROM (SELECT number, nonce, value FROM store_root ORDER BY number DESC LIMIT 1) AS r "
    "LEFT JOIN seal_tree AS t ON t.number = 0 LEFT JOIN seal_tree AS n ON n.number = :node "
    "LEFT JOIN seal_tree AS l ON l.number = :leaf"
)
_PART: Final = "SELECT value FROM seal_tree WHERE number = :number"
_PARTS: Final = "SELECT number, value FROM seal_tree"
_DROP: Final = "DELETE FROM seal_tree WHERE number = :number"
_PUT: Final = (
    "INSERT INTO seal_tree (number, value) VALUES (:number, :value) "
    "ON CONFLICT (number) DO UPDATE SET value = excluded.value"
)


class Path(NamedTuple):
    """Path to a leaf: root, top, node and leaf; b"" for a missing part."""

    root: RootRow
    top: bytes
    node: bytes
    leaf: bytes


def path(conn: Connection, node: int, leaf: int) -> Path | None:
    """Return the path to a leaf, or None in a store that was never sealed."""
    found = seal_engine.of(conn).rows(conn, _PATH, {"node": node, "leaf": leaf})
    if not found:
        return None
    row = found[0]
    return Path(root_row(row[0], row[1], row[2]), binary(row[3]), binary(row[4]), binary(row[5]))


def part(conn: Connection, number: int) -> bytes:
    """Return the value of a part; b"" if there is none."""
    found = seal_engine.of(conn).rows(conn, _PART, {"number": number})
    return binary(found[0][0]) if found else b""


def parts(conn: Connection) -> dict[int, bytes]:
    """Return the values of all parts that are stored, by number: a query for each would be thousands."""
    return {row[0]: binary(row[1]) for row in seal_engine.of(conn).rows(conn, _PARTS)}


def planted(conn: Connection) -> bool:
    """Return True if any part of a tree is stored."""
    return bool(conn.scalar(select(exists().where(schema.seal_tree.c.number >= 0))))


def put(tx: Connection, values: Mapping[int, bytes]) -> None:
    """Replace parts; an empty value removes the part."""
    engine = seal_engine.of(tx)
    for sql, rows in (
        (_PUT, [{"number": number, "value": value} for number, value in values.items() if value]),
        (_DROP, [{"number": number} for number, value in values.items() if not value]),
    ):
        if rows:
            engine.run(tx, sql, rows)


def drop(tx: Connection) -> None:
    """Remove the whole tree."""
    tx.execute(delete(schema.seal_tree))
