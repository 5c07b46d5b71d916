"""Rows that were removed or put back by hand are noticed at the decision that they would have changed."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from msgspec import Struct
from msgspec.structs import replace
from service_sites import ACCOUNT, REGION, NewFolder, Site, new_alias, new_key
from test_service_row_seals import ALLOW, records

from hsmkms.errors import AccessDeniedException, HsmKmsError, KMSInternalException
from hsmkms.kms import Kms
from hsmkms.model.aliases import DeleteAliasRequest
from hsmkms.model.enums import Operation
from hsmkms.model.grants import CreateGrantRequest, GrantConstraints, RevokeGrantRequest
from hsmkms.model.ids import user_arn
from hsmkms.model.keys import DescribeKeyRequest, DisableKeyRequest, EnableKeyRequest
from hsmkms.model.tags import Tag, TagResourceRequest, UntagResourceRequest
from hsmkms.rules import row_seals as rules

pytestmark = pytest.mark.sqlite_alone("it edits the file; a server's rows: tests/store/test_store_postgresql_seals.py")

USERS = ("grace", "ursula", "al", "tom", "ute", "greta", "nina")


def deny(**condition: object) -> str:
    """A policy that denies everything, under a condition."""
    statement: dict[str, object] = {"Effect": "Deny", "Action": "kms:*", "Resource": "*"}
    return json.dumps(
        {"Version": "2012-10-17", "Statement": statement | ({"Condition": condition} if condition else {})}
    )


class World(Struct):
    """An installation whose users are denied something by one row each."""

    site: Site
    kms: Kms
    key: str
    grant: str
    access_key: str

    @property
    def file(self) -> Path:
        """The control-plane database."""
        return self.site.settings.data_dir / "meta.db"

    def edit(self, *statements: str) -> None:
        """Edit the database as an attacker who knows the seals would."""
        with closing(sqlite3.connect(self.file)) as connection, connection:
            for name in ("hsmkms_seals", "hsmkms_seal_sets"):
                connection.create_function(name, 0, lambda: None)
            for statement in statements:
                connection.execute(self.named(statement))

    def named(self, text: str) -> str:
        """A text with the names of this world."""
        return text.format(key=self.key, grant=self.grant, access=self.access_key)

    def forget(self) -> None:
        """Another process comes: nothing is in the cache."""
        cache = self.kms._core.cache
        for each in (cache._keys, cache._aliases, cache._identities, cache._access_keys):
            each.clear()

    def look(self, user: str) -> str:
        """Read the key as a user; return the code of the refusal, or ''."""
        self.forget()
        try:
            caller = replace(self.kms.caller(REGION), principal=user_arn(ACCOUNT, user))
            self.kms.describe_key(DescribeKeyRequest(key_id=self.key), caller)
        except HsmKmsError as exc:
            return exc.code
        return ""

    def log_in(self) -> str:
        """What the user of the access key gets."""
        self.forget()
        try:
            credential = self.kms.operator.credentials.find(self.access_key)
        except HsmKmsError as exc:
            return exc.code
        return "" if credential is not None else "unknown"

    def faults(self) -> list[str]:
        """What verifying names."""
        return [fault.subject for fault in self.kms.operator.audit.verify_rows()]

    def reopen(self) -> None:
        """The process ends, and another one opens the installation."""
        self.kms.close()
        self.kms = self.site.open()


@pytest.fixture(scope="module")
def made(new_folder: NewFolder) -> tuple[Site, dict[str, str]]:
    """The installation that all tests copy, and what is in it."""
    site = Site.make(new_folder())
    with site.open() as kms:
        key, people = new_key(kms).key_id, kms.operator.identities
        new_alias(kms, "alias/secret", key)
        kms.tag_resource(TagResourceRequest(key_id=key, tags=[Tag(tag_key="level", tag_value="secret")]))
        for user in USERS:
            kms.operator.credentials.create_user(user)
            if user not in ("greta", "nina"):
                people.put_user_policy(user, "allow", ALLOW)
        people.create_group("staff")
        people.put_group_policy("staff", "deny", deny())
        people.add_user_to_group("staff", "grace")
        people.put_user_policy("ursula", "deny", deny())
        in_aliases = {"kms:ResourceAliases": "alias/secret"}
        people.put_user_policy("al", "deny", deny(**{"ForAnyValue:StringEquals": in_aliases}))
        people.put_user_policy("tom", "deny", deny(StringEquals={"aws:ResourceTag/level": "secret"}))
        people.put_user_policy("ute", "deny", deny(StringEquals={"aws:PrincipalTag/level": "low"}))
        people.tag_user("ute", [("level", "low")])
        request = CreateGrantRequest(
            key_id=key,
            grantee_principal=people.user("greta").arn,
            operations=[Operation.DESCRIBE_KEY, Operation.ENCRYPT],
            constraints=GrantConstraints(encryption_context_subset={"team": "red"}),
        )
        grant = kms.create_grant(request).grant_id
        access = kms.operator.credentials.create_access_key("ursula").access_key_id
    return site, {"key": key, "grant": grant, "access_key": access}


@pytest.fixture
def world(made: tuple[Site, dict[str, str]], new_folder: NewFolder) -> Iterator[World]:
    """The installation, open; afterwards its databases are as they were."""
    site, names = made
    kept = new_folder()
    shutil.copytree(site.settings.data_dir, kept)
    world = World(site=site, kms=site.open(), **names)
    yield world
    world.kms.close()
    shutil.rmtree(site.settings.data_dir)
    shutil.copytree(kept, site.settings.data_dir)


GRANTS = "grants/eu-central-1/{key}/arn:aws:iam::111122223333:user/greta"
KEY_TABLES = ("alias", "key_grant", "material_presence", "rotation", "tag", "wrapping_key")


class Removal(Struct):
    """A removal: its statements, the subjects and indexes that it affects, the caller, the answers before and after."""

    statements: tuple[str, ...]
    subjects: tuple[str, ...]
    look: Callable[[World], str]
    before: str = AccessDeniedException.code
    after: str = KMSInternalException.code


def looks(user: str) -> Callable[[World], str]:
    """Read the key as a user."""
    return lambda world: world.look(user)


REMOVALS: dict[str, Removal] = {
    "policy of a group": Removal(("DELETE FROM group_policy",), ("group/staff",), looks("grace")),
    "membership": Removal(("DELETE FROM group_member",), ("user/grace",), looks("grace")),
    "group": Removal(
        ("DELETE FROM group_policy", "DELETE FROM group_member", "DELETE FROM user_group"),
        ("group/staff", "user/grace"),
        looks("grace"),
    ),
    "group without its membership": Removal(
        ("PRAGMA foreign_keys=OFF", "DELETE FROM group_policy", "DELETE FROM user_group"),
        ("group/staff",),
        looks("grace"),
    ),
    "policy of a user": Removal(
        ("DELETE FROM user_policy WHERE user_name = 'ursula' AND policy_name = 'deny'",),
        ("user/ursula",),
        looks("ursula"),
    ),
    "tag of a user": Removal(("DELETE FROM user_tag",), ("user/ute",), looks("ute")),
    "tag of a key": Removal(("DELETE FROM tag",), ("key/{key}",), looks("tom")),
    "alias": Removal(
        ("DELETE FROM alias",), ("alias/eu-central-1/alias/secret", "aliases/eu-central-1/{key}"), looks("al")
    ),
    "grant": Removal(("DELETE FROM key_grant",), ("grant/{grant}", GRANTS), looks("greta"), ""),
    "constraint of a grant": Removal(
        ("UPDATE key_grant SET context_subset = NULL",), ("grant/{grant}", GRANTS), looks("greta"), ""
    ),
    "user": Removal(("DELETE FROM user WHERE name = 'nina'",), ("user/nina",), looks("nina")),
    # Refused at once like one that never was, after the same work; the check of all rows names it.
    "access key": Removal(
        ("DELETE FROM access_key",), ("access-key/{access}", "user/ursula"), World.log_in, "", "unknown"
    ),
    "key": Removal(
        (
            *(f"DELETE FROM {table} WHERE key_id = '{{key}}'" for table in KEY_TABLES),
            "DELETE FROM token_object WHERE material IN (SELECT id FROM material WHERE key_id = '{key}')",
            *(f"DELETE FROM {table} WHERE key_id = '{{key}}'" for table in ("material", "regional_key", "key")),
        ),
        ("key/{key}", "alias/eu-central-1/alias/secret", "aliases/eu-central-1/{key}", "grant/{grant}", GRANTS),
        looks("ute"),
    ),
}


@pytest.mark.parametrize("what", REMOVALS)
def test_removed(world: World, what: str) -> None:
    """What was removed is noticed at the decision, also with its seals, its traces, and the tree over the seals."""
    removal = REMOVALS[what]
    assert removal.look(world) == removal.before
    seals = [f"DELETE FROM row_seal WHERE subject = '{subject}'" for subject in removal.subjects]
    traces = [f"DELETE FROM change_log WHERE subject LIKE '%{subject}'" for subject in removal.subjects]
    leaves = "DELETE FROM seal_tree WHERE number > 64"
    for statements in (removal.statements, seals, traces, [leaves], ["DELETE FROM seal_tree"]):
        world.edit(*statements)
        assert removal.look(world) == removal.after, statements
        assert world.faults()
    world.reopen()  # opening builds no tree that would hide it
    assert removal.look(world) == removal.after
    assert world.faults()


def test_only_what_depends_on_it_is_refused(world: World) -> None:
    """Others, and other keys, are judged as before; verify-store names what was removed."""
    world.edit("DELETE FROM alias")
    assert world.look("al") == KMSInternalException.code
    assert world.look("tom") == AccessDeniedException.code
    assert world.look("greta") == ""
    assert world.faults() == ["alias/eu-central-1/alias/secret", f"aliases/eu-central-1/{world.key}"]
    assert new_key(world.kms)


class Return(Struct):
    """A legitimate change whose result is reverted by hand, and the caller who is affected."""

    act: Callable[[Kms, World], object]
    look: Callable[[World], str]
    after: str


RETURNS: dict[str, Return] = {
    "revoked grant": Return(
        lambda kms, world: kms.revoke_grant(RevokeGrantRequest(key_id=world.key, grant_id=world.grant)),
        looks("greta"),
        AccessDeniedException.code,
    ),
    "detached policy": Return(
        lambda kms, _: kms.operator.identities.delete_user_policy("ute", "allow"),
        looks("ute"),
        AccessDeniedException.code,
    ),
    "removed user": Return(
        lambda kms, _: kms.operator.credentials.delete_user("greta"), looks("greta"), AccessDeniedException.code
    ),
    "removed access key": Return(
        lambda kms, world: kms.operator.credentials.delete_access_key(world.access_key), World.log_in, "unknown"
    ),
    "inactive access key": Return(
        lambda kms, world: kms.operator.credentials.update_access_key(world.access_key, active=False),
        World.log_in,
        "unknown",
    ),
    "state before a denial": Return(
        lambda kms, _: kms.operator.identities.put_user_policy("greta", "deny", deny()),
        looks("greta"),
        AccessDeniedException.code,
    ),
    "time before a membership": Return(
        lambda kms, _: kms.operator.identities.add_user_to_group("staff", "greta"),
        looks("greta"),
        AccessDeniedException.code,
    ),
    "policy of a group before it denied": Return(
        lambda kms, _: kms.operator.identities.put_group_policy("staff", "more", deny()),
        looks("grace"),
        AccessDeniedException.code,
    ),
    "alias": Return(lambda kms, _: kms.delete_alias(DeleteAliasRequest(alias_name="alias/secret")), looks("al"), ""),
    "tag": Return(
        lambda kms, world: kms.untag_resource(UntagResourceRequest(key_id=world.key, tag_keys=["level"])),
        looks("tom"),
        "",
    ),
    "enabled key": Return(lambda kms, world: kms.disable_key(DisableKeyRequest(key_id=world.key)), looks("greta"), ""),
}

SEALED = ("alias", "key_grant", "tag", "access_key", "user_policy", "user_tag", "group_member", "group_policy", "user")


@pytest.mark.parametrize("what", RETURNS)
def test_put_back(world: World, new_folder: NewFolder, what: str) -> None:
    """What was once valid and is put back, with its seals, traces and tree, is noticed at the decision."""
    before = new_folder()
    before.mkdir()
    with closing(sqlite3.connect(world.file)) as source, closing(sqlite3.connect(before / "meta.db")) as copy:
        source.backup(copy)
    RETURNS[what].act(world.kms, world)
    assert RETURNS[what].look(world) == RETURNS[what].after
    tables = [*SEALED, "regional_key"]
    for names in (
        tables,
        [*tables, "row_seal"],
        [*tables, "row_seal", "change_log"],
        [*tables, "row_seal", "seal_tree"],
    ):
        take(world, before / "meta.db", names)
        assert RETURNS[what].look(world) == KMSInternalException.code, names
        assert world.faults()
    world.edit("DELETE FROM seal_tree")
    world.reopen()
    assert RETURNS[what].look(world) == KMSInternalException.code


def take(world: World, older: Path, tables: list[str]) -> None:
    """Put tables of an older database in the place of what is there."""
    with closing(sqlite3.connect(world.file)) as connection:
        for name in ("hsmkms_seals", "hsmkms_seal_sets"):
            connection.create_function(name, 0, lambda: None)
        connection.execute("ATTACH ? AS older", (str(older),))
        with connection:
            for table in tables:
                connection.execute(f'DELETE FROM main."{table}"')
                connection.execute(f'INSERT INTO main."{table}" SELECT * FROM older."{table}"')


def test_a_change_makes_no_removal_right(world: World) -> None:
    """Who adds an alias or a grant beside one that was removed by hand does not make the rest complete."""
    world.edit("DELETE FROM alias", "DELETE FROM key_grant")
    new_alias(world.kms, "alias/other", world.key)
    world.kms.create_grant(
        CreateGrantRequest(
            key_id=world.key,
            grantee_principal=world.kms.operator.identities.user("greta").arn,
            operations=[Operation.DESCRIBE_KEY],
        )
    )
    assert world.look("al") == world.look("greta") == KMSInternalException.code
    with pytest.raises(KMSInternalException):
        new_alias(world.kms, "alias/secret", world.key)


def test_a_group_whose_members_were_removed(world: World) -> None:
    """A caller cached as a group's member is read again when it changes, though no row names the caller any more."""
    people = world.kms.operator.identities
    people.create_group("late")
    people.add_user_to_group("late", "greta")
    assert world.look("greta") == ""
    world.edit("DELETE FROM group_member WHERE user_name = 'greta'")
    people.put_group_policy("late", "deny", deny())
    caller = world.kms.caller(REGION, "greta")
    with pytest.raises(KMSInternalException):
        world.kms.describe_key(DescribeKeyRequest(key_id=world.key), caller)


