"""Rotation in the database: the setting, what may be due, and a new backing key from intent to result."""

import itertools
from datetime import datetime, timedelta

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection
from store_samples import LATER, NOW, REGION, TOKEN, a_key, a_material, read, write

from hsmkms.model.enums import KeyManager, KeySpec, KeyState, MaterialState, Origin, RotationType
from hsmkms.model.records import KeyRecord, MaterialRecord, RotationSetting
from hsmkms.rules import rotation as rules
from hsmkms.rules.rotation import RotationPolicy
from hsmkms.store import changes, deletion, keys, objects, rotation
from hsmkms.store.engine import Store
from hsmkms.store.rotation import Candidate, Unfinished
from hsmkms.store.schema import material
from hsmkms.store.statuses import ObjectStatus

pytestmark = pytest.mark.both_engines

TICK = timedelta(microseconds=1)
AUTOMATIC, ON_DEMAND = RotationType.AUTOMATIC, RotationType.ON_DEMAND


def set_setting(store: Store, record: KeyRecord, setting: RotationSetting | None) -> None:
    """Write a setting."""
    with store.atomic() as tx:
        rotation.set_setting(tx, record.key_id, setting)


def begin(
    tx: Connection, record: KeyRecord, kind: RotationType | None = AUTOMATIC, **changes: object
) -> MaterialRecord:
    """The intent of a rotation of the key."""
    sequence = rotation.next_sequence(tx, record.key_id)
    new = a_material(sequence, state=MaterialState.PENDING_ROTATION, rotation_type=kind, **changes)
    keys.insert_material(tx, record.key_id, new, f"label {sequence}")
    return new


def rotate(store: Store, record: KeyRecord, date: datetime, kind: RotationType = AUTOMATIC) -> MaterialRecord:
    """Store a whole rotation of the given date."""
    with store.atomic() as tx:
        new = begin(tx, record, kind)
        assert rotation.switch(tx, record.key_id, REGION, new.material_id, kind, date)
    return new


def candidates(store: Store, now: datetime = LATER) -> list[Candidate]:
    """What may be due."""
    with store.reading() as conn:
        return rotation.candidates(conn, now)


def unfinished(store: Store, key_id: str | None = None) -> list[Unfinished]:
    """What was begun."""
    with store.reading() as conn:
        return rotation.unfinished(conn, key_id)


# -- the setting ------------------------------------------------------------------------------------------------------


def test_setting_comes_back(store: Store) -> None:
    """On, changed, off: each is what the record shows, to the microsecond, and each is a change of the key."""
    record, bystander = write(store, a_key()), write(store, a_key())
    versions = [record.version]
    for setting in (
        RotationSetting(anchor=NOW),
        RotationSetting(anchor=LATER, period_days=90),
        RotationSetting(anchor=LATER),
        None,
    ):
        set_setting(store, record, setting)
        stored = read(store, record)
        assert stored.rotation == setting
        versions.append(stored.version)
    assert versions == sorted(set(versions))
    assert read(store, bystander) == bystander


# -- what may be due --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "found"), [(each, each is KeyState.ENABLED) for each in KeyState])
def test_only_enabled_keys(store: Store, state: KeyState, *, found: bool) -> None:
    """A key in any other state waits."""
    record = write(store, a_key(state=state))
    set_setting(store, record, RotationSetting(anchor=NOW))
    assert [candidate.key_id for candidate in candidates(store)] == [record.key_id] * found


def test_keys_whose_rotation_is_on(store: Store) -> None:
    """Keys that are switched on are listed with their setting; keys of services always, without one; others never."""
    write(store, a_key())
    usual, own = write(store, a_key()), write(store, a_key())
    service = write(store, a_key(manager=KeyManager.AWS))
    set_setting(store, usual, RotationSetting(anchor=NOW))
    set_setting(store, own, RotationSetting(anchor=LATER, period_days=90))
    candidates_by_key = {
        candidate.key_id: (candidate.manager, candidate.rotation, candidate.last_automatic)
        for candidate in candidates(store)
    }
    assert candidates_by_key == {
        usual.key_id: (KeyManager.CUSTOMER, RotationSetting(anchor=NOW), None),
        own.key_id: (KeyManager.CUSTOMER, RotationSetting(anchor=LATER, period_days=90), None),
        service.key_id: (KeyManager.AWS, None, None),
    }


