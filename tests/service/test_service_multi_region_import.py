"""Imported material of multi-Region keys: one material in several regions, with its presence and expiry in each."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from lifecycle import MATERIAL, backing_keys, sweep
from service_sites import ACCOUNT, OTHER_REGION, REGION, NewFolder, Site, StoppedClock
from sides import Side

from hsmkms.config.settings import RotationSettings
from hsmkms.errors import (
    IncorrectKeyMaterialException,
    InvalidImportTokenException,
    KMSInvalidStateException,
    UnsupportedOperationException,
    ValidationException,
)
from hsmkms.kms import Kms
from hsmkms.service.operator.sweeper import StepKind, StepOutcome

SECOND = bytes(range(100, 132))
CURRENT, NON_CURRENT = "CURRENT", "NON_CURRENT"
PENDING, PENDING_IMPORT = "PENDING_ROTATION", "PENDING_MULTI_REGION_IMPORT_AND_ROTATION"
THERE, MISSING = "IMPORTED", "PENDING_IMPORT"
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def clock() -> StoppedClock:
    """The clock of the module's installation."""
    return StoppedClock()


@pytest.fixture(scope="module")
def kms(new_folder: NewFolder, clock: StoppedClock) -> Iterator[Kms]:
    """An installation with today's AWS rules for imported material, shared by the tests of the module."""
    with Site.make(new_folder(), rotation=RotationSettings(imported_on_demand=True)).open(clock) as opened:
        yield opened


@pytest.fixture
def here(kms: Kms) -> Side:
    """The region of the primary keys."""
    return Side(kms, REGION)


@pytest.fixture
def there(kms: Kms) -> Side:
    """The region of the replicas."""
    return Side(kms, OTHER_REGION)


@pytest.fixture
def key_id(here: Side) -> str:
    """A primary key with material, and a replica of it without."""
    made = here.new_primary(origin="EXTERNAL")
    here.bring(made)
    here.replicate_key(key_id=made, replica_region=OTHER_REGION)
    return made


@pytest.fixture
def both(key_id: str, there: Side) -> str:
    """The same, with material in both regions."""
    there.bring(key_id)
    return key_id


def states(key_id: str, *sides: Side) -> list[str]:
    """The state of the key in each region."""
    return [side.state(key_id) for side in sides]


# -- the same material in each region -------------------------------------------------------------------------------


def test_an_empty_primary_key_is_not_replicated(here: Side) -> None:
    """A key that waits for its first material has no replicas yet."""
    empty = here.new_primary(origin="EXTERNAL")
    assert (here.state(empty), here.family(empty)) == ("PendingImport", ("PRIMARY", REGION, []))
    with pytest.raises(KMSInvalidStateException, match="is pending import"):
        here.replicate_key(key_id=empty, replica_region=OTHER_REGION)


def test_a_replica_waits_for_the_same_material(here: Side, there: Side) -> None:
    """It is made without material, knows which one it must be, and takes no other; then both open what either made."""
    made = here.new_primary(origin="EXTERNAL")
    name = here.bring(made)
    answer = here.replicate_key(key_id=made, replica_region=OTHER_REGION).replica_key_metadata
    assert (answer.key_state, answer.origin, answer.expiration_model) == ("Creating", "EXTERNAL", None)
    assert (there.state(made), there.material(made)) == ("PendingImport", name)
    assert there.materials(made) == [(CURRENT, MISSING)]
    sealed = here.seal(made)
    with pytest.raises(KMSInvalidStateException, match=f"^arn:aws:kms:{OTHER_REGION}:{ACCOUNT}:key/{made} is pending"):
        there.unseal(sealed)
    with pytest.raises(IncorrectKeyMaterialException, match="no other may replace it"):
        there.bring(made, SECOND)
    assert there.bring(made) == name
    assert states(made, here, there) == ["Enabled", "Enabled"]
    assert there.unseal(sealed) == here.unseal(there.seal(made)) == b"secret"
    assert backing_keys(here.kms)[made] == 1


def test_import_tokens_are_each_regions_own(here: Side, there: Side, key_id: str) -> None:
    """What was wrapped for one region is refused in the other."""
    request = here.request_to_import(key_id)
    with pytest.raises(InvalidImportTokenException, match="another key than arn:aws:kms:us-east-1"):
        there.kms.import_key_material(request, there.kms.caller(OTHER_REGION))
    assert there.state(key_id) == "PendingImport"


def test_nothing_new_begins_in_a_replica(there: Side, both: str) -> None:
    """New material is the primary key's matter, and so are words about the material."""
    with pytest.raises(UnsupportedOperationException, match="is not a multi-region primary key"):
        there.bring(both, SECOND, import_type="NEW_KEY_MATERIAL")
    with pytest.raises(ValidationException, match="KeyMaterialDescription is shared"):
        there.bring(both, key_material_description="other words")


