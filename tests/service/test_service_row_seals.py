"""The rows that decide: each way of editing them by hand is noticed and named, and what they are about is refused."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from msgspec import Struct
from service_sites import REGION, NewFolder, Site, mac_key, new_alias, new_key, seal, unseal

from hsmkms.errors import KMSInternalException, StoreError
from hsmkms.kms import Kms
from hsmkms.model.enums import Operation, Origin, WrappingAlgorithm, WrappingKeySpec
from hsmkms.model.grants import CreateGrantRequest, RevokeGrantRequest
from hsmkms.model.importing import GetParametersForImportRequest
from hsmkms.model.keys import CreateKeyRequest, DescribeKeyRequest, DisableKeyRequest, EnableKeyRequest
from hsmkms.model.rotation import EnableKeyRotationRequest
from hsmkms.model.tags import Tag, TagResourceRequest
from hsmkms.service.audit import reading as audit_reading
from hsmkms.store import keys, row_forms, schema, sealed_rows
from hsmkms.store.sealed_tables import SUBJECTS
from hsmkms.wiring.stores import open_store

pytestmark = pytest.mark.sqlite_alone("it edits the file; a server's rows: tests/store/test_store_postgresql_seals.py")

ALLOW = '{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:*","Resource":"*"}}'


class Victim(Struct):
    """An installation with a disabled key, a second key, an alias, a grant and a user."""

    site: Site
    kms: Kms
    key: str
    other: str
    grant: str

    def edit(self, *statements: str) -> None:
        """Edit the database as an attacker who knows the seals would."""
        with closing(sqlite3.connect(self.kms._core.store.meta.file)) as connection, connection:
            connection.create_function("hsmkms_seal_sets", 0, lambda: None)
            for statement in statements:
                connection.execute(statement.format(**self.names))

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """What a tool shows."""
        with closing(sqlite3.connect(self.kms._core.store.meta.file)) as connection:
            return connection.execute(query.format(**self.names)).fetchall()

    @property
    def names(self) -> dict[str, str]:
        """What stands in statements."""
        return {"key": self.key, "other": self.other, "grant": self.grant}

    def faults(self) -> list[str]:
        """What verifying names."""
        return [fault.subject for fault in self.kms.operator.audit.verify_rows()]

    def forget(self) -> None:
        """Another process comes: nothing is in the cache."""
        cache = self.kms._core.cache
        for each in (cache._keys, cache._aliases, cache._identities, cache._access_keys):
            each.clear()


@pytest.fixture(scope="module")
def made(new_folder: NewFolder) -> tuple[Site, dict[str, str]]:
    """An installation that all tests copy; what is in it, by name."""
    site = Site.make(new_folder())
    with site.open() as kms:
        key, other = new_key(kms).key_id, new_key(kms).key_id
        new_alias(kms, "alias/mine", key)
        kms.operator.credentials.create_user("alice")
        kms.operator.identities.create_group("staff")
        kms.operator.identities.put_user_policy("alice", "p", ALLOW)
        arn = kms.operator.identities.user("alice").arn
        grant = kms.create_grant(
            CreateGrantRequest(key_id=key, grantee_principal=arn, operations=[Operation.ENCRYPT])
        ).grant_id
        kms.disable_key(DisableKeyRequest(key_id=key))
    return site, {"key": key, "other": other, "grant": grant}


@pytest.fixture
def victim(made: tuple[Site, dict[str, str]], new_folder: NewFolder) -> Iterator[Victim]:
    """The installation, open; afterwards its databases are as they were."""
    site, names = made
    kept = new_folder()
    with closing(sqlite3.connect(site.settings.data_dir / "meta.db")) as source, closing(sqlite3.connect(kept)) as copy:
        source.backup(copy)
    with site.open() as kms:
        yield Victim(site, kms, names["key"], names["other"], names["grant"])
    with closing(sqlite3.connect(kept)) as source, closing(sqlite3.connect(site.settings.data_dir / "meta.db")) as copy:
        source.backup(copy)
    kept.unlink()


def describe(victim: Victim) -> object:
    """Read the key."""
    return victim.kms.describe_key(DescribeKeyRequest(key_id=victim.key))


def by_alias(victim: Victim) -> object:
    """Read the key by its alias."""
    return victim.kms.describe_key(DescribeKeyRequest(key_id="alias/mine"))


def as_alice(victim: Victim) -> object:
    """Read the second key as a user."""
    return victim.kms.describe_key(DescribeKeyRequest(key_id=victim.other), victim.kms.caller(REGION, "alice"))


def by_grant(victim: Victim) -> object:
    """Read the first key as a user whose grants are needed."""
    victim.kms.operator.identities.delete_user_policy("alice", "p")
    return victim.kms.describe_key(DescribeKeyRequest(key_id=victim.key), victim.kms.caller(REGION, "alice"))


def records(kms: Kms) -> list[dict[str, Any]]:
    """The newest records of the audit log."""
    kms._core.audit.flush()
    return audit_reading.tail(kms.operator.audit.folder, 50).records


EDITS: list[tuple[str, str, Callable[[Victim], object]]] = [
    ("UPDATE regional_key SET state = 'Enabled' WHERE key_id = '{key}'", "key/{key}", describe),
    ("UPDATE regional_key SET deletion_date = 1 WHERE key_id = '{key}'", "key/{key}", describe),
    ("UPDATE regional_key SET policy = replace(policy, 'root', '*') WHERE key_id = '{key}'", "key/{key}", describe),
    ("UPDATE key SET manager = 'AWS' WHERE key_id = '{key}'", "key/{key}", describe),
    ("UPDATE material SET created_at = created_at + 1 WHERE key_id = '{key}'", "key/{key}", describe),
    ("UPDATE material_presence SET valid_to = 1 WHERE key_id = '{key}'", "key/{key}", describe),
    (
        "UPDATE token_object SET label = 'x' WHERE material = (SELECT id FROM material WHERE key_id = '{key}')",
        "key/{key}",
        describe,
    ),
    ("INSERT INTO rotation VALUES ('{key}', 1, 90)", "key/{key}", describe),
    ("INSERT INTO tag VALUES ('{key}', 'eu-central-1', 'team', 'red')", "key/{key}", describe),
    ("DELETE FROM material_presence WHERE key_id = '{key}'", "key/{key}", describe),
    (
        "UPDATE row_seal SET mac = randomblob(32) WHERE subject = 'key/{key}'",
        "key/{key}",
        describe,
    ),
    ("DELETE FROM row_seal WHERE subject = 'key/{key}'", "key/{key}", describe),
    ("UPDATE alias SET key_id = '{other}' WHERE name = 'alias/mine'", "alias/eu-central-1/alias/mine", by_alias),
    ("DELETE FROM alias WHERE name = 'alias/mine'", "alias/eu-central-1/alias/mine", by_alias),
    ("UPDATE user SET path = '/boss/' WHERE name = 'alice'", "user/alice", as_alice),
    (
        "UPDATE key_grant SET source_arn = 'arn:aws:s3:::x'",
        "grants/eu-central-1/{key}/arn:aws:iam::111122223333:user/alice",
        by_grant,
    ),
    ("UPDATE user_policy SET document = replace(document, 'kms:*', '*')", "user/alice", as_alice),
    ("DELETE FROM user_policy", "user/alice", as_alice),
    ("INSERT INTO user_tag VALUES ('alice', 'team', 'red')", "user/alice", as_alice),
    ("INSERT INTO group_member VALUES ('staff', 'alice')", "user/alice", as_alice),
    (
        "UPDATE key_grant SET operations = 'Decrypt,DescribeKey'",
        "grants/eu-central-1/{key}/arn:aws:iam::111122223333:user/alice",
        by_grant,
    ),
]

ALSO: dict[str, set[str]] = {
    "UPDATE alias SET": {"aliases/eu-central-1/{key}", "aliases/eu-central-1/{other}"},
    "DELETE FROM alias": {"aliases/eu-central-1/{key}"},
    "UPDATE key_grant": {"grant/{grant}"},
}
"""What else is not as it was sealed after an edit that begins so: rows that have an index."""


@pytest.mark.parametrize(("statement", "subject", "look"), EDITS, ids=[edit[0][:60] for edit in EDITS])
def test_edit(
    victim: Victim, statement: str, subject: str, look: Callable[[Victim], object], caplog: pytest.LogCaptureFixture
) -> None:
    """An edit is named, with an alarm; its subject is refused, and everything else works."""
    assert victim.faults() == []
    victim.edit(statement)
    victim.forget()
    caplog.clear()
    with pytest.raises(KMSInternalException, match="verify-store"):
        look(victim)
    named = subject.format(**victim.names)
    assert f"changed by something other than hsmkms: {named}: " in caplog.text
    assert victim.kms.operator.watch.alarms().altered == {named}
    also = {
        name.format(**victim.names) for begin, names in ALSO.items() if statement.startswith(begin) for name in names
    }
    assert set(victim.faults()) == {named, *also}
    assert seal(victim.kms, victim.other)


def test_removed_key(victim: Victim) -> None:
    """A key that was removed with all its rows and its seal is not said to be unknown."""
    tables = ("key_grant", "alias", "material_presence", "rotation", "tag", "wrapping_key")
    victim.edit(
        *(f"DELETE FROM {table} WHERE key_id = '{{key}}'" for table in tables),
        "DELETE FROM token_object WHERE material IN (SELECT id FROM material WHERE key_id = '{key}')",
        *(f"DELETE FROM {table} WHERE key_id = '{{key}}'" for table in ("material", "regional_key", "key")),
        "DELETE FROM row_seal WHERE subject = 'key/{key}'",
    )
    victim.forget()
    with pytest.raises(KMSInternalException):
        describe(victim)
    assert f"key/{victim.key}" in victim.faults()
    assert seal(victim.kms, victim.other)


def test_put_back_with_its_seal(victim: Victim) -> None:
    """An older state of a key that is put back together with the seal of that time is noticed."""
    regional = victim.rows("SELECT state, version FROM regional_key WHERE key_id = '{key}'")
    seals = victim.rows("SELECT epoch, hex(mac) FROM row_seal WHERE subject = 'key/{key}'")
    victim.kms.enable_key(EnableKeyRequest(key_id=victim.key))
    ((state, version),), ((epoch, mac),) = regional, seals
    victim.edit(
        f"UPDATE regional_key SET state = '{state}', version = {version} WHERE key_id = '{{key}}'",
        f"UPDATE row_seal SET epoch = {epoch}, mac = x'{mac}' WHERE subject = 'key/{{key}}'",
    )
    victim.forget()
    with pytest.raises(KMSInternalException):
        describe(victim)
    assert [(fault.subject, "older state" in fault.reason) for fault in victim.kms.operator.audit.verify_rows()] == [
        (f"key/{victim.key}", True)
    ]


def test_put_back_without_a_trace(victim: Victim) -> None:
    """Where its changes were removed from the change log as well, the tree over the seals contradicts it."""
    regional = victim.rows("SELECT state, version FROM regional_key WHERE key_id = '{key}'")
    seals = victim.rows("SELECT epoch, hex(mac) FROM row_seal WHERE subject = 'key/{key}'")
    victim.kms.enable_key(EnableKeyRequest(key_id=victim.key))
    ((state, version),), ((epoch, mac),) = regional, seals
    victim.edit(
        f"UPDATE regional_key SET state = '{state}', version = {version} WHERE key_id = '{{key}}'",
        f"UPDATE row_seal SET epoch = {epoch}, mac = x'{mac}' WHERE subject = 'key/{{key}}'",
        f"DELETE FROM change_log WHERE epoch > {epoch} AND subject LIKE '%{{key}}'",
    )
    victim.forget()
    with pytest.raises(KMSInternalException):
        describe(victim)
    assert victim.faults() == [f"key/{victim.key}"]


def test_revoked_grant_that_comes_back(victim: Victim) -> None:
    """A grant that was revoked cannot be put back, not even with its seal."""
    (grant,) = victim.rows(
        "SELECT quote(grant_id), quote(key_id), quote(region), quote(name), quote(grantee), "
        "quote(retiring), quote(operations), quote(context_equals), quote(context_subset), "
        "quote(creation_date) FROM key_grant"
    )
    ((epoch, mac),) = victim.rows("SELECT epoch, hex(mac) FROM row_seal WHERE subject = 'grant/{grant}'")
    victim.kms.revoke_grant(RevokeGrantRequest(key_id=victim.key, grant_id=victim.grant))
    assert victim.faults() == []
    victim.edit(
        "INSERT INTO key_grant (grant_id, key_id, region, name, grantee, retiring, operations, context_equals, "
        f"context_subset, creation_date) VALUES ({', '.join(map(str, grant))})",
        f"INSERT INTO row_seal VALUES ('grant/{{grant}}', {epoch}, x'{mac}')",
    )
    with pytest.raises(KMSInternalException):
        by_grant(victim)
    index = f"grants/eu-central-1/{victim.key}/arn:aws:iam::111122223333:user/alice"
    assert victim.faults() == [f"grant/{victim.grant}", index]


def test_a_change_makes_no_edit_right(victim: Victim) -> None:
    """A change of an edited key is refused as a whole, also in a process that has the key in its cache."""
    describe(victim)
    victim.edit("UPDATE regional_key SET policy = '{{}}' WHERE key_id = '{key}'")
    with pytest.raises(KMSInternalException):
        victim.kms.enable_key(EnableKeyRequest(key_id=victim.key))
    assert victim.faults() == [f"key/{victim.key}"]
    assert victim.rows("SELECT state, policy FROM regional_key WHERE key_id = '{key}'") == [("Disabled", "{}")]


def test_nothing_is_destroyed_by_an_edit(site: Site) -> None:
    """Neither a deletion date nor an object's status that was edited makes anything be destroyed."""
    with site.open() as kms:
        victim = Victim(site, kms, new_key(kms).key_id, new_key(kms).key_id, "")
        blob = seal(kms, victim.other)
        victim.edit(
            "UPDATE regional_key SET state = 'PendingDeletion', deletion_date = 1, pending_window_days = 7 "
            "WHERE key_id = '{key}'",
            "UPDATE token_object SET status = 'DESTROYING' WHERE material = (SELECT id FROM material WHERE key_id = "
            "'{other}')",
        )
        there = len(kms._core.device.keys.inventory(mac_key(kms)))
        outcomes = {step.outcome for step in kms.operator.maintain().steps}
        assert outcomes == {"failed"}
        assert len(kms._core.device.keys.inventory(mac_key(kms))) == there
        victim.edit("UPDATE token_object SET status = 'PRESENT'")
        victim.forget()
        assert unseal(kms, blob)


