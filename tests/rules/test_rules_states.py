"""Key states against a second table, typed by hand from the reference."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from hsmkms.errors import (
    DisabledException,
    KMSInvalidStateException,
    MisuseError,
    UnsupportedOperationException,
)
from hsmkms.model.enums import KeyState, MaterialState, Operation, Origin
from hsmkms.model.records import KeyRecord, MaterialRecord
from hsmkms.rules import states
from hsmkms.rules.states import ADMISSION, TRANSITIONS, Event, admit, effective_state, expires_at, next_state

NOW = datetime(2026, 6, 1, tzinfo=UTC)
ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

# AWS KMS Developer Guide, "Key state table"; numbers are its footnotes, ok is admission. Where it offers two
# footnotes, the one that we answer; [7] and [9] in cells that depend on the origin alone are ok here.
HEAD = "Enabled Disabled PendingDeletion PendingReplicaDeletion PendingImport Unavailable Creating Updating"
MATRIX = """
CancelKeyDeletion                    4   4   ok  ok  4   4   4   4
CreateAlias                          ok  ok  3   3   ok  ok  ok  ok
TagResource                          ok  ok  3   3   ok  ok  ok  ok
UntagResource                        ok  ok  3   3   ok  ok  ok  ok
UpdateKeyDescription                 ok  ok  3   3   ok  ok  ok  ok
CreateGrant                          ok  1   3   3   5   ok  14  ok
Decrypt                              ok  1   3   3   5   11  14  ok
Encrypt                              ok  1   3   3   5   11  14  ok
GenerateDataKey                      ok  1   3   3   5   11  14  ok
GenerateDataKeyWithoutPlaintext      ok  1   3   3   5   11  14  ok
ReEncrypt                            ok  1   3   3   5   11  14  ok
DeleteAlias                          ok  ok  ok  ok  ok  ok  ok  ok
DescribeKey                          ok  ok  ok  ok  ok  ok  ok  ok
GetKeyLastUsage                      ok  ok  ok  ok  ok  ok  ok  ok
GetKeyPolicy                         ok  ok  ok  ok  ok  ok  ok  ok
ListAliases                          ok  ok  ok  ok  ok  ok  ok  ok
ListGrants                           ok  ok  ok  ok  ok  ok  ok  ok
ListKeyPolicies                      ok  ok  ok  ok  ok  ok  ok  ok
ListResourceTags                     ok  ok  ok  ok  ok  ok  ok  ok
PutKeyPolicy                         ok  ok  ok  ok  ok  ok  ok  ok
RetireGrant                          ok  ok  ok  ok  ok  ok  ok  ok
RevokeGrant                          ok  ok  ok  ok  ok  ok  ok  ok
DeleteImportedKeyMaterial            ok  ok  ok  ok  ok  9   14  15
DeriveSharedSecret                   ok  1   3   3   5   11  14  ok
GenerateMac                          ok  1   3   3   5   11  14  ok
Sign                                 ok  1   3   3   5   11  14  ok
UpdatePrimaryRegion                  ok  1   3   3   5   11  14  ok
Verify                               ok  1   3   3   5   11  14  ok
VerifyMac                            ok  1   3   3   5   11  14  ok
Encapsulate                          ok  1   3   3   5   11  14  ok
Decapsulate                          ok  1   3   3   5   11  14  ok
DisableKey                           ok  ok  3   3   5   ok  14  15
EnableKey                            ok  ok  3   3   5   ok  14  15
DisableKeyRotation                   ok  1   3   3   6   7   14  ok
EnableKeyRotation                    ok  1   3   3   6   7   14  ok
GenerateDataKeyPair                  ok  1   3   3   5   7   14  ok
GenerateDataKeyPairWithoutPlaintext  ok  1   3   3   5   7   14  ok
GetKeyRotationStatus                 ok  ok  ok  ok  6   7   ok  ok
GetParametersForImport               ok  ok  3   3   ok  9   14  15
GetPublicKey                         ok  ok  3   3   ok  11  14  ok
ImportKeyMaterial                    ok  ok  3   3   ok  9   14  ok
ListKeyRotations                     ok  ok  ok  ok  ok  7   ok  ok
ReplicateKey                         ok  1   3   3   5   11  14  15
RotateKeyOnDemand                    ok  1   3   3   5   7   14  ok
ScheduleKeyDeletion                  ok  ok  3   3   ok  ok  ok  15
UpdateAlias                          ok  ok  ok  ok  ok  ok  ok  ok
"""
FOOTNOTES: dict[str, tuple[type[Exception], str]] = {
    "1": (DisabledException, f"{ARN} is disabled."),
    "3": (KMSInvalidStateException, f"{ARN} is pending deletion (or pending replica deletion)."),
    "4": (KMSInvalidStateException, f"{ARN} is not pending deletion (or pending replica deletion)."),
    "5": (KMSInvalidStateException, f"{ARN} is pending import."),
    "6": (UnsupportedOperationException, f"{ARN} origin is EXTERNAL which is not valid for this operation."),
    "7": (UnsupportedOperationException, f"{ARN} is in a custom key store which is not valid for this operation."),
    "9": (UnsupportedOperationException, f"{ARN} origin is AWS_CLOUDHSM which is not valid for this operation."),
    "11": (KMSInvalidStateException, f"{ARN} is unavailable."),
    "14": (KMSInvalidStateException, f"{ARN} is creating."),
    "15": (KMSInvalidStateException, f"{ARN} is updating."),
}
WITHOUT_KEY = """
CreateKey ListKeys ListRetirableGrants GenerateRandom CreateCustomKeyStore ConnectCustomKeyStore
DisconnectCustomKeyStore DescribeCustomKeyStores UpdateCustomKeyStore DeleteCustomKeyStore
"""
COLUMNS = HEAD.split()
ORIGINS = {"PendingImport": Origin.EXTERNAL, "Unavailable": Origin.AWS_CLOUDHSM}
ROWS = [line.split() for line in MATRIX.strip().splitlines()]
CELLS = [(row[0], state, cell) for row in ROWS for state, cell in zip(COLUMNS, row[1:], strict=True)]

# AWS KMS Developer Guide, transitions, and the repetitions that its operations allow. What is absent cannot happen:
# Unavailable belongs to custom key stores, and a change of the primary Region is one transaction, without Updating.
E, D, PD, PRD, PI, _, CR, _ = COLUMNS
STEPS = {
    "ENABLE": {E: E, D: E},
    "DISABLE": {E: D, D: D},
    "IMPORT_COMPLETE": {PI: E, E: E, D: D},
    "IMPORT_PARTIAL": {PI: PI},
    "MATERIAL_LOST": {E: PI, D: PI, PI: PI, PD: PD, PRD: PRD},
    "SCHEDULE_DELETION": {E: PD, D: PD, PI: PD, CR: PD},
    "SCHEDULE_DELETION_WITH_REPLICAS": {E: PRD, D: PRD, PI: PRD},
    "LAST_REPLICA_GONE": {PRD: PD},
    "CANCEL_DELETION": {PD: D, PRD: D},
    "REPLICA_READY": {CR: E},
    "REPLICA_READY_WITHOUT_MATERIAL": {CR: PI},
}


@pytest.mark.parametrize(("operation", "state", "cell"), CELLS)
def test_admission_is_the_reference(make_key: Callable[..., KeyRecord], operation: str, state: str, cell: str) -> None:
    """Each operation in each state is admitted, or refused with the error and message of the reference."""
    key = make_key(state=KeyState(state), origin=ORIGINS.get(state, Origin.AWS_KMS))
    before = replace(key)
    if cell == "ok":
        admit(Operation(operation), key, NOW)
    else:
        error, message = FOOTNOTES[cell]
        with pytest.raises(error) as caught:
            admit(Operation(operation), key, NOW)
        assert type(caught.value) is error
        assert str(caught.value) == message
    assert key == before


def test_every_operation_and_state_is_decided() -> None:
    """The reference's rows, with the operations that need no key, are all operations; every row has every state."""
    typed = {row[0] for row in ROWS}
    assert len(typed) == len(ROWS)
    assert typed | set(WITHOUT_KEY.split()) == set(Operation)
    assert set(ADMISSION) == typed
    assert all(set(row) == set(KeyState) for row in ADMISSION.values())


