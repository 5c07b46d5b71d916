"""Imported key material through the service: the way in, what it is tied to, expiry, and the way out."""

import json
from collections.abc import Iterator
from datetime import timedelta

import msgspec
import pytest
import wrapped
from lifecycle import (
    MATERIAL,
    backing_keys,
    cancel,
    delete_material,
    described,
    disable,
    enable,
    new_empty_key,
    new_imported_key,
    parameters_for,
    request_to_import,
    rotate,
    rotations,
    schedule,
    sweep,
)
from service_sites import REGION, START, Site, StoppedClock, mac_key, new_alias, new_key, seal, unseal

from hsmkms.config.settings import ImportSettings, RotationSettings
from hsmkms.errors import (
    ExpiredImportTokenException,
    HsmKmsError,
    IncorrectKeyMaterialException,
    InvalidCiphertextException,
    InvalidImportTokenException,
    KMSInvalidStateException,
    NotFoundException,
    UnsupportedOperationException,
    ValidationException,
)
from hsmkms.kms import Kms
from hsmkms.model.caller import Caller
from hsmkms.model.enums import ExpirationModel, KeyState, MaterialState, WrappingAlgorithm
from hsmkms.model.importing import (
    DeleteImportedKeyMaterialRequest,
    GetParametersForImportRequest,
    ImportKeyMaterialRequest,
)
from hsmkms.rules import importing as rules
from hsmkms.service.operator.sweeper import StepKind, StepOutcome
from hsmkms.store.materials import wrapping_keys

OTHER = bytes(range(100, 132))
HOURS_24 = timedelta(hours=24)


@pytest.fixture
def kms(site: Site, clock: StoppedClock) -> Iterator[Kms]:
    """An installation with the mission's rules."""
    with site.open(clock) as opened:
        yield opened


@pytest.fixture
def today(site: Site, clock: StoppedClock) -> Iterator[Kms]:
    """The same with today's AWS rules, and with ``host_unwrap``."""
    other = site.varied(
        "today.toml",
        rotation=RotationSettings(imported_on_demand=True),
        imports=ImportSettings(valid_to_within_days=365, host_unwrap=True),
    )
    with other.open(clock) as opened:
        yield opened


def import_(kms: Kms, key_id: str, material: bytes = MATERIAL, **members: object) -> str:
    """Import material; its id."""
    answer = kms.import_key_material(request_to_import(kms, key_id, material, **members))  # type: ignore[arg-type]
    assert answer.key_material_id is not None
    return answer.key_material_id