def test_from_another_installation(victim: Victim, new_folder: NewFolder) -> None:
    """A user copied from another installation, with its seal, is not accepted."""
    victim.kms.close()
    other = Site.make(new_folder())
    with other.open() as kms:
        kms.operator.credentials.create_user("mallory")
        kms.operator.identities.put_user_policy("mallory", "p", ALLOW)
    with closing(sqlite3.connect(victim.site.settings.data_dir / "meta.db")) as connection, connection:
        connection.create_function("hsmkms_seal_sets", 0, lambda: None)
        connection.execute("ATTACH ? AS other", (str(other.settings.data_dir / "meta.db"),))
        for table in ("user", "user_policy", "row_seal"):
            connection.execute(f"INSERT OR IGNORE INTO main.{table} SELECT * FROM other.{table}")
        ((epoch,),) = connection.execute("SELECT epoch FROM row_seal WHERE subject = 'user/mallory'")
        connection.execute("DELETE FROM change_log WHERE epoch = ?", (epoch,))
        connection.execute("INSERT INTO change_log VALUES (?, '', 'seal:user/mallory')", (epoch,))
    with victim.site.open() as kms:
        with pytest.raises(KMSInternalException):
            kms.describe_key(DescribeKeyRequest(key_id=victim.other), kms.caller(REGION, "mallory"))
        assert "user/mallory" in [fault.subject for fault in kms.operator.audit.verify_rows()]


