"""Multi-Region keys: one set of backing keys in several regions, replicas, and the primary key among them."""

from collections.abc import Iterator
from datetime import timedelta

import msgspec
import pytest
from lifecycle import YEAR, at, backing_keys, in_threads, sweep
from service_sites import ACCOUNT, OTHER_REGION, REGION, NewFolder, Site, StoppedClock, run
from sides import Side

from hsmkms.errors import (
    AccessDeniedException,
    AlreadyExistsException,
    DisabledException,
    IncorrectKeyException,
    KMSInvalidStateException,
    MalformedPolicyDocumentException,
    NotFoundException,
    TagException,
    UnsupportedOperationException,
    ValidationException,
)
from hsmkms.kms import Kms
from hsmkms.model.enums import KeyState
from hsmkms.model.shapes import Tag
from hsmkms.rules import budget
from hsmkms.rules.posture import Posture
from hsmkms.service.operator.sweeper import StepKind, StepOutcome
from hsmkms.store import leases

THIRD_REGION = "ap-southeast-2"
REGIONS = (REGION, OTHER_REGION, THIRD_REGION)
POLICY = '{"Statement":[{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"}]}'


@pytest.fixture(scope="module")
def clock() -> StoppedClock:
    """The clock of the module's installation."""
    return StoppedClock()


@pytest.fixture(scope="module")
def site(new_folder: NewFolder) -> Site:
    """An installation that serves three regions."""
    return Site.make(new_folder(), regions=REGIONS)


@pytest.fixture(scope="module")
def kms(site: Site, clock: StoppedClock) -> Iterator[Kms]:
    """It, open, for all tests of the module."""
    with site.open(clock) as opened:
        yield opened


@pytest.fixture
def sides(kms: Kms) -> tuple[Side, Side, Side]:
    """The three regions."""
    first, second, third = (Side(kms, region) for region in REGIONS)
    return first, second, third


def arn(region: str, key_id: str) -> str:
    """The ARN of a key."""
    return f"arn:aws:kms:{region}:{ACCOUNT}:key/{key_id}"


def not_primary(region: str, key_id: str) -> str:
    """AWS's words for what only a primary key may do."""
    return f"^{arn(region, key_id)} is not a multi-region primary key.$"


# -- the set --------------------------------------------------------------------------------------------------------


def test_new_primary(sides: tuple[Side, Side, Side]) -> None:
    """A multi-Region key has an mrk- id, works at once, and is the primary key of a set of one."""
    here, there, _ = sides
    made = here.create_key(multi_region=True).key_metadata
    assert made.key_id.startswith("mrk-")
    assert len(made.key_id) == 36
    assert (made.multi_region, made.key_state) == (True, KeyState.ENABLED)
    assert made == here.described(made.key_id)
    assert here.family(made.key_id) == ("PRIMARY", REGION, [])
    assert here.unseal(here.seal(made.key_id)) == b"secret"
    with pytest.raises(NotFoundException):
        there.described(made.key_id)


def test_single_region_keys_say_so(sides: tuple[Side, Side, Side]) -> None:
    """MultiRegion is there for every key; the configuration of the set only where there is one."""
    made = sides[0].create_key(multi_region=False).key_metadata
    assert (made.multi_region, made.multi_region_configuration) == (False, None)
    assert "-" in made.key_id[4:]


