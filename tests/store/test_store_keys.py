"""Keys, aliases, tags and token objects: what was written is what is read, and every change leaves its trace."""

import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlalchemy import Connection
from store_samples import (
    ACCOUNT,
    ELSEWHERE,
    INSTALLATION,
    LATER,
    NOW,
    REGION,
    TOKEN,
    a_key,
    a_material,
    read,
    write,
)

from hsmkms.errors import AlreadyExistsException
from hsmkms.model.enums import (
    ExpirationModel,
    KeyManager,
    KeySpec,
    KeyState,
    KeyUsage,
    MaterialState,
    Origin,
    RotationType,
)
from hsmkms.model.records import AliasRecord, KeyRecord
from hsmkms.store import aliases, changes, installation, keys, objects, tags
from hsmkms.store.engine import Store
from hsmkms.store.schema import token_object
from hsmkms.store.statuses import Lifecycle, ObjectStatus

pytestmark = pytest.mark.both_engines

OTHER_TOKEN = "0a54b5c2-95f4-4dc5-9d0e-8f34e4c5a001"  # noqa: S105 - the id of a PKCS#11 token


def same(stored: KeyRecord, written: KeyRecord) -> bool:
    """Equal but for the version, which the store gives."""
    fields = (name for name in KeyRecord.__struct_fields__ if name != "version")
    return all(getattr(stored, name) == getattr(written, name) for name in fields)


# -- records ----------------------------------------------------------------------------------------------------


def test_a_key_comes_back_as_it_was_written(store: Store) -> None:
    """Every member, to the microsecond, with the materials in their order."""
    old = a_material(1, state=MaterialState.NON_CURRENT)
    imported = a_material(
        2,
        created_at=LATER,
        expiration_model=ExpirationModel.KEY_MATERIAL_EXPIRES,
        valid_to=LATER + timedelta(microseconds=1),
        rotation_date=LATER,
        rotation_type=RotationType.ON_DEMAND,
    )
    record = a_key(
        spec=KeySpec.SYMMETRIC_DEFAULT,
        usage=KeyUsage.ENCRYPT_DECRYPT,
        origin=Origin.EXTERNAL,
        manager=KeyManager.AWS,
        multi_region=True,
        primary_region=REGION,
        regions=(REGION,),
        state=KeyState.PENDING_DELETION,
        deletion_date=LATER,
        pending_window_days=7,
        materials=(imported, old),
    )
    stored = write(store, record)
    assert stored.materials == (old, imported)
    assert stored.current == imported
    assert same(stored, replace(record, materials=(old, imported)))


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    description=st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    created=st.datetimes(timezones=st.just(NOW.tzinfo)),
    spec=st.sampled_from(KeySpec),
    usage=st.sampled_from(KeyUsage),
    state=st.sampled_from(KeyState),
)
def test_any_key_comes_back(
    store: Store, description: str, created: object, **words: KeySpec | KeyUsage | KeyState
) -> None:
    """Any text, any instant that Python knows, any word of the API."""
    record = replace(a_key(description=description, creation_date=created), **words)
    assert same(write(store, record), record)


def test_a_key_without_material(store: Store) -> None:
    """A key that waits for its first import has none, and is live all the same."""
    record = a_key(origin=Origin.EXTERNAL, state=KeyState.PENDING_IMPORT, materials=())
    assert write(store, record).current is None


# -- intent and result ------------------------------------------------------------------------------------------


def test_an_intent_is_seen_by_nobody(store: Store) -> None:
    """Not fetched, not listed, yet its id is taken and its object is known as intended."""
    record = a_key()
    with store.atomic() as tx:
        keys.insert_intent(tx, record, {"a": "b"}, "the label")
    with store.reading() as conn:
        assert keys.fetch(conn, REGION, record.key_id) is None
        assert keys.page(conn, REGION, None, 10) == []
        assert keys.exists_anywhere(conn, record.key_id)
        (intent,) = objects.all_of_token(conn, TOKEN).values()
    assert (intent.key_id, intent.region, intent.label) == (record.key_id, REGION, "the label")
    assert (intent.cka_id, intent.sequence) == (record.materials[0].cka_id, 1)
    assert (intent.status, intent.lifecycle) == (ObjectStatus.INTENDED, Lifecycle.INTENDED)


