"""Whatever is not exactly hsmkms's in the schema of the database is noticed before it can change or hide a row."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from msgspec import Struct
from service_sites import ACCOUNT, REGION
from test_service_removed_rows import World, deny, made, world

from hsmkms.errors import AccessDeniedException, KMSInternalException, StoreError
from hsmkms.model.crypto import EncryptRequest
from hsmkms.model.keys import CreateKeyRequest, DisableKeyRequest
from hsmkms.model.rotation import RotateKeyOnDemandRequest
from hsmkms.store import keys, proven_keys
from hsmkms.store.sealed_rows import key_subject

pytestmark = pytest.mark.sqlite_alone("it edits the file; a server's rows: tests/store/test_store_postgresql_seals.py")

__all__ = ["made", "world"]

REFUSED = KMSInternalException.code
DENIED = AccessDeniedException.code


class Planted(Struct):
    """What is put into the schema, whose Deny it would remove, and what verifying says of it."""

    script: str
    user: str
    words: str


def rewritten(what: str, name: str) -> str:
    """Statements that change how an entry of the schema reads, not what it is."""
    return f"PRAGMA writable_schema=ON; UPDATE sqlite_master SET {what} WHERE name='{name}';"


def entered(kind: str, table: str, sql: str) -> str:
    """Statements that enter something into the schema as a row, under any kind."""
    return (
        "PRAGMA writable_schema=ON;"
        f"INSERT INTO sqlite_master VALUES ('{kind}', 'evil', '{table}', 0, '{sql}'); PRAGMA schema_version=90000;"
    )


def open_files(folder: Path) -> list[Path]:
    """What this process has open in a folder."""
    links = (path for path in Path("/proc/self/fd").iterdir() if path.is_symlink())  # not the listing's own
    return [target for target in map(Path.readlink, links) if target.is_relative_to(folder)]


DENY = "user_name=''ursula'' AND policy_name=''deny''"
PLANTED: dict[str, Planted] = {
    "partial index that reads like a whole one": Planted(
        "CREATE INDEX a ON alias (region, key_id);"
        "CREATE INDEX evil ON alias (region, key_id, name) WHERE name <> 'alias/secret';"
        "ANALYZE; DELETE FROM sqlite_stat1;"
        "INSERT INTO sqlite_stat1 VALUES ('alias', 'a', '100000 1000 1'), ('alias', 'evil', '100000 1000 40 1');"
        + rewritten("sql = 'CREATE INDEX evil ON alias (region, key_id, name)'", "evil"),
        "al",
        "index 'evil' was added",
    ),
    "partial index under another kind": Planted(
        "CREATE INDEX a ON alias (region, key_id);"
        "CREATE INDEX evil ON alias (region, key_id, name) WHERE name <> 'alias/secret';"
        + rewritten("type = 'INDEX'", "evil"),
        "al",
        "INDEX 'evil' was added",
    ),
    "partial index of policies": Planted(
        "CREATE INDEX a ON user_policy (user_name);"
        "CREATE INDEX evil ON user_policy (user_name, policy_name) WHERE policy_name <> 'deny';"
        "ANALYZE; DELETE FROM sqlite_stat1;"
        "INSERT INTO sqlite_stat1 VALUES ('user_policy', 'a', '100000 2'), ('user_policy', 'evil', '100000 3 1'),"
        "('user_policy', 'sqlite_autoindex_user_policy_1', '100000 9000 5000');"
        + rewritten("sql = 'CREATE INDEX evil ON user_policy (user_name, policy_name)'", "evil"),
        "ursula",
        "index 'evil' was added",
    ),
    "statistics": Planted("ANALYZE", "ursula", "table 'sqlite_stat1' was added"),
    "index": Planted("CREATE INDEX evil ON alias (key_id)", "al", "index 'evil' was added"),
    "trigger under another kind": Planted(
        entered(
            "TRIGGER",
            "regional_key",
            f"CREATE TRIGGER evil AFTER UPDATE ON regional_key BEGIN DELETE FROM user_policy WHERE {DENY}; END",
        ),
        "ursula",
        "TRIGGER 'evil' was added",
    ),
    "trigger that removes what others should read": Planted(
        entered(
            "TRIGGER",
            "change_log",
            "CREATE TRIGGER evil AFTER INSERT ON change_log BEGIN DELETE FROM change_log WHERE epoch=NEW.epoch; END",
        ),
        "ursula",
        "TRIGGER 'evil' was added",
    ),
    "guard that is gone": Planted("DROP TRIGGER guard_change_log_insert", "ursula", "'guard_change_log_insert' was"),
    "action of a foreign key": Planted(
        "ALTER TABLE user_policy ADD COLUMN evil TEXT REFERENCES user (name) ON DELETE CASCADE;"
        "UPDATE user_policy SET evil = 'nina' WHERE user_name = 'ursula' AND policy_name = 'deny'",
        "ursula",
        "table 'user_policy' was changed",
    ),
    "constraint that a letter which looks like a space removes": Planted(
        rewritten(
            "sql = replace(sql, 'document TEXT NOT NULL', 'document TEXT NOT' || char(160) || 'NULL')", "user_policy"
        )
        + "PRAGMA schema_version=90000",
        "ursula",
        "table 'user_policy' was changed",
    ),
    "column that swallows writes": Planted(
        rewritten(
            "sql = replace(sql, 'CONSTRAINT pk_user_policy', 'evil AS (CASE WHEN document LIKE ''%Deny%'' THEN NULL "
            "ELSE 1 END) NOT NULL ON CONFLICT IGNORE, CONSTRAINT pk_user_policy')",
            "user_policy",
        )
        + "PRAGMA schema_version=90000",
        "ursula",
        "table 'user_policy' was changed",
    ),
}


def run(world: World, script: str) -> None:
    """Run statements on the database, with a tool."""
    with closing(sqlite3.connect(world.file, isolation_level=None)) as connection:
        connection.executescript(script)


def reasons(world: World) -> str:
    """What verifying says."""
    return "\n".join(fault.reason for fault in world.kms.operator.audit.verify_rows())


@pytest.mark.parametrize("what", PLANTED)
@pytest.mark.parametrize("reopened", [False, True], ids=["running", "reopened"])
def test_planted(world: World, what: str, *, reopened: bool) -> None:
    """What was put into the schema under any disguise is named, decides nothing, and takes part in no change."""
    planted = PLANTED[what]
    assert world.look(planted.user) == DENIED
    run(world, planted.script)
    if reopened:
        world.reopen()
    assert world.look(planted.user) == REFUSED
    assert set(world.faults()) == {"store"}
    assert planted.words in reasons(world)
    world.forget()
    with pytest.raises(KMSInternalException):
        world.kms.disable_key(DisableKeyRequest(key_id=world.key))
    with pytest.raises(KMSInternalException):
        world.kms.operator.credentials.delete_user("nina")
    with pytest.raises(KMSInternalException):
        world.kms.operator.identities.put_user_policy("greta", "deny", deny())
    with closing(sqlite3.connect(world.file)) as connection:
        names = connection.execute(
            "SELECT policy_name FROM user_policy NOT INDEXED WHERE user_name = 'ursula' ORDER BY 1"
        )
        assert names.fetchall() == [("allow",), ("deny",)]


def test_other_process_hears(world: World) -> None:
    """No change is made whose entry in the change log is removed, so that no other process keeps a stale record."""
    request = EncryptRequest(key_id=world.key, plaintext=b"x")
    with world.site.open() as other:
        other.encrypt(request, other.caller(REGION))
        run(world, PLANTED["trigger that removes what others should read"].script)
        with pytest.raises(KMSInternalException):
            world.kms.disable_key(DisableKeyRequest(key_id=world.key))
        other.encrypt(request, other.caller(REGION))
    assert "evil" in reasons(world)


@pytest.mark.parametrize("back", [False, True], ids=["moved", "moved back"])
def test_version_that_moves(world: World, *, back: bool) -> None:
    """A schema version that was compared once counts for nothing after another one was seen."""
    with closing(sqlite3.connect(world.file, isolation_level=None)) as connection:
        (version,) = connection.execute("PRAGMA schema_version").fetchone()
        assert world.look("al") == DENIED
        connection.execute("CREATE INDEX evil ON alias (key_id)")
        assert world.look("al") == REFUSED
        if back:
            connection.execute(f"PRAGMA schema_version={version}")
        assert world.look("al") == REFUSED
        connection.execute("DROP INDEX evil")
    assert world.look("al") == DENIED
    assert world.faults() == []


def test_version_that_does_not_move(world: World) -> None:
    """Verifying in a process that runs reads the schema from the file, though its version has not moved."""
    assert world.faults() == []
    run(world, rewritten("sql = replace(sql, 'region)', 'name)')", "ix_alias_key_id"))
    assert set(world.faults()) == {"store"}
    assert "index 'ix_alias_key_id' was changed" in reasons(world)


@pytest.mark.parametrize(
    ("index", "columns", "hidden", "user"),
    [
        ("ix_alias_key_id", "alias (key_id, region)", "name <> 'alias/secret'", "al"),
        ("ix_group_member_user_name", "group_member (user_name)", "user_name <> 'grace'", "grace"),
        ("ix_key_grant_key_id", "key_grant (key_id, region, grantee)", "name <> ''", "greta"),
    ],
)
def test_index_that_leaves_rows_out(world: World, index: str, columns: str, hidden: str, user: str) -> None:
    """A forged index with the schema's own text that leaves rows out hides none, and verification names it."""
    run(
        world,
        f"DROP INDEX {index}; CREATE INDEX {index} ON {columns} WHERE {hidden};"
        + rewritten(f"sql = 'CREATE INDEX {index} ON {columns}'", index),
    )
    for _ in range(2):
        assert world.look(user) == REFUSED
        assert set(world.faults()) == {"store"}
        assert f"missing from index {index}" in reasons(world)
        world.reopen()
    run(world, "REINDEX")
    assert world.faults() == []
    assert world.look(user) in (DENIED, "")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("ALTER TABLE user_tag DROP COLUMN tag_value", "table 'user_tag' was changed"),
        ("DROP TABLE user_tag", "table 'user_tag' was removed"),
    ],
)
def test_what_is_gone(world: World, script: str, words: str) -> None:
    """Verifying names a column or table that was removed, of which no row can be read."""
    run(world, script)
    assert world.faults() == ["store"]
    assert words in reasons(world)
    assert world.look("ute") == REFUSED