def test_replicate(sides: tuple[Side, Side, Side]) -> None:
    """The answer shows a replica that is being created, with what was asked for; then it is Enabled, as in its set."""
    here, there, third = sides
    key_id = here.new_primary(description="first", tags=[Tag(tag_key="a", tag_value="1")])
    answer = here.replicate_key(
        key_id=key_id,
        replica_region=OTHER_REGION,
        description="second",
        policy=POLICY,
        tags=[Tag(tag_key="b", tag_value="2")],
    )
    metadata = answer.replica_key_metadata
    assert (metadata.arn, metadata.key_id, metadata.multi_region) == (arn(OTHER_REGION, key_id), key_id, True)
    assert (metadata.key_state, metadata.enabled, metadata.current_key_material_id) == (KeyState.CREATING, False, None)
    assert (answer.replica_policy, answer.replica_tags) == (POLICY, [Tag(tag_key="b", tag_value="2")])
    assert metadata.multi_region_configuration == there.described(key_id).multi_region_configuration
    assert there.family(key_id) == ("REPLICA", REGION, [OTHER_REGION])
    assert here.family(key_id) == ("PRIMARY", REGION, [OTHER_REGION])
    primary, replica = here.described(key_id), there.described(key_id)
    assert (replica.key_state, replica.description, replica.enabled) == (KeyState.ENABLED, "second", True)
    assert (replica.key_spec, replica.key_usage) == (primary.key_spec, primary.key_usage)
    assert replica.origin == primary.origin
    assert replica.current_key_material_id == primary.current_key_material_id
    assert there.list_resource_tags(key_id=key_id).tags == [Tag(tag_key="b", tag_value="2")]
    assert [key.key_id for key in there.list_keys(limit=1000).keys].count(key_id) == 1
    here.replicate_key(key_id=key_id, replica_region=THIRD_REGION)
    for each, role in ((here, "PRIMARY"), (there, "REPLICA"), (third, "REPLICA")):
        assert each.family(key_id) == (role, REGION, [THIRD_REGION, OTHER_REGION])


def test_nothing_is_copied_unasked(sides: tuple[Side, Side, Side]) -> None:
    """Description, tags, policy and aliases of the primary key are not its replica's."""
    here, there, _ = sides
    key_id = here.new_primary(description="first", tags=[Tag(tag_key="a", tag_value="1")], policy=POLICY)
    here.create_alias(alias_name="alias/only-here", target_key_id=key_id)
    answer = here.replicate_key(key_id=arn(REGION, key_id), replica_region=OTHER_REGION)
    assert (answer.replica_tags, answer.replica_key_metadata.description) == (None, "")
    assert "Enable IAM User Permissions" in answer.replica_policy
    assert there.list_resource_tags(key_id=key_id).tags == []
    assert there.list_aliases(key_id=key_id).aliases == []
    with pytest.raises(NotFoundException):
        there.described("alias/only-here")


def test_what_is_each_keys_own(sides: tuple[Side, Side, Side]) -> None:
    """State, description, tags and aliases of one key change nothing about the others of its set."""
    here, there, _ = sides
    key_id = here.new_primary()
    here.replicate_key(key_id=key_id, replica_region=OTHER_REGION)
    before = here.described(key_id)
    there.update_key_description(key_id=key_id, description="there")
    there.tag_resource(key_id=key_id, tags=[Tag(tag_key="x", tag_value="y")])
    there.create_alias(alias_name="alias/own", target_key_id=key_id)
    here.create_alias(alias_name="alias/own", target_key_id=here.create_key().key_metadata.key_id)
    there.disable_key(key_id=key_id)
    assert here.described(key_id) == before
    assert there.described("alias/own").key_state == KeyState.DISABLED
    sealed = here.seal(key_id)
    with pytest.raises(DisabledException, match=f"^{arn(OTHER_REGION, key_id)} is disabled"):
        there.unseal(sealed)
    there.enable_key(key_id=key_id)
    here.disable_key(key_id=key_id)
    assert there.unseal(sealed) == b"secret"


def test_ciphertext_of_one_region_opens_in_the_other(sides: tuple[Side, Side, Side]) -> None:
    """Decrypt and ReEncrypt take it with and without KeyId, and answer with their own region's ARN."""
    here, there, third = sides
    key_id = here.new_primary()
    here.replicate_key(key_id=key_id, replica_region=OTHER_REGION)
    mine, other = arn(REGION, key_id), arn(OTHER_REGION, key_id)
    for one, two, name in ((here, there, other), (there, here, mine)):
        sealed = one.seal(key_id)
        for named in (None, key_id, name):
            opened = two.decrypt(ciphertext_blob=sealed, key_id=named)
            assert (opened.plaintext, opened.key_id) == (b"secret", name)
        moved = two.re_encrypt(ciphertext_blob=sealed, source_key_id=name, destination_key_id=name)
        assert (moved.source_key_id, moved.key_id) == (name, name)
        assert one.unseal(moved.ciphertext_blob) == b"secret"
    sealed = here.seal(key_id)
    with pytest.raises(NotFoundException, match=f"^Invalid arn {REGION}$"):
        there.unseal(sealed, mine)
    with pytest.raises(IncorrectKeyException):
        there.unseal(sealed, there.create_key().key_metadata.key_id)
    with pytest.raises(AccessDeniedException):
        third.unseal(sealed)
    assert backing_keys(here.kms)[key_id] == 1


