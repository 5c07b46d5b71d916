"""The end of keys in the database: what is due, the tombstone, what is to be destroyed, and the newest date."""

from datetime import timedelta

import pytest
from sqlalchemy import Connection, select
from store_samples import ELSEWHERE, LATER, NOW, REGION, TOKEN, a_key, a_material, read, write

from hsmkms.model.enums import KeyState, MaterialState, RotationType
from hsmkms.model.records import KeyRecord, RotationSetting
from hsmkms.store import aliases, changes, deletion, keys, objects, rotation, tags
from hsmkms.store.engine import Store
from hsmkms.store.schema import alias, regional_key, tag, token_object
from hsmkms.store.schema import rotation as rotation_table
from hsmkms.store.statuses import ObjectStatus

pytestmark = pytest.mark.both_engines

TICK = timedelta(microseconds=1)
PENDING = KeyState.PENDING_DELETION


def bury(store: Store, record: KeyRecord) -> None:
    """The end of a key."""
    with store.atomic() as tx:
        deletion.bury(tx, record.key_id, record.region)


def doomed(store: Store) -> list[bytes]:
    """The CKA_IDs of what is to be destroyed."""
    with store.reading() as conn:
        return [doomed_object.cka_id for doomed_object in deletion.doomed(conn)]


# -- due --------------------------------------------------------------------------------------------------------------


def test_due_to_the_microsecond(store: Store) -> None:
    """A key is due from its date on, the longest overdue first; others of the same date in the order of their ids."""
    late = write(store, a_key(state=PENDING, deletion_date=LATER + TICK))
    pair = sorted(write(store, a_key(state=PENDING, deletion_date=LATER)).key_id for _ in range(2))
    elsewhere = write(store, a_key(ELSEWHERE, state=PENDING, deletion_date=LATER - TICK))
    first, both, last = [(elsewhere.key_id, ELSEWHERE)], [(each, REGION) for each in pair], [(late.key_id, REGION)]
    with store.reading() as conn:
        assert deletion.due(conn, LATER - 2 * TICK) == []
        assert deletion.due(conn, LATER - TICK) == first
        assert deletion.due(conn, LATER) == first + both
        assert deletion.due(conn, LATER + TICK) == first + both + last


@pytest.mark.parametrize("state", [each for each in KeyState if each is not PENDING])
def test_other_states_are_never_due(store: Store, state: KeyState) -> None:
    """A date that is left in another state means nothing, and a pending key without a date is not due."""
    write(store, a_key(state=state, deletion_date=NOW))
    write(store, a_key(state=PENDING, deletion_date=None))
    with store.reading() as conn:
        assert deletion.due(conn, LATER) == []


def test_scheduled_and_cancelled(store: Store) -> None:
    """Schedule and cancel write state, date and window; neither does so on a record that has moved on."""
    record = write(store, a_key())
    with store.atomic() as tx:
        assert keys.schedule_deletion(tx, record.key_id, REGION, PENDING, LATER, 7, record.version)
        assert not keys.schedule_deletion(tx, record.key_id, REGION, PENDING, NOW, 9, record.version)
    stored = read(store, record)
    assert (stored.state, stored.deletion_date, stored.pending_window_days) == (PENDING, LATER, 7)
    with store.atomic() as tx:
        assert not keys.cancel_deletion(tx, record.key_id, REGION, KeyState.DISABLED, record.version)
        assert keys.cancel_deletion(tx, record.key_id, REGION, KeyState.DISABLED, stored.version)
        assert deletion.due(tx, LATER + timedelta(days=99)) == []
    stored = read(store, record)
    assert (stored.state, stored.deletion_date, stored.pending_window_days) == (KeyState.DISABLED, None, None)


# -- the tombstone ----------------------------------------------------------------------------------------------------


def rows_of(conn: Connection, key_id: str) -> list[int]:
    """How many rows of the key are left: aliases, tags, rotation setting, record."""
    tables = (alias, tag, rotation_table, regional_key)
    return [len(conn.execute(table.select().where(table.c.key_id == key_id)).all()) for table in tables]


def test_tombstone(store: Store) -> None:
    """The key is not found; aliases, tags and setting are gone, its id stays taken, and another key is unchanged."""
    record, other = (write(store, a_key(), owner="me") for _ in range(2))
    with store.atomic() as tx:
        for each in (record, other):
            rotation.set_setting(tx, each.key_id, RotationSetting(anchor=NOW))
            aliases.insert(tx, REGION, f"alias/{each.key_id}", each.key_id, NOW)
    bystander = read(store, other)
    bury(store, record)
    with store.reading() as conn:
        assert keys.fetch(conn, REGION, record.key_id) is None
        assert keys.page(conn, REGION, None, 9) == [other.key_id]
        assert keys.exists_anywhere(conn, record.key_id)
        assert rows_of(conn, record.key_id) == [0, 0, 0, 1]
        assert rows_of(conn, other.key_id) == [1, 1, 1, 1]
        assert tags.fetch(conn, other.key_id, REGION) == {"owner": "me"}
    assert read(store, other) == bystander