@pytest.mark.parametrize("operation", WITHOUT_KEY.split())
def test_operations_without_a_key_have_no_admission(make_key: Callable[..., KeyRecord], operation: str) -> None:
    """Asking for the admission of an operation that acts on no key is a bug and never an allowance."""
    with pytest.raises(KeyError):
        admit(Operation(operation), make_key(), NOW)


@pytest.mark.parametrize("event", list(Event))
@pytest.mark.parametrize("state", list(KeyState))
def test_transitions_are_the_reference(state: KeyState, event: Event) -> None:
    """Each event in each state leads to the state of the reference, or is refused as a bug."""
    expected = STEPS[event.name].get(state)
    if expected is None:
        with pytest.raises(MisuseError) as caught:
            next_state(state, event)
        assert str(caught.value) == f"the event {event.name} cannot happen to a key in state {state}"
    else:
        assert next_state(state, event) is KeyState(expected)


def test_every_event_can_happen() -> None:
    """The table of transitions names every event at least once."""
    assert {event for _, event in TRANSITIONS} == set(Event)


def test_every_event_is_fired() -> None:
    """Some procedure fires each event: no row of the table stands for what never happens."""
    package = Path(states.__file__).parents[1]
    texts = [file.read_text() for file in package.rglob("*.py") if file != Path(states.__file__)]
    fired = {name for text in texts for name in re.findall(r"\bEvent\.([A-Z_]+)", text)}
    assert fired == {event.name for event in Event}