def test_data_keys_of_one_region_open_in_the_other(sides: tuple[Side, Side, Side]) -> None:
    """What envelope encryption needs works across regions, with the encryption context."""
    here, there, _ = sides
    key_id = here.new_primary()
    here.replicate_key(key_id=key_id, replica_region=OTHER_REGION)
    made = there.generate_data_key(key_id=key_id, key_spec="AES_256", encryption_context={"a": "b"})
    opened = here.decrypt(ciphertext_blob=made.ciphertext_blob, encryption_context={"a": "b"})
    assert opened.plaintext == made.plaintext
    assert opened.key_material_id == made.key_material_id


def test_replicate_refusals(sides: tuple[Side, Side, Side]) -> None:
    """Only a primary key is replicated, to a served region without a key of the set; policy and tags must fit."""
    here, there, _ = sides
    single, key_id = here.create_key().key_metadata.key_id, here.new_primary()
    here.replicate_key(key_id=key_id, replica_region=OTHER_REGION)
    with pytest.raises(UnsupportedOperationException, match=not_primary(REGION, single)):
        here.replicate_key(key_id=single, replica_region=OTHER_REGION)
    with pytest.raises(UnsupportedOperationException, match=not_primary(OTHER_REGION, key_id)):
        there.replicate_key(key_id=key_id, replica_region=THIRD_REGION)
    for region in (REGION, OTHER_REGION):
        with pytest.raises(AlreadyExistsException, match=f"^{arn(region, key_id)} already exists"):
            here.replicate_key(key_id=key_id, replica_region=region)
    with pytest.raises(UnsupportedOperationException, match="region eu-north-1 is not served here; served: "):
        here.replicate_key(key_id=key_id, replica_region="eu-north-1")
    with pytest.raises(ValidationException, match="replicaRegion"):
        here.replicate_key(key_id=key_id, replica_region="Frankfurt")
    with pytest.raises(MalformedPolicyDocumentException):
        here.replicate_key(key_id=key_id, replica_region=THIRD_REGION, policy="{}")
    with pytest.raises(TagException):
        here.replicate_key(key_id=key_id, replica_region=THIRD_REGION, tags=[Tag(tag_key="aws:", tag_value="")])
    here.create_alias(alias_name="alias/no-name", target_key_id=key_id)
    with pytest.raises(NotFoundException, match=r"^Invalid keyId 'alias/no-name': give the key id"):
        here.replicate_key(key_id="alias/no-name", replica_region=THIRD_REGION)
    here.disable_key(key_id=key_id)
    with pytest.raises(DisabledException):
        here.replicate_key(key_id=key_id, replica_region=THIRD_REGION)
    assert here.family(key_id) == ("PRIMARY", REGION, [OTHER_REGION])