def importer(kms: Kms, name: str) -> Caller:
    """A user who may ask for the parameters of every import."""
    kms.operator.credentials.create_user(name)
    statement = {"Effect": "Allow", "Action": "kms:GetParametersForImport", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    kms.operator.identities.put_user_policy(name, "importer", document)
    return kms.caller(REGION, name)


# -- the key, the wrapping key, the import token --------------------------------------------------------------------


def test_empty_key(kms: Kms) -> None:
    """A key of origin EXTERNAL has no material, is PendingImport, and does nothing yet."""
    key = new_key(kms, origin="EXTERNAL")
    assert (key.key_state, key.origin, key.enabled) == (KeyState.PENDING_IMPORT, "EXTERNAL", False)
    assert (key.current_key_material_id, key.expiration_model, key.valid_to) == (None, None, None)
    assert backing_keys(kms)[key.key_id] == 0
    with pytest.raises(KMSInvalidStateException, match="is pending import"):
        seal(kms, key.key_id)


def test_generated_keys_take_no_material(kms: Kms) -> None:
    """On a key of another origin each operation of import is refused in every state, and the origin is named."""
    key_id = new_key(kms).key_id
    empty = new_empty_key(kms)
    request = request_to_import(kms, empty)
    calls = (
        lambda: parameters_for(kms, key_id),
        lambda: kms.import_key_material(msgspec.structs.replace(request, key_id=key_id)),
        lambda: delete_material(kms, key_id),
    )
    for change in (enable, disable, schedule):
        change(kms, key_id)
        for call in calls:
            with pytest.raises(UnsupportedOperationException, match="origin is AWS_KMS which is not valid"):
                call()


def test_no_alias(kms: Kms) -> None:
    """The operations of import take a key id or a key ARN, never an alias."""
    key_id = new_imported_key(kms)
    new_alias(kms, "alias/mine", key_id)
    with pytest.raises(NotFoundException, match="Invalid keyId"):
        parameters_for(kms, "alias/mine")
    assert parameters_for(kms, described(kms, key_id).arn).key_id == described(kms, key_id).arn


def test_parameters_are_new_each_time(kms: Kms) -> None:
    """Each call makes a new wrapping key and a new import token, valid for 24 hours."""
    key_id = new_empty_key(kms)
    first, second = parameters_for(kms, key_id), parameters_for(kms, key_id)
    assert first.public_key != second.public_key
    assert first.import_token != second.import_token
    assert first.parameters_valid_to == START + HOURS_24
    assert wrapped.load(first.public_key).key_size == 2048


def test_parameters_at_any_time(kms: Kms) -> None:
    """Parameters can be had for a key that has its material and for a disabled one, not while it waits for its end."""
    key_id = new_imported_key(kms)
    disable(kms, key_id)
    assert parameters_for(kms, key_id).import_token
    schedule(kms, key_id)
    with pytest.raises(KMSInvalidStateException):
        parameters_for(kms, key_id)


def test_valid_to_the_second(kms: Kms, clock: StoppedClock) -> None:
    """Import token and wrapping key are good for 24 hours and not a second longer; then a sweep destroys the key."""
    key_id = new_empty_key(kms)
    request = request_to_import(kms, key_id)
    clock.now = START + HOURS_24 - timedelta(seconds=1)
    kms.import_key_material(request)
    clock.now = START + HOURS_24
    with pytest.raises(ExpiredImportTokenException, match="get new parameters"):
        kms.import_key_material(request)
    assert [step for step in sweep(kms) if step[0] is StepKind.WRAPPING_KEY] == [
        (StepKind.WRAPPING_KEY, key_id, StepOutcome.DONE)
    ]
    objects = kms._core.device.keys.inventory(mac_key(kms))
    assert [each for each in objects if not each.is_secret_key] == []


def test_import_token_is_tied(kms: Kms) -> None:
    """A token of another key, a damaged one and garbage are refused; so is one whose wrapping key has gone."""
    key_id, other = new_empty_key(kms), new_empty_key(kms)
    request = request_to_import(kms, key_id)
    with pytest.raises(InvalidImportTokenException, match="belongs to another key"):
        kms.import_key_material(msgspec.structs.replace(request, key_id=other))
    token = request.import_token
    for damaged in (
        b"x",
        token[:-1],
        token + b"x",
        bytes((token[0] ^ 1,)) + token[1:],
        token[:-1] + bytes((token[-1] ^ 1,)),
    ):
        with pytest.raises(InvalidImportTokenException):
            kms.import_key_material(msgspec.structs.replace(request, import_token=damaged))
    schedule(kms, other)
    assert described(kms, key_id).key_state == KeyState.PENDING_IMPORT


def test_every_byte_of_a_token_counts(kms: Kms) -> None:
    """Whatever bit of an import token is changed, it is refused."""
    request = request_to_import(kms, new_empty_key(kms))
    for place in range(0, len(request.import_token), 5):
        changed = bytearray(request.import_token)
        changed[place] ^= 0x40
        with pytest.raises(InvalidImportTokenException):
            kms.import_key_material(msgspec.structs.replace(request, import_token=bytes(changed)))


def test_four_for_a_key(kms: Kms, clock: StoppedClock) -> None:
    """At most 4 wrapping keys live for one key; a fifth replaces one that has done its work, else the oldest."""
    key_id = new_empty_key(kms)
    requests = []
    for _ in range(rules.MAX_LIVE_PER_KEY):
        clock.advance(seconds=1)
        requests.append(request_to_import(kms, key_id))
    kms.import_key_material(requests[1])
    assert parameters_for(kms, key_id).import_token
    with pytest.raises(ExpiredImportTokenException, match="does not exist any more"):
        kms.import_key_material(requests[1])
    assert parameters_for(kms, key_id).import_token
    with pytest.raises(ExpiredImportTokenException, match="does not exist any more"):
        kms.import_key_material(requests[0])
    kms.import_key_material(requests[2])
    with kms._core.store.reading() as conn:
        live = [wrapping_key for wrapping_key in wrapping_keys(conn) if wrapping_key.key_id == key_id]
    assert len(live) == rules.MAX_LIVE_PER_KEY


def test_a_share_of_a_key(kms: Kms, clock: StoppedClock) -> None:
    """Repeated requests for wrapping keys replace only those of the same caller; another caller's import goes on."""
    key_id = new_empty_key(kms)
    flooding, other = (importer(kms, name) for name in ("flooding", "other"))
    begun = request_to_import(kms, key_id, caller=other)
    asked = []
    for _ in range(2 * rules.MAX_LIVE_PER_KEY):
        clock.advance(seconds=1)
        asked.append(request_to_import(kms, key_id, caller=flooding))
    with pytest.raises(ExpiredImportTokenException, match="does not exist any more"):
        kms.import_key_material(asked[0])
    kms.import_key_material(begun)
    kms.import_key_material(asked[-1])


def test_so_many_in_all(kms: Kms, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """In all there are no more than the limit: the principal with most of them loses the oldest, and others go on."""
    monkeypatch.setattr(rules, "MAX_LIVE", 3)
    greedy, modest = (importer(kms, name) for name in ("greedy", "modest"))

    def ask(caller: Caller) -> ImportKeyMaterialRequest:
        clock.advance(seconds=1)
        return request_to_import(kms, new_empty_key(kms), caller=caller)

    taken = [ask(greedy) for _ in range(3)]
    late = ask(modest)
    with pytest.raises(ExpiredImportTokenException, match="does not exist any more"):
        kms.import_key_material(taken[0])
    taken.append(ask(greedy))
    with pytest.raises(ExpiredImportTokenException, match="does not exist any more"):
        kms.import_key_material(taken[1])
    for each in (*taken[2:], late):
        kms.import_key_material(each)


def test_algorithms(kms: Kms) -> None:
    """PKCS #1 v1.5 is refused for good, and what this token cannot do is refused with the list of what it can."""
    key_id = new_empty_key(kms)
    for algorithm in ("RSAES_PKCS1_V1_5", "RSAES_OAEP_SHA_256", "RSA_AES_KEY_WRAP_SHA_256"):
        request = GetParametersForImportRequest(
            key_id=key_id, wrapping_algorithm=algorithm, wrapping_key_spec="RSA_2048"
        )
        with pytest.raises(UnsupportedOperationException, match=r"RSAES_OAEP_SHA_1, RSA_AES_KEY_WRAP_SHA_1"):
            kms.get_parameters_for_import(request)


# -- the material ---------------------------------------------------------------------------------------------------


def test_import(kms: Kms) -> None:
    """Once imported the key is Enabled and works; it shows its material's id; one object is on the token."""
    key_id = new_empty_key(kms)
    material_id = import_(kms, key_id)
    shown = described(kms, key_id)
    assert (shown.key_state, shown.current_key_material_id) == (KeyState.ENABLED, material_id)
    assert (shown.expiration_model, shown.valid_to) == (ExpirationModel.KEY_MATERIAL_DOES_NOT_EXPIRE, None)
    assert unseal(kms, seal(kms, key_id)) == b"secret"
    assert backing_keys(kms)[key_id] == 1
    (attested,) = kms.operator.attest(key_id)
    assert (attested.as_made, attested.imported, attested.host_unwrapped) == (True, True, False)


@pytest.mark.parametrize("algorithm", list(wrapped.HASHES))
def test_every_algorithm_brings_the_same(today: Kms, algorithm: WrappingAlgorithm) -> None:
    """Whatever the algorithm, the material is the same; what this program unwrapped stays marked."""
    key_id = new_imported_key(today)
    request = GetParametersForImportRequest(key_id=key_id, wrapping_algorithm=algorithm, wrapping_key_spec="RSA_2048")
    parameters = today.get_parameters_for_import(request)
    answer = today.import_key_material(
        ImportKeyMaterialRequest(
            key_id=key_id,
            import_token=parameters.import_token,
            encrypted_key_material=wrapped.wrap(parameters.public_key, algorithm, MATERIAL),
            expiration_model="KEY_MATERIAL_DOES_NOT_EXPIRE",
        )
    )
    assert answer.key_material_id == described(today, key_id).current_key_material_id
    (attested,) = today.operator.attest(key_id)
    assert attested.host_unwrapped == algorithm.endswith("SHA_256")


@pytest.mark.parametrize("length", [0, 5, 16, 24, 31, 33, 64])
def test_wrong_lengths(kms: Kms, length: int) -> None:
    """Material must have exactly 32 bytes; nothing of any other stays on the token."""
    key_id = new_empty_key(kms)
    with pytest.raises(HsmKmsError) as caught:
        import_(kms, key_id, bytes(length))
    assert caught.value.code == "IncorrectKeyMaterialException"
    assert backing_keys(kms)[key_id] == 0
    assert described(kms, key_id).key_state == KeyState.PENDING_IMPORT


def test_what_cannot_be_opened(kms: Kms) -> None:
    """Material for another wrapping key, and damage, are an InvalidCiphertextException."""
    key_id = new_empty_key(kms)
    request, other = request_to_import(kms, key_id), request_to_import(kms, key_id)
    for ciphertext in (other.encrypted_key_material, b"x", request.encrypted_key_material[:-1], bytes(256)):
        with pytest.raises(HsmKmsError) as caught:
            kms.import_key_material(msgspec.structs.replace(request, encrypted_key_material=ciphertext))
        assert caught.value.code == InvalidCiphertextException.code


def test_disabled_key_stays_disabled(kms: Kms) -> None:
    """Importing again into a disabled key leaves it disabled."""
    key_id = new_imported_key(kms)
    disable(kms, key_id)
    import_(kms, key_id)
    assert described(kms, key_id).key_state == KeyState.DISABLED
    enable(kms, key_id)
    assert unseal(kms, seal(kms, key_id)) == b"secret"


def test_tied_to_its_key(kms: Kms) -> None:
    """No other material may replace it, before and after its deletion; the same comes back and opens what it made."""
    key_id = new_empty_key(kms)
    material_id = import_(kms, key_id)
    sealed = seal(kms, key_id)
    for import_type in (None, "NEW_KEY_MATERIAL", "EXISTING_KEY_MATERIAL"):
        with pytest.raises(IncorrectKeyMaterialException, match="no other may replace it"):
            import_(kms, key_id, OTHER, import_type=import_type)
    delete_material(kms, key_id)
    with pytest.raises(IncorrectKeyMaterialException):
        import_(kms, key_id, OTHER)
    kms_id = described(kms, key_id).current_key_material_id
    assert import_(kms, key_id) == material_id == kms_id
    assert unseal(kms, sealed) == b"secret"


def test_same_bytes_in_another_key(kms: Kms) -> None:
    """Another key may hold the same bytes: it has another material id, and cannot open this key's ciphertext."""
    first, second = new_imported_key(kms), new_imported_key(kms)
    assert described(kms, first).current_key_material_id != described(kms, second).current_key_material_id
    sealed = bytearray(seal(kms, first))
    place = bytes(sealed).index(first.encode())
    sealed[place : place + len(first)] = second.encode()
    with pytest.raises(InvalidCiphertextException):
        unseal(kms, bytes(sealed))


def test_description(today: Kms) -> None:
    """A description is kept until another one is given."""
    key_id = new_empty_key(today)
    import_(today, key_id, key_material_description="from the vault")
    import_(today, key_id)
    (shown,) = rotations(today, key_id, include_key_material="ALL_KEY_MATERIAL")
    assert shown.key_material_description == "from the vault"
    import_(today, key_id, key_material_description="from the safe")
    (shown,) = rotations(today, key_id, include_key_material="ALL_KEY_MATERIAL")
    assert shown.key_material_description == "from the safe"
    with pytest.raises(ValidationException):
        import_(today, key_id, key_material_description="x" * 257)


# -- expiry ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"expiration_model": None}, "must be set"),
        ({"expiration_model": "KEY_MATERIAL_EXPIRES"}, "must be set"),
        ({"valid_to": START, "expiration_model": "KEY_MATERIAL_DOES_NOT_EXPIRE"}, "must not be set"),
        ({"valid_to": START, "expiration_model": None}, "in the future"),
        ({"valid_to": START - HOURS_24, "expiration_model": "KEY_MATERIAL_EXPIRES"}, "in the future"),
    ],
)
def test_expiry_that_makes_no_sense(kms: Kms, members: dict[str, object], words: str) -> None:
    """Model and date must fit together, and the date must lie ahead."""
    request = request_to_import(kms, new_empty_key(kms))
    with pytest.raises(ValidationException, match=words):
        kms.import_key_material(msgspec.structs.replace(request, **members))


