"""The record cache: every change acts at the very next call, and nothing stale is kept."""

from collections.abc import Iterator
from typing import NoReturn

import pytest
from service_sites import REGION, Site, new_alias, new_key, run, seal, store_beside, unseal

from hsmkms.errors import DisabledException, NotFoundException, StoreError
from hsmkms.kms import Kms
from hsmkms.model.aliases import DeleteAliasRequest, UpdateAliasRequest
from hsmkms.model.enums import KeyState
from hsmkms.model.keys import DescribeKeyRequest, DisableKeyRequest, EnableKeyRequest
from hsmkms.service.runtime import record_cache as caches
from hsmkms.store import aliases, changes, keys, leases, proven_keys
from hsmkms.store.engine import Store

pytestmark = pytest.mark.both_engines  # on PostgreSQL with store.consistency = "strict"


@pytest.fixture
def opened(site: Site) -> Iterator[Kms]:
    """An open installation."""
    with site.open() as kms:
        yield kms


@pytest.fixture
def elsewhere(opened: Kms) -> Iterator[Store]:
    """The same databases on connections of their own, as another process has them."""
    store = store_beside(opened)
    yield store
    store.close()


def switch(store: Store, key_id: str, state: KeyState) -> None:
    """Change the stored state of a key."""
    with store.atomic() as tx:
        record = keys.fetch(tx, REGION, key_id)
        assert record is not None
        assert keys.set_state(tx, key_id, REGION, state, record.version)


def target(kms: Kms, name: str) -> str:
    """The id of the key that an alias leads to."""
    return kms.describe_key(DescribeKeyRequest(key_id=name)).key_metadata.key_id


def test_disabled_in_another_process(site: Site, opened: Kms) -> None:
    """A key that another process has disabled is refused at the next call here."""
    made, other = new_key(opened), new_key(opened)
    sealed = seal(opened, made.key_id)
    assert run("change", site.folder / "hsmkms.toml", "disable", made.key_id) == ["disable"]
    with pytest.raises(DisabledException):
        seal(opened, made.key_id)
    with pytest.raises(DisabledException):
        unseal(opened, sealed)
    assert seal(opened, other.key_id)


def test_alias_moved_in_another_process(site: Site, opened: Kms) -> None:
    """An alias that another process has moved leads to the new key at the next call here."""
    first, second = new_key(opened), new_key(opened)
    new_alias(opened, "alias/moved", first.key_id)
    assert target(opened, "alias/moved") == first.key_id
    run("change", site.folder / "hsmkms.toml", "move", "alias/moved", second.key_id)
    assert target(opened, "alias/moved") == second.key_id


def test_every_change_acts_at_once(opened: Kms, elsewhere: Store) -> None:
    """A key that is disabled and enabled on another connection follows at every single call."""
    made = new_key(opened)
    for _ in range(20):
        switch(elsewhere, made.key_id, KeyState.DISABLED)
        with pytest.raises(DisabledException):
            seal(opened, made.key_id)
        switch(elsewhere, made.key_id, KeyState.ENABLED)
        seal(opened, made.key_id)


def test_two_kms_in_one_process(site: Site, opened: Kms) -> None:
    """Two Kms of one installation see each other's changes."""
    with site.open() as second:
        made = new_key(opened)
        new_alias(second, "alias/both", made.key_id)
        sealed = seal(opened, "alias/both")
        second.disable_key(DisableKeyRequest(key_id=made.key_id))
        with pytest.raises(DisabledException):
            unseal(opened, sealed)
        opened.enable_key(EnableKeyRequest(key_id=made.key_id))
        assert unseal(second, sealed) == b"secret"
    assert unseal(opened, sealed) == b"secret"


def test_databases_that_came_back(site: Site, opened: Kms) -> None:
    """What another process records of it acts at once: the count is unknown, so the key rotates before it encrypts."""
    key_id = new_key(opened).key_id
    seal(opened, key_id)
    with site.open() as other:
        other.operator.audit._note_older_state()
    before = leases.beyond(opened._core.store, 1)
    sealed = seal(opened, key_id)
    assert len(leases.beyond(opened._core.store, 1)) == len(before) + 1
    assert unseal(opened, sealed) == b"secret"


def test_alias_made_and_deleted_elsewhere(opened: Kms, elsewhere: Store) -> None:
    """An alias appears and disappears at the call after its making and deletion on another connection."""
    made = new_key(opened)
    now = opened._core.clock()
    for _ in range(3):
        with pytest.raises(NotFoundException):
            target(opened, "alias/brief")
        with elsewhere.atomic() as tx:
            aliases.insert(tx, REGION, "alias/brief", made.key_id, now)
        assert target(opened, "alias/brief") == made.key_id
        with elsewhere.atomic() as tx:
            assert aliases.delete(tx, REGION, "alias/brief")