@pytest.mark.parametrize(
    ("spec", "usage"),
    [
        ("RSA_2048", "SIGN_VERIFY"),
        ("RSA_2048", "ENCRYPT_DECRYPT"),
        ("ECC_NIST_P256", "SIGN_VERIFY"),
        ("ECC_NIST_EDWARDS25519", "SIGN_VERIFY"),
        ("ECC_NIST_P384", "KEY_AGREEMENT"),
        ("HMAC_256", "GENERATE_VERIFY_MAC"),
    ],
)
def test_every_kind_of_key(sides: tuple[Side, Side, Side], spec: str, usage: str) -> None:
    """Asymmetric and HMAC keys have replicas as well, with the same key pair or key, which do the same."""
    here, there, _ = sides
    key_id = here.new_primary(key_spec=spec, key_usage=usage)
    here.replicate_key(key_id=key_id, replica_region=OTHER_REGION)
    metadata = there.described(key_id)
    assert (metadata.key_spec, metadata.key_usage, metadata.key_state) == (spec, usage, "Enabled")
    if usage == "GENERATE_VERIFY_MAC":
        order = {"key_id": key_id, "message": b"m", "mac_algorithm": "HMAC_SHA_256"}
        assert there.verify_mac(**order, mac=here.generate_mac(**order).mac).mac_valid
    else:
        public = here.get_public_key(key_id=key_id)
        assert there.get_public_key(key_id=key_id).public_key == public.public_key
    if usage == "SIGN_VERIFY":
        order = {"key_id": key_id, "message": b"m", "signing_algorithm": public.signing_algorithms[0]}
        assert there.verify(**order, signature=here.sign(**order).signature).signature_valid
    elif usage == "ENCRYPT_DECRYPT":
        how = {"key_id": key_id, "encryption_algorithm": "RSAES_OAEP_SHA_1"}
        sealed = here.encrypt(**how, plaintext=b"secret").ciphertext_blob
        assert there.decrypt(**how, ciphertext_blob=sealed).plaintext == b"secret"
    elif usage == "KEY_AGREEMENT":
        order = {"key_id": key_id, "key_agreement_algorithm": "ECDH", "public_key": public.public_key}
        assert here.derive_shared_secret(**order).shared_secret == there.derive_shared_secret(**order).shared_secret
    with pytest.raises(UnsupportedOperationException):
        here.rotate_key_on_demand(key_id=key_id)
    assert len(here.kms.operator.attest(key_id, OTHER_REGION)) == 1


def test_one_of_many_replicates(sides: tuple[Side, Side, Side]) -> None:
    """Of simultaneous requests for one region one makes the replica, and the others get AlreadyExistsException."""
    here, there, _ = sides
    key_id = here.new_primary()
    outcomes = in_threads(4, lambda: here.replicate_key(key_id=key_id, replica_region=OTHER_REGION))
    assert outcomes == ["AlreadyExistsException"] * 3 + ["ok"]
    assert there.family(key_id) == ("REPLICA", REGION, [OTHER_REGION])


# -- the primary key ------------------------------------------------------------------------------------------------


def test_update_primary_region(sides: tuple[Side, Side, Side]) -> None:
    """The replica becomes the primary key and the primary key a replica; both keep working, and only roles change."""
    here, there, third = sides
    key_id = here.new_primary(description="a")
    here.replicate_key(key_id=key_id, replica_region=OTHER_REGION, description="b")
    sealed = here.seal(key_id)
    assert here.update_primary_region(key_id=key_id, primary_region=OTHER_REGION) is None
    assert here.family(key_id) == ("REPLICA", OTHER_REGION, [REGION])
    assert there.family(key_id) == ("PRIMARY", OTHER_REGION, [REGION])
    assert (here.state(key_id), there.state(key_id)) == (KeyState.ENABLED, KeyState.ENABLED)
    assert (here.described(key_id).description, there.described(key_id).description) == ("a", "b")
    assert there.unseal(sealed) == here.unseal(sealed) == b"secret"
    with pytest.raises(UnsupportedOperationException, match=not_primary(REGION, key_id)):
        here.replicate_key(key_id=key_id, replica_region=THIRD_REGION)
    there.replicate_key(key_id=key_id, replica_region=THIRD_REGION)
    assert third.family(key_id) == ("REPLICA", OTHER_REGION, [THIRD_REGION, REGION])


def test_update_primary_region_refusals(sides: tuple[Side, Side, Side]) -> None:
    """It is asked of the primary key and names a replica that is Enabled as well."""
    here, there, _ = sides
    single, key_id = here.create_key().key_metadata.key_id, here.new_primary()
    here.replicate_key(key_id=key_id, replica_region=OTHER_REGION)
    with pytest.raises(UnsupportedOperationException, match=not_primary(REGION, single)):
        here.update_primary_region(key_id=single, primary_region=OTHER_REGION)
    with pytest.raises(UnsupportedOperationException, match=not_primary(OTHER_REGION, key_id)):
        there.update_primary_region(key_id=key_id, primary_region=REGION)
    with pytest.raises(UnsupportedOperationException, match="is the primary key of its set already"):
        here.update_primary_region(key_id=key_id, primary_region=REGION)
    with pytest.raises(UnsupportedOperationException, match="is not served here"):
        here.update_primary_region(key_id=key_id, primary_region="eu-north-1")
    with pytest.raises(NotFoundException, match=f"^Key '{arn(THIRD_REGION, key_id)}' does not exist"):
        here.update_primary_region(key_id=key_id, primary_region=THIRD_REGION)
    there.disable_key(key_id=key_id)
    with pytest.raises(DisabledException, match=f"^{arn(OTHER_REGION, key_id)} is disabled"):
        here.update_primary_region(key_id=key_id, primary_region=OTHER_REGION)
    there.schedule_key_deletion(key_id=key_id)
    with pytest.raises(KMSInvalidStateException, match=f"^{arn(OTHER_REGION, key_id)} is pending"):
        here.update_primary_region(key_id=key_id, primary_region=OTHER_REGION)
    assert here.family(key_id) == ("PRIMARY", REGION, [OTHER_REGION])