ALL_KINDS = list(
    itertools.product(
        KeyState,
        (KeySpec.SYMMETRIC_DEFAULT, KeySpec.RSA_2048),
        (Origin.AWS_KMS, Origin.EXTERNAL),
        ((KeyManager.CUSTOMER, None), (KeyManager.CUSTOMER, NOW), (KeyManager.CUSTOMER, LATER), (KeyManager.AWS, None)),
    )
)
"""State, spec, origin, manager with the anchor of the setting (of keys that could never be made, too)."""


def test_database_and_rules_find_the_same(store: Store) -> None:
    """The keys that the database selects are those of which the rules say that they are due, or rotate at all."""
    policy, now = RotationPolicy(managed_period_days=365), NOW + timedelta(days=365)
    for state, spec, origin, (manager, anchor) in ALL_KINDS:
        record = write(store, a_key(state=state, spec=spec, origin=origin, manager=manager))
        set_setting(store, record, RotationSetting(anchor=anchor) if anchor is not None else None)
    with store.reading() as conn:
        records = list(keys.every(conn, REGION, TOKEN))
        by_date = rotation.candidates(conn, now)
        current = rotation.generated_and_current(conn, [each.materials[0].material_id for each in records])
        elsewhere = rotation.encrypting_elsewhere(conn, "another token")
    assert len(records) == len(ALL_KINDS)
    dates = {each.key_id: rules.date_after(each.last_automatic, each, policy) for each in by_date}
    due = {key_id for key_id, date in dates.items() if date is not None and date <= now}
    assert due == {each.key_id for each in records if rules.is_due(each, policy, now)}
    assert 0 < len(due) < len(dates)
    rotating = {each.key_id for each in records if rules.rotates_now(each)}
    assert {key_id for key_id, *_ in current} == {key_id for key_id, _ in elsewhere} == rotating
    assert 0 < len(rotating) < len(records)


def test_keys_that_are_not_there(store: Store) -> None:
    """Neither an intent nor a deleted key is listed."""
    record = write(store, a_key(manager=KeyManager.AWS))
    with store.atomic() as tx:
        keys.insert_intent(tx, a_key(manager=KeyManager.AWS), {}, "label")
        deletion.bury(tx, record.key_id, REGION)
    assert candidates(store) == []


def test_last_rotation_of_a_candidate(store: Store) -> None:
    """The newest automatic rotation until now is returned; not one on demand, and not one that a wrong clock dated."""
    record = write(store, a_key())
    set_setting(store, record, RotationSetting(anchor=NOW))
    dates = [LATER, LATER + timedelta(days=1), LATER + timedelta(days=900)]
    for date in dates:
        rotate(store, record, date)
    rotate(store, record, LATER + timedelta(days=2), ON_DEMAND)
    for now, last in (
        (LATER - TICK, None),
        (LATER, dates[0]),
        (dates[1] - TICK, dates[0]),
        (dates[1], dates[1]),
        (dates[2] - TICK, dates[1]),
        (dates[2], dates[2]),
    ):
        assert [candidate.last_automatic for candidate in candidates(store, now)] == [last]


# -- intent and result ------------------------------------------------------------------------------------------------


def test_intent_is_seen_by_no_record(store: Store) -> None:
    """The old material stays the current one; the intent is returned with all that is needed to finish it."""
    record = write(store, a_key())
    with store.atomic() as tx:
        new = begin(tx, record, ON_DEMAND, created_at=LATER)
    assert read(store, record).materials == record.materials
    assert (
        unfinished(store)
        == unfinished(store, record.key_id)
        == [
            Unfinished(
                key_id=record.key_id,
                region=REGION,
                token_id=TOKEN,
                cka_id=new.cka_id,
                label="label 2",
                material_id=new.material_id,
                created_at=LATER,
                rotation_type=ON_DEMAND,
            )
        ]
    )
    assert unfinished(store, a_key().key_id) == []


