"""The tree over the seals, as it is stored: a row for each part that is not empty."""

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection, delete, exists, insert, select

from hsmkms.store import schema

# As text: it is asked several times at each reading of a record.
_PART: Final = "SELECT value FROM seal_tree WHERE number = ?"


def part(conn: Connection, number: int) -> bytes:
    """The value of a part; b"" if there is none."""
    row = conn.exec_driver_sql(_PART, (number,)).one_or_none()
    return b"" if row is None else row[0]


def planted(conn: Connection) -> bool:
    """True if any part of a tree is there."""
    return bool(conn.scalar(select(exists().where(schema.seal_tree.c.number >= 0))))


def put(tx: Connection, values: Mapping[int, bytes]) -> None:
    """Write parts, in place of what was there; an empty one is removed."""
    if not values:
        return
    tx.execute(delete(schema.seal_tree).where(schema.seal_tree.c.number.in_(list(values))))
    rows = [{"number": number, "value": value} for number, value in values.items() if value]
    if rows:
        tx.execute(insert(schema.seal_tree), rows)


def drop(tx: Connection) -> None:
    """Remove the whole tree."""
    tx.execute(delete(schema.seal_tree))
