"""The expected schema is the one that migrations make, on every way to the newest revision."""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from hsmkms.store import files, migrate
from hsmkms.store.engine import Store
from hsmkms.store.sqlite import capture, connections, schema

FROZEN = sorted((Path(__file__).parent.parent / "frozen").glob("meta_*"))


def objects(folder: Path) -> list[schema.Object]:
    """What is in the schema of the control plane."""
    with closing(sqlite3.connect(folder / files.META.name)) as connection:
        return sorted(schema.objects(connection))


def differences(folder: Path) -> tuple[str, ...]:
    """What the comparison says."""
    store = Store.open(folder)
    with store.reading() as conn:
        differing = schema.differences(conn)
    store.close()
    return differing


def test_fresh(folder: Path) -> None:
    """A new database has exactly these objects. After a new migration, what is listed here is what must stand there."""
    assert objects(folder) == sorted(schema.OBJECTS)
    assert differences(folder) == ()


def test_step_by_step(tmp_path: Path) -> None:
    """A database that was migrated by one revision at a time has the very text of one that was made at once."""
    from alembic import command  # noqa: PLC0415 - as the program does
    from sqlalchemy import URL, create_engine  # noqa: PLC0415 - as above

    path = tmp_path / files.META.name
    for revision in files.META.revisions:
        engine = create_engine(URL.create("sqlite", database=str(path)))
        with engine.begin() as connection:
            config = migrate.alembic_config(files.META)
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
        engine.dispose()
    assert objects(tmp_path) == sorted(schema.OBJECTS)


@pytest.mark.parametrize("frozen", FROZEN, ids=lambda each: each.name)
def test_of_every_revision(tmp_path: Path, frozen: Path) -> None:
    """The databases of older programs, migrated, have no difference; neither have the guards of sealed ones."""
    for database in files.DATABASES:
        path = tmp_path / database.name
        connections.make_empty(path)
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript((frozen / f"{path.stem}.sql").read_text())
    migrate.upgrade(tmp_path)
    assert differences(tmp_path) == ()


@pytest.mark.parametrize("function", capture.GUARDS)
def test_guards(folder: Path, function: str) -> None:
    """The guards are all there or none; those of a sealed database must be there."""
    with closing(sqlite3.connect(folder / files.META.name)) as connection, connection:
        for statement in capture.guards(function).values():
            connection.execute(statement)
        assert differences(folder) == ()
        connection.execute("DROP TRIGGER guard_token_object_delete")
        assert differences(folder) == ("trigger 'guard_token_object_delete' was removed",)
        for name in capture.guards(function).keys() - {"guard_token_object_delete"}:
            connection.execute(f"DROP TRIGGER {name}")
        assert differences(folder) == ()
        connection.execute("INSERT INTO store_root VALUES (1, x'00', x'00')")
        connection.commit()
        assert len(differences(folder)) == len(capture.guards(function))


def test_index_on_the_schema(folder: Path) -> None:
    """The comparison reads the table of the schema itself: no index on it, which SQLite would take, hides a row."""
    with closing(sqlite3.connect(folder / files.META.name, isolation_level=None)) as connection:
        connection.executescript(
            "CREATE TABLE evil (a, b, c, d); CREATE INDEX thin ON evil (a, b, c, d); PRAGMA writable_schema=ON;"
            "UPDATE sqlite_master SET tbl_name = 'sqlite_master', sql = 'CREATE INDEX thin ON sqlite_master "
            "(type, name, tbl_name, sql)' WHERE name = 'thin'; PRAGMA schema_version=90000"
        )
    assert differences(folder) == ("index 'thin' was added", "table 'evil' was added")


def test_connections_distrust_the_file(folder: Path) -> None:
    """Readers trust no function that the schema names; no connection lets the schema be edited as a table."""
    store = Store.open(folder)
    with store.reading() as conn:
        asked = [conn.exec_driver_sql(f"PRAGMA {each}").scalar() for each in ("trusted_schema", "cell_size_check")]
        assert asked == [0, 1]
    with store.atomic() as tx:
        assert tx.exec_driver_sql("PRAGMA writable_schema").scalar() == 0
    store.close()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="this Python cannot set SQLITE_DBCONFIG_DEFENSIVE")
def test_connections_are_defensive(folder: Path) -> None:
    """Also a statement that says so cannot edit the schema as a table."""
    with closing(connections.connect(folder / files.META.name)) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        with pytest.raises(sqlite3.OperationalError, match="may not be modified"):
            connection.execute("DELETE FROM sqlite_master")