def test_result(store: Store) -> None:
    """The new material is the current one with its date and type, the old one a former one, and nothing is begun."""
    record, bystander = write(store, a_key()), write(store, a_key())
    new = rotate(store, record, LATER, ON_DEMAND)
    stored = read(store, record)
    (old,) = record.materials
    assert stored.materials == (
        replace(old, state=MaterialState.NON_CURRENT),
        replace(new, state=MaterialState.CURRENT, rotation_date=LATER, rotation_type=ON_DEMAND),
    )
    assert replace(stored, materials=(), version=0) == replace(record, materials=(), version=0)
    assert stored.version > record.version
    assert unfinished(store) == []
    assert read(store, bystander) == bystander


@pytest.mark.parametrize("count", [1, 5])
def test_one_is_current(store: Store, count: int) -> None:
    """After any number of rotations exactly one material is current: the newest."""
    record = write(store, a_key())
    made = [rotate(store, record, LATER + timedelta(days=number)) for number in range(count)]
    stored = read(store, record)
    assert [material.sequence for material in stored.materials] == list(range(1, count + 2))
    assert [material.state for material in stored.materials].count(MaterialState.CURRENT) == 1
    assert stored.current is not None
    assert stored.current.material_id == made[-1].material_id


def test_result_that_comes_too_late(store: Store) -> None:
    """Nothing is switched a second time, for another key, for a doomed object, or for a key that was deleted."""
    record, other = write(store, a_key()), write(store, a_key())

    def switch(tx: Connection, key_id: str, new: MaterialRecord) -> bool:
        return rotation.switch(tx, key_id, REGION, new.material_id, AUTOMATIC, LATER)

    with store.atomic() as tx:
        first, second, third = (begin(tx, record) for _ in range(3))
        assert not switch(tx, other.key_id, first)
        assert switch(tx, record.key_id, first)
        assert not switch(tx, record.key_id, first)
        objects.set_status(tx, TOKEN, second.cka_id, ObjectStatus.DESTROYING)
        assert not switch(tx, record.key_id, second)
        deletion.bury(tx, record.key_id, REGION)
        before = changes.latest(tx)
        assert not switch(tx, record.key_id, third)
        assert changes.latest(tx) == before


def test_sequence_counts_intents(store: Store) -> None:
    """The next number follows the highest, whether or not its material is there yet; an unknown key begins with 1."""
    record = write(store, a_key())
    with store.atomic() as tx:
        assert rotation.next_sequence(tx, record.key_id) == 2
        begin(tx, record)
        assert rotation.next_sequence(tx, record.key_id) == 3
        assert rotation.next_sequence(tx, a_key().key_id) == 1


def test_dropped_intent_leaves_nothing(store: Store) -> None:
    """Dropping removes intent and material, as a change of the key; an object of a live material cannot be dropped."""
    record = write(store, a_key())
    with store.atomic() as tx:
        new = begin(tx, record)
    version = read(store, record).version
    with store.atomic() as tx:
        assert rotation.drop(tx, TOKEN, new.cka_id)
        assert not rotation.drop(tx, TOKEN, new.cka_id)
        assert not rotation.drop(tx, TOKEN, record.materials[0].cka_id)
        assert tx.execute(material.select().where(material.c.material_id == new.material_id)).all() == []
        assert rotation.next_sequence(tx, record.key_id) == 2
    assert unfinished(store) == []
    stored = read(store, record)
    assert stored.materials == record.materials
    assert stored.version > version


def test_unfinished_in_order(store: Store) -> None:
    """Oldest first, an import (which has no rotation type) among them, and none of a deleted key."""
    record, gone = write(store, a_key()), write(store, a_key())
    with store.atomic() as tx:
        late = begin(tx, record, created_at=LATER)
        early = begin(tx, record, None, created_at=NOW)
        begin(tx, gone)
        deletion.bury(tx, gone.key_id, REGION)
    rotations = [(rotation.material_id, rotation.rotation_type) for rotation in unfinished(store)]
    assert rotations == [(early.material_id, None), (late.material_id, AUTOMATIC)]
