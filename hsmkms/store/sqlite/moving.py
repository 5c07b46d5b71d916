"""Mark databases in files as moved, and fill new ones: SQLite's part of moving a store."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, MetaData, select

from hsmkms.store import files, log_schema, migrate, move_mark, schema
from hsmkms.store.move_mark import MoveMark
from hsmkms.store.sqlite import capture, connections, faults, log_renewal
from hsmkms.store.sqlite.database import FileDatabase

Write = Callable[[Connection, MetaData], None]
"""Writes the rows of one of the two schemas."""

_SET_REVISION: Final = "UPDATE alembic_version SET version_num = ?"
_REFUSALS: Final = {
    f"{move_mark.TABLE}_{event.lower()}": f"BEFORE {event} ON {move_mark.COUNTS} "
    f"BEGIN SELECT RAISE(ABORT, '{move_mark.TABLE}'); END"
    for event in ("INSERT", "UPDATE", "DELETE")
}


def read(folder: Path) -> MoveMark | None:
    """Return the mark of the databases in a folder, or None. StoreError if they are missing."""
    path = folder / files.META.name
    connections.check_private(path)
    with _transaction(path) as connection:
        return connections.read_mark(connection)


def mark(folder: Path, found: MoveMark) -> None:
    """Mark the databases, ``meta.db`` first; repeatable after an interruption."""
    with _transaction(folder / files.META.name) as connection:
        if connections.read_mark(connection) is None:
            connection.execute(move_mark.CREATE)
            connection.execute(f"INSERT INTO {move_mark.TABLE} VALUES (?, ?, ?, ?, ?)", found.row)  # noqa: S608 - a constant
            connection.execute(_SET_REVISION, (move_mark.REVISION,))
    with _transaction(folder / files.LOG.name) as connection:
        for name, trigger in _REFUSALS.items():
            connection.execute(f"CREATE TRIGGER IF NOT EXISTS {name} {trigger}")


def complete(folder: Path) -> None:
    """Record that the new store is in use."""
    with _transaction(folder / files.META.name) as connection:
        connection.execute(move_mark.SET_COMPLETE)


def unmark(folder: Path, found: MoveMark, *, counts_unknown: bool = False) -> None:
    """Remove the mark, ``meta.db`` last; repeatable after an interruption.

    ``counts_unknown``: encryptions may have been counted elsewhere since, so the next opening makes generated keys
    rotate before they encrypt again.
    """
    with _transaction(folder / files.LOG.name) as connection:
        for name in _REFUSALS:
            connection.execute(f"DROP TRIGGER IF EXISTS {name}")
        if counts_unknown:
            connection.execute(f"PRAGMA user_version = {log_renewal.UNKNOWN_BEFORE}")
    with _transaction(folder / files.META.name) as connection:
        connection.execute(move_mark.DROP)
        connection.execute(_SET_REVISION, (found.revision,))


def fill(folder: Path, write: Write) -> None:
    """Make both databases in an empty folder, with the rows that ``write`` writes, ``meta.db`` first."""
    for database, metadata in ((files.META, schema.meta), (files.LOG, log_schema.log)):
        path = folder / database.name
        connections.make_empty(path)
        migrate.fill(path, database)
        opened = FileDatabase(path)
        try:
            with opened.atomic() as tx:
                for table in reversed(metadata.sorted_tables):
                    tx.execute(table.delete())  # rows of migrations
                write(tx, metadata)
                if metadata is schema.meta and tx.execute(select(schema.store_root.c.number).limit(1)).first():
                    capture.guard(tx, capture.SEALS)
        finally:
            opened.close()


@contextmanager
def _transaction(path: Path) -> Iterator[sqlite3.Connection]:
    """Run a write transaction on a connection of its own."""
    with faults.translated(path), closing(connections.connect(path)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")
