"""Material that several regions use: it goes with the last of them."""

import pytest
from msgspec.structs import replace
from store_samples import ACCOUNT, ELSEWHERE, REGION, a_key, read, write

from hsmkms.model.enums import Origin
from hsmkms.model.ids import key_arn, new_key_id
from hsmkms.model.records import KeyRecord
from hsmkms.store import deletion, regions
from hsmkms.store.engine import Store

pytestmark = pytest.mark.both_engines


@pytest.fixture(params=[Origin.AWS_KMS, Origin.EXTERNAL])
def primary(request: pytest.FixtureRequest, store: Store) -> KeyRecord:
    """A multi-Region key with material, generated or imported."""
    key_id = new_key_id(multi_region=True)
    made = a_key(key_id=key_id, multi_region=True, primary_region=REGION, regions=(REGION,), origin=request.param)
    return write(store, made)


def replicate(store: Store, primary: KeyRecord) -> KeyRecord:
    """Make a replica elsewhere; it as the store has it."""
    arn = key_arn(ACCOUNT, ELSEWHERE, primary.key_id)
    replica = replace(primary, region=ELSEWHERE, arn=arn)
    with store.atomic() as tx:
        regions.insert_replica(tx, replica, {"owner": "me"})
    return read(store, replica)


def test_destroyed_with_the_last_region_only(store: Store, primary: KeyRecord) -> None:
    """The end of a key in one of its regions dooms nothing; the end in the last one dooms its objects."""
    replicate(store, primary)
    with store.atomic() as tx:
        deletion.bury(tx, primary.key_id, ELSEWHERE)
        assert deletion.doomed(tx) == []
        deletion.bury(tx, primary.key_id, REGION)
        assert [doomed_object.cka_id for doomed_object in deletion.doomed(tx)] == [primary.materials[0].cka_id]


def test_presence_in_a_new_replica(store: Store, primary: KeyRecord) -> None:
    """Generated material is there at once, imported material is known and missing."""
    replica = replicate(store, primary)
    (replica_material,), (primary_material,) = replica.materials, primary.materials
    assert (replica_material.material_id, replica_material.cka_id, replica_material.state) == (
        primary_material.material_id,
        primary_material.cka_id,
        primary_material.state,
    )
    assert replica_material.present == (primary.origin is Origin.AWS_KMS)


def test_a_change_of_the_set_reaches_all_records(store: Store, primary: KeyRecord) -> None:
    """A replica, a new primary region and the end of a replica give the records of all regions new versions."""
    versions = [primary.version]
    replicate(store, primary)
    versions.append(read(store, primary).version)
    assert read(store, primary).regions == (REGION, ELSEWHERE)
    with store.atomic() as tx:
        regions.set_primary(tx, primary.key_id, ELSEWHERE)
    moved = read(store, primary)
    assert (moved.is_replica, moved.primary_region, moved.replica_regions) == (True, ELSEWHERE, (REGION,))
    versions.append(moved.version)
    with store.atomic() as tx:
        deletion.bury(tx, primary.key_id, ELSEWHERE)
    versions.append(read(store, primary).version)
    assert versions == sorted(set(versions))


def test_a_replica_made_again(store: Store, primary: KeyRecord) -> None:
    """A tombstone makes way for a new replica, of which nothing is left from before."""
    replicate(store, primary)
    with store.atomic() as tx:
        deletion.bury(tx, primary.key_id, ELSEWHERE)
    assert read(store, primary).regions == (REGION,)
    again = replicate(store, primary)
    assert (again.description, again.deletion_date, len(again.materials)) == (primary.description, None, 1)