def test_completing_makes_it_live_once(store: Store) -> None:
    """The object is present from then on; a second result, or one without an intent, is refused."""
    record = a_key()
    write(store, record)
    with store.atomic() as tx:
        assert not keys.complete(tx, record.key_id, REGION)
        assert not keys.complete(tx, "nowhere", REGION)
        (stored_object,) = objects.all_of_token(tx, TOKEN).values()
        assert objects.fetch(tx, TOKEN, record.materials[0].cka_id) == stored_object
    assert (stored_object.status, stored_object.lifecycle) == (ObjectStatus.PRESENT, Lifecycle.LIVE)
    assert stored_object.material_id == record.materials[0].material_id


def test_completing_in_another_state(store: Store) -> None:
    """An adopted key becomes live as Disabled, whatever was intended."""
    record = a_key()
    with store.atomic() as tx:
        keys.insert_intent(tx, record, {}, "label")
        keys.complete(tx, record.key_id, REGION, KeyState.DISABLED)
    assert read(store, record).state is KeyState.DISABLED


def test_a_dropped_intent_leaves_nothing(store: Store) -> None:
    """Its id, object and tags are gone; a live key cannot be dropped."""
    record, live = a_key(), write(store, a_key(), owner="me")
    with store.atomic() as tx:
        keys.insert_intent(tx, record, {"a": "b"}, "label")
    with store.atomic() as tx:
        assert keys.drop_intent(tx, record.key_id, REGION)
        assert not keys.drop_intent(tx, record.key_id, REGION)
        assert not keys.drop_intent(tx, live.key_id, REGION)
    with store.reading() as conn:
        assert not keys.exists_anywhere(conn, record.key_id)
        assert objects.fetch(conn, TOKEN, record.materials[0].cka_id) is None
        assert tags.fetch(conn, record.key_id, REGION) == {}
        assert tags.fetch(conn, live.key_id, REGION) == {"owner": "me"}
    assert read(store, live) == live


# -- reading ----------------------------------------------------------------------------------------------------


def test_keys_live_in_their_region(store: Store) -> None:
    """A key of one region is unknown in another, though its id is taken everywhere."""
    record = write(store, a_key())
    with store.reading() as conn:
        assert keys.fetch(conn, ELSEWHERE, record.key_id) is None
        assert keys.page(conn, ELSEWHERE, None, 10) == []
        assert keys.exists_anywhere(conn, record.key_id)


def test_pages_follow_each_other(store: Store) -> None:
    """All ids of the region once, in their order, whatever the size of a page."""
    made = sorted(write(store, a_key()).key_id for _ in range(7))
    write(store, a_key(ELSEWHERE))
    with store.reading() as conn:
        assert keys.page(conn, REGION, None, 100) == made
        seen: list[str] = []
        while page := keys.page(conn, REGION, seen[-1] if seen else None, 3):
            seen += page
    assert seen == made


def test_an_object_that_is_gone_makes_its_material_absent(store: Store) -> None:
    """The material stays in the record, and says that it is not present."""
    record = write(store, a_key())
    (material,) = record.materials
    with store.atomic() as tx:
        assert objects.set_status(tx, TOKEN, material.cka_id, ObjectStatus.DESTROYING)
        assert not objects.set_status(tx, TOKEN, uuid.uuid4().bytes, ObjectStatus.DESTROYED)
    stored = read(store, record)
    assert not stored.materials[0].present
    assert stored.version > record.version