# -- rotation -------------------------------------------------------------------------------------------------------


def test_rotation_is_set_on_the_primary_key(sides: tuple[Side, Side, Side]) -> None:
    """It is shown in all regions; a replica refuses to set or start it, and a new primary key takes it over."""
    here, there, _ = sides
    key_id = here.new_primary()
    here.replicate_key(key_id=key_id, replica_region=OTHER_REGION)
    for call in (there.enable_key_rotation, there.disable_key_rotation, there.rotate_key_on_demand):
        with pytest.raises(UnsupportedOperationException, match=not_primary(OTHER_REGION, key_id)):
            call(key_id=key_id)
    here.enable_key_rotation(key_id=key_id)
    mine, other = (side.get_key_rotation_status(key_id=key_id) for side in (here, there))
    assert mine.key_rotation_enabled
    assert msgspec.structs.replace(other, key_id=mine.key_id) == mine
    here.update_primary_region(key_id=key_id, primary_region=OTHER_REGION)
    with pytest.raises(UnsupportedOperationException, match=not_primary(REGION, key_id)):
        here.disable_key_rotation(key_id=key_id)
    there.disable_key_rotation(key_id=key_id)
    assert not here.get_key_rotation_status(key_id=key_id).key_rotation_enabled


def test_rotation_switches_all_regions(sides: tuple[Side, Side, Side], monkeypatch: pytest.MonkeyPatch) -> None:
    """One backing key more, current in all regions at once; what was encrypted before opens everywhere."""
    here, there, _ = sides
    key_id = here.new_primary()
    here.replicate_key(key_id=key_id, replica_region=OTHER_REGION)
    old = [here.seal(key_id), there.seal(key_id)]
    before = here.material(key_id)
    seen: list[str | None] = []
    monkeypatch.setattr(here.kms._core, "reached", at("rotate 2", lambda: seen.append(there.material(key_id))))
    here.rotate_key_on_demand(key_id=key_id)
    assert seen == [before]
    assert here.material(key_id) == there.material(key_id)
    assert here.list_key_rotations(key_id=key_id) == there.list_key_rotations(key_id=key_id)
    assert backing_keys(here.kms)[key_id] == 2
    new = there.decrypt(ciphertext_blob=here.seal(key_id))
    assert new.key_material_id == here.material(key_id)
    assert here.decrypt(ciphertext_blob=there.seal(key_id)).key_material_id == new.key_material_id
    for each in old:
        assert there.unseal(each) == here.unseal(each) == b"secret"


def test_a_replica_made_after_rotations(sides: tuple[Side, Side, Side]) -> None:
    """It has all backing keys of the set, and takes part in the next rotation."""
    here, there, _ = sides
    key_id = here.new_primary()
    old = here.seal(key_id)
    here.rotate_key_on_demand(key_id=key_id)
    here.replicate_key(key_id=key_id, replica_region=OTHER_REGION)
    assert there.unseal(old) == b"secret"
    here.rotate_key_on_demand(key_id=key_id)
    assert there.unseal(here.seal(key_id)) == b"secret"
    assert there.unseal(old) == b"secret"
    assert backing_keys(here.kms)[key_id] == 3


