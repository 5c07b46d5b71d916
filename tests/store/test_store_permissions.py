"""Grants, policies, groups and tags of users: kept as given, and every change is noted for whom it concerns."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import NullPool, create_engine
from store_samples import ELSEWHERE, LATER, NOW, REGION, a_key, read, write

from hsmkms.model.ids import derived_user_id
from hsmkms.model.records import GrantRecord
from hsmkms.store import aliases, changes, deletion, files, grants, identities, keys, migrate, users
from hsmkms.store.engine import Store
from hsmkms.store.identities import Owner
from hsmkms.store.sqlite import connections

ALICE = "arn:aws:iam::111122223333:user/alice"
BOB = "arn:aws:iam::111122223333:user/bob"


def a_grant(key_id: str, number: int = 0, **changes: Any) -> GrantRecord:  # noqa: ANN401 - members
    """A grant; its id is made of its number."""
    members: dict[str, Any] = {
        "grant_id": f"{number:064x}",
        "key_id": key_id,
        "region": REGION,
        "name": "",
        "grantee": ALICE,
        "retiring": None,
        "operations": ("Encrypt", "ReEncryptFrom"),
        "context_equals": None,
        "context_subset": {"a": "1,2", "b": '"'},
        "creation_date": NOW,
    }
    return GrantRecord(**(members | changes))


def noted(store: Store, epoch: int) -> list[str]:
    """What changed since."""
    with store.reading() as conn:
        return [subject for _, _, subject in changes.since(conn, epoch)]


def now(store: Store) -> int:
    """The epoch of the last change."""
    with store.reading() as conn:
        return changes.latest(conn)


# -- grants -------------------------------------------------------------------------------------------------------


def test_grants_come_back_as_they_were(store: Store) -> None:
    """A grant is read back as it was written, by its id, its grantee, its name, and in lists."""
    key = write(store, a_key())
    grant = a_grant(key.key_id, name="job", retiring=BOB, context_equals={})
    epoch = now(store)
    with store.atomic() as tx:
        grants.insert(tx, grant)
    assert noted(store, epoch) == [key.key_id]
    with store.reading() as conn:
        assert grants.fetch(conn, REGION, grant.grant_id) == grant
        assert grants.held_by(conn, REGION, key.key_id, ALICE) == [grant]
        assert grants.named(conn, REGION, key.key_id, "job") == [grant]
        assert grants.fetch(conn, ELSEWHERE, grant.grant_id) is None
        assert grants.held_by(conn, REGION, key.key_id, BOB) == []
        assert grants.count(conn, REGION, key.key_id) == 1
    with store.atomic() as tx:
        grants.delete(tx, grant)
        grants.delete(tx, grant)
    assert noted(store, epoch) == [key.key_id, key.key_id]


def test_pages_of_grants(store: Store) -> None:
    """Lists are in the order of ids, cut at a size, and only of what was asked for."""
    key, other = write(store, a_key()), write(store, a_key())
    with store.atomic() as tx:
        for number in range(5):
            grants.insert(tx, a_grant(key.key_id, number, retiring=BOB if number % 2 else None))
        grants.insert(tx, a_grant(other.key_id, 9, grantee=BOB))

    def numbers(after: str | None = None, limit: int = 9, **wanted: str) -> list[int]:
        with store.reading() as conn:
            return [int(each.grant_id, 16) for each in grants.page(conn, REGION, after, limit, **wanted)]

    assert numbers(limit=2, key_id=key.key_id) == [0, 1]
    assert numbers(f"{1:064x}", key_id=key.key_id) == [2, 3, 4]
    assert numbers(retiring=BOB) == [1, 3]
    assert numbers(grantee=BOB) == [9]
    assert numbers(key_id=key.key_id, grant_id=f"{4:064x}") == [4]


def test_grants_end_with_their_key(store: Store) -> None:
    """The grants of a deleted key are gone."""
    key = write(store, a_key())
    with store.atomic() as tx:
        grants.insert(tx, a_grant(key.key_id))
        deletion.bury(tx, key.key_id, REGION)
    with store.reading() as conn:
        assert grants.fetch(conn, REGION, f"{0:064x}") is None
        assert grants.count(conn, REGION, key.key_id) == 0


def test_a_principal_is_replaced(store: Store) -> None:
    """A name without a user takes a principal's place, as grantee and as retiring principal."""
    key = write(store, a_key())
    with store.atomic() as tx:
        grants.insert(tx, a_grant(key.key_id, 1))
        grants.insert(tx, a_grant(key.key_id, 2, grantee=BOB, retiring=ALICE))
        epoch = changes.latest(tx)
        grants.rename_principal(tx, ALICE, "AIDA")
    with store.reading() as conn:
        page = grants.page(conn, REGION, None, 9, key_id=key.key_id)
    assert [(each.grantee, each.retiring) for each in page] == [("AIDA", None), (BOB, "AIDA")]
    assert set(noted(store, epoch)) == {key.key_id}


