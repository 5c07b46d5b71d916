"""Mark a database as moved, and remove the mark, within a transaction: see ``move_mark.py``."""

from typing import Final

from sqlalchemy import Connection, inspect

from hsmkms.store import move_mark
from hsmkms.store.move_mark import MoveMark
from hsmkms.store.postgresql.faults import MOVED_STATE

_SET_REVISION: Final = "UPDATE alembic_version SET version_num = %(revision)s"
_RAISE: Final = f"BEGIN RAISE EXCEPTION 'moved' USING ERRCODE = '{MOVED_STATE}'; END"
_EACH_WRITE: Final = f"BEFORE INSERT OR UPDATE OR DELETE ON {move_mark.COUNTS} FOR EACH STATEMENT"
_REFUSE: Final = (
    f"CREATE FUNCTION {move_mark.TABLE}() RETURNS trigger LANGUAGE plpgsql AS $body${_RAISE}$body$",
    f"CREATE TRIGGER {move_mark.TABLE} {_EACH_WRITE} EXECUTE FUNCTION {move_mark.TABLE}()",
    f"ALTER TABLE {move_mark.COUNTS} ENABLE ALWAYS TRIGGER {move_mark.TABLE}",
)
_ALLOW: Final = (f"DROP TRIGGER {move_mark.TABLE} ON {move_mark.COUNTS}", f"DROP FUNCTION {move_mark.TABLE}()")


def read(conn: Connection) -> MoveMark | None:
    """Return the mark, or None."""
    if move_mark.TABLE not in inspect(conn).get_table_names():
        return None
    row = conn.exec_driver_sql(move_mark.READ).first()
    return move_mark.of_row(tuple(row)) if row is not None else None


def put(tx: Connection, found: MoveMark) -> None:
    """Mark the database; no other transaction writes to the control plane or counts encryptions meanwhile."""
    tx.exec_driver_sql(move_mark.CREATE)
    tx.exec_driver_sql(f"INSERT INTO {move_mark.TABLE} VALUES (%s, %s, %s, %s, %s)", found.row)  # noqa: S608 - a constant
    tx.exec_driver_sql(_SET_REVISION, {"revision": move_mark.REVISION})
    for statement in _REFUSE:
        tx.exec_driver_sql(statement)


def remove(tx: Connection, found: MoveMark) -> None:
    """Remove the mark."""
    for statement in (*_ALLOW, move_mark.DROP):
        tx.exec_driver_sql(statement)
    tx.exec_driver_sql(_SET_REVISION, {"revision": found.revision})