def test_automatic_rotation_follows_the_primary_key(sides: tuple[Side, Side, Side], clock: StoppedClock) -> None:
    """A due set is rotated once, by its primary key; while that is disabled nothing rotates, whatever replicas do."""
    here, there, _ = sides
    key_id = here.new_primary()
    here.replicate_key(key_id=key_id, replica_region=OTHER_REGION)
    here.enable_key_rotation(key_id=key_id)
    here.disable_key(key_id=key_id)
    clock.now += YEAR
    there.disable_key(key_id=key_id)
    there.enable_key(key_id=key_id)
    assert (StepKind.ROTATION, key_id, StepOutcome.DONE) not in sweep(here.kms)
    assert len(there.list_key_rotations(key_id=key_id).rotations) == 0
    verdicts = {
        reported.region: reported for reported in here.kms.operator.rotation_report() if reported.key_id == key_id
    }
    assert verdicts[REGION].posture is Posture.OVERDUE
    assert verdicts[OTHER_REGION].posture is Posture.OK
    assert REGION in verdicts[OTHER_REGION].reason
    here.enable_key(key_id=key_id)
    assert len(there.list_key_rotations(key_id=key_id).rotations) == 1
    clock.now += YEAR
    assert sweep(here.kms).count((StepKind.ROTATION, key_id, StepOutcome.DONE)) == 1
    assert backing_keys(here.kms)[key_id] == 3
    assert here.material(key_id) == there.material(key_id)


@pytest.mark.parametrize("swept", [False, True])
def test_early_rotation_by_a_replica(sides: tuple[Side, Side, Side], *, swept: bool) -> None:
    """Half of the budget of AES-GCM is that of the set: a replica that reaches it rotates all, its primary key off."""
    here, there, _ = sides
    key_id = here.new_primary()
    here.replicate_key(key_id=key_id, replica_region=OTHER_REGION)
    here.disable_key(key_id=key_id)
    before = there.material(key_id)
    assert before is not None
    leases.at_least(here.kms._core.store, before, budget.ROTATE_AT)
    if swept:
        assert sweep(here.kms).count((StepKind.ROTATION, key_id, StepOutcome.DONE)) == 1
    else:
        there.seal(key_id)
    assert here.material(key_id) == there.material(key_id) != before
    assert backing_keys(here.kms)[key_id] == 2


# -- deletion -------------------------------------------------------------------------------------------------------


def test_a_replica_is_deleted_like_any_key(sides: tuple[Side, Side, Side], clock: StoppedClock) -> None:
    """After its waiting period it is gone, its primary key works on with the same objects, and it can be made again."""
    here, there, _ = sides
    key_id = here.new_primary()
    here.replicate_key(key_id=key_id, replica_region=OTHER_REGION, description="old")
    there.create_alias(alias_name="alias/of-a-replica", target_key_id=key_id)
    sealed = there.seal(key_id)
    answer = there.schedule_key_deletion(key_id=key_id, pending_window_in_days=7)
    assert (answer.key_state, answer.deletion_date) == (KeyState.PENDING_DELETION, clock.now + timedelta(days=7))
    with pytest.raises(AlreadyExistsException, match="pending deletion"):
        here.replicate_key(key_id=key_id, replica_region=OTHER_REGION)
    assert here.family(key_id)[2] == [OTHER_REGION]
    clock.now += timedelta(days=7)
    assert (StepKind.DELETION, key_id, StepOutcome.DONE) in sweep(here.kms)
    for name in (key_id, "alias/of-a-replica"):
        with pytest.raises(NotFoundException):
            there.described(name)
    assert here.family(key_id) == ("PRIMARY", REGION, [])
    assert here.unseal(sealed) == b"secret"
    assert backing_keys(here.kms)[key_id] == 1
    here.rotate_key_on_demand(key_id=key_id)
    clock.now += timedelta(hours=1)
    here.replicate_key(key_id=key_id, replica_region=OTHER_REGION)
    again = there.described(key_id)
    assert (again.description, again.creation_date, again.key_state) == ("", clock.now, KeyState.ENABLED)
    assert there.unseal(sealed) == there.unseal(here.seal(key_id)) == b"secret"
    assert here.kms.operator.find_differences() == []


