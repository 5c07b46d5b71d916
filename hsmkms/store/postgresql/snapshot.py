"""Copy the rows of a database at one instant into files, while nodes use it: PostgreSQL's part of a snapshot."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, MetaData, select

from hsmkms.errors import MisuseError
from hsmkms.store import schema, setup, transfer
from hsmkms.store.engine import Store
from hsmkms.store.postgresql import creation
from hsmkms.store.sqlite import moving

Found = TypeVar("Found")


def copy(store: Store, workplace: Path, at_the_instant: Callable[[], Found]) -> Found:
    """Copy all rows into new files; return what ``at_the_instant`` returns while nobody can commit a change.

    MigrationError if the database has another schema than this program's: what it does not know it cannot copy.
    """
    if store.target is None:
        raise MisuseError("the store is not on a server")
    setup.require_newest(store.folder, store.target)
    with ExitStack() as held:
        with creation.transaction(store.target) as lock:
            lock.exec_driver_sql(creation.LOCK)
            view = held.enter_context(store.meta.reading())
            view.execute(select(schema.installation.c.id)).all()  # the first query takes the snapshot
            found = at_the_instant()

        def write(conn: Connection, metadata: MetaData) -> None:
            if metadata is schema.meta:
                transfer.copy(view, conn, metadata, _without_progress)
                return
            with store.log.reading() as counts:
                transfer.copy(counts, conn, metadata, _without_progress)

        moving.fill(workplace, write)
    return found


def _without_progress(_: int) -> None:
    """Report no progress."""
