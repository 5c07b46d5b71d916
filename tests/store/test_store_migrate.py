"""Migrations: complete, in order, in agreement with the tables that the program uses."""

import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, MetaData, create_engine, inspect
from store_samples import a_key, write

from hsmkms.errors import StoreError
from hsmkms.store import files, log_schema, migrate, schema
from hsmkms.store.engine import Store


def url_of(path: Path) -> URL:
    """What SQLAlchemy opens a file by; a text would give some characters of the path a meaning."""
    return URL.create("sqlite", database=str(path))


DATABASES = [(files.META, schema.meta), (files.LOG, log_schema.log)]


@pytest.mark.parametrize(("database", "metadata"), DATABASES)
def test_tables_and_migrations_agree(folder: Path, database: files.DatabaseFile, metadata: MetaData) -> None:
    """Alembic finds no difference between the migrated database and the tables of schema.py."""
    engine = create_engine(url_of(folder / database.name))
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


@pytest.mark.parametrize(("database", "metadata"), DATABASES)
def test_rules_and_migrations_agree(folder: Path, database: files.DatabaseFile, metadata: MetaData) -> None:
    """What Alembic does not compare: checks and references, by name and content, and AUTOINCREMENT."""

    def rules(url: URL, *, make: bool) -> dict[str, object]:
        engine = create_engine(url)
        with engine.begin() as connection:
            if make:
                metadata.create_all(connection)
            seen = inspect(connection)
            schema_rules: dict[str, object] = {
                name: (
                    sorted(
                        (constraint["name"], constraint["sqltext"]) for constraint in seen.get_check_constraints(name)
                    ),
                    sorted(
                        (foreign_key["name"], foreign_key["constrained_columns"])
                        for foreign_key in seen.get_foreign_keys(name)
                    ),
                    sorted(
                        (constraint["name"], constraint["column_names"])
                        for constraint in seen.get_unique_constraints(name)
                    ),
                    seen.get_pk_constraint(name),
                )
                for name in metadata.tables
            }
            query = "SELECT name FROM sqlite_master WHERE sql LIKE '%AUTOINCREMENT%'"
            schema_rules["autoincrement"] = list(connection.exec_driver_sql(query).scalars())
        engine.dispose()
        return schema_rules

    assert rules(url_of(folder / database.name), make=False) == rules(URL.create("sqlite"), make=True)


@pytest.mark.parametrize("database", files.DATABASES, ids=lambda each: each.name)
def test_known_revisions_are_those_that_exist(database: files.DatabaseFile) -> None:
    """The constants, which spare reading the folder, name the migrations from the first to the head."""
    script = ScriptDirectory.from_config(migrate.alembic_config(database))
    assert tuple(revision.revision for revision in script.walk_revisions())[::-1] == database.revisions