def test_policy_of_a_key(store: Store) -> None:
    """A key's policy is replaced in the version that was read, and in no other."""
    key = write(store, a_key())
    with store.atomic() as tx:
        assert keys.set_policy(tx, key.key_id, REGION, "new", key.version)
        assert not keys.set_policy(tx, key.key_id, REGION, "newer", key.version)
    assert read(store, key).policy == "new"
    with store.reading() as conn:
        assert identities.key_policies(conn) == [(key.key_id, REGION, "new")]


def test_policies_of_keys_in_the_making(store: Store) -> None:
    """The policy of a key that is not yet visible is rewritten as well; that of a deleted key is left alone."""
    key, made = write(store, a_key()), a_key()
    with store.atomic() as tx:
        keys.insert_intent(tx, made, {}, "label")
        deletion.bury(tx, key.key_id, REGION)
        assert identities.key_policies(tx) == [(made.key_id, REGION, made.policy)]
        keys.rewrite_policy(tx, made.key_id, REGION, "new")
        keys.complete(tx, made.key_id, REGION)
    assert read(store, made).policy == "new"


def test_aliases_concern_their_keys(store: Store) -> None:
    """A change of an alias is noted for the keys that gain or lose it."""
    key, other = write(store, a_key()), write(store, a_key())
    epoch = now(store)
    with store.atomic() as tx:
        aliases.insert(tx, REGION, "alias/a", key.key_id, NOW)
        aliases.update(tx, REGION, "alias/a", other.key_id, NOW)
        aliases.delete(tx, REGION, "alias/a")
        assert not aliases.delete(tx, REGION, "alias/a")
        assert not aliases.update(tx, REGION, "alias/a", other.key_id, NOW)
    kept = {"alias/a": "a", key.key_id: "key", other.key_id: "other"}
    assert [kept[each] for each in noted(store, epoch)] == ["a", "key", "a", "key", "other", "a", "other"]


# -- users and groups ---------------------------------------------------------------------------------------------


@pytest.fixture
def people(store: Store) -> Store:
    """Users alice and bob, and a group of both."""
    with store.atomic() as tx:
        for name in ("alice", "bob"):
            users.insert_user(tx, name, NOW, f"id of {name}")
        assert identities.insert_group(tx, "staff", LATER)
        assert not identities.insert_group(tx, "staff", LATER)
        for name in ("bob", "alice"):
            identities.add_member(tx, "staff", name)
    return store


