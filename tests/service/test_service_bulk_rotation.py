"""Rotating all keys with old key material: which they are, what is proven of each, and how an interruption ends."""

from collections.abc import Iterator
from datetime import timedelta
from threading import Event

import pytest
from lifecycle import (
    StoppedError,
    at,
    away,
    disable,
    material_of,
    new_imported_key,
    rotate,
    schedule,
    stop_at,
    switch_on,
)
from service_sites import OTHER_REGION, REGION, START, Site, StoppedClock, new_alias, new_key

from hsmkms.errors import TokenUnavailableError
from hsmkms.kms import Kms
from hsmkms.model.keys import ReplicateKeyRequest
from hsmkms.rules import rotation
from hsmkms.service.audit import reading
from hsmkms.service.operator.bulk_rotation import OldKey, Rotated


@pytest.fixture
def kms(site: Site, clock: StoppedClock) -> Iterator[Kms]:
    """A fresh installation with a clock that moves only on demand."""
    with site.open(clock) as opened:
        yield opened


def rotated(kms: Kms, *keys: OldKey) -> list[Rotated]:
    """Rotate keys; the evidence."""
    run = kms.operator.rotate_old_keys(keys, lambda: None)
    assert run.stopped_by is None
    return run.rotations


def test_evidence(kms: Kms, clock: StoppedClock) -> None:
    """Each rotation is proven by key material and dates before and after, and by its record in the audit log."""
    old = new_key(kms).key_id
    new_alias(kms, "alias/old", old)
    elsewhere = new_key(kms, kms.caller(OTHER_REGION)).key_id
    clock.advance(days=400)
    young = new_key(kms).key_id
    before = material_of(kms, old)
    found = kms.operator.old_keys(clock.now - timedelta(days=365))
    assert {(key.key_id, key.region, key.obstacle) for key in found} == {
        (old, REGION, None),
        (elsewhere, OTHER_REGION, None),
    }
    (key,) = kms.operator.old_keys(clock.now - timedelta(days=365), REGION)
    (done,) = rotated(kms, key)
    assert (done.key_id, done.aliases, done.fault) == (old, ["alias/old"], None)
    assert (done.before.key_material_id, done.before.created_at) == (before, START)
    assert done.after is not None
    assert (done.after.key_material_id, done.after.rotation_date) == (material_of(kms, old), clock.now)
    assert done.after.key_material_id != before
    (record,) = reading.show(kms.operator.audit.folder, done.request_id).records
    assert (record["eventName"], record["requestParameters"]) == ("RotateKeyOnDemand", {"keyId": old})
    assert kms.operator.old_keys(clock.now - timedelta(days=365), REGION) == []
    assert [each.key_id for each in kms.operator.old_keys(clock.now + timedelta(days=1), REGION)] == sorted(
        (old, young)
    )


def test_keys_that_cannot_rotate(kms: Kms, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old keys that do not rotate are named with the error that says why; replicas follow their primary key."""
    pair = new_key(kms, key_spec="ECC_NIST_P256", key_usage="SIGN_VERIFY").key_id
    imported, disabled, leaving = new_imported_key(kms), new_key(kms).key_id, new_key(kms).key_id
    primary, due, worn = new_key(kms, multi_region=True).key_id, new_key(kms).key_id, new_key(kms).key_id
    kms.replicate_key(ReplicateKeyRequest(key_id=primary, replica_region=OTHER_REGION))
    disable(kms, disabled)
    switch_on(kms, due)
    rotate(kms, worn)
    monkeypatch.setattr(rotation, "MAX_ON_DEMAND", 1)
    clock.advance(days=365)
    schedule(kms, leaving)
    obstacles = {
        (key.key_id, key.region): (key.obstacle or "").partition(":")[0] for key in kms.operator.old_keys(clock.now)
    }
    assert obstacles == {
        (pair, REGION): "UnsupportedOperationException",
        (imported, REGION): "UnsupportedOperationException",
        (disabled, REGION): "DisabledException",
        (leaving, REGION): "KMSInvalidStateException",
        (due, REGION): "ConflictException",
        (worn, REGION): "LimitExceededException",
        (primary, REGION): "",
    }


def test_interrupted(kms: Kms, clock: StoppedClock) -> None:
    """An interrupted run ends after the key in work, with the evidence of what it did; the next one does the rest."""
    keys = {new_key(kms).key_id for _ in range(3)}
    clock.advance(days=1)
    before, interrupted, steps = clock.now, Event(), list[None]()
    kms._core.reached = at("rotate 1", interrupted.set)
    run = kms.operator.rotate_old_keys(kms.operator.old_keys(before), lambda: steps.append(None), interrupted.is_set)
    (done,) = run.rotations
    assert (done.fault, run.stopped_by, len(steps)) == (None, None, 1)
    clock.advance(days=1)
    rest = kms.operator.old_keys(before)
    assert {each.key_id for each in rest} == keys - {done.key_id}
    assert [each.fault for each in rotated(kms, *rest)] == [None, None]
    assert kms.operator.old_keys(before) == []


def test_killed(kms: Kms, clock: StoppedClock) -> None:
    """A rotation whose process died is finished by a later run, with the key material that it had made."""
    key_id = new_key(kms).key_id
    clock.advance(days=1)
    before = clock.now
    (key,) = kms.operator.old_keys(before)
    kms._core.reached = stop_at("rotate 2")
    with pytest.raises(StoppedError):
        rotated(kms, key)
    kms._core.reached = lambda _: None
    (again,) = kms.operator.old_keys(before)
    (under_way,) = rotated(kms, again)
    assert (under_way.after, (under_way.fault or "").partition(":")[0]) == (None, "ConflictException")
    clock.advance(minutes=11)
    (done,) = rotated(kms, again)
    assert (done.fault, done.before.key_material_id == key.current.key_material_id) == (None, True)
    assert done.after is not None
    assert done.after.key_material_id == material_of(kms, key_id) != key.current.key_material_id


def test_token_away(kms: Kms, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the token goes away the run ends, and what was done is there."""
    for _ in range(3):
        new_key(kms)
    clock.advance(days=1)
    connection = kms._core.device.connection
    kms._core.reached = at("rotate 3", lambda: monkeypatch.setattr(connection, "ready_to_make", away))
    run = kms.operator.rotate_old_keys(kms.operator.old_keys(clock.now), lambda: None)
    assert isinstance(run.stopped_by, TokenUnavailableError)
    assert [each.fault for each in run.rotations] == [None]