def test_create_makes_current_databases_and_keeps_what_is_there(tmp_path: Path) -> None:
    """Fresh databases need no upgrade; a second ``create`` is refused and changes nothing."""
    folder = tmp_path / "new" / "data"
    migrate.create(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["log.db", "meta.db"]
    assert migrate.upgrade(folder) == []
    assert migrate.current(folder) == {"meta.db": schema.META_REVISIONS[-1], "log.db": schema.LOG_REVISIONS[-1]}
    before = (folder / "meta.db").read_bytes()
    with pytest.raises(StoreError, match="already"):
        migrate.create(folder)
    assert (folder / "meta.db").read_bytes() == before


def test_create_after_an_interruption_keeps_the_counts(folder: Path) -> None:
    """Where only log.db is there, its rows outlive the making of meta.db."""
    with closing(sqlite3.connect(folder / "log.db")) as connection, connection:
        connection.execute("INSERT INTO encryption_count (material_id, reserved) VALUES ('m', 5)")
    (folder / "meta.db").unlink()
    migrate.create(folder)
    with closing(sqlite3.connect(folder / "log.db")) as connection:
        assert connection.execute("SELECT reserved FROM encryption_count").fetchall() == [(5,)]
    Store.open(folder).close()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """The error names the folder."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made"):
        migrate.create(tmp_path / "file" / "data")


SECOND = """
import sqlalchemy as sa
from alembic import op
revision = "meta_9999"
down_revision = "{last}"

def upgrade():
    with op.batch_alter_table("key") as table:
        table.add_column(sa.Column("colour", sa.Text))
    if {fail}:
        op.execute("DELETE FROM {table}")
        if {crash}:
            raise ZeroDivisionError
"""


@pytest.fixture
def second(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the migrations of meta.db with a place for a second one; the database has a key."""
    store = Store.open(folder)
    write(store, a_key())
    store.close()
    copy = tmp_path / "migrations" / "meta"
    (copy / "versions").mkdir(parents=True)
    source = Path(migrate.__file__).with_name("migrations") / "meta"
    for name in ("env.py", *(f"versions/{revision}.py" for revision in files.META.revisions)):
        (copy / name).write_text((source / name).read_text())
    newer = files.DatabaseFile(files.META.name, (*files.META.revisions, "meta_9999"), str(copy))
    monkeypatch.setattr("hsmkms.store.files.DATABASES", (files.LOG, newer))
    return copy / "versions" / "meta_9999.py"


def columns(folder: Path) -> list[str]:
    """The columns of the table ``key``."""
    with closing(sqlite3.connect(folder / "meta.db")) as connection:
        return [row[1] for row in connection.execute("PRAGMA table_info(key)")]


def test_upgrade_applies_what_is_missing(folder: Path, second: Path) -> None:
    """A table that others refer to is rebuilt without losing them, and the revision is reported."""
    second.write_text(SECOND.format(last=files.META.revisions[-1], fail=False, table="", crash=False))
    assert migrate.upgrade(folder) == ["meta_9999"]
    assert "colour" in columns(folder)
    assert migrate.upgrade(folder) == []
    with closing(sqlite3.connect(folder / "meta.db")) as connection:
        assert connection.execute("SELECT count(key_id) FROM key").fetchone() == (1,)


def test_an_interrupted_upgrade_changes_nothing(folder: Path, second: Path) -> None:
    """A migration that fails half-way leaves tables, rows and revision as they were."""
    second.write_text(SECOND.format(last=files.META.revisions[-1], fail=True, table="tag", crash=True))
    with pytest.raises(ZeroDivisionError):
        migrate.upgrade(folder)
    assert "colour" not in columns(folder)
    assert migrate.current(folder)["meta.db"] == files.META.revisions[-1]


def test_an_upgrade_that_breaks_references_is_refused(folder: Path, second: Path) -> None:
    """Foreign keys are off during a migration, so they are checked before it is kept."""
    second.write_text(SECOND.format(last=files.META.revisions[-1], fail=True, table="key", crash=False))
    with pytest.raises(StoreError, match="nothing was changed"):
        migrate.upgrade(folder)
    assert migrate.current(folder)["meta.db"] == files.META.revisions[-1]


def test_opening_needs_no_alembic_and_no_working_directory(folder: Path, tmp_path: Path) -> None:
    """The slow import is left to the commands that migrate; the migrations are found from anywhere."""
    code = (
        "import sys; from pathlib import Path; from hsmkms.store import migrate; from hsmkms.store.engine import Store;"
        "Store.open(Path(sys.argv[1])).close(); assert 'alembic' not in sys.modules;"
        "migrate.create(Path(sys.argv[2])); assert 'alembic' in sys.modules"
    )
    root = Path(migrate.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(folder), str(tmp_path / "other")],
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "other" / "meta.db").is_file()


@pytest.mark.parametrize("database", files.DATABASES, ids=lambda each: each.name)
def test_migrations_only_add(database: files.DatabaseFile) -> None:
    """Tables, nullable columns and indexes: a program that does not know them still works."""
    for revision in database.revisions:
        path = Path(migrate.__file__).with_name("migrations") / database.migrations / "versions" / f"{revision}.py"
        text = path.read_text()
        assert set(re.findall(r"\bop\.(\w+)\(", text)) <= {"create_table", "add_column", "create_index", "execute", "f"}
        for column in re.findall(r"op\.add_column\((.*)\)\n", text):
            assert "nullable=False" not in column or "server_default" in column
        assert not re.search(r"\.(update|delete)\(", text)


OPENED_BEFORE = {
    "installation",
    "token",
    "installation_key",
    "change_log",
    "row_seal",
    "store_root",
    "seal_tree",
    "node",
    "schema_announcement",
    "audit_outbox",
    "audit_head",
}
"""Tables that a program reads and writes in a database of the schema before its own, to announce its migration."""


def test_migrations_expand() -> None:
    """From meta_0009 on the programs of two neighbouring schemas run side by side.

    New columns are empty for rows of the older program, new tables refer to no row that it deletes, and the tables
    that the newer one needs before the migration stay as they are.
    """
    for revision in schema.META_REVISIONS[schema.META_REVISIONS.index("meta_0009") :]:
        text = (Path(migrate.__file__).with_name("migrations") / "meta/versions" / f"{revision}.py").read_text()
        for table, column in re.findall(r'op\.add_column\("(\w+)", (.*)\)\n', text):
            assert table not in OPENED_BEFORE
            assert "nullable=True" in column
            assert "server_default" not in column
        assert "ForeignKey" not in text


def test_a_schema_that_is_not_that_of_its_revision(folder: Path) -> None:
    """Where a migration's statement does not fit the schema, the error says so, and nothing is changed."""
    with closing(sqlite3.connect(folder / "meta.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'meta_0008'")
    with pytest.raises(StoreError, match=r"is not that of its revision, .* schema_announcement already exists"):
        migrate.upgrade(folder)
    assert migrate.current(folder)["meta.db"] == "meta_0008"
