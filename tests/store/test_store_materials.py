"""Imported material in the database: its coming, its loss, and the wrapping keys that carry it."""

import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection
from store_samples import ELSEWHERE, LATER, NOW, REGION, TOKEN, a_key, a_material, read, replicate, write

from hsmkms.model.enums import ExpirationModel, KeyState, MaterialState, Origin
from hsmkms.model.records import KeyRecord, MaterialRecord
from hsmkms.store import deletion, keys, materials, objects
from hsmkms.store.deletion import Doomed
from hsmkms.store.engine import Store
from hsmkms.store.materials import WrappingKeyRow
from hsmkms.store.statuses import ObjectPurpose, ObjectStatus

pytestmark = pytest.mark.both_engines

TICK = timedelta(microseconds=1)
EXPIRES, STAYS = ExpirationModel.KEY_MATERIAL_EXPIRES, ExpirationModel.KEY_MATERIAL_DOES_NOT_EXPIRE


def an_imported_key(store: Store, **presence: Any) -> KeyRecord:  # noqa: ANN401 - members of a material
    """A live key of origin EXTERNAL with one material."""
    fields = {"expiration_model": STAYS} | presence
    return write(store, a_key(origin=Origin.EXTERNAL, materials=(a_material(**fields),)))


def only(record: KeyRecord) -> MaterialRecord:
    """The one material of a key."""
    (material_,) = record.materials
    return material_


def set_present(tx: Connection, record: KeyRecord, valid_to: datetime | None = None, **more: Any) -> None:  # noqa: ANN401
    """The key's material is there."""
    members = {"description": None, "host_unwrapped": False} | more
    model = STAYS if valid_to is None else EXPIRES
    name = only(record).material_id
    materials.set_present(
        tx,
        record.key_id,
        REGION,
        name,
        model,
        valid_to,
        members["description"],
        host_unwrapped=members["host_unwrapped"],
    )


def doomed(store: Store) -> list[Doomed]:
    """What is to be destroyed."""
    with store.reading() as conn:
        return deletion.doomed(conn)


# -- coming -----------------------------------------------------------------------------------------------------------


def test_presence_comes_back(store: Store) -> None:
    """Model, ValidTo (to the microsecond), description: each is what the record shows, and a change of the key."""
    record = an_imported_key(store)
    with store.atomic() as tx:
        set_present(tx, record, LATER + TICK, description="from the vault")
    stored = read(store, record)
    expected = {"expiration_model": EXPIRES, "valid_to": LATER + TICK, "description": "from the vault"}
    assert only(stored) == replace(only(record), **expected)
    assert stored.version > record.version
    with store.atomic() as tx:
        set_present(tx, record)
    assert only(read(store, record)) == replace(only(record), description="from the vault")


def test_once_through_the_host_is_for_ever(store: Store) -> None:
    """A mark that the material passed through a process stays, however it comes later."""
    record = an_imported_key(store)
    for through_host, marked in ((False, False), (True, True), (False, True)):
        with store.atomic() as tx:
            set_present(tx, record, host_unwrapped=through_host)
        assert only(read(store, record)).host_unwrapped is marked


def test_second_object_of_the_same_material(store: Store) -> None:
    """Lost and imported again: one material with a new object, which counts once it has arrived."""
    record = an_imported_key(store)
    old, again = only(record), uuid.uuid4().bytes
    with store.atomic() as tx:
        materials.lose(tx, record.key_id, REGION, old.material_id)
        materials.insert_object(tx, record.key_id, REGION, old.material_id, TOKEN, again, "label", LATER)
    assert (only(read(store, record)).cka_id, only(read(store, record)).present) == (old.cka_id, False)
    with store.atomic() as tx:
        assert materials.arrive(tx, TOKEN, again)
        assert not materials.arrive(tx, TOKEN, again)
        assert not materials.arrive(tx, TOKEN, uuid.uuid4().bytes)
        set_present(tx, record)
    assert only(read(store, record)) == replace(old, cka_id=again)
    assert [doomed_object.cka_id for doomed_object in doomed(store)] == [old.cka_id]