def test_a_year_at_most_in_todays_aws(today: Kms) -> None:
    """Where it is set, ValidTo lies at most 365 days ahead."""
    key_id = new_empty_key(today)
    with pytest.raises(ValidationException, match="at most 365 days"):
        import_(today, key_id, valid_to=START + timedelta(days=366))
    import_(today, key_id, valid_to=START + timedelta(days=365))


def test_expiry_to_the_instant(kms: Kms, clock: StoppedClock) -> None:
    """At ValidTo the key is PendingImport without any sweep; a clock that is set back does not bring it back."""
    ends = START + timedelta(hours=5)
    key_id = new_imported_key(kms, valid_to=ends)
    sealed = seal(kms, key_id)
    assert described(kms, key_id).valid_to == ends
    clock.now = ends - timedelta(seconds=1)
    assert unseal(kms, sealed) == b"secret"
    clock.now = ends
    with pytest.raises(KMSInvalidStateException, match="is pending import"):
        unseal(kms, sealed)
    shown = described(kms, key_id)
    assert (shown.key_state, shown.valid_to, shown.expiration_model) == (KeyState.PENDING_IMPORT, None, None)
    clock.now = START
    with pytest.raises(KMSInvalidStateException):
        unseal(kms, sealed)
    assert backing_keys(kms)[key_id] == 1
    clock.now = ends
    assert (StepKind.DESTRUCTION, key_id, StepOutcome.DONE) in sweep(kms)
    assert backing_keys(kms)[key_id] == 0
    import_(kms, key_id)
    assert unseal(kms, sealed) == b"secret"