def test_tombstone_is_noted(store: Store) -> None:
    """The change log names the key and each of its aliases, so that every process forgets them."""
    record = write(store, a_key())
    with store.atomic() as tx:
        for name in ("alias/one", "alias/two"):
            aliases.insert(tx, REGION, name, record.key_id, NOW)
        before = changes.latest(tx)
        deletion.bury(tx, record.key_id, REGION)
        noted = {(region, subject) for _, region, subject in changes.since(tx, before)}
    assert noted == {(REGION, record.key_id), (REGION, "alias/one"), (REGION, "alias/two")}


def test_all_its_objects_are_doomed(store: Store) -> None:
    """Current, former and half-made backing keys are to be destroyed; what is destroyed already is not touched."""
    record = write(store, a_key(materials=tuple(a_material(number) for number in (1, 2, 3))))
    gone = record.materials[2].cka_id
    begun = a_material(4, state=MaterialState.PENDING_ROTATION)
    with store.atomic() as tx:
        keys.insert_material(tx, record.key_id, begun, "label 4")
        objects.set_status(tx, TOKEN, gone, ObjectStatus.DESTROYED)
    bury(store, record)
    expected = {record.materials[0].cka_id, record.materials[1].cka_id, begun.cka_id}
    assert set(doomed(store)) == expected
    with store.reading() as conn:
        status = conn.scalar(select(token_object.c.status).where(token_object.c.cka_id == gone))
    assert status == ObjectStatus.DESTROYED


# -- destruction ------------------------------------------------------------------------------------------------------


def test_doomed_until_it_is_destroyed(store: Store) -> None:
    """What is doomed is listed each time, oldest first, until its destruction is stored."""
    materials = tuple(a_material(number, created_at=NOW + timedelta(number)) for number in (3, 1, 2))
    record = write(store, a_key(materials=materials))
    bury(store, record)
    left = [each.cka_id for each in sorted(materials, key=lambda each: each.created_at)]
    while left:
        assert doomed(store) == doomed(store) == left
        with store.atomic() as tx:
            objects.set_status(tx, TOKEN, left.pop(0), ObjectStatus.DESTROYED)
    assert doomed(store) == []


def test_unfinished_keys(store: Store) -> None:
    """Objects of a key that was never finished are reconcile's."""
    record, intent = write(store, a_key()), a_key()
    with store.atomic() as tx:
        keys.insert_intent(tx, intent, {}, "label")
        objects.set_status(tx, TOKEN, intent.materials[0].cka_id, ObjectStatus.DESTROYING)
    assert doomed(store) == []
    bury(store, record)
    assert doomed(store) == [record.materials[0].cka_id]


# -- the newest date --------------------------------------------------------------------------------------------------

FUTURE = NOW + timedelta(days=400)


def _rotated(tx: Connection, key: KeyRecord) -> None:
    new = a_material(2, state=MaterialState.PENDING_ROTATION)
    keys.insert_material(tx, key.key_id, new, "label")
    rotation.switch(tx, key.key_id, REGION, new.material_id, RotationType.AUTOMATIC, FUTURE)


WRITES = {
    "creation": lambda tx, _: keys.insert_intent(tx, a_key(creation_date=FUTURE), {}, "label"),
    "material": lambda tx, key: keys.insert_material(tx, key.key_id, a_material(2, created_at=FUTURE), "l"),
    "rotation": _rotated,
    "setting": lambda tx, key: rotation.set_setting(tx, key.key_id, RotationSetting(anchor=FUTURE)),
    "alias": lambda tx, key: aliases.insert(tx, REGION, "alias/new", key.key_id, FUTURE),
    "doomed object": lambda tx, _: objects.doom(tx, TOKEN, bytes(16), "label", FUTURE),
}
PROMISES = {
    "deletion": {"state": PENDING, "deletion_date": FUTURE},
    "expiry": {"materials": (a_material(valid_to=FUTURE),)},
}


@pytest.mark.parametrize("name", WRITES)
def test_newest_date_that_was_written(store: Store, name: str) -> None:
    """Every date on which something was done counts."""
    record = write(store, a_key())
    with store.atomic() as tx:
        assert deletion.newest_instant(tx) == NOW
        WRITES[name](tx, record)
        assert deletion.newest_instant(tx) == FUTURE


@pytest.mark.parametrize("name", PROMISES)
def test_dates_to_come_do_not_count(store: Store, name: str) -> None:
    """Dates that lie in the future by their nature say nothing about the clock."""
    write(store, a_key(**PROMISES[name]))
    with store.reading() as conn:
        assert deletion.newest_instant(conn) == NOW