@pytest.mark.parametrize("state", [KeyState.ENABLED, KeyState.DISABLED])
@pytest.mark.parametrize("place", [MaterialState.CURRENT, MaterialState.NON_CURRENT])
@pytest.mark.parametrize(
    "changes", [{"present": False}, {"valid_to": NOW}, {"valid_to": NOW - timedelta(days=1)}], ids=str
)
def test_lapse_of_an_associated_material_is_pending_import(
    make_key: Callable[..., KeyRecord],
    make_material: Callable[..., MaterialRecord],
    state: KeyState,
    place: MaterialState,
    changes: dict[str, object],
) -> None:
    """An imported key is PendingImport from the instant at which a current or older material is missing."""
    other = MaterialState.CURRENT if place is MaterialState.NON_CURRENT else MaterialState.NON_CURRENT
    materials = (make_material(state=place, **changes), make_material(state=other, sequence=2))
    key = make_key(origin=Origin.EXTERNAL, state=state, materials=materials)
    before = replace(key)
    assert effective_state(key, NOW) is KeyState.PENDING_IMPORT
    with pytest.raises(KMSInvalidStateException) as caught:
        admit(Operation.ENCRYPT, key, NOW)
    assert str(caught.value) == f"{ARN} is pending import."
    assert key == before


def test_material_is_usable_until_its_instant(
    make_key: Callable[..., KeyRecord], make_material: Callable[..., MaterialRecord]
) -> None:
    """One microsecond before ValidTo the key is Enabled, and at ValidTo it is not."""
    key = make_key(origin=Origin.EXTERNAL, materials=(make_material(valid_to=NOW),))
    assert effective_state(key, NOW - timedelta(microseconds=1)) is KeyState.ENABLED
    assert effective_state(key, NOW) is KeyState.PENDING_IMPORT


@pytest.mark.parametrize(
    "place", [MaterialState.PENDING_ROTATION, MaterialState.PENDING_MULTI_REGION_IMPORT_AND_ROTATION]
)
def test_waiting_material_does_not_count(
    make_key: Callable[..., KeyRecord], make_material: Callable[..., MaterialRecord], place: MaterialState
) -> None:
    """Material that only waits for a rotation may be missing, and alone it makes no key usable."""
    waiting = make_material(state=place, present=False, sequence=2)
    enabled = make_key(origin=Origin.EXTERNAL, materials=(make_material(), waiting))
    assert effective_state(enabled, NOW) is KeyState.ENABLED
    alone = make_key(origin=Origin.EXTERNAL, materials=(make_material(state=place),))
    assert effective_state(alone, NOW) is KeyState.PENDING_IMPORT


def test_key_that_never_had_material_cannot_be_enabled(make_key: Callable[..., KeyRecord]) -> None:
    """After a cancelled deletion an imported key without any material is PendingImport, not Disabled."""
    key = make_key(origin=Origin.EXTERNAL, state=next_state(KeyState.PENDING_DELETION, Event.CANCEL_DELETION))
    assert effective_state(key, NOW) is KeyState.PENDING_IMPORT
    with pytest.raises(KMSInvalidStateException) as caught:
        admit(Operation.ENABLE_KEY, key, NOW)
    assert str(caught.value) == f"{ARN} is pending import."


@pytest.mark.parametrize("state", sorted(set(KeyState) - {KeyState.ENABLED, KeyState.DISABLED}))
def test_other_states_do_not_change_by_time(
    make_key: Callable[..., KeyRecord], make_material: Callable[..., MaterialRecord], state: KeyState
) -> None:
    """A lapse changes no state but Enabled and Disabled: a key pending deletion stays so."""
    key = make_key(origin=Origin.EXTERNAL, state=state, materials=(make_material(present=False),))
    assert effective_state(key, NOW) is state


def test_generated_material_never_lapses(
    make_key: Callable[..., KeyRecord], make_material: Callable[..., MaterialRecord]
) -> None:
    """The state of a generated key does not depend on its materials."""
    assert effective_state(make_key(materials=(make_material(present=False),)), NOW) is KeyState.ENABLED


def test_key_expires_with_the_first_of_its_materials(
    make_key: Callable[..., KeyRecord], make_material: Callable[..., MaterialRecord]
) -> None:
    """The earliest ValidTo of what is or was current counts; material that waits for its rotation has no say."""
    early, late = NOW, NOW + timedelta(microseconds=1)
    for dates, expected in (((None, None), None), ((None, late), late), ((early, late), early), ((late, early), early)):
        former = make_material(state=MaterialState.NON_CURRENT, valid_to=dates[0])
        current = make_material(sequence=2, valid_to=dates[1])
        waiting = make_material(sequence=3, state=MaterialState.PENDING_ROTATION, valid_to=NOW - timedelta(days=1))
        assert expires_at(make_key(origin=Origin.EXTERNAL, materials=(former, current, waiting))) == expected
    assert expires_at(make_key()) is None
