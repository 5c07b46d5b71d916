"""Users and their access keys in the database."""

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from store_samples import LATER, NOW, REGION

from hsmkms.errors import StoreError
from hsmkms.model.ids import new_user_id
from hsmkms.store import changes, users
from hsmkms.store.engine import Store
from hsmkms.store.statuses import AccessKeyStatus
from hsmkms.store.users import AccessKeyRow, UserRow

pytestmark = pytest.mark.both_engines

ACTIVE, INACTIVE = AccessKeyStatus.ACTIVE, AccessKeyStatus.INACTIVE


def a_row(access_key_id: str, user_name: str | None = "ada", **changes: Any) -> AccessKeyRow:  # noqa: ANN401 - members
    """An access key."""
    fields = {"status": ACTIVE, "created_at": NOW, "key_version": 1, "iv": bytes(12), "sealed": b"sealed"} | changes
    return AccessKeyRow(access_key_id=access_key_id, user_name=user_name, **fields)


def add(store: Store, *rows: AccessKeyRow) -> None:
    """Write access keys, and the users that they belong to."""
    with store.atomic() as tx:
        for row in rows:
            if row.user_name is not None:
                users.insert_user(tx, row.user_name, NOW, new_user_id())
            users.insert_access_key(tx, row)


def test_users_by_name(store: Store) -> None:
    """They are listed in the order of their names, with the number of their access keys; a name is given once."""
    with store.atomic() as tx:
        assert users.users(tx) == []
        assert all(users.insert_user(tx, name, NOW, f"id of {name}") for name in ("zoe", "ada", "Ada"))
        assert not users.insert_user(tx, "ada", LATER, "another")
    add(store, a_row("one"), a_row("two"), a_row("three", None))
    with store.reading() as conn:
        rows = users.users(conn)
    assert rows == [
        UserRow(name=name, created_at=NOW, unique_id=f"id of {name}", access_keys=count)
        for name, count in (("Ada", 0), ("ada", 2), ("zoe", 0))
    ]


def test_deleted_user(store: Store) -> None:
    """A user goes once; one who still has access keys cannot go, and nothing changes."""
    add(store, a_row("one"))
    with pytest.raises(StoreError), store.atomic() as tx:
        users.delete_user(tx, "ada")
    with store.atomic() as tx:
        assert users.delete_access_key(tx, "one")
        assert users.delete_user(tx, "ada")
        assert not users.delete_user(tx, "ada")
        assert users.users(tx) == []


def test_access_keys_of_each(store: Store) -> None:
    """A user's access keys, and the root's, are listed apart, oldest first, and are returned as they were stored."""
    young = a_row("a", created_at=LATER, status=INACTIVE, key_version=2, iv=bytes(range(12)), sealed=bytes(range(60)))
    old, roots = a_row("b"), a_row("c", None)
    add(store, young, old, roots, a_row("d", "bob"))
    with store.reading() as conn:
        assert users.access_keys(conn, "ada") == [old, young]
        assert users.access_keys(conn, None) == [roots]
        assert users.access_keys(conn, "nobody") == []
        assert [users.fetch_access_key(conn, name) for name in ("a", "c", "x")] == [young, roots, None]


def test_status(store: Store) -> None:
    """Switched off and on again; one that is not there is not switched."""
    add(store, a_row("one"))
    for status in (INACTIVE, ACTIVE):
        with store.atomic() as tx:
            assert users.set_status(tx, "one", status)
            assert users.fetch_access_key(tx, "one") == replace(a_row("one"), status=status)
            assert not users.set_status(tx, "two", status)


def test_every_change_of_an_access_key_is_noted(store: Store) -> None:
    """Making, switching and removing it are in the change log, so that every server sees it; what failed is not."""
    with store.atomic() as tx:
        users.insert_user(tx, "ada", NOW, new_user_id())
        before = changes.latest(tx)
        users.insert_access_key(tx, a_row("one"))
        users.set_status(tx, "one", INACTIVE)
        users.delete_access_key(tx, "one")
        users.set_status(tx, "one", ACTIVE)
        users.delete_access_key(tx, "one")
        noted = [(region, subject) for _, region, subject in changes.since(tx, before)]
    assert noted == [(users.NO_REGION, "one")] * 3


def test_last_uses(store: Store) -> None:
    """The last use of each access key is returned, whether or not the key still exists, and is no change of keys."""
    signal = store.change_signal()
    assert users.last_uses(store) == {}
    users.note_uses(store, {"one": (NOW, REGION)})
    users.note_uses(store, {"one": (LATER, "us-east-1"), "two": (NOW + timedelta(seconds=1), REGION)})
    users.note_uses(store, {"one": (NOW, REGION)})  # one that could not be stored before
    assert users.last_uses(store) == {"one": (LATER, "us-east-1"), "two": (NOW + timedelta(seconds=1), REGION)}
    assert not signal.moved()
    signal.close()