def test_words_are_shared(here: Side, there: Side, key_id: str) -> None:
    """The description that the primary key's import gave is shown in all regions; a replica may repeat it."""
    here.bring(key_id, key_material_description="our words")
    there.bring(key_id, key_material_description="our words")
    for side in (here, there):
        (listed,) = side.list_key_rotations(key_id=key_id, include_key_material="ALL_KEY_MATERIAL").rotations
        assert listed.key_material_description == "our words"


# -- loss in one region ---------------------------------------------------------------------------------------------


def test_deleted_in_one_region_only(here: Side, there: Side, both: str) -> None:
    """The others keep it; the object is destroyed with the material of the last region, which can be imported again."""
    sealed = here.seal(both)
    for side, other in ((there, here), (here, there)):
        side.delete_imported_key_material(key_id=both)
        assert states(both, side, other) == ["PendingImport", "Enabled"]
        assert other.unseal(sealed) == b"secret"
        assert backing_keys(here.kms)[both] == 1
        side.bring(both)
    here.delete_imported_key_material(key_id=both)
    there.delete_imported_key_material(key_id=both)
    assert backing_keys(here.kms)[both] == 0
    assert states(both, here, there) == ["PendingImport", "PendingImport"]
    there.bring(both)
    assert states(both, here, there) == ["PendingImport", "Enabled"]
    assert there.unseal(sealed) == b"secret"
    assert here.kms.operator.find_differences() == []


def test_each_region_has_its_own_expiry(here: Side, there: Side, key_id: str, clock: StoppedClock) -> None:
    """Material lapses in a region at the ValidTo of its import there; the last lapse takes the object."""
    there.bring(key_id, valid_to=clock.now + DAY)
    here.bring(key_id, valid_to=clock.now + 2 * DAY)
    assert here.described(key_id).valid_to == clock.now + 2 * DAY
    assert there.described(key_id).valid_to == clock.now + DAY
    sealed = here.seal(key_id)
    clock.now += DAY
    assert states(key_id, here, there) == ["Enabled", "PendingImport"]
    assert (StepKind.DESTRUCTION, key_id, StepOutcome.DONE) not in sweep(here.kms)
    assert here.unseal(sealed) == b"secret"
    clock.now += DAY
    steps = sweep(here.kms)
    assert [step for step in steps if step[1] == key_id and step[0] is not StepKind.WRAPPING_KEY] == [
        (StepKind.EXPIRY, key_id, StepOutcome.DONE),
        (StepKind.DESTRUCTION, key_id, StepOutcome.DONE),
    ]
    assert backing_keys(here.kms)[key_id] == 0
    assert states(key_id, here, there) == ["PendingImport", "PendingImport"]


def test_the_end_of_a_replica_lets_go(here: Side, there: Side, both: str, clock: StoppedClock) -> None:
    """Material that only a replica had is destroyed with it; a replica that is made again has none."""
    here.delete_imported_key_material(key_id=both)
    there.schedule_key_deletion(key_id=both, pending_window_in_days=7)
    assert backing_keys(here.kms)[both] == 1
    clock.now += 7 * DAY
    sweep(here.kms)
    assert backing_keys(here.kms)[both] == 0
    here.bring(both)
    here.replicate_key(key_id=both, replica_region=OTHER_REGION)
    assert states(both, here, there) == ["Enabled", "PendingImport"]
    assert here.kms.operator.find_differences() == []


def test_the_primary_role_moves_without_material(here: Side, there: Side, both: str) -> None:
    """After it both regions keep what they have, and new material begins in the new primary region."""
    here.update_primary_region(key_id=both, primary_region=OTHER_REGION)
    assert states(both, here, there) == ["Enabled", "Enabled"]
    there.bring(both, SECOND, import_type="NEW_KEY_MATERIAL")
    with pytest.raises(UnsupportedOperationException):
        here.bring(both, SECOND, import_type="NEW_KEY_MATERIAL")
    assert here.materials(both) == [(CURRENT, THERE), (PENDING_IMPORT, MISSING)]


# -- rotation to further material -----------------------------------------------------------------------------------


def test_rotation_waits_until_all_regions_have_it(here: Side, there: Side, both: str) -> None:
    """New material begins on the primary key, is imported into each replica, and is current in all at one moment."""
    old = here.seal(both)
    here.bring(both, SECOND, import_type="NEW_KEY_MATERIAL")
    assert here.materials(both) == [(CURRENT, THERE), (PENDING_IMPORT, THERE)]
    assert there.materials(both) == [(CURRENT, THERE), (PENDING_IMPORT, MISSING)]
    assert states(both, here, there) == ["Enabled", "Enabled"]
    with pytest.raises(KMSInvalidStateException, match="No available key material pending rotation"):
        here.rotate_key_on_demand(key_id=both)
    with pytest.raises(KMSInvalidStateException, match="another key material"):
        here.bring(both, bytes(32), import_type="NEW_KEY_MATERIAL")
    there.bring(both, SECOND)
    for side in (here, there):
        assert side.materials(both) == [(CURRENT, THERE), (PENDING, THERE)]
    with pytest.raises(UnsupportedOperationException, match="is not a multi-region primary key"):
        there.rotate_key_on_demand(key_id=both)
    here.rotate_key_on_demand(key_id=both)
    for side in (here, there):
        assert side.materials(both) == [(NON_CURRENT, THERE), (CURRENT, THERE)]
        assert side.unseal(old) == b"secret"
    assert there.unseal(here.seal(both)) == b"secret"
    assert backing_keys(here.kms)[both] == 2