def test_seals_of_before_the_tree(world: World) -> None:
    """A database that was sealed before there were trees gets one when it is opened, and that is in the audit log."""
    before_trees(world)
    assert world.look("greta") == KMSInternalException.code
    world.reopen()
    assert world.faults() == []
    assert (world.look("greta"), world.look("al"), world.log_in()) == ("", AccessDeniedException.code, "")
    assert "SealStore" in [record["eventName"] for record in records(world.kms)]
    assert new_key(world.kms)


@pytest.mark.parametrize("table", ["alias", "key_grant", "group_policy", "user_policy", "tag"])
def test_no_tree_over_what_was_edited(world: World, table: str) -> None:
    """Where a row was removed before that, no tree is made, and nothing is used until the operator accepts it."""
    before_trees(world)
    world.edit(f"DELETE FROM {table}")
    world.reopen()
    assert world.look("greta") == KMSInternalException.code
    assert "store" in world.faults()
    with suppress(KMSInternalException):
        world.kms.enable_key(EnableKeyRequest(key_id=world.key))
    world.reopen()
    assert world.look("ute") == KMSInternalException.code
    world.kms.operator.audit.accept()
    assert world.faults() == []
    assert world.look("ute") == AccessDeniedException.code


def before_trees(world: World) -> None:
    """Make the database what an earlier program would have left."""
    index = " OR ".join(f"subject LIKE '{each}/%'" for each in ("aliases", "grants", "access-key"))
    world.edit("DELETE FROM seal_tree", f"DELETE FROM row_seal WHERE {index}")