def test_of_several_objects_the_present_one_counts(store: Store) -> None:
    """Present before any other, then the one on the asked-for token; never two rows for one material."""
    record = write(store, a_key())
    (material,) = record.materials
    copy = uuid.uuid4().bytes
    with store.atomic() as tx:
        installation.insert_token(tx, OTHER_TOKEN, "copy", "2", "m", "m", LATER)
        row = tx.execute(token_object.select()).one()._asdict()
        later = row["created_at"] + timedelta(microseconds=1)
        tx.execute(token_object.insert().values(row | {"token_id": OTHER_TOKEN, "cka_id": copy, "created_at": later}))
    with store.atomic() as tx:
        first = keys.fetch(tx, REGION, record.key_id)
        asked = keys.fetch(tx, REGION, record.key_id, OTHER_TOKEN)
        objects.set_status(tx, TOKEN, material.cka_id, ObjectStatus.DESTROYED)
        left = keys.fetch(tx, REGION, record.key_id, TOKEN)
    assert first is not None
    assert asked is not None
    assert left is not None
    assert [each.cka_id for each in first.materials] == [material.cka_id]
    assert [each.cka_id for each in asked.materials] == [copy]
    assert [(each.cka_id, each.present) for each in left.materials] == [(copy, True)]


def test_a_second_material_appears_with_its_object(store: Store) -> None:
    """While its object is intended it is left out; afterwards it is current, and the first one is not."""
    record = write(store, a_key())
    new = a_material(2, created_at=LATER)
    with store.atomic() as tx:
        keys.retire_materials(tx, record.key_id)
        keys.insert_material(tx, record.key_id, new, "label 2")
    assert [material.sequence for material in read(store, record).materials] == [1]
    with store.atomic() as tx:
        objects.set_status(tx, TOKEN, new.cka_id, ObjectStatus.PRESENT)
    stored = read(store, record)
    assert stored.current == new
    assert stored.materials[0].state is MaterialState.NON_CURRENT


# -- every setter -----------------------------------------------------------------------------------------------

SETTERS: dict[str, Callable[[Connection, KeyRecord], object]] = {
    "state": lambda tx, key: keys.set_state(tx, key.key_id, REGION, KeyState.DISABLED, key.version),
    "description": lambda tx, key: keys.set_description(tx, key.key_id, REGION, "new", key.version),
    "touch": lambda tx, key: keys.touch(tx, key.key_id, REGION),
    "tags put": lambda tx, key: tags.put(tx, key.key_id, REGION, {"owner": "you"}),
    "tags remove": lambda tx, key: tags.remove(tx, key.key_id, REGION, ["owner"]),
    "object": lambda tx, key: objects.set_status(tx, TOKEN, key.materials[0].cka_id, ObjectStatus.DESTROYING),
    "material": lambda tx, key: keys.insert_material(tx, key.key_id, a_material(2), "label", ObjectStatus.PRESENT),
}


@pytest.mark.parametrize("setter", SETTERS.values(), ids=SETTERS)
def test_every_setter_leaves_its_trace(store: Store, setter: Callable[[Connection, KeyRecord], object]) -> None:
    """The version becomes the epoch of a row in the change log that names the key; another key is untouched."""
    record, bystander = write(store, a_key(), owner="me"), write(store, a_key())
    with store.atomic() as tx:
        before = changes.latest(tx)
        assert setter(tx, record) is not False
        noted = changes.since(tx, before)
    stored = read(store, record)
    assert noted == [(stored.version, REGION, record.key_id)]
    assert stored.version > record.version
    assert read(store, bystander) == bystander


def test_setters_set_what_they_say(store: Store) -> None:
    """State and description, each alone; the new version is what the next one must name."""
    record = write(store, a_key())
    with store.atomic() as tx:
        assert keys.set_state(tx, record.key_id, REGION, KeyState.DISABLED, record.version)
        assert not keys.set_state(tx, record.key_id, REGION, KeyState.ENABLED, record.version)
    stored = read(store, record)
    assert (stored.state, stored.description) == (KeyState.DISABLED, record.description)


def test_an_intent_has_no_setters(store: Store) -> None:
    """What is not live cannot be changed."""
    record = a_key()
    with store.atomic() as tx:
        keys.insert_intent(tx, record, {}, "label")
        version = changes.latest(tx)
        assert not keys.set_description(tx, record.key_id, REGION, "new", version)


# -- aliases ----------------------------------------------------------------------------------------------------