def test_expiry_in_a_sweep(kms: Kms, clock: StoppedClock) -> None:
    """A sweep stores the expiry of an unused key, and destroys its object; nothing else changes."""
    ends = START + timedelta(hours=5)
    key_id = new_imported_key(kms, valid_to=ends)
    before = described(kms, key_id)
    clock.now = ends
    done = sweep(kms)
    assert [each[0] for each in done] == [StepKind.EXPIRY, StepKind.DESTRUCTION]
    changes = {"key_state": KeyState.PENDING_IMPORT, "enabled": False, "valid_to": None, "expiration_model": None}
    assert described(kms, key_id) == msgspec.structs.replace(before, **changes)


def test_import_again_changes_the_expiry(kms: Kms, clock: StoppedClock) -> None:
    """The same material may come again without being deleted first: only its expiry changes, and no object is made."""
    key_id = new_imported_key(kms, valid_to=START + timedelta(hours=5))
    objects = backing_keys(kms)
    import_(kms, key_id)
    assert described(kms, key_id).expiration_model == ExpirationModel.KEY_MATERIAL_DOES_NOT_EXPIRE
    assert backing_keys(kms) == objects
    clock.now = START + timedelta(hours=6)
    assert unseal(kms, seal(kms, key_id)) == b"secret"


