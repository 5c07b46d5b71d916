"""Kill -9 at every step of what changes a set of multi-Region keys, and databases older than the set."""

import json
from datetime import datetime, timedelta

import pytest
from lifecycle import backing_keys, sweep
from msgspec import Struct
from service_sites import OTHER_REGION, REGION, Site, StoppedClock, run
from sides import Side

from hsmkms.errors import AccessDeniedException, NotFoundException
from hsmkms.kms import Kms
from hsmkms.model.wire import to_wire
from hsmkms.service.operator.reconcile import Mended

UNDER_WAY = timedelta(minutes=10, seconds=1)
"""After that what was begun counts as interrupted."""

WEEK = timedelta(days=7)


def kill(site: Site, when: datetime, step: str, what: str, *body: Struct | dict[str, object]) -> None:
    """Let a process do something in the default region, and kill it at a step."""
    words = [json.dumps(to_wire(each) if isinstance(each, Struct) else each) for each in body]
    assert run("act", site.folder / "hsmkms.toml", when.isoformat(), f"kill {step}", what, *words, status=-9) == []


def two_sides(kms: Kms) -> tuple[Side, Side]:
    """The default region and the other one."""
    return Side(kms, REGION), Side(kms, OTHER_REGION)


def assert_whole(kms: Kms, key_id: str, *sealed: bytes) -> None:
    """Assert that both regions decrypt everything with the same material, that nothing is due, and nothing differs."""
    here, there = two_sides(kms)
    assert here.material(key_id) == there.material(key_id)
    for each in (*sealed, here.seal(key_id), there.seal(key_id)):
        assert here.unseal(each) == there.unseal(each) == b"secret"
    assert sweep(kms) == []
    assert kms.operator.find_differences() == []


def test_killed_replication_and_move(site: Site, clock: StoppedClock) -> None:
    """Each is one transaction: after it the replica is whole, and there is one primary key."""
    with site.open(clock) as kms:
        here, _ = two_sides(kms)
        key_id = here.new_primary()
        sealed = here.seal(key_id)
    kill(site, clock.now, "replicate-key 1", "ReplicateKey", {"KeyId": key_id, "ReplicaRegion": OTHER_REGION})
    with site.open(clock) as kms:
        here, there = two_sides(kms)
        assert there.state(key_id) == "Enabled"
        assert there.family(key_id) == ("REPLICA", REGION, [OTHER_REGION])
        assert_whole(kms, key_id, sealed)
    body = {"KeyId": key_id, "PrimaryRegion": OTHER_REGION}
    kill(site, clock.now, "update-primary-region 1", "UpdatePrimaryRegion", body)
    with site.open(clock) as kms:
        here, there = two_sides(kms)
        assert (here.family(key_id)[0], there.family(key_id)[0]) == ("REPLICA", "PRIMARY")
        there.rotate_key_on_demand(key_id=key_id)
        assert_whole(kms, key_id, sealed)


@pytest.mark.parametrize(("step", "rotated"), [("rotate 1", False), ("rotate 2", True), ("rotate 3", True)])
def test_killed_rotation(site: Site, clock: StoppedClock, step: str, *, rotated: bool) -> None:
    """All regions rotate or none, though a replica is made and the primary key moves before the work is carried on."""
    with site.open(clock) as kms:
        here, _ = two_sides(kms)
        key_id = here.new_primary()
        sealed = here.seal(key_id)
    kill(site, clock.now, step, "RotateKeyOnDemand", {"KeyId": key_id})
    with site.open(clock) as kms:
        here, there = two_sides(kms)
        here.replicate_key(key_id=key_id, replica_region=OTHER_REGION)
        here.update_primary_region(key_id=key_id, primary_region=OTHER_REGION)
        assert here.material(key_id) == there.material(key_id)
        assert there.unseal(sealed) == b"secret"
        clock.now += UNDER_WAY
        sweep(kms)
        assert len(there.list_key_rotations(key_id=key_id).rotations) == int(rotated)
        assert backing_keys(kms)[key_id] == 1 + rotated
        assert_whole(kms, key_id, sealed)


@pytest.mark.parametrize("step", ["destroy-key 1", "destroy-key 2"])
def test_killed_deletion_of_a_replica(site: Site, clock: StoppedClock, step: str) -> None:
    """With the replica gone its primary key has begun to wait, exactly once, and the object is still there."""
    with site.open(clock) as kms:
        here, there = two_sides(kms)
        key_id = here.new_primary()
        here.replicate_key(key_id=key_id, replica_region=OTHER_REGION)
        sealed = here.seal(key_id)
        there.schedule_key_deletion(key_id=key_id, pending_window_in_days=7)
        here.schedule_key_deletion(key_id=key_id, pending_window_in_days=9)
    clock.now += WEEK
    kill(site, clock.now, step, "maintain")
    with site.open(clock) as kms:
        here, there = two_sides(kms)
        with pytest.raises(NotFoundException):
            there.described(key_id)
        date = clock.now + timedelta(days=9)
        for _ in range(2):
            metadata = here.described(key_id)
            assert (metadata.key_state, metadata.deletion_date) == ("PendingDeletion", date)
            clock.now += UNDER_WAY
            assert sweep(kms) == []
        assert backing_keys(kms)[key_id] == 1
        here.cancel_key_deletion(key_id=key_id)
        here.enable_key(key_id=key_id)
        here.replicate_key(key_id=key_id, replica_region=OTHER_REGION)
        assert_whole(kms, key_id, sealed)