def test_an_alias_through_its_life(store: Store) -> None:
    """Made, read, moved, deleted: each change is noted under its name; the key's own record stays as it is."""
    one, two = write(store, a_key()), write(store, a_key())
    name = "alias/photos"
    with store.atomic() as tx:
        before = changes.latest(tx)
        aliases.insert(tx, REGION, name, one.key_id, NOW)
        made = aliases.fetch(tx, REGION, name)
        assert aliases.update(tx, REGION, name, two.key_id, LATER)
        moved = aliases.fetch(tx, REGION, name)
        assert (aliases.count(tx, REGION, one.key_id), aliases.count(tx, REGION, two.key_id)) == (0, 1)
        assert aliases.delete(tx, REGION, name)
        assert aliases.fetch(tx, REGION, name) is None
        assert [change[1:] for change in changes.since(tx, before)].count((REGION, name)) == 3
    assert made == AliasRecord(
        name=name,
        region=REGION,
        arn=f"arn:aws:kms:{REGION}:{ACCOUNT}:{name}",
        target_key_id=one.key_id,
        creation_date=NOW,
        last_updated_date=NOW,
    )
    assert moved is not None
    assert (moved.target_key_id, moved.creation_date, moved.last_updated_date) == (two.key_id, NOW, LATER)
    assert read(store, one) == one


def test_an_unknown_alias_changes_nothing(store: Store) -> None:
    """Moving or deleting it says False and leaves no trace."""
    record = write(store, a_key())
    with store.atomic() as tx:
        before = changes.latest(tx)
        assert not aliases.update(tx, REGION, "alias/no", record.key_id, NOW)
        assert not aliases.delete(tx, REGION, "alias/no")
        assert changes.latest(tx) == before


def test_a_name_is_given_once_in_a_region(store: Store) -> None:
    """A second alias of the name is refused there, and possible elsewhere."""
    here, there = write(store, a_key()), write(store, a_key(ELSEWHERE))
    with store.atomic() as tx:
        aliases.insert(tx, REGION, "alias/a", here.key_id, NOW)
        aliases.insert(tx, ELSEWHERE, "alias/a", there.key_id, NOW)
    with pytest.raises(AlreadyExistsException), store.atomic() as tx:
        aliases.insert(tx, REGION, "alias/a", here.key_id, LATER)


def test_pages_of_aliases(store: Store) -> None:
    """By name in the order of code points, of the region or of one key, and never those of another region."""
    one, two, far = write(store, a_key()), write(store, a_key()), write(store, a_key(ELSEWHERE))
    with store.atomic() as tx:
        for name, key in (("alias/b", one), ("alias/A", two), ("alias/a", one), ("alias/c", two)):
            aliases.insert(tx, REGION, name, key.key_id, NOW)
        aliases.insert(tx, ELSEWHERE, "alias/z", far.key_id, NOW)
        listed = [each.name for each in aliases.page(tx, REGION, None, None, 10)]
        assert listed == ["alias/A", "alias/a", "alias/b", "alias/c"]
        assert [each.name for each in aliases.page(tx, REGION, None, "alias/a", 1)] == ["alias/b"]
        assert [each.name for each in aliases.page(tx, REGION, one.key_id, None, 10)] == ["alias/a", "alias/b"]
        assert [each.name for each in aliases.page(tx, REGION, one.key_id, "alias/a", 10)] == ["alias/b"]


# -- tags -------------------------------------------------------------------------------------------------------


def test_tags_are_put_replaced_and_removed(store: Store) -> None:
    """Unnamed ones stay; removing what is not there leaves no trace."""
    record = write(store, a_key(), a="1", b="2")
    with store.atomic() as tx:
        tags.put(tx, record.key_id, REGION, {"b": "two", "c": ""})
        assert tags.fetch(tx, record.key_id, REGION) == {"a": "1", "b": "two", "c": ""}
        tags.remove(tx, record.key_id, REGION, ["a", "zzz"])
        assert tags.fetch(tx, record.key_id, REGION) == {"b": "two", "c": ""}
        before = changes.latest(tx)
        tags.remove(tx, record.key_id, REGION, ["zzz"])
        tags.put(tx, record.key_id, REGION, {})
        assert changes.latest(tx) == before


# -- objects seen, installation ---------------------------------------------------------------------------------