def test_waiting_material_follows_the_primary_key(here: Side, there: Side, both: str) -> None:
    """Deleted on a replica it only has to be imported there again; deleted on the primary key it is gone everywhere."""
    waiting = here.bring(both, SECOND, import_type="NEW_KEY_MATERIAL")
    there.bring(both, SECOND)
    there.delete_imported_key_material(key_id=both, key_material_id=waiting)
    assert here.materials(both) == [(CURRENT, THERE), (PENDING_IMPORT, THERE)]
    assert there.materials(both) == [(CURRENT, THERE), (PENDING_IMPORT, MISSING)]
    there.bring(both, SECOND)
    assert backing_keys(here.kms)[both] == 2
    here.delete_imported_key_material(key_id=both, key_material_id=waiting)
    for side in (here, there):
        assert side.materials(both) == [(CURRENT, THERE)]
    assert states(both, here, there) == ["Enabled", "Enabled"]
    assert backing_keys(here.kms)[both] == 1
    here.bring(both, bytes(32), import_type="NEW_KEY_MATERIAL")


def test_a_new_replica_holds_the_rotation_up(here: Side, there: Side, clock: StoppedClock) -> None:
    """Pending material is required of a replica that is created during it, and not of one that is deleted."""
    made = here.new_primary(origin="EXTERNAL")
    here.bring(made)
    here.bring(made, SECOND, import_type="NEW_KEY_MATERIAL")
    assert here.materials(made) == [(CURRENT, THERE), (PENDING, THERE)]
    here.replicate_key(key_id=made, replica_region=OTHER_REGION)
    assert there.materials(made) == [(CURRENT, MISSING), (PENDING_IMPORT, MISSING)]
    there.bring(made, SECOND)
    assert there.state(made) == "PendingImport"
    there.delete_imported_key_material(key_id=made, key_material_id=there.bring(made, SECOND))
    there.schedule_key_deletion(key_id=made, pending_window_in_days=7)
    clock.now += 7 * DAY
    sweep(here.kms)
    assert here.materials(made) == [(CURRENT, THERE), (PENDING, THERE)]
    here.rotate_key_on_demand(key_id=made)
    here.replicate_key(key_id=made, replica_region=OTHER_REGION)
    assert there.materials(made) == [(NON_CURRENT, MISSING), (CURRENT, MISSING)]
    there.bring(made, MATERIAL)
    assert there.state(made) == "PendingImport"
    there.bring(made, SECOND)
    assert states(made, here, there) == ["Enabled", "Enabled"]
    assert there.unseal(here.seal(made)) == b"secret"
    assert here.kms.operator.find_differences() == []


def test_expiry_of_waiting_material(here: Side, there: Side, both: str, clock: StoppedClock) -> None:
    """Where its time is over on a replica it is missing there; over on the primary key, it is forgotten everywhere."""
    here.bring(both, SECOND, import_type="NEW_KEY_MATERIAL", valid_to=clock.now + 2 * DAY)
    there.bring(both, SECOND, valid_to=clock.now + DAY)
    assert here.materials(both)[1] == (PENDING, THERE)
    clock.now += DAY
    sweep(here.kms)
    assert here.materials(both)[1] == (PENDING_IMPORT, THERE)
    assert states(both, here, there) == ["Enabled", "Enabled"]
    clock.now += DAY
    sweep(here.kms)
    for side in (here, there):
        assert side.materials(both) == [(CURRENT, THERE)]
    assert backing_keys(here.kms)[both] == 1
    assert states(both, here, there) == ["Enabled", "Enabled"]


def bring_pair(side: Side, key_id: str, private: bytes) -> None:
    """Import a private key into the key of a region."""
    side.kms.import_key_material(side.request_to_import(key_id, private), side.kms.caller(side.region))


def test_private_keys_in_two_regions(here: Side, there: Side) -> None:
    """The replica of an imported key pair takes the same private key, no other, and signs for the same public key."""
    pkcs_8, other = (
        ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        for _ in range(2)
    )
    made = here.new_primary(origin="EXTERNAL", key_spec="ECC_NIST_P256", key_usage="SIGN_VERIFY")
    bring_pair(here, made, pkcs_8)
    here.replicate_key(key_id=made, replica_region=OTHER_REGION)
    with pytest.raises(IncorrectKeyMaterialException):
        bring_pair(there, made, other)
    bring_pair(there, made, pkcs_8)
    order = {"key_id": made, "message": b"m", "signing_algorithm": "ECDSA_SHA_256"}
    signature = there.sign(**order).signature
    assert here.verify(signature=signature, **order).signature_valid
    assert here.get_public_key(key_id=made).public_key == there.get_public_key(key_id=made).public_key