# -- loss -------------------------------------------------------------------------------------------------------------


def test_loss_dooms_the_object(store: Store) -> None:
    """The material stays on record without presence and expiry; its object is to be destroyed, and no other one."""
    record, bystander = an_imported_key(store, valid_to=LATER, expiration_model=EXPIRES), an_imported_key(store)
    with store.atomic() as tx:
        materials.lose(tx, record.key_id, REGION, only(record).material_id)
    assert only(read(store, record)) == replace(only(record), present=False, expiration_model=None, valid_to=None)
    purpose, material_ = ObjectPurpose.BACKING_KEY, only(record)
    assert doomed(store) == [
        Doomed(
            token_id=TOKEN,
            cka_id=material_.cka_id,
            purpose=purpose,
            key_id=record.key_id,
            material_id=material_.material_id,
        )
    ]
    assert read(store, bystander) == bystander


def test_loss_in_one_region_of_two(store: Store) -> None:
    """The object stays while another region uses the material, and goes with the last one."""
    record = an_imported_key(store)
    name = only(record).material_id
    with store.atomic() as tx:
        replicate(tx, record, ELSEWHERE)
    with store.atomic() as tx:
        materials.lose(tx, record.key_id, REGION, name)
        assert deletion.doomed(tx) == []
        materials.lose(tx, record.key_id, ELSEWHERE, name)
        assert [doomed_object.material_id for doomed_object in deletion.doomed(tx)] == [name]


def test_waiting_material_is_forgotten(store: Store) -> None:
    """One that never was current leaves the record; its object, without a key now, is still to be destroyed."""
    record = an_imported_key(store)
    waiting = a_material(2, state=MaterialState.PENDING_ROTATION)
    with store.atomic() as tx:
        keys.insert_material(tx, record.key_id, waiting, "label 2", ObjectStatus.PRESENT)
        materials.lose(tx, record.key_id, REGION, waiting.material_id)
        materials.forget_pending(tx, waiting.material_id)
    assert read(store, record).materials == record.materials
    assert [
        (doomed_object.cka_id, doomed_object.key_id, doomed_object.material_id) for doomed_object in doomed(store)
    ] == [(waiting.cka_id, None, None)]
    with store.atomic() as tx:
        objects.forget_doomed(tx, TOKEN, waiting.cka_id)
    assert doomed(store) == []


def test_object_of_an_interrupted_import(store: Store) -> None:
    """Abandoning a first import drops its material; one of known material leaves it unchanged."""
    record = an_imported_key(store)
    new, again = a_material(2, present=False), uuid.uuid4().bytes
    with store.atomic() as tx:
        keys.insert_material(tx, record.key_id, new, "label 2")
        materials.insert_object(tx, record.key_id, REGION, only(record).material_id, TOKEN, again, "label", LATER)
        materials.doom(tx, TOKEN, new.cka_id)
        materials.doom(tx, TOKEN, again)
        materials.doom(tx, TOKEN, uuid.uuid4().bytes)
    assert read(store, record).materials == record.materials
    materials_by_object = {doomed_object.cka_id: doomed_object.material_id for doomed_object in doomed(store)}
    assert materials_by_object == {new.cka_id: None, again: only(record).material_id}


# -- expiry -----------------------------------------------------------------------------------------------------------


def test_expired_to_the_microsecond(store: Store) -> None:
    """A key is listed from its ValidTo on, once, whatever its state; not without a ValidTo, and not after the loss."""
    an_imported_key(store)
    states = (KeyState.ENABLED, KeyState.DISABLED, KeyState.PENDING_DELETION)
    stored = [
        write(
            store,
            a_key(
                origin=Origin.EXTERNAL,
                state=state,
                materials=tuple(a_material(number, valid_to=LATER, expiration_model=EXPIRES) for number in (1, 2)),
            ),
        )
        for state in states
    ]
    with store.atomic() as tx:
        assert materials.expired(tx, LATER - TICK) == []
        assert materials.expired(tx, LATER) == sorted((each.key_id, REGION) for each in stored)
        for record in stored:
            for material in record.materials:
                materials.lose(tx, record.key_id, REGION, material.material_id)
        assert materials.expired(tx, LATER) == []


