"""What PostgreSQL does for the seals: recording what a transaction touches, and comparing the schema."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from postgresql_cluster import ROLE, Cluster
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from store_samples import NOW, REGION, a_key, write

from hsmkms.errors import MisuseError
from hsmkms.store import aliases, changes, identities, row_seals, seal_engine, sealed_rows, users
from hsmkms.store.engine import Store
from hsmkms.store.postgresql import capture, catalogue
from hsmkms.store.postgresql.target import Target
from hsmkms.store.row_seals import RootRow


@pytest.fixture
def store(target: Target, tmp_path: Path) -> Iterator[Store]:
    """A store with a row of most kinds."""
    opened = Store.open(tmp_path, target=target)
    key = write(opened, a_key(), owner="me")
    with opened.atomic() as tx:
        aliases.insert(tx, REGION, "alias/a/b", key.key_id, NOW)
        users.insert_user(tx, "alice", NOW, "AIDA1")
        identities.insert_group(tx, "staff", NOW)
        identities.add_member(tx, "staff", "alice")
        identities.put_policy(tx, identities.Owner.GROUP, "staff", "p", "{}")
        identities.put_tags(tx, "alice", {"a": "b"})
        seal_engine.of(tx).take_touched(tx)
    yield opened
    opened.close()


def touched(tx: Connection) -> list[str]:
    """The subjects of what the transaction has written."""
    return seal_engine.of(tx).take_touched(tx)


def test_every_row_is_recorded(store: Store) -> None:
    """Whatever statement writes a row, its subject is the one that its seal is computed for."""
    with store.atomic() as tx:
        subjects = {(entry.table.name, subject) for subject, entry in sealed_rows.every(tx)}
        assert len(subjects) > 12
        assert touched(tx) == []
        for table in {name for name, _ in subjects}:
            column = tx.scalar(
                text("SELECT column_name FROM information_schema.columns WHERE table_name = :table LIMIT 1"),
                {"table": table},
            )
            tx.execute(text(f'UPDATE "{table}" SET "{column}" = "{column}"'))
            assert touched(tx) == sorted({subject for name, subject in subjects if name == table})


def test_both_subjects_of_a_row_that_moves(store: Store) -> None:
    """A row that goes to another subject touches both; one that is removed touches its own."""
    with store.atomic() as tx:
        tx.execute(text("UPDATE alias SET name = 'alias/other'"))
        assert touched(tx) == [f"alias/{REGION}/alias/a/b", f"alias/{REGION}/alias/other"]
        tx.execute(text("DELETE FROM alias"))
        assert touched(tx) == [f"alias/{REGION}/alias/other"]
        tx.execute(text("UPDATE token_object SET material = NULL"))
        kinds = [each.partition("/")[0] for each in touched(tx)]
        assert kinds == ["key", "object"]


def test_what_is_rolled_back_is_not_recorded(store: Store) -> None:
    """Neither by a savepoint nor by the next transaction."""
    with store.atomic() as tx:
        part = tx.begin_nested()
        tx.execute(text("DELETE FROM alias"))
        part.rollback()
        assert touched(tx) == []
    with pytest.raises(ZeroDivisionError), store.atomic() as tx:
        raise ZeroDivisionError(tx.execute(text("DELETE FROM alias")))
    with store.atomic() as tx:
        assert touched(tx) == []


def test_no_way_around_the_triggers(store: Store, target: Target, cluster: Cluster) -> None:
    """TRUNCATE is refused; a session that declares itself a replica is recorded as well."""
    with pytest.raises(DBAPIError, match="one by one"), target_engine(store).begin() as conn:
        conn.execute(text("TRUNCATE alias"))
    with cluster.connect(str(target.url.database)) as admin:
        admin.execute("BEGIN; SET LOCAL session_replication_role = replica; DELETE FROM alias")
        found = admin.execute("SELECT subject FROM touched_subject").fetchall()
        admin.execute("ROLLBACK")
    assert found == [(f"alias/{REGION}/alias/a/b",)]


def target_engine(store: Store) -> object:
    """The pool of the store, whose errors are not translated."""
    return store.meta._engine


def test_a_sealed_store_refuses_who_does_not_seal(store: Store, target: Target) -> None:
    """As soon as there is a root, every change needs a process that seals."""
    with store.atomic() as tx:
        row_seals.put_root(tx, RootRow(1, b"nonce", b"value"))
    with pytest.raises(MisuseError, match="seals nothing"), store.atomic() as tx:
        changes.note(tx, REGION, "subject")
    store.sealing = True
    with store.atomic() as tx:
        changes.note(tx, REGION, "subject")
    sealed = target.connect()
    with pytest.raises(Exception, match="the control plane is sealed"):
        sealed.execute("DELETE FROM token_object WHERE false")
    sealed.close()


CASCADE = (
    "ALTER TABLE user_tag ADD CONSTRAINT fk_user_tag_user_name "
    'FOREIGN KEY (user_name) REFERENCES "user" (name) ON DELETE CASCADE'
)
NEVER = (
    "CREATE TRIGGER note_touched AFTER INSERT OR UPDATE OR DELETE ON tag "
    "FOR EACH ROW WHEN (false) EXECUTE FUNCTION note_tag()"
)
PLANTED = {
    "a trigger": (
        "CREATE FUNCTION evil() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER evil BEFORE UPDATE ON alias FOR EACH ROW EXECUTE FUNCTION evil()",
    ),
    "a rule": ("CREATE RULE evil AS ON INSERT TO key_grant DO INSTEAD NOTHING",),
    "a policy": ("CREATE POLICY evil ON alias USING (false)",),
    "row security": ("ALTER TABLE alias ENABLE ROW LEVEL SECURITY",),
    "a child table": ("CREATE TABLE more_aliases () INHERITS (alias)",),
    "a view": ("CREATE VIEW evil AS SELECT 1",),
    "an index": ("CREATE INDEX evil ON alias (key_id) WHERE name > 'b'",),
    "another index": ("DROP INDEX ix_alias_key_id", "CREATE INDEX ix_alias_key_id ON alias (region)"),
    "a column": ("ALTER TABLE alias ADD COLUMN evil text GENERATED ALWAYS AS (name) STORED",),
    "a type": ("ALTER TABLE tag ALTER COLUMN tag_value TYPE varchar(3)",),
    "a collation": ('ALTER TABLE tag ALTER COLUMN tag_value TYPE text COLLATE "en-x-icu"',),
    "NULL": ("ALTER TABLE tag ALTER COLUMN tag_value DROP NOT NULL",),
    "a cascade": (
        "ALTER TABLE user_tag DROP CONSTRAINT fk_user_tag_user_name",
        CASCADE,
    ),
    "a default": (
        "CREATE SCHEMA evil",
        "CREATE FUNCTION evil.f() RETURNS boolean LANGUAGE plpgsql AS 'BEGIN DELETE FROM alias; RETURN false; END'",
        "ALTER TABLE material ALTER COLUMN host_unwrapped SET DEFAULT evil.f()",
    ),
    "a condition of a column": (
        "CREATE SCHEMA evil",
        "CREATE FUNCTION evil.f(t text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN DELETE FROM tag; RETURN true; END'",
        "ALTER TABLE alias ADD CHECK (evil.f(name))",
    ),
    "another condition": (
        "CREATE SCHEMA evil",
        "CREATE FUNCTION evil.f(t text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN DELETE FROM tag; RETURN true; END'",
        (
            "ALTER TABLE material DROP CONSTRAINT ck_material_state, "
            "ADD CONSTRAINT ck_material_state CHECK (evil.f(state))"
        ),
    ),
    "a trigger of one column": (
        "DROP TRIGGER note_touched ON tag",
        (
            "CREATE TRIGGER note_touched AFTER INSERT OR UPDATE OF region OR DELETE ON tag "
            "FOR EACH ROW EXECUTE FUNCTION note_tag()"
        ),
        "ALTER TABLE tag ENABLE ALWAYS TRIGGER note_touched",
    ),
    "a late trigger": (
        "DROP TRIGGER note_touched ON tag",
        (
            "CREATE CONSTRAINT TRIGGER note_touched AFTER INSERT OR UPDATE OR DELETE ON tag "
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note_tag()"
        ),
        "ALTER TABLE tag ENABLE ALWAYS TRIGGER note_touched",
    ),
    "no trigger": ("DROP TRIGGER note_touched ON key_grant",),
    "a sleeping trigger": ("ALTER TABLE key_grant DISABLE TRIGGER note_touched",),
    "a condition": (
        "DROP TRIGGER note_touched ON tag",
        NEVER,
        "ALTER TABLE tag ENABLE ALWAYS TRIGGER note_touched",
    ),
    "another text": (
        "CREATE OR REPLACE FUNCTION note_tag() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    ),
}


def change(target: Target, *statements: str) -> None:
    """Change the schema by hand."""
    with target.connect() as conn:
        for each in statements:
            conn.execute(each.encode())


@pytest.mark.parametrize("kind", PLANTED)
def test_planted(store: Store, target: Target, kind: str) -> None:
    """Everything that is not as hsmkms made it is named, also to a process that has compared the schema before."""
    with store.reading() as conn:
        assert seal_engine.of(conn).differences(conn) == ()
    change(target, *PLANTED[kind])
    with store.reading() as conn:
        found = seal_engine.of(conn).differences(conn)
        assert found
        assert seal_engine.of(conn).compare_again(conn) == found
    assert all(any(word in each for word in ("was added", "was changed", "was removed")) for each in found)


def test_operators_of_another_schema(store: Store, target: Target, cluster: Cluster) -> None:
    """An index whose order a function decides that the server does not have by itself runs that function."""
    with cluster.connect(str(target.url.database)) as admin:
        for each in (
            "CREATE SCHEMA evil",
            "CREATE FUNCTION evil.compare(text, text) RETURNS integer IMMUTABLE LANGUAGE sql AS 'SELECT 0'",
            (
                "CREATE OPERATOR CLASS evil.ops FOR TYPE text USING btree "
                "AS OPERATOR 3 =, FUNCTION 1 evil.compare(text, text)"
            ),
            "DROP INDEX ix_access_key_user_name",
            "CREATE INDEX ix_access_key_user_name ON access_key (user_name evil.ops)",
        ):
            admin.execute(each.encode())
    with store.reading() as conn:
        assert seal_engine.of(conn).differences(conn) == ("index 'ix_access_key_user_name' was changed",)


def test_names_mean_the_tables_of_hsmkms(target: Target, cluster: Cluster, tmp_path: Path) -> None:
    """Whatever path is set for the role: no table, function or operator of another schema takes their place."""
    with cluster.connect(str(target.url.database)) as admin:
        for each in (
            "CREATE SCHEMA evil CREATE TABLE alias (LIKE public.alias) CREATE TABLE node (LIKE public.node)",
            "CREATE TABLE evil.generation AS SELECT 0::bigint AS number",
            "CREATE FUNCTION evil.pg_advisory_xact_lock(bigint) RETURNS void LANGUAGE sql AS ''",
            "CREATE FUNCTION evil.never(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false'",
            "CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.never)",
            "CREATE VIEW evil.pg_class AS SELECT * FROM pg_catalog.pg_class WHERE false",
            "GRANT ALL ON SCHEMA evil TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA evil TO PUBLIC",
            f"ALTER ROLE {ROLE} IN DATABASE {target.url.database} SET search_path = evil, pg_catalog, public",
        ):
            admin.execute(each.encode())
    store = Store.open(tmp_path, target=target)
    signal = store.change_signal()
    key = write(store, a_key())
    with store.atomic() as tx:
        aliases.insert(tx, REGION, "alias/here", key.key_id, NOW)
    with store.reading() as conn:
        assert aliases.fetch(conn, REGION, "alias/here") is not None
        assert seal_engine.of(conn).compare_again(conn) == ()
        assert conn.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")) == 0
    with store.atomic() as tx:
        assert tx.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")) == 1
    assert signal.moved()
    signal.close()
    store.close()
    with cluster.connect(str(target.url.database)) as admin:
        assert admin.execute("SELECT count(*) FROM evil.alias").fetchone() == (0,)


def test_an_announced_schema_is_accepted_until_it_changes(store: Store, target: Target) -> None:
    """Only if exactly what was announced is there; a further change is a difference again, and forgets the layout."""
    newer = {("table", "newer", "r p f f f f"), ("column", "newer.id", "integer f ()")}
    announced = {*catalogue.expected(), *newer}
    with store.reading() as conn:
        assert not seal_engine.of(conn).accept(conn, announced)
    change(target, "CREATE TABLE newer (id integer)")
    with store.reading() as conn:
        engine = seal_engine.of(conn)
        assert engine.differences(conn) == ("column 'newer.id' was added", "table 'newer' was added")
        assert not engine.accept(conn, catalogue.expected())
        assert engine.accept(conn, announced)
        conn.info[seal_engine.LAYOUT] = "another"
        assert engine.differences(conn) == ()
    change(target, "ALTER TABLE newer ADD COLUMN more integer")
    with store.reading() as conn:
        assert seal_engine.of(conn).differences(conn)
        assert seal_engine.LAYOUT not in conn.info


def test_what_the_guards_need_is_compared() -> None:
    """Each function of a trigger is expected with its text, and each trigger is always on."""
    objects = catalogue.expected()
    texts = {text for kind, _, text in objects if kind == "function"}
    assert {f"plpgsql f t {body}" for body in capture.functions().values()} == texts
    assert capture.UNSEALED_STATE in capture.functions()["must_seal"]
    assert {type(word) for each in objects for word in each} == {str}  # plain ones: announcements are JSON
    assert all(" A " in text for kind, _, text in objects if kind == "trigger")