def test_nothing_makes_it_right(world: World) -> None:
    """Under another schema nothing is sealed, also where the operator accepts what is there."""
    run(world, PLANTED["index"].script)
    with pytest.raises(StoreError, match=r"is not sealed: its schema is not the one that hsmkms made.*'evil'"):
        world.kms.operator.audit.accept()
    assert world.look("al") == REFUSED
    world.edit("DROP INDEX evil", "DELETE FROM seal_tree")
    run(world, PLANTED["index"].script)
    world.kms.close()
    with pytest.raises(StoreError, match="is not sealed") as refusal:
        world.site.open()
    assert refusal.traceback  # which would keep alive what was left to a finalizer
    assert open_files(world.site.settings.data_dir) == []
    run(world, "DROP INDEX evil")
    world.kms = world.site.open()


def test_key_from_its_rows(world: World) -> None:
    """A key built from its proven rows equals the result of its query, with its materials, regions and rotation."""
    made_key = world.kms.create_key(CreateKeyRequest(multi_region=True)).key_metadata.key_id
    world.kms.rotate_key_on_demand(RotateKeyOnDemandRequest(key_id=made_key))
    core = world.kms._core
    with core.store.reading() as conn:
        for key_id in (made_key, world.key):
            rows = core.seals.check(conn, key_subject(key_id))
            stored = keys.fetch(conn, REGION, key_id)
            assert stored is not None
            assert proven_keys.record(rows, REGION, ACCOUNT) == stored
            assert proven_keys.record(rows, "us-east-1", ACCOUNT) is None