def test_all_that_decides_about_a_user(people: Store) -> None:
    """A user is read with tags, own policies and those of the user's groups."""
    with people.atomic() as tx:
        identities.put_policy(tx, Owner.USER, "alice", "p", "one")
        identities.put_policy(tx, Owner.USER, "alice", "p", "two")
        identities.put_policy(tx, Owner.GROUP, "staff", "p", "three")
        identities.put_tags(tx, "alice", {"team": "red", "a": ""})
        identities.put_tags(tx, "alice", {"team": "blue"})
        identities.remove_tags(tx, "alice", ["a", "absent"])
    with people.reading() as conn:
        alice, bob = (identities.fetch(conn, name) for name in ("alice", "bob"))
        assert identities.fetch(conn, "carol") is None
        assert identities.policies(conn, Owner.GROUP, "staff") == {"p": "three"}
    assert alice == identities.IdentityRow(
        name="alice",
        groups=("staff",),
        created_at=NOW,
        unique_id="id of alice",
        tags={"team": "blue"},
        policies={"p": "two"},
        group_policies={("staff", "p"): "three"},
    )
    assert bob is not None
    assert (bob.policies, bob.group_policies) == ({}, {("staff", "p"): "three"})


def test_changes_are_noted_for_each_user(people: Store) -> None:
    """What changes for a group is noted for every member, what changes for a user for him alone."""
    epoch = now(people)
    with people.atomic() as tx:
        identities.put_policy(tx, Owner.GROUP, "staff", "p", "x")
        assert identities.delete_policy(tx, Owner.GROUP, "staff", "p")
        assert not identities.delete_policy(tx, Owner.GROUP, "staff", "p")
        assert identities.remove_member(tx, "staff", "bob")
        assert not identities.remove_member(tx, "staff", "bob")
        identities.put_policy(tx, Owner.USER, "bob", "p", "x")
        assert identities.delete_group(tx, "staff")
        assert not identities.delete_group(tx, "staff")
    both = ["user/alice", "user/bob"]
    assert noted(people, epoch) == [*both, *both, "user/bob", "user/bob", "user/alice"]


def test_groups(people: Store) -> None:
    """Groups are listed with their members, of all users or of one; a deleted user leaves all groups."""
    with people.atomic() as tx:
        identities.insert_group(tx, "empty", NOW)
        identities.put_policy(tx, Owner.USER, "bob", "p", "x")
        identities.put_tags(tx, "bob", {"a": "b"})
    with people.reading() as conn:
        assert [(group.name, group.members) for group in identities.groups(conn)] == [
            ("empty", ()),
            ("staff", ("alice", "bob")),
        ]
        assert [group.name for group in identities.groups(conn, "bob")] == ["staff"]
        assert identities.group_exists(conn, "empty")
        assert not identities.group_exists(conn, "full")
        assert identities.user_exists(conn, "bob")
        assert identities.user_id_exists(conn, "id of bob")
        assert not identities.user_id_exists(conn, "id of carol")
    with people.atomic() as tx:
        identities.delete_belongings(tx, "bob")
        assert users.delete_user(tx, "bob")
        assert [group.members for group in identities.groups(tx)] == [(), ("alice",)]


# -- upgrade ------------------------------------------------------------------------------------------------------


def test_users_of_before_keep_their_rights(tmp_path: Path) -> None:
    """Users from before there were permissions get a policy that allows what they could do, under a telling name."""
    migrate.create(tmp_path / "data")
    file = tmp_path / "data" / "meta.db"
    file.unlink()
    connections.make_empty(file)
    config = migrate.alembic_config(files.META)
    engine = create_engine("sqlite://", creator=lambda: connections.connect(file), poolclass=NullPool)
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "meta_0003")
        connection.commit()
    with closing(sqlite3.connect(file)) as raw, raw:
        raw.execute("INSERT INTO user (name, created_at) VALUES ('alice', 1)")
    assert "meta_0004" in migrate.upgrade(tmp_path / "data")
    store = Store.open(tmp_path / "data")
    with store.atomic() as tx:
        users.insert_user(tx, "bob", NOW, "new")
        alice, bob = (identities.fetch(tx, name) for name in ("alice", "bob"))
    store.close()
    assert alice is not None
    assert list(alice.policies) == ["from-before-permissions"]
    assert '"Action":"kms:*"' in alice.policies["from-before-permissions"]
    assert alice.unique_id == derived_user_id("alice", alice.created_at)
    assert bob is not None
    assert bob.unique_id == "new"
    assert bob.policies == {}