def test_what_was_first_seen_stays_so(store: Store) -> None:
    """Seeing an object again does not move the instant; forgetting it does away with it."""
    one, two = uuid.uuid4().bytes, b"short"  # foreign objects may have any CKA_ID
    with store.atomic() as tx:
        assert objects.note_seen(tx, TOKEN, one, NOW) == NOW
        assert objects.note_seen(tx, TOKEN, one, LATER) == NOW
        objects.note_seen(tx, TOKEN, two, LATER)
        assert objects.first_seen(tx, TOKEN) == {one: NOW, two: LATER}
        objects.forget_seen(tx, TOKEN, one)
        assert objects.first_seen(tx, TOKEN) == {two: LATER}
        assert objects.first_seen(tx, OTHER_TOKEN) == {}


def test_the_rows_of_a_token(store: Store) -> None:
    """Every object of the token, whatever its status, and none of another one."""
    live, intended = write(store, a_key()), a_key()
    with store.atomic() as tx:
        keys.insert_intent(tx, intended, {}, "label")
        rows = objects.all_of_token(tx, TOKEN)
        assert {row: rows[row].status for row in rows} == {
            live.materials[0].cka_id: ObjectStatus.PRESENT,
            intended.materials[0].cka_id: ObjectStatus.INTENDED,
        }
        assert objects.all_of_token(tx, OTHER_TOKEN) == {}


def test_the_installation_and_its_token(store: Store) -> None:
    """The row, the token before and after binding, and the versions of the installation's keys."""
    cka_ids = [uuid.uuid4().bytes for _ in range(3)]
    with store.atomic() as tx:
        row = installation.fetch(tx)
        assert row == installation.InstallationRow(id=INSTALLATION, account=ACCOUNT, created_at=NOW)
        (token,) = installation.tokens(tx)
        assert (token.id, token.challenge, token.response) == (TOKEN, None, None)
        installation.set_restored(tx, LATER)
        assert installation.versions(tx, "mac", TOKEN) == []
        assert installation.next_version(tx, "mac") == 1
        for version, cka_id in enumerate(cka_ids[:2], start=1):
            installation.insert_installation_key(tx, "mac", version, TOKEN, cka_id, NOW)
        installation.insert_installation_key(tx, "seal", 1, TOKEN, cka_ids[2], NOW)
        assert installation.versions(tx, "mac") == []  # of tokens that are bound
        installation.bind_token(tx, TOKEN, b"challenge", b"response")
    with store.reading() as conn:
        restored = installation.fetch(conn)
        (token,) = installation.tokens(conn)
        newest = installation.versions(conn, "mac")[-1]
        assert [installation_key.cka_id for installation_key in installation.installation_keys(conn, TOKEN)] == cka_ids
        assert installation.next_version(conn, "mac") == 3
    assert restored is not None
    assert restored.restored_at == LATER
    assert (token.challenge, token.response) == (b"challenge", b"response")
    assert newest == installation.InstallationKeyRow(
        purpose="mac", version=2, token_id=TOKEN, cka_id=cka_ids[1], created_at=NOW
    )


def test_home_is_the_token_with_the_newest_key(store: Store) -> None:
    """Of those that are bound, whatever the dates say; versions count over all tokens."""
    with store.atomic() as tx:
        assert installation.home(tx) is None
        installation.insert_installation_key(tx, "mac", 1, TOKEN, uuid.uuid4().bytes, LATER)
        installation.insert_token(tx, "new", "label", "serial", "maker", "model", NOW - timedelta(days=9))
        installation.insert_installation_key(tx, "mac", 2, "new", uuid.uuid4().bytes, NOW)
        assert installation.home(tx) is None
        installation.bind_token(tx, TOKEN, b"challenge", b"response")
    with store.reading() as conn:
        assert (home := installation.home(conn)) is not None
        assert home.id == TOKEN
        assert [version.version for version in installation.versions(conn, "mac")] == [1]
        assert installation.next_version(conn, "mac") == 3
    with store.atomic() as tx:
        before = changes.latest(tx)
        installation.bind_token(tx, "new", b"other challenge", b"other response")
        assert [subject for _, _, subject in changes.since(tx, before)] == [installation.SUBJECT]
        assert (home := installation.home(tx)) is not None
        assert home.id == "new"
        assert [version.version for version in installation.versions(tx, "mac")] == [1, 2]