# -- the way out ----------------------------------------------------------------------------------------------------


def test_deleted_at_once(kms: Kms) -> None:
    """Deleting destroys the object at once; description, tags, alias and the id of the material stay."""
    key_id = new_imported_key(kms)
    new_alias(kms, "alias/gone", key_id)
    material_id = described(kms, key_id).current_key_material_id
    answer = kms.delete_imported_key_material(DeleteImportedKeyMaterialRequest(key_id=key_id))
    assert answer.key_material_id == material_id
    assert backing_keys(kms)[key_id] == 0
    shown = described(kms, "alias/gone")
    assert (shown.key_state, shown.current_key_material_id) == (KeyState.PENDING_IMPORT, material_id)
    assert (shown.expiration_model, shown.valid_to) == (None, None)


def test_deleting_nothing(kms: Kms) -> None:
    """On a key without material it succeeds and changes nothing; a material that is not its own is not found."""
    key_id = new_empty_key(kms)
    delete_material(kms, key_id)
    assert described(kms, key_id).key_state == KeyState.PENDING_IMPORT
    import_(kms, key_id)
    delete_material(kms, key_id)
    delete_material(kms, key_id)
    with pytest.raises(NotFoundException, match="has no key material"):
        kms.delete_imported_key_material(DeleteImportedKeyMaterialRequest(key_id=key_id, key_material_id="a" * 64))


# -- more than one material (today's AWS) ---------------------------------------------------------------------------


def states(kms: Kms, key_id: str) -> list[MaterialState]:
    """The states of a key's materials, oldest first."""
    return [
        MaterialState(rotation.key_material_state)
        for rotation in rotations(kms, key_id, include_key_material="ALL_KEY_MATERIAL")
    ]


def test_second_material(today: Kms) -> None:
    """A second material waits while the first works; a rotation on demand makes it current, and both decrypt."""
    key_id = new_imported_key(today)
    old = seal(today, key_id)
    with pytest.raises(KMSInvalidStateException, match="No available key material pending rotation"):
        rotate(today, key_id)
    waiting = import_(today, key_id, OTHER, import_type="NEW_KEY_MATERIAL")
    assert states(today, key_id) == [MaterialState.CURRENT, MaterialState.PENDING_ROTATION]
    assert described(today, key_id).current_key_material_id != waiting
    rotate(today, key_id)
    assert states(today, key_id) == [MaterialState.NON_CURRENT, MaterialState.CURRENT]
    assert described(today, key_id).current_key_material_id == waiting
    assert unseal(today, old) == unseal(today, seal(today, key_id)) == b"secret"