@pytest.mark.parametrize("step", ["destroy-key 1", "destroy 2", "destroy-key 2"])
def test_killed_deletion_of_a_primary_key(site: Site, clock: StoppedClock, step: str) -> None:
    """Once the last key of the set is deleted, the next sweep destroys what is left of its objects."""
    with site.open(clock) as kms:
        here, there = two_sides(kms)
        key_id = here.new_primary()
        here.replicate_key(key_id=key_id, replica_region=OTHER_REGION)
        here.rotate_key_on_demand(key_id=key_id)
        sealed = here.seal(key_id)
        for side in (there, here):
            side.schedule_key_deletion(key_id=key_id, pending_window_in_days=7)
        clock.now += WEEK
        sweep(kms)
        assert backing_keys(kms)[key_id] == 2
    clock.now += WEEK
    kill(site, clock.now, step, "maintain")
    with site.open(clock) as kms:
        here, there = two_sides(kms)
        for side in (here, there):
            with pytest.raises(NotFoundException):
                side.described(key_id)
            with pytest.raises(AccessDeniedException):
                side.unseal(sealed)
        clock.now += UNDER_WAY
        sweep(kms)
        assert backing_keys(kms)[key_id] == 0
        assert kms.operator.find_differences() == []


@pytest.mark.parametrize(
    ("step", "lost"), [("import 1", False), ("import 1", True), ("import 2", True), ("import 3", True)]
)
def test_killed_import(site: Site, clock: StoppedClock, step: str, *, lost: bool) -> None:
    """Whether another region still has the material or not, the same request may be repeated until it is answered."""
    with site.open(clock) as kms:
        here, there = two_sides(kms)
        key_id = here.new_primary(origin="EXTERNAL")
        here.bring(key_id)
        here.replicate_key(key_id=key_id, replica_region=OTHER_REGION)
        there.bring(key_id)
        sealed = there.seal(key_id)
        here.delete_imported_key_material(key_id=key_id)
        if lost:
            there.delete_imported_key_material(key_id=key_id)
        request = here.request_to_import(key_id)
    kill(site, clock.now, step, "ImportKeyMaterial", request)
    with site.open(clock) as kms:
        here, there = two_sides(kms)
        clock.now += UNDER_WAY
        sweep(kms)
        assert kms.operator.find_differences() == []
        for _ in range(2):
            kms.import_key_material(request)
        there.bring(key_id)
        assert backing_keys(kms)[key_id] == 1
        assert_whole(kms, key_id, sealed)


def test_killed_creation(site: Site, clock: StoppedClock) -> None:
    """A primary key whose creation was interrupted is listed, adopted as one, and can be replicated."""
    kill(site, clock.now, "create-key 2", "CreateKey", {"MultiRegion": True})
    with site.open(clock) as kms:
        here, _ = two_sides(kms)
        (finding,) = kms.operator.find_differences()
        assert kms.operator.mend(finding) is Mended.ADOPTED
        assert here.family(finding.key_id) == ("PRIMARY", REGION, [])
        here.enable_key(key_id=finding.key_id)
        here.replicate_key(key_id=finding.key_id, replica_region=OTHER_REGION)
        assert_whole(kms, finding.key_id)


@pytest.mark.parametrize("order", [1, -1])
def test_an_older_database(site: Site, clock: StoppedClock, order: int) -> None:
    """A set that the database does not know is rebuilt from its objects, wherever they were made."""
    put_back = site.keep_control_plane()
    with site.open(clock) as kms:
        here, there = two_sides(kms)
        key_id = here.new_primary()
        here.replicate_key(key_id=key_id, replica_region=OTHER_REGION)
        sealed = [here.seal(key_id)]
        here.update_primary_region(key_id=key_id, primary_region=OTHER_REGION)
        there.rotate_key_on_demand(key_id=key_id)
        sealed.append(here.seal(key_id))
        newest = here.material(key_id)
    put_back()
    with site.open(clock) as kms:
        differences = sorted(kms.operator.find_differences(), key=lambda each: each.sequence)[::order]
        assert {finding.region for finding in differences} == {REGION, OTHER_REGION}
        assert [kms.operator.mend(finding) for finding in differences] == [Mended.ADOPTED, Mended.ADDED]
        primary, replica = two_sides(kms)[::order]
        assert primary.family(key_id) == ("PRIMARY", primary.region, [])
        primary.enable_key(key_id=key_id)
        assert primary.material(key_id) == newest
        primary.replicate_key(key_id=key_id, replica_region=replica.region)
        assert_whole(kms, key_id, *sealed)
