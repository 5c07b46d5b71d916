"""Making a PostgreSQL database, checking it, migrating it, and connecting to it."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from postgresql_cluster import ROLE, Cluster
from sqlalchemy import MetaData, NullPool, create_engine

from hsmkms.errors import ConfigurationError, DependencyTimeoutException, MigrationError, StoreError
from hsmkms.store import log_schema, schema
from hsmkms.store.engine import Store
from hsmkms.store.files import LOG, META
from hsmkms.store.postgresql import creation
from hsmkms.store.postgresql.target import Target, parse

NEWEST = {META.name: META.revisions[-1], LOG.name: LOG.revisions[-1]}


@pytest.fixture
def empty(cluster: Cluster) -> Iterator[Target]:
    """A new database without tables."""
    with cluster.database() as url:
        yield parse(url)


def execute(target: Target, *statements: str) -> None:
    """Change a database by hand."""
    with target.connect() as conn:
        for each in statements:
            conn.execute(each.encode())


def differences(target: Target) -> list[object]:
    """What Alembic would change to get from the tables to their definition."""
    both = MetaData(naming_convention=schema.NAMES)
    for metadata in (schema.meta, log_schema.log):
        for table in creation.tables(metadata).sorted_tables:
            table.to_metadata(both)
    engine = create_engine("postgresql+psycopg://", creator=target.connect, poolclass=NullPool)
    with engine.connect() as conn:
        found = compare_metadata(MigrationContext.configure(conn, opts={"compare_type": True}), both)
    engine_only = {"alembic_version_log", "generation", "touched_subject"}
    return [each for each in found if each[0] != "remove_table" or each[1].name not in engine_only]


def test_a_new_database(empty: Target, tmp_path: Path) -> None:
    """It has the tables of the definition and their newest revisions, and is made once."""
    assert not creation.exists(empty)
    creation.create(empty, tmp_path)
    assert creation.exists(empty)
    assert creation.current(empty) == NEWEST
    assert creation.upgrade(empty, tmp_path) == []
    assert differences(empty) == []
    with pytest.raises(StoreError, match="left as it is"):
        creation.create(empty, tmp_path)


@pytest.mark.parametrize("rows", ["('head')", "('one'), ('two')", ""])
def test_another_program_that_uses_alembic(empty: Target, tmp_path: Path, rows: str) -> None:
    """Its database is none of hsmkms, whatever its revisions are, and is left as it was."""
    execute(empty, "CREATE TABLE alembic_version (version_num varchar(32))")
    if rows:
        execute(empty, f"INSERT INTO alembic_version VALUES {rows}")
    assert not creation.exists(empty)
    with pytest.raises(StoreError, match="is not empty: its schema public has 'alembic_version'"):
        creation.create(empty, tmp_path)
    with pytest.raises(StoreError, match="is no database of hsmkms"):
        creation.check(empty, tmp_path)


def test_revisions_that_are_gone(target: Target, tmp_path: Path) -> None:
    """A database of hsmkms without its revision is named as such."""
    execute(target, "DELETE FROM alembic_version")
    with pytest.raises(StoreError, match=r"the table alembic_version .* has 0 rows in place of one"):
        creation.check(target, tmp_path)


def test_an_older_database_is_migrated(empty: Target, tmp_path: Path) -> None:
    """It is refused until then; the migrations are those of SQLite, and lead to the same tables."""
    creation.create(empty, tmp_path)
    execute(
        empty,
        "DROP TABLE access_key_use",
        f"UPDATE alembic_version_log SET version_num = '{LOG.revisions[-2]}'",
    )
    with pytest.raises(MigrationError, match="hsmkms migrate"):
        Store.open(tmp_path, target=empty)
    assert creation.upgrade(empty, tmp_path) == [LOG.revisions[-1]]
    assert creation.current(empty) == NEWEST
    Store.open(tmp_path, target=empty).close()


def test_a_failed_migration_changes_nothing(empty: Target, tmp_path: Path) -> None:
    """All of it is one transaction."""
    creation.create(empty, tmp_path)
    older = LOG.revisions[-3]
    execute(empty, f"UPDATE alembic_version_log SET version_num = '{older}'", "DROP TABLE last_use")
    with pytest.raises(StoreError):  # it makes a table that is there
        creation.upgrade(empty, tmp_path)
    assert creation.current(empty)[LOG.name] == older
    with pytest.raises(psycopg.errors.UndefinedTable):
        execute(empty, "SELECT 1 FROM last_use")


def test_a_newer_database(empty: Target, tmp_path: Path) -> None:
    """An older program leaves it alone."""
    creation.create(empty, tmp_path)
    execute(empty, "UPDATE alembic_version SET version_num = 'meta_9999'")
    with pytest.raises(MigrationError, match="newer"):
        Store.open(tmp_path, target=empty)
    with pytest.raises(MigrationError, match="newer"):
        creation.upgrade(empty, tmp_path)


def test_a_newer_database_that_announces_itself(empty: Target, tmp_path: Path) -> None:
    """It is opened if it says that this program works with it; what it says is proven later, by its seal."""
    creation.create(empty, tmp_path)
    execute(
        empty,
        f"INSERT INTO schema_announcement VALUES ('meta_9999', '{META.revisions[-1]}', '{{}}')",
        "INSERT INTO schema_announcement VALUES ('meta_9998', 'meta_9990', '{}')",
        "UPDATE alembic_version SET version_num = 'meta_9999'",
    )
    Store.open(tmp_path, target=empty).close()
    assert creation.upgrade(empty, tmp_path) == []
    execute(empty, "UPDATE alembic_version SET version_num = 'meta_9998'")
    with pytest.raises(MigrationError, match="newer"):
        Store.open(tmp_path, target=empty)


def test_what_is_no_database_of_hsmkms(empty: Target, cluster: Cluster, tmp_path: Path) -> None:
    """No tables, no such database, or tables of another owner: each error says what to do."""
    with pytest.raises(StoreError, match="hsmkms init --store-url"):
        Store.open(tmp_path, target=empty)
    with pytest.raises(DependencyTimeoutException, match=r"what store\.url"):
        Store.open(tmp_path, target=parse(cluster.url("missing")))
    creation.create(empty, tmp_path)
    cluster.admin.execute("DROP ROLE IF EXISTS stranger")
    cluster.admin.execute("CREATE ROLE stranger LOGIN")
    with pytest.raises(StoreError, match="may not use the tables"):
        Store.open(tmp_path, target=Target(empty.url.set(username="stranger")))


def test_a_server_that_loses_commits(empty: Target, tmp_path: Path) -> None:
    """With synchronous_commit off what was answered may be gone after a crash, so it is refused."""
    creation.create(empty, tmp_path)
    execute(empty, f"ALTER ROLE {ROLE} IN DATABASE {empty.url.database} SET synchronous_commit = off")
    with pytest.raises(StoreError, match="set it to on"):
        Store.open(tmp_path, target=empty)


def test_no_server(tmp_path: Path) -> None:
    """The error is one that clients repeat."""
    with pytest.raises(DependencyTimeoutException, match="that the server runs"):
        Store.open(tmp_path, target=parse(f"postgresql+psycopg://hsmkms@/hsmkms?host={tmp_path}"))


def test_a_password_for_each_connection(empty: Target, cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """It may change while the program runs; a wrong one is refused without being shown."""
    cluster.admin.execute("DROP ROLE IF EXISTS guarded")
    cluster.admin.execute("CREATE ROLE guarded LOGIN PASSWORD 'first secret'")
    passwords = ["second secret", "first secret"]
    target = Target(empty.url.set(username="guarded"), passwords.pop)
    with target.connect() as conn:
        assert conn.execute("SELECT current_user").fetchone() == ("guarded",)
    with pytest.raises(DependencyTimeoutException, match=r"store\.password") as caught:
        creation.exists(target)
    assert "secret" not in f"{caught.value} {caught.value.__cause__} {caplog.text} {target}"


WRONG = {
    "postgresql+psycopg://hsmkms:hunter2@db/hsmkms": "must not hold a password",
    "postgresql+psycopg://hsmkms@db/hsmkms?password=hunter2": "must not hold a password",
    "postgresql+psycopg://hsmkms@db/hsmkms?passfile=hunter2": "must not hold a password",
    "postgresql+psycopg://hsmkms@db": "names no database",
    "postgresql://hsmkms@db/hsmkms": "only postgresql",
    "mysql://hsmkms@db/hsmkms": "only postgresql",
    "hunter2": "no URL",
    "postgresql+psycopg://hsmkms@db:port/hsmkms": "no URL",
}


@pytest.mark.parametrize("url", WRONG)
def test_wrong_urls(url: str) -> None:
    """Each is refused with what would be right, and without the password that it may contain."""
    with pytest.raises(ConfigurationError, match=WRONG[url]) as caught:
        parse(url)
    assert "hunter2" not in str(caught.value)


def test_an_option_that_libpq_does_not_know() -> None:
    """It is an error of the configuration."""
    with pytest.raises(ConfigurationError, match="correct its query"):
        parse("postgresql+psycopg://hsmkms@/hsmkms?sslmod=disable").connect()


def test_the_network_is_encrypted_unless_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over TCP the server's certificate is verified, where the URL says nothing else; of several hosts the primary."""
    seen: list[dict[str, object]] = []
    monkeypatch.setattr(psycopg, "connect", lambda **options: seen.append(options))
    for query in ("", "?sslmode=require", "?host=one:5432&host=two:5433", "?host=/run/postgresql"):
        parse(f"postgresql+psycopg://hsmkms@{'' if 'host' in query else 'db'}/hsmkms{query}").connect()
    assert [each.get("sslmode") for each in seen] == ["verify-full", "require", "verify-full", None]
    assert {each["target_session_attrs"] for each in seen} == {"read-write"}
    assert (seen[2]["host"], seen[2]["port"]) == ("one,two", "5432,5433")


def test_a_host_without_an_address(tmp_path: Path) -> None:
    """Whatever keeps a connection from being made, nothing was sent: no sentence speaks of a change that was."""
    missing = parse("postgresql+psycopg://hsmkms@db.invalid/kms?connect_timeout=2")
    with pytest.raises(DependencyTimeoutException, match="cannot be connected to"):
        creation.exists(missing)
    with pytest.raises(DependencyTimeoutException, match="cannot be connected to"):
        creation.create(missing, tmp_path)
