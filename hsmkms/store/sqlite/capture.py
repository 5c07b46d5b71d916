"""Record on a writing connection which subjects its transaction has touched, and refuse writers that do not seal.

The writing connection has temporary triggers, which record the subject of each row that it inserts, changes or deletes.
So no change can be missed, and a rollback of a statement or transaction also rolls back its records.
"""

import sqlite3
from typing import Final

from sqlalchemy import Connection

from hsmkms.store import seal_layout

SEALS: Final = "hsmkms_seal_sets"
"""SQL function that a sealed database requires of writing connections: see ``guard``."""

SEALS_BEFORE: Final = "hsmkms_seals"
"""The function for programs without the seal tree, which therefore cannot write to a database that has one."""

GUARDS: Final = (SEALS, SEALS_BEFORE)

GUARDED: Final = ("change_log", "token_object", "wrapping_key")
"""Tables with guard triggers: every change of a sealed row writes to at least one of them."""

_TABLES: Final = "SELECT name FROM main.sqlite_master NOT INDEXED WHERE type = 'table'"
DIRTY: Final = "dirty_subject"


def capture(connection: sqlite3.Connection) -> None:
    """Make a connection record the subjects of rows that it changes, in a temporary table. Outside transactions.

    A table that is missing is one of this program's that a migration has yet to create.
    """
    connection.execute("PRAGMA temp_store=MEMORY")
    there = {name for (name,) in connection.execute(_TABLES)}
    statements = [f"CREATE TEMP TABLE {DIRTY} (subject TEXT NOT NULL)"]
    for table in (each for each in seal_layout.own().tables if each.name in there):
        for event, sides in (("INSERT", ("NEW",)), ("UPDATE", ("OLD", "NEW")), ("DELETE", ("OLD",))):
            # Not OR IGNORE: an upsert's conflict clause overrides the one of statements in its triggers.
            notes = "".join(f"INSERT INTO {DIRTY} VALUES ({table.subject_expression(side, _hexed)});" for side in sides)  # noqa: S608
            statements.append(
                f'CREATE TEMP TRIGGER note_{table.name}_{event} AFTER {event} ON main."{table.name}" BEGIN {notes} END'
            )
    connection.executescript(f"BEGIN;{';'.join(statements)};COMMIT;")


def take(tx: Connection) -> list[str]:
    """Return the subjects that the transaction has changed, sorted, and clear the list."""
    subjects = set(tx.exec_driver_sql(f"SELECT subject FROM {DIRTY}").scalars())  # noqa: S608 - no user input
    if subjects:
        tx.exec_driver_sql(f"DELETE FROM {DIRTY}")  # noqa: S608 - see above
    return sorted(subjects)


def guard(tx: Connection, function: str) -> None:
    """Require an SQL function of that name of every writing connection; programs that do not seal lack it."""
    for name, statement in guards(function).items():
        tx.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name}")  # another version of the program may have created it
        tx.exec_driver_sql(statement)


def guards(function: str) -> dict[str, str]:
    """Return the SQL of the guard triggers, by name."""
    return {
        name: f"CREATE TRIGGER {name} BEFORE {event} ON {table} BEGIN SELECT {function}(); END"
        for table in GUARDED
        for event in ("INSERT", "UPDATE", "DELETE")
        for name in [f"guard_{table}_{event}".lower()]
    }


def _hexed(expression: str) -> str:
    return f"hex({expression})"
