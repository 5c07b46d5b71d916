"""Create the databases and migrate them to this program's revision.

Alembic is imported only when a migration runs: reading a revision does not need it.
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, NullPool, create_engine
from sqlalchemy.exc import OperationalError

from hsmkms.atomic_write import sync_folder
from hsmkms.errors import StoreError
from hsmkms.store import files, log_schema, node_schema, schema
from hsmkms.store.files import DatabaseFile
from hsmkms.store.sqlite import connections, faults

if TYPE_CHECKING:
    from alembic.config import Config

_FIRST_ANNOUNCING: Final = schema.META_REVISIONS.index("meta_0009")
_METADATA: Final = {files.META.name: node_schema.meta, files.LOG.name: log_schema.log}


def create(folder: Path) -> None:
    """Create both databases with empty tables, and the folder if it is missing.

    Each file appears complete or not at all. An existing ``log.db`` is kept, because its counts outlive everything.
    Raises StoreError if there is a ``meta.db``.
    """
    if (folder / files.META.name).exists():
        raise StoreError(f"there is a database {folder / files.META.name} already: it was left as it is")
    files.make_folder(folder)
    for database in files.DATABASES:
        if not (folder / database.name).exists():
            _make(folder, database)


def upgrade(folder: Path) -> list[str]:
    """Migrate both databases to this program's revision, each in one transaction; return the revisions applied.

    Raises StoreError, and MigrationError for a database that is newer than this program.
    """
    applied: list[str] = []
    for database in files.DATABASES:
        path = folder / database.name
        connections.check_private(path)
        applied += _upgrade(path, database)
    return applied


def must_announce(folder: Path) -> bool:
    """Return True if a migration of the databases must be announced first: older programs could work on beside it."""
    return needs_announcement(current(folder))


def needs_announcement(revisions: Mapping[str, str]) -> bool:
    """Return True if a migration from these revisions, by the databases' names, must be announced first."""
    known = {database.name: database.revisions for database in files.DATABASES}
    announcing = revisions[files.META.name] in known[files.META.name][_FIRST_ANNOUNCING:]
    return announcing and any(revision in known[name][:-1] for name, revision in revisions.items())


def current(folder: Path) -> dict[str, str]:
    """Return the revision of each database, by file name."""
    revisions = {}
    for database in files.DATABASES:
        path = folder / database.name
        connections.check_private(path)
        with faults.translated(path), closing(connections.connect(path)) as connection:
            revisions[database.name] = connections.read_revision(connection, path)
    return revisions


def alembic_config(database: DatabaseFile) -> "Config":
    """Build Alembic's configuration for a database's migrations, which are part of the package."""
    from alembic.config import Config  # noqa: PLC0415 - see the module's docstring

    config = Config()
    location = Path(__file__).with_name("migrations") / database.migrations
    config.set_main_option("script_location", str(location).replace("%", "%%"))
    config.attributes["metadata"] = _METADATA[database.name]
    return config


def _make(folder: Path, database: DatabaseFile) -> None:
    target = folder / database.name
    try:
        with TemporaryDirectory(prefix=f".{database.name}-", dir=folder) as workplace:
            draft = Path(workplace) / database.name
            connections.make_empty(draft)
            fill(draft, database)
            os.link(draft, target)  # unlike a rename, it never replaces a database that another process has made
        sync_folder(folder)
    except OSError as exc:
        raise StoreError(f"the database {target} cannot be made: {exc.strerror}") from exc


def _upgrade(path: Path, database: DatabaseFile) -> Sequence[str]:
    with faults.translated(path), closing(connections.connect(path)) as connection:
        revision = connections.read_revision(connection, path)
    if connections.works_with(path.parent, database, revision):
        return []
    files.check_known(f"the database {path}", revision, database.revisions)
    missing = database.revisions[database.revisions.index(revision) + 1 :]
    if missing:
        _run(path, database, missing)
    return missing


def fill(path: Path, database: DatabaseFile) -> None:
    """Create the tables of a database in an empty file."""
    _run(path, database, [])


def _run(path: Path, database: DatabaseFile, expected: Sequence[str]) -> None:
    """Run all missing migrations in one transaction."""
    from alembic import command  # noqa: PLC0415 - see the module's docstring

    config = alembic_config(database)
    engine = create_engine("sqlite://", creator=lambda: _connect(path), poolclass=NullPool)
    with faults.translated(path), engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        config.attributes["connection"] = connection
        with _explained(path):
            command.upgrade(config, expected[-1] if expected else "head")
        _check_references(connection, path)
        connection.exec_driver_sql("COMMIT")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Raise StoreError for a statement of a migration that does not fit the schema."""
    try:
        yield
    except OperationalError as exc:
        if getattr(exc.orig, "sqlite_errorcode", None) != sqlite3.SQLITE_ERROR:
            raise
        raise StoreError(
            f"the schema of {path} is not that of its revision, so it cannot be migrated ({exc.orig}): it was changed "
            "by something other than hsmkms. Restore a backup; nothing was changed"
        ) from exc


def _connect(path: Path) -> sqlite3.Connection:
    """Open a connection without foreign keys: SQLite alters a table by recreating it."""
    connection = connections.connect(path)
    connection.execute("PRAGMA foreign_keys=OFF")
    return connection


def _check_references(connection: Connection, path: Path) -> None:
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
    if broken is not None:
        raise StoreError(
            f"the migration of {path} would leave rows of {broken[0]} without what they refer to: nothing was changed"
        )
