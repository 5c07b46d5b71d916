"""Operations that are for some keys only, against a table typed by hand from the reference."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from hsmkms.errors import DisabledException, KMSInvalidStateException, UnsupportedOperationException
from hsmkms.model.enums import KeySpec, KeyState, Operation, Origin
from hsmkms.model.records import KeyRecord
from hsmkms.rules.kinds import ADMIT, CHECKS, STATE_FIRST
from hsmkms.rules.states import ADMISSION

NOW = datetime(2026, 1, 2, tzinfo=UTC)

# Columns: symmetric and generated, symmetric and imported, RSA and generated, HMAC and imported; the primary key and
# a replica of a set of generated symmetric keys.
HEAD: tuple[dict[str, object], ...] = (
    {},
    {"origin": Origin.EXTERNAL},
    {"spec": KeySpec.RSA_2048},
    {"spec": KeySpec.HMAC_256, "origin": Origin.EXTERNAL},
    {"multi_region": True, "primary_region": "eu-central-1"},
    {"multi_region": True, "primary_region": "us-east-1"},
)
TABLE = {
    "EnableKeyRotation": "ok origin spec spec ok role",
    "DisableKeyRotation": "ok origin spec spec ok role",
    "ListKeyRotations": "ok ok spec spec ok ok",
    "RotateKeyOnDemand": "ok ok spec spec ok role",
    "GetParametersForImport": "origin ok origin ok origin origin",
    "ImportKeyMaterial": "origin ok origin ok origin origin",
    "DeleteImportedKeyMaterial": "origin ok origin ok origin origin",
    "ReplicateKey": "role role role role ok role",
    "UpdatePrimaryRegion": "role role role role ok role",
}
SENTENCES = {
    "spec": "only symmetric encryption keys rotate",
    "origin": "which is not valid for this operation",
    "role": "is not a multi-region primary key",
}
CELLS = [
    (operation, kind, cell) for operation, row in TABLE.items() for kind, cell in zip(HEAD, row.split(), strict=True)
]


WRONG = [each for each in CELLS if each[2] != "ok" and "origin" not in each[1]]
FIRST_JUDGED = {
    "EnableKeyRotation": "state",
    "DisableKeyRotation": "state",
    "RotateKeyOnDemand": "state",
}
REFUSING_STATES = {KeyState.DISABLED: DisabledException, KeyState.PENDING_DELETION: KMSInvalidStateException}


def admit(operation: Operation, key: KeyRecord, now: datetime) -> None:
    """Admit an operation as the pipeline does."""
    ADMIT[operation](operation, key, now)


@pytest.mark.parametrize(("operation", "kind", "cell"), CELLS)
def test_kinds_are_the_reference(
    make_key: Callable[..., KeyRecord], operation: str, kind: dict[str, object], cell: str
) -> None:
    """Every kind of key admits the operation, or refuses it for its spec, origin or role."""
    key = make_key(**kind)
    if cell == "ok":
        CHECKS[Operation(operation)](key)
        return
    with pytest.raises(UnsupportedOperationException, match=SENTENCES[cell]):
        CHECKS[Operation(operation)](key)


@pytest.mark.parametrize("state", REFUSING_STATES)
@pytest.mark.parametrize(("operation", "kind", "cell"), WRONG)
def test_what_is_judged_first(
    make_key: Callable[..., KeyRecord], operation: str, kind: dict[str, object], cell: str, state: KeyState
) -> None:
    """Of a key of the wrong kind and in the wrong state, what starts or sets rotation names the state, others the kind.

    Without the imported ones, whose state depends on their material.
    """
    key = make_key(**kind, state=state)
    if FIRST_JUDGED.get(operation) == "state":
        with pytest.raises(REFUSING_STATES[state]):
            admit(Operation(operation), key, NOW)
        return
    with pytest.raises(UnsupportedOperationException, match=SENTENCES[cell]):
        admit(Operation(operation), key, NOW)


def test_state_first_is_the_reference() -> None:
    """The table of what judges the state first is the one typed by hand."""
    assert {str(operation) for operation in STATE_FIRST} == set(FIRST_JUDGED)


def test_all_others_are_for_every_key(make_key: Callable[..., KeyRecord]) -> None:
    """Operations outside the table ask nothing of the kind of key."""
    assert {str(check) for check in CHECKS} == set(TABLE)
    key = make_key(spec=KeySpec.HMAC_512)
    for operation in set(ADMISSION) - set(CHECKS) - {Operation.CANCEL_KEY_DELETION}:
        admit(operation, key, NOW)
