"""Create the tables in a PostgreSQL database, check their revisions, and migrate them.

Both schemas are in one database, each with the table of its own revision. They are created from the definition that
SQLite's migrations are compared with; later revisions come by the same migrations. Text is ordered by its bytes on
every engine, so its columns have the collation C.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import (
    CheckConstraint,
    Connection,
    MetaData,
    NullPool,
    Text,
    create_engine,
    inspect,
    select,
    text,
)

from hsmkms.errors import MigrationError, StoreError
from hsmkms.store import files, log_schema, migrate, move_mark, node_schema, nodes, schema
from hsmkms.store.files import DatabaseFile
from hsmkms.store.nodes import Node
from hsmkms.store.postgresql import capture, faults, mark
from hsmkms.store.postgresql.database import WRITE_LOCK
from hsmkms.store.postgresql.target import DRIVER, SCHEMA_PATH, Target

if TYPE_CHECKING:
    from alembic.config import Config

VERSION_TABLES: Final = {files.META.name: "alembic_version", files.LOG.name: "alembic_version_log"}
_METADATA: Final = {files.META.name: node_schema.meta, files.LOG.name: log_schema.log}
"""By the names that the two databases have as files."""

OBJECTS: Final = (
    "CREATE TABLE generation (number bigint NOT NULL)",
    "INSERT INTO generation VALUES (0)",
)
"""What only this engine has; see generation.py."""

_FIRST_OBJECT: Final = """
SELECT name FROM (
    SELECT relname AS name FROM pg_class WHERE relnamespace = current_schema()::regnamespace
    UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = current_schema()::regnamespace
) AS objects ORDER BY name LIMIT 1
"""
LOCK: Final = f"SELECT pg_advisory_xact_lock({WRITE_LOCK})"
_WAIT: Final = "SET LOCAL lock_timeout = '60s'"
_OLDEST_SERVER: Final = 140_000
"""As ``server_version_num``: older ones are not maintained any more, or not tested."""


def create(target: Target, folder: Path) -> None:
    """Create all tables in one transaction, with that data folder as the first node.

    Raises StoreError if the database has tables.
    """

    def write(conn: Connection, metadata: MetaData) -> None:
        if metadata is schema.meta:
            nodes.register(conn, nodes.of_folder(folder, datetime.now(UTC)))
        else:
            conn.execute(log_schema.use_tracking.insert().values(only=1, since=datetime.now(UTC)))

    fill(target, write)


def fill(target: Target, write: Callable[[Connection, MetaData], None]) -> None:
    """Create all tables, with the rows that ``write`` writes for each schema, in one transaction.

    Raises StoreError if the database has tables.
    """
    with transaction(target) as conn:
        conn.exec_driver_sql(LOCK)
        require_empty(conn, target)
        for name, metadata in _METADATA.items():
            tables(metadata).create_all(conn, checkfirst=False)
            _stamp(conn, name)
        for metadata in _METADATA.values():  # counts last: in a running store they grow
            write(conn, metadata)
        # After the rows: the triggers would record them as changes that are to be sealed.
        for statement in (*OBJECTS, *capture.statements()):
            conn.exec_driver_sql(statement)


def wait(target: Target) -> None:
    """Wait for a transaction that holds the write lock, such as one whose connection was lost at its commit."""
    with transaction(target) as conn:
        conn.exec_driver_sql(LOCK)


def require_empty(conn: Connection, target: Target) -> None:
    """Raise StoreError if there is anything in the schema of the tables: hsmkms takes it for tampering."""
    if _revisions(conn):
        raise StoreError(f"{target.name} is one of hsmkms already: it was left as it is; name an empty one")
    found = conn.exec_driver_sql(_FIRST_OBJECT).scalar()
    if found is not None:
        raise StoreError(
            f"{target.name} is not empty: its schema public has {found!a}, for example. Name an empty database; it was "
            "left as it is"
        )


def exists(target: Target) -> bool:
    """Return True if the database has tables of hsmkms."""
    with transaction(target) as conn:
        return bool(_revisions(conn))


def registered(target: Target) -> list[Node]:
    """Return the nodes of the database; none if that has no tables of hsmkms."""
    with transaction(target) as conn:
        return nodes.fetch_all(conn) if _revisions(conn) else []


def require_registered(target: Target, folder: Path) -> None:
    """Raise StoreError if the database has tables of hsmkms, and the data folder is none of its nodes."""
    with transaction(target) as conn:
        if _revisions(conn):
            nodes.require_registered(conn, folder, target.name)


def current(target: Target) -> dict[str, str]:
    """Return the revision of each schema. Raises StoreError if the database has no tables of hsmkms."""
    with transaction(target) as conn:
        return _known_revisions(conn, target)


def check(target: Target, folder: Path, *, older: bool = False, joining: bool = False) -> None:
    """Raise unless the database has a revision that this program works with, on a server that it works with.

    StoreError: not a database of hsmkms, or one of which the data folder is no node (unless ``joining``), too old a
    server, or one that loses commits. MigrationError: newer, without an announcement that this program works with it;
    or older, unless ``older``.
    """
    with transaction(target) as conn:
        revisions = _known_revisions(conn, target)
        if not joining:
            nodes.require_registered(conn, folder, target.name)
        durable = conn.exec_driver_sql("SHOW synchronous_commit").scalar_one() != "off"
    if not durable:
        raise StoreError(f"{target.name} has synchronous_commit = off, so it loses what was answered: set it to on")
    for database in files.DATABASES:
        if revisions[database.name] in database.revisions[:-1] and not older:
            raise MigrationError(f"{target.name} is older than this program: run `hsmkms migrate`")


def upgrade(target: Target, folder: Path) -> list[str]:
    """Migrate both schemas to this program's revision, in one transaction; return the revisions applied.

    StoreError, before anything is changed, if the data folder is no node of the database.
    """
    from alembic import command  # noqa: PLC0415 - only a migration needs it, and it takes long to import

    applied: list[str] = []
    with transaction(target) as conn:
        conn.exec_driver_sql(LOCK)
        revisions = _known_revisions(conn, target)
        nodes.require_registered(conn, folder, target.name)
        before = _columns(conn)
        for database in files.DATABASES:
            revision = revisions[database.name]
            if revision not in database.revisions:
                continue  # a newer one that this program works with
            missing = database.revisions[database.revisions.index(revision) + 1 :]
            if missing:
                command.upgrade(_config(conn, database), missing[-1])
            applied += missing
        if applied:
            _complete(conn, before)
    return applied


def _complete(conn: Connection, before: set[tuple[str, str]]) -> None:
    """Give what migrations have added what only this engine has: the collation of text, and the triggers of capture.

    ``before``: tables and columns that were there; what was changed in those by hand is left, so that it is noticed.
    """
    for metadata in _METADATA.values():
        for column in (each for one in tables(metadata).sorted_tables for each in one.columns):
            if isinstance(column.type, Text) and (column.table.name, column.name) not in before:
                conn.exec_driver_sql(
                    f'ALTER TABLE "{column.table.name}" ALTER COLUMN "{column.name}" TYPE text COLLATE "C"'
                )
    for statement in capture.statements_for(
        {name for name, _ in _columns(conn) - before} - {name for name, _ in before}
    ):
        conn.exec_driver_sql(statement)


def _columns(conn: Connection) -> set[tuple[str, str]]:
    """Return table and name of each column."""
    inspector = inspect(conn)
    return {
        (name, str(column["name"])) for name in inspector.get_table_names() for column in inspector.get_columns(name)
    }


@contextmanager
def transaction(target: Target) -> Iterator[Connection]:
    """Run a transaction on a connection of its own, committed at the end. It waits for locks, but not for ever."""
    engine = create_engine(f"{DRIVER}://", creator=target.connect, poolclass=NullPool, use_native_hstore=False)
    with faults.translated(target.name), engine.connect() as conn:
        conn.begin()
        conn.exec_driver_sql(f"BEGIN ISOLATION LEVEL READ COMMITTED; {SCHEMA_PATH}; {_WAIT}")
        version = conn.exec_driver_sql("SHOW server_version_num").scalar_one()
        if int(version) < _OLDEST_SERVER:
            raise StoreError(f"{target.name} runs PostgreSQL {int(version) // 10_000}: hsmkms needs 14 or newer")
        encoding = conn.exec_driver_sql("SHOW server_encoding").scalar_one()
        if encoding != "UTF8":
            raise StoreError(f"{target.name} has the encoding {encoding}: create it with ENCODING 'UTF8'")
        yield conn
        conn.commit()


def _revisions(conn: Connection) -> dict[str, str]:
    """Return the revisions of both schemas; none if the database has no tables of hsmkms.

    One of the tables alone is another program's, which Alembic migrates as well. StoreError unless each has one row.
    """
    if not set(VERSION_TABLES.values()) <= set(inspect(conn).get_table_names()):
        return {}
    return {name: _revision(conn, version_table) for name, version_table in VERSION_TABLES.items()}


def _revision(conn: Connection, version_table: str) -> str:
    found = [str(each) for each in conn.exec_driver_sql(f"SELECT version_num FROM {version_table}").scalars()]  # noqa: S608 - constants
    if len(found) != 1:
        raise StoreError(
            f"the table {version_table} of hsmkms has {len(found)} rows in place of one: correct it by hand"
        )
    return found[0]


def _known_revisions(conn: Connection, target: Target) -> dict[str, str]:
    revisions = _revisions(conn)
    if revisions.get(files.META.name) == move_mark.REVISION:
        raise move_mark.error(mark.read(conn), target.name)
    if revisions.keys() != VERSION_TABLES.keys():
        raise StoreError(f"{target.name} is no database of hsmkms: run `hsmkms init --store-url`, or correct store.url")
    for database in files.DATABASES:
        revision = revisions[database.name]
        if revision not in database.revisions and not _is_announced(conn, database, revision):
            files.check_known(target.name, revision, database.revisions)
    return revisions


def _is_announced(conn: Connection, database: DatabaseFile, revision: str) -> bool:
    """Return True if the database says that this program works with that newer revision.

    What it says is proven when the schema is compared: see ``announcements.py``.
    """
    if schema.schema_announcement.name not in inspect(conn).get_table_names():
        return False
    columns = schema.schema_announcement.c
    return conn.scalar(select(columns.works_with).where(columns.revision == revision)) in database.revisions


def tables(metadata: MetaData) -> MetaData:
    """Return a copy of a schema for this engine: text has the collation C, and the word ``only`` is quoted."""
    copy = MetaData(naming_convention=schema.NAMES)
    for each in metadata.sorted_tables:
        for column in each.to_metadata(copy).columns:
            if isinstance(column.type, Text):
                column.type = Text(collation="C")
            for constraint in column.constraints:
                if isinstance(constraint, CheckConstraint) and str(constraint.sqltext) == "only = 1":
                    constraint.sqltext = text('"only" = 1')
    return copy


def _config(conn: Connection, database: DatabaseFile) -> "Config":
    config = migrate.alembic_config(database)
    config.attributes["connection"] = conn
    config.attributes["version_table"] = VERSION_TABLES[database.name]
    return config


def _stamp(conn: Connection, name: str) -> None:
    """Record the newest revision of a schema, whose tables have just been created."""
    from alembic.migration import MigrationContext  # noqa: PLC0415 - as above
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    (database,) = (each for each in files.DATABASES if each.name == name)
    context = MigrationContext.configure(conn, opts={"version_table": VERSION_TABLES[name]})
    context.stamp(ScriptDirectory.from_config(_config(conn, database)), database.revisions[-1])
