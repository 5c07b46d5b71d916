"""Mark a database on a server as moved: PostgreSQL's part of moving a store."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from hsmkms.store import move_mark
from hsmkms.store.move_mark import MoveMark
from hsmkms.store.postgresql import creation, generation
from hsmkms.store.postgresql import mark as marks
from hsmkms.store.postgresql.target import Target


def read(target: Target) -> MoveMark | None:
    """Return the mark of the database, or None."""
    with creation.transaction(target) as conn:
        return marks.read(conn)


def mark(target: Target, found: MoveMark) -> None:
    """Mark the database, unless it is, and have processes that have it open use nothing that they have cached."""
    with _locked(target) as tx:
        if marks.read(tx) is None:
            marks.put(tx, found)
            # No entry of the change log explains it, so each drops everything, and is refused when it reads again.
            generation.raise_number(tx, target.name)


def complete(target: Target) -> None:
    """Record that the new store is in use."""
    with _locked(target) as tx:
        tx.exec_driver_sql(move_mark.SET_COMPLETE)


def unmark(target: Target, found: MoveMark) -> None:
    """Remove the mark."""
    with _locked(target) as tx:
        marks.remove(tx, found)


def require_empty(target: Target) -> None:
    """Raise StoreError if the database has tables, after waiting for a transaction that may be creating them."""
    with _locked(target) as tx:
        creation.require_empty(tx, target)


@contextmanager
def _locked(target: Target) -> Iterator[Connection]:
    """Run a transaction with the write lock of the control plane."""
    with creation.transaction(target) as tx:
        tx.exec_driver_sql(creation.LOCK)
        yield tx
