"""Read and raise the highest id that each numbered table has given out, in the dialect of the connection's engine.

An id is never given out again, even after the rows with the highest ones were removed: so a copy of a table goes on
from the highest id of the original, not from that of its rows.
"""

from collections.abc import Callable, Mapping
from typing import Final

from sqlalchemy import Column, Connection, MetaData, Table, func, select, text
from sqlalchemy import table as table_of


def numbered(metadata: MetaData) -> list[Table]:
    """Return the tables whose ids the engine gives out."""
    return [table for table in metadata.sorted_tables if table.autoincrement_column is not None]


def highest(conn: Connection, metadata: MetaData) -> dict[str, int]:
    """Return the highest id that was ever given out, by table; 0 where there was none."""
    read = _HIGHEST[conn.dialect.name]
    return {table.name: max(read(conn, table), _stored(conn, table)) for table in numbered(metadata)}


def raise_to(conn: Connection, metadata: MetaData, ids: Mapping[str, int]) -> None:
    """Make each table go on after these ids, of which its rows have no higher ones."""
    write = _RAISE[conn.dialect.name]
    for table in numbered(metadata):
        if ids[table.name]:
            write(conn, table, ids[table.name])


def _id(table: Table) -> Column[int]:
    column = table.autoincrement_column
    assert column is not None  # noqa: S101 - see numbered
    return column


def _stored(conn: Connection, table: Table) -> int:
    return conn.scalar(select(func.max(_id(table)))) or 0


def _of_sqlite(conn: Connection, table: Table) -> int:
    """Return the id that SQLite remembers for tables with AUTOINCREMENT."""
    query = text("SELECT seq FROM sqlite_sequence WHERE name = :name")
    return conn.scalar(query, {"name": table.name}) or 0


def _raise_sqlite(conn: Connection, table: Table, number: int) -> None:
    if not table.dialect_options["sqlite"]["autoincrement"]:
        return  # without AUTOINCREMENT the next id is the one after the highest row's
    named = {"name": table.name, "number": number}
    conn.execute(text("DELETE FROM sqlite_sequence WHERE name = :name"), named)
    conn.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :number)"), named)


def _of_postgresql(conn: Connection, table: Table) -> int:
    sequence = table_of(f"{table.name}_{_id(table).name}_seq")
    row = conn.execute(select(text("last_value"), text("is_called")).select_from(sequence)).one()
    return int(row[0]) if row[1] else 0


def _raise_postgresql(conn: Connection, table: Table, number: int) -> None:
    conn.execute(select(func.setval(f"{table.name}_{_id(table).name}_seq", number)))


_HIGHEST: Final[dict[str, Callable[[Connection, Table], int]]] = {"sqlite": _of_sqlite, "postgresql": _of_postgresql}
_RAISE: Final[dict[str, Callable[[Connection, Table, int], None]]] = {
    "sqlite": _raise_sqlite,
    "postgresql": _raise_postgresql,
}