def test_seals_removed(victim: Victim) -> None:
    """Without seals nothing is used, and opening the installation makes none: the audit log has recorded them."""
    victim.kms._core.audit.flush()
    victim.kms.close()
    with closing(sqlite3.connect(victim.site.settings.data_dir / "meta.db")) as connection, connection:
        connection.execute("DELETE FROM row_seal")
        connection.execute("DELETE FROM store_root")
    with victim.site.open() as kms:
        with pytest.raises(KMSInternalException):
            kms.describe_key(DescribeKeyRequest(key_id=victim.key))
        assert [fault.subject for fault in kms.operator.audit.verify_rows()] == ["store"]


def test_older_database(victim: Victim) -> None:
    """A database that was put back as a whole fits itself, but not what the audit log's newest seal says of it."""
    victim.kms.close()
    old = (victim.site.settings.data_dir / "meta.db").read_bytes()
    with victim.site.open() as kms:
        new_key(kms)
    assert not (victim.site.settings.data_dir / "meta.db-wal").exists()
    (victim.site.settings.data_dir / "meta.db").write_bytes(old)
    with victim.site.open() as kms:
        for _ in range(5):
            new_key(kms)  # until its epoch is beyond the one that was sealed
        with pytest.raises(StoreError, match="not a continuation"):
            kms.operator.audit.check()
        assert kms.operator.audit.verify_rows() == []