def test_a_primary_key_waits_for_its_replicas(sides: tuple[Side, Side, Side], clock: StoppedClock) -> None:
    """Its waiting period begins when the last replica is really gone; until then it shows a window and no date."""
    here, there, third = sides
    key_id = here.new_primary()
    for region in (OTHER_REGION, THIRD_REGION):
        here.replicate_key(key_id=key_id, replica_region=region)
    sealed = here.seal(key_id)
    answer = here.schedule_key_deletion(key_id=key_id, pending_window_in_days=9)
    assert (answer.key_state, answer.deletion_date) == (KeyState.PENDING_REPLICA_DELETION, None)
    assert answer.pending_window_in_days == 9
    metadata = here.described(key_id)
    assert (metadata.key_state, metadata.deletion_date, metadata.pending_deletion_window_in_days) == (
        KeyState.PENDING_REPLICA_DELETION,
        None,
        9,
    )
    assert there.unseal(there.seal(key_id)) == b"secret"
    clock.now += YEAR
    assert [step for step in sweep(here.kms) if step[1] == key_id] == []
    for side, left in ((there, KeyState.PENDING_REPLICA_DELETION), (third, KeyState.PENDING_DELETION)):
        side.schedule_key_deletion(key_id=key_id, pending_window_in_days=7)
        clock.now += timedelta(days=7)
        assert [step for step in sweep(here.kms) if step[1] == key_id] == [
            (StepKind.DELETION, key_id, StepOutcome.DONE)
        ]
        assert here.state(key_id) == left
    metadata = here.described(key_id)
    assert (metadata.deletion_date, metadata.pending_deletion_window_in_days) == (clock.now + timedelta(days=9), None)
    assert backing_keys(here.kms)[key_id] == 1
    clock.now += timedelta(days=9)
    sweep(here.kms)
    assert backing_keys(here.kms)[key_id] == 0
    with pytest.raises(NotFoundException):
        here.described(key_id)
    with pytest.raises(AccessDeniedException):
        here.unseal(sealed)
    assert here.kms.operator.find_differences() == []


@pytest.mark.parametrize("gone", [False, True])
def test_cancelled_deletion_of_a_primary_key(
    sides: tuple[Side, Side, Side], clock: StoppedClock, *, gone: bool
) -> None:
    """It is Disabled, before and after its replicas are gone, and can be enabled and replicated again."""
    here, there, _ = sides
    key_id = here.new_primary()
    here.replicate_key(key_id=key_id, replica_region=OTHER_REGION)
    here.schedule_key_deletion(key_id=key_id, pending_window_in_days=7)
    there.schedule_key_deletion(key_id=key_id, pending_window_in_days=7)
    if gone:
        clock.now += timedelta(days=7)
        sweep(here.kms)
    here.cancel_key_deletion(key_id=key_id)
    metadata = here.described(key_id)
    assert (metadata.key_state, metadata.deletion_date, metadata.pending_deletion_window_in_days) == (
        KeyState.DISABLED,
        None,
        None,
    )
    here.enable_key(key_id=key_id)
    if gone:
        here.replicate_key(key_id=key_id, replica_region=OTHER_REGION)
    else:
        there.cancel_key_deletion(key_id=key_id)
        there.enable_key(key_id=key_id)
    assert there.unseal(here.seal(key_id)) == b"secret"


def refused_while_pending(key_id: str) -> dict[str, dict[str, object]]:
    """Every operation that a key that waits for its replicas refuses, with a request."""
    return {
        "encrypt": {"plaintext": b"x"},
        "generate_data_key": {"key_spec": "AES_256"},
        "generate_data_key_without_plaintext": {"key_spec": "AES_256"},
        "enable_key": {},
        "disable_key": {},
        "enable_key_rotation": {},
        "disable_key_rotation": {},
        "rotate_key_on_demand": {},
        "replicate_key": {"replica_region": THIRD_REGION},
        "update_primary_region": {"primary_region": OTHER_REGION},
        "schedule_key_deletion": {},
        "update_key_description": {"description": "new"},
        "tag_resource": {"tags": [Tag(tag_key="a", tag_value="b")]},
        "untag_resource": {"tag_keys": ["a"]},
        "create_alias": {"alias_name": "alias/new", "target_key_id": key_id},
    }