def test_a_program_of_before_the_tree_cannot_write(world: World) -> None:
    """A program that seals, but knows no tree, cannot change what is sealed."""
    with closing(sqlite3.connect(world.file)) as connection:
        connection.create_function("hsmkms_seals", 0, lambda: None)
        with pytest.raises(sqlite3.OperationalError, match="hsmkms_seal_sets"):
            connection.execute("INSERT INTO change_log (region, subject) VALUES ('', 'x')")


def test_work_of_a_change(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new alias or grant hashes as many rows beside a hundred others as beside one."""

    def hashed(act: Callable[[int], object]) -> list[int]:
        counts = []
        for number in range(40):
            rows = 0

            def count(*arguments: object) -> int:
                nonlocal rows
                rows += 1
                return genuine(*arguments)  # type: ignore[arg-type]

            monkeypatch.setattr(rules, "row_hash", count)
            act(number)
            monkeypatch.setattr(rules, "row_hash", genuine)
            counts.append(rows)
        return counts

    genuine, arn = rules.row_hash, world.kms.operator.identities.user("greta").arn
    request = CreateGrantRequest(key_id=world.key, grantee_principal=arn, operations=[Operation.ENCRYPT])
    for act in (
        lambda number: new_alias(world.kms, f"alias/{number}", world.key),
        lambda _: world.kms.create_grant(request),
    ):
        counts = hashed(act)
        assert max(counts[20:]) <= max(counts[:10])
    assert world.faults() == []


FOREIGN = {
    "trigger": "CREATE TRIGGER evil AFTER UPDATE ON regional_key BEGIN DELETE FROM user_policy; END",
    "trigger of a group": "CREATE TRIGGER evil AFTER INSERT ON change_log BEGIN DELETE FROM group_policy; END",
    "view": "CREATE VIEW evil AS SELECT * FROM user",
    "partial index": "CREATE INDEX evil ON alias (key_id) WHERE name <> 'alias/secret'",
}


@pytest.mark.parametrize("what", FOREIGN)
def test_planted_in_the_schema(world: World, what: str) -> None:
    """A trigger that would edit rows within our own transactions makes nothing right: it must go first."""
    world.edit(FOREIGN[what])
    with pytest.raises(KMSInternalException):
        world.kms.disable_key(DisableKeyRequest(key_id=world.key))
    assert world.faults() == ["store"]
    assert world.look("ursula") == world.look("grace") == KMSInternalException.code
    kind = FOREIGN[what].split()[1]
    world.edit(f"DROP {kind} evil")
    assert world.faults() == []
    assert world.look("ursula") == world.look("grace") == AccessDeniedException.code
