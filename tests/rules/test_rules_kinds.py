"""Operations that are for some keys only, against a table typed by hand from the reference."""

from collections.abc import Callable

import pytest

from hsmkms.errors import UnsupportedOperationException
from hsmkms.model.enums import KeySpec, KeyState, Operation, Origin
from hsmkms.model.records import KeyRecord
from hsmkms.rules.kinds import CHECKS, check

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
    "GetKeyRotationStatus": "ok ok spec spec ok ok",
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


@pytest.mark.parametrize("state", [KeyState.ENABLED, KeyState.DISABLED, KeyState.PENDING_DELETION])
@pytest.mark.parametrize(("operation", "kind", "cell"), CELLS)
def test_kinds_are_the_reference(
    make_key: Callable[..., KeyRecord], operation: str, kind: dict[str, object], cell: str, state: KeyState
) -> None:
    """Every kind of key admits the operation, or refuses it for its spec, origin or role, in every state alike."""
    key = make_key(**kind, state=state)
    if cell == "ok":
        check(Operation(operation), key)
        return
    with pytest.raises(UnsupportedOperationException, match=SENTENCES[cell]):
        check(Operation(operation), key)


def test_all_others_are_for_every_key(make_key: Callable[..., KeyRecord]) -> None:
    """Operations outside the table ask nothing of the kind of key."""
    assert {str(each) for each in CHECKS} == set(TABLE)
    for operation in set(Operation) - set(CHECKS):
        check(operation, make_key(spec=KeySpec.HMAC_512, origin=Origin.EXTERNAL))