def test_accepted(victim: Victim) -> None:
    """What the operator accepts is sealed as it is, works again, and stays in the audit log."""
    victim.edit("UPDATE regional_key SET description = 'mine' WHERE key_id = '{key}'")
    victim.forget()
    with pytest.raises(KMSInternalException):
        describe(victim)
    victim.kms.operator.audit.accept()
    assert describe(victim).key_metadata.description == "mine"  # type: ignore[attr-defined]
    assert victim.faults() == []
    victim.kms.enable_key(EnableKeyRequest(key_id=victim.key))
    assert victim.faults() == []
    (record,) = [each for each in records(victim.kms) if each["eventName"] == "AcceptStore"]
    (accepted_row,) = record["requestParameters"]["rows"]
    assert accepted_row.startswith(f"key/{victim.key}: ")


def test_a_process_that_seals_nothing(victim: Victim) -> None:
    """A program that knows nothing of seals cannot change what is sealed: its transaction fails as a whole."""
    store = open_store(victim.site.settings)
    with pytest.raises(StoreError), store.atomic() as tx:
        keys.touch(tx, victim.key, REGION)
    store.close()
    with (
        closing(sqlite3.connect(victim.kms._core.store.meta.file)) as connection,
        pytest.raises(sqlite3.OperationalError, match="hsmkms_seal_sets"),
    ):
        connection.execute("INSERT INTO change_log (region, subject) VALUES ('', 'x')")
    assert victim.faults() == []