def test_expiry_of_a_deleted_key(store: Store) -> None:
    """A tombstone has nothing that expires."""
    record = an_imported_key(store, valid_to=NOW, expiration_model=EXPIRES)
    with store.atomic() as tx:
        deletion.bury(tx, record.key_id, REGION)
        assert materials.expired(tx, LATER) == []


# -- wrapping keys ----------------------------------------------------------------------------------------------------


def a_wrapping_key(record: KeyRecord, **changes: Any) -> WrappingKeyRow:  # noqa: ANN401 - members of the row
    """A wrapping key that no test has seen before."""
    fields = {
        "token_id": TOKEN,
        "cka_id": uuid.uuid4().bytes,
        "key_id": record.key_id,
        "region": REGION,
        "created_at": NOW,
        "valid_to": LATER,
        "used_at": None,
        "made_by": None,
        "status": ObjectStatus.INTENDED,
    }
    return WrappingKeyRow(**(fields | changes))


def listed(store: Store) -> list[WrappingKeyRow]:
    """All wrapping keys."""
    with store.reading() as conn:
        return materials.wrapping_keys(conn)


def test_wrapping_key_through_its_life(store: Store) -> None:
    """Intended, there, used, doomed, forgotten: each is what is listed; the key itself does not change."""
    record = an_imported_key(store)
    row = a_wrapping_key(record)
    with store.atomic() as tx:
        materials.insert_wrapping_key(tx, row, "label")
    assert listed(store) == [row]
    with store.atomic() as tx:
        assert materials.arrive(tx, TOKEN, row.cka_id)
        assert not materials.arrive(tx, TOKEN, row.cka_id)
        materials.set_used(tx, TOKEN, row.cka_id, LATER)
    assert listed(store) == [replace(row, status=ObjectStatus.PRESENT, used_at=LATER)]
    with store.atomic() as tx:
        materials.doom_wrapping_key(tx, TOKEN, row.cka_id)
        assert not materials.arrive(tx, TOKEN, row.cka_id)
    (doomed_object,) = doomed(store)
    assert (doomed_object.purpose, doomed_object.key_id, doomed_object.material_id) == (
        ObjectPurpose.WRAPPING_KEY,
        record.key_id,
        None,
    )
    with store.atomic() as tx:
        materials.forget_wrapping_key(tx, TOKEN, row.cka_id)
    assert (listed(store), doomed(store)) == ([], [])
    assert read(store, record) == record


def test_wrapping_keys_oldest_first(store: Store) -> None:
    """They are listed by age, those of all keys."""
    rows = [
        a_wrapping_key(an_imported_key(store), created_at=NOW + timedelta(minutes=minutes), status=status)
        for minutes, status in ((3, ObjectStatus.PRESENT), (1, ObjectStatus.INTENDED), (2, ObjectStatus.DESTROYING))
    ]
    with store.atomic() as tx:
        for row in rows:
            materials.insert_wrapping_key(tx, row, "label")
    assert listed(store) == sorted(rows, key=lambda row: row.created_at)


@pytest.mark.parametrize("status", [ObjectStatus.INTENDED, ObjectStatus.PRESENT])
def test_wrapping_keys_die_with_their_key(store: Store, status: ObjectStatus) -> None:
    """The end of a key dooms its wrapping keys, and those of no other key."""
    record, other = an_imported_key(store), an_imported_key(store)
    row, stays = a_wrapping_key(record, status=status), a_wrapping_key(other, status=status)
    with store.atomic() as tx:
        for each in (row, stays):
            materials.insert_wrapping_key(tx, each, "label")
        deletion.bury(tx, record.key_id, REGION)
    assert {each.cka_id: each.status for each in listed(store)} == {
        row.cka_id: ObjectStatus.DESTROYING,
        stays.cka_id: status,
    }