def test_what_a_key_that_waits_for_its_replicas_does(sides: tuple[Side, Side, Side]) -> None:
    """It is refused as one that is pending deletion; reading, listing and cancelling work."""
    here, there, _ = sides
    key_id = here.new_primary()
    here.replicate_key(key_id=key_id, replica_region=OTHER_REGION)
    here.enable_key_rotation(key_id=key_id)
    sealed = here.seal(key_id)
    here.schedule_key_deletion(key_id=key_id)
    words = f"^{arn(REGION, key_id)} is pending deletion \\(or pending replica deletion\\).$"
    for name, members in refused_while_pending(key_id).items():
        wanted = members if name == "create_alias" else members | {"key_id": key_id}
        with pytest.raises(KMSInvalidStateException, match=words):
            getattr(here, name)(**wanted)
    with pytest.raises(KMSInvalidStateException, match=words):
        here.unseal(sealed)
    assert there.unseal(sealed) == b"secret"
    assert not here.get_key_rotation_status(key_id=key_id).key_rotation_enabled
    assert here.list_key_rotations(key_id=key_id).rotations == []
    assert here.list_resource_tags(key_id=key_id).tags == []
    assert here.get_key_last_usage(key_id=key_id).key_last_usage.operation == "Encrypt"
    report = {
        reported.region: reported.posture
        for reported in here.kms.operator.rotation_report()
        if reported.key_id == key_id
    }
    assert report == {REGION: Posture.PAUSED, OTHER_REGION: Posture.OK}


# -- concurrent operations ------------------------------------------------------------------------------------------


def test_last_use_is_each_regions_own(sides: tuple[Side, Side, Side], clock: StoppedClock) -> None:
    """A use in one region is none in the other, and none of a replica that is made again."""
    here, there, _ = sides
    key_id = here.new_primary()
    here.replicate_key(key_id=key_id, replica_region=OTHER_REGION)
    there.seal(key_id)
    assert here.get_key_last_usage(key_id=key_id).key_last_usage.operation is None
    assert there.get_key_last_usage(key_id=key_id).key_last_usage.operation == "Encrypt"
    there.schedule_key_deletion(key_id=key_id, pending_window_in_days=7)
    clock.now += timedelta(days=7)
    sweep(here.kms)
    here.replicate_key(key_id=key_id, replica_region=OTHER_REGION)
    used = there.get_key_last_usage(key_id=key_id)
    assert used.key_last_usage.operation is None
    assert used.tracking_start_date == max(clock.now, here.kms._core.uses.tracked_since())
    report = [reported for reported in here.kms.operator.rotation_report(OTHER_REGION) if reported.key_id == key_id]
    assert [each.last_used for each in report] == [None]


def test_attest_in_every_region(sides: tuple[Side, Side, Side]) -> None:
    """Each region shows the same objects on the token."""
    here, _, _ = sides
    key_id = here.new_primary()
    here.replicate_key(key_id=key_id, replica_region=OTHER_REGION)
    here.rotate_key_on_demand(key_id=key_id)
    mine, attributes = (here.kms.operator.attest(key_id, each) for each in (REGION, OTHER_REGION))
    assert mine == attributes
    assert [(each.present, each.as_made) for each in mine] == [(True, True)] * 2


def test_other_processes_see_it_at_once(sides: tuple[Side, Side, Side], site: Site, clock: StoppedClock) -> None:
    """What another process changes about a set holds in all regions at the next call here."""
    file, when = site.folder / "hsmkms.toml", clock.now.isoformat()
    here, there, _ = sides
    key_id = here.new_primary()
    here.replicate_key(key_id=key_id, replica_region=OTHER_REGION)
    assert here.family(key_id)[0] == "PRIMARY"
    before = there.material(key_id)
    body = f'{{"KeyId": "{key_id}"}}'
    run("act", file, when, "", "RotateKeyOnDemand", body)
    assert there.material(key_id) == here.material(key_id) != before
    body = f'{{"KeyId": "{key_id}", "PrimaryRegion": "{OTHER_REGION}"}}'
    run("act", file, when, "", "UpdatePrimaryRegion", body)
    assert (here.family(key_id)[0], there.family(key_id)[0]) == ("REPLICA", "PRIMARY")
    with pytest.raises(UnsupportedOperationException):
        here.rotate_key_on_demand(key_id=key_id)