def test_subjects_and_rows(victim: Victim) -> None:
    """The rows of a subject are the same from the row as from the subject, for every table that has rows."""
    victim.kms.tag_resource(TagResourceRequest(key_id=victim.key, tags=[Tag(tag_key="a", tag_value="b")]))
    victim.kms.operator.identities.put_group_policy("staff", "p", ALLOW)
    victim.kms.operator.identities.add_user_to_group("staff", "alice")
    victim.kms.operator.credentials.create_access_key("alice")
    victim.kms.operator.credentials.create_access_key(None)
    victim.kms.enable_key_rotation(EnableKeyRotationRequest(key_id=victim.other))
    external = victim.kms.create_key(CreateKeyRequest(origin=Origin.EXTERNAL)).key_metadata.key_id
    victim.kms.get_parameters_for_import(
        GetParametersForImportRequest(
            key_id=external,
            wrapping_algorithm=WrappingAlgorithm.RSAES_OAEP_SHA_1,
            wrapping_key_spec=WrappingKeySpec.RSA_2048,
        )
    )
    with victim.kms._core.store.reading() as conn:
        every = [(subject, *entry) for subject, entry in sealed_rows.every(conn)]
        for place in (0, 3):  # from the subject, and from the index
            known = sorted((each for each in every if each[place] is not None), key=str)
            names = sorted({str(each[place]) for each in known})
            entries = [(name, entry) for name in names for entry in sealed_rows.entries(conn, name)]
            assert sorted(((each, *entry[:2]) for each, entry in entries), key=str) == sorted(
                ((each[place], *each[1:3]) for each in known), key=str
            )
        assert {str(each[3]).partition("/")[0] for each in every} == {"aliases", "grants", "access-key", "None"}
    assert {table.name for _, table, _, _ in every} == ({table.name for table in SUBJECTS} - {"user_tag"}) - (
        {"node"} if victim.kms._core.store.target is None else set()
    )
    assert victim.faults() == []


def test_every_deciding_table_has_a_subject() -> None:
    """A table of the control plane is sealed, or is named here as one that decides nothing."""
    notes = {"orphan", "change_log", "row_seal", "store_root", "seal_tree", "audit_outbox", "audit_head"}
    notes |= {"lease", "node_process", "pin_notice"}
    assert {table.name for table in SUBJECTS} == set(schema.meta.tables) - notes


def test_the_form_of_a_row_stays(victim: Victim) -> None:
    """A row is encoded by the names, types and values of its columns: today's seals stay valid for ever."""
    with victim.kms._core.store.reading() as conn:
        rows = {entry.table.name: entry for entry in sealed_rows.entries(conn, "group/staff")}
    entry = rows["user_group"]
    ((created,),) = victim.rows("SELECT created_at FROM user_group")
    made = b"\x94\xaacreated_at\xcf" + created.to_bytes(8, "big") + b"\xa4name\xa5staff"
    assert row_forms.form(entry.table, entry.values) == made
    before = f"created_at=integer{str(created).encode().hex().upper()};name=text{b'staff'.hex().upper()};"
    assert row_forms.form_until_0008(entry.table, entry.values) == before.encode()