def test_one_waits_at_most(today: Kms) -> None:
    """While one material is pending no other is accepted; a pending one can be deleted, then another is accepted."""
    key_id = new_imported_key(today)
    waiting = import_(today, key_id, OTHER, import_type="NEW_KEY_MATERIAL")
    third = bytes(range(50, 82))
    with pytest.raises(KMSInvalidStateException, match="is pending rotation"):
        import_(today, key_id, third, import_type="NEW_KEY_MATERIAL")
    today.delete_imported_key_material(DeleteImportedKeyMaterialRequest(key_id=key_id, key_material_id=waiting))
    assert described(today, key_id).key_state == KeyState.ENABLED
    assert backing_keys(today)[key_id] == 1
    import_(today, key_id, third, import_type="NEW_KEY_MATERIAL")
    assert states(today, key_id) == [MaterialState.CURRENT, MaterialState.PENDING_ROTATION]


def test_describe_key_of_several_materials(today: Kms) -> None:
    """ValidTo is the earliest of the materials that ever were current: one that waits for its rotation has no say."""
    key_id = new_empty_key(today)
    import_(today, key_id)
    early, late = START + timedelta(days=2), START + timedelta(days=9)

    def shown_expiry() -> tuple[object, object]:
        metadata = described(today, key_id)
        return metadata.expiration_model, metadata.valid_to

    import_(today, key_id, OTHER, import_type="NEW_KEY_MATERIAL", valid_to=early)
    assert shown_expiry() == (ExpirationModel.KEY_MATERIAL_DOES_NOT_EXPIRE, None)
    rotate(today, key_id)
    assert shown_expiry() == (ExpirationModel.KEY_MATERIAL_EXPIRES, early)
    import_(today, key_id, valid_to=late)
    assert shown_expiry() == (ExpirationModel.KEY_MATERIAL_EXPIRES, early)
    import_(today, key_id, OTHER)
    assert shown_expiry() == (ExpirationModel.KEY_MATERIAL_EXPIRES, late)


def test_all_that_ever_were_current_must_be_there(today: Kms, clock: StoppedClock) -> None:
    """A former material that is deleted or expires stops the key until it is back."""
    key_id = new_empty_key(today)
    first = import_(today, key_id, valid_to=START + timedelta(days=2))
    old = seal(today, key_id)
    import_(today, key_id, OTHER, import_type="NEW_KEY_MATERIAL")
    rotate(today, key_id)
    clock.advance(days=2)
    assert described(today, key_id).key_state == KeyState.PENDING_IMPORT
    assert import_(today, key_id, import_type="EXISTING_KEY_MATERIAL") == first
    assert described(today, key_id).key_state == KeyState.ENABLED
    today.delete_imported_key_material(DeleteImportedKeyMaterialRequest(key_id=key_id, key_material_id=first))
    with pytest.raises(KMSInvalidStateException, match="is pending import"):
        seal(today, key_id)
    import_(today, key_id, key_material_id=first)
    assert unseal(today, old) == b"secret"


def test_import_type_by_default(today: Kms) -> None:
    """New for the first material, existing for all later ones; what was imported is not new."""
    key_id = new_empty_key(today)
    with pytest.raises(IncorrectKeyMaterialException, match="No key material was ever imported"):
        import_(today, key_id, import_type="EXISTING_KEY_MATERIAL")
    import_(today, key_id)
    with pytest.raises(IncorrectKeyMaterialException):
        import_(today, key_id, OTHER)
    with pytest.raises(IncorrectKeyMaterialException, match="belongs to"):
        import_(today, key_id, import_type="NEW_KEY_MATERIAL")


def test_import_after_a_cancelled_deletion(kms: Kms) -> None:
    """A key that is PendingImport is Enabled by its first import, also if its deletion was scheduled and cancelled."""
    key_id = new_empty_key(kms)
    schedule(kms, key_id)
    cancel(kms, key_id)
    assert described(kms, key_id).key_state == KeyState.PENDING_IMPORT
    kms.import_key_material(request_to_import(kms, key_id))
    assert described(kms, key_id).key_state == KeyState.ENABLED
