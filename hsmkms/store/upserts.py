"""Insert rows that may exist already, in the dialect of the connection's engine: ``INSERT … ON CONFLICT``."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Column, Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

Insert = sqlite.Insert | postgresql.Insert

_INSERT: Final[dict[str, Callable[[Table], Insert]]] = {"sqlite": sqlite.Insert, "postgresql": postgresql.Insert}


def insert(conn: Connection, table: Table) -> Insert:
    """Return an INSERT that takes a conflict clause. PostgreSQL needs to be given the columns of the conflict."""
    return _INSERT[conn.dialect.name](table)


def put(
    tx: Connection, table: Table, rows: Sequence[Mapping[str, object]], *, unless_newer: Column[Any] | None = None
) -> None:
    """Insert rows, or replace the values of those with the same primary key; all rows have the same columns.

    ``unless_newer``: a row whose value in this column is greater than the new one (newer, or more) stays as it is.
    """
    if not rows:
        return
    statement = insert(tx, table)
    replaced = {name: statement.excluded[name] for name in rows[0] if name not in table.primary_key.columns}
    condition = None if unless_newer is None else unless_newer <= statement.excluded[unless_newer.name]
    tx.execute(
        statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=replaced, where=condition),
        [dict(each) for each in rows],
    )


def put_new(tx: Connection, table: Table, row: Mapping[str, object]) -> bool:
    """Insert a row; False if there is one with the same primary key, which stays as it is."""
    statement = insert(tx, table).values(**row).on_conflict_do_nothing(index_elements=list(table.primary_key))
    return count(tx, statement) > 0


def count(tx: Connection, statement: Insert) -> int:
    """Execute an INSERT; return how many rows it inserted or replaced, which not every driver tells unasked."""
    return tx.execute(statement, execution_options={"preserve_rowcount": True}).rowcount