def test_only_what_changed_is_dropped(opened: Kms, elsewhere: Store) -> None:
    """A change of one key leaves the records of the others where they are."""
    changed, other = new_key(opened), new_key(opened)
    cache = opened._core.cache
    before = cache.key(REGION, other.key_id), cache.key(REGION, changed.key_id)
    assert cache.key(REGION, other.key_id) is before[0]
    switch(elsewhere, changed.key_id, KeyState.DISABLED)
    assert cache.key(REGION, other.key_id) is before[0]
    assert cache.key(REGION, changed.key_id) is not before[1]


def test_commit_without_a_change(opened: Kms, elsewhere: Store) -> None:
    """Leases and other writes of log.db do not touch the record cache."""
    made = new_key(opened)
    seal(opened, made.key_id)
    before = opened._core.cache.key(REGION, made.key_id)
    leases.reserve(elsewhere, "ab" * 32, 1, 2**32)
    assert opened._core.cache.key(REGION, made.key_id) is before


def test_stale_key_is_not_kept(opened: Kms, elsewhere: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that was read before a change, and whose change was dealt with meanwhile, is not kept."""
    made = new_key(opened)
    cache = opened._core.cache
    read = proven_keys.record

    def overtaken(*arguments: object) -> object:
        record = read(*arguments)
        monkeypatch.undo()
        switch(elsewhere, made.key_id, KeyState.DISABLED)
        cache.look()  # what a thread with another request does at this moment
        return record

    monkeypatch.setattr(caches.proven_keys, "record", overtaken)
    stale = cache.key(REGION, made.key_id)
    assert stale is not None
    assert stale.record.state is KeyState.ENABLED  # read before the change, so it may still be answered by this call
    fresh = cache.key(REGION, made.key_id)
    assert fresh is not None
    assert fresh.record.state is KeyState.DISABLED


def test_stale_alias_is_not_kept(opened: Kms, elsewhere: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """An alias that was read before it moved, where the move was dealt with meanwhile, is not kept."""
    first, second = new_key(opened), new_key(opened)
    new_alias(opened, "alias/overtaken", first.key_id)
    cache = opened._core.cache
    read = aliases.proven

    def overtaken(*arguments: object) -> object:
        record = read(*arguments)
        monkeypatch.undo()
        with elsewhere.atomic() as tx:
            aliases.update(tx, REGION, "alias/overtaken", second.key_id, opened._core.clock())
        cache.look()
        return record

    monkeypatch.setattr(caches.aliases, "proven", overtaken)
    cache.alias(REGION, "alias/overtaken")
    assert target(opened, "alias/overtaken") == second.key_id


def test_failed_invalidation_is_made_up_for(opened: Kms, elsewhere: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the change log cannot be read the call fails, and the next drops what changed, without a signal."""
    made = new_key(opened)
    seal(opened, made.key_id)
    switch(elsewhere, made.key_id, KeyState.DISABLED)

    def locked(*_: object) -> NoReturn:
        raise StoreError("locked")

    with monkeypatch.context() as patch:
        patch.setattr(changes, "since", locked)
        for _ in range(2):
            with pytest.raises(StoreError, match="locked"):
                seal(opened, made.key_id)
    with pytest.raises(DisabledException):
        seal(opened, made.key_id)


def test_full_cache_starts_anew(opened: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that is full is emptied and filled again."""
    monkeypatch.setattr(caches, "MAX_ENTRIES", 3)
    made = [new_key(opened) for _ in range(5)]
    sealed = [seal(opened, each.key_id) for each in made]
    assert [unseal(opened, ciphertext) for ciphertext in sealed] == [b"secret"] * 5
    assert len(opened._core.cache._keys) + len(opened._core.cache._aliases) <= 3


def test_own_changes_act_at_once(opened: Kms) -> None:
    """What this process changes acts at its own next call."""
    first, second = new_key(opened), new_key(opened)
    new_alias(opened, "alias/own", first.key_id)
    for key in (second, first, second):
        opened.update_alias(UpdateAliasRequest(alias_name="alias/own", target_key_id=key.key_id))
        assert target(opened, "alias/own") == key.key_id
    opened.delete_alias(DeleteAliasRequest(alias_name="alias/own"))
    with pytest.raises(NotFoundException):
        target(opened, "alias/own")
