"""Operations that are for some keys only, against a table typed by hand from the reference."""

from collections.abc import Callable

import pytest

from hsmkms.errors import UnsupportedOperationException
from hsmkms.model.enums import KeySpec, KeyState, Operation, Origin
from hsmkms.model.records import KeyRecord
from hsmkms.rules.kinds import CHECKS, check

# Columns: symmetric and generated, symmetric and imported, RSA and generated, HMAC and imported.
HEAD = (
    (KeySpec.SYMMETRIC_DEFAULT, Origin.AWS_KMS),
    (KeySpec.SYMMETRIC_DEFAULT, Origin.EXTERNAL),
    (KeySpec.RSA_2048, Origin.AWS_KMS),
    (KeySpec.HMAC_256, Origin.EXTERNAL),
)
TABLE = {
    "EnableKeyRotation": "ok origin spec spec",
    "DisableKeyRotation": "ok origin spec spec",
    "GetKeyRotationStatus": "ok ok spec spec",
    "ListKeyRotations": "ok ok spec spec",
    "RotateKeyOnDemand": "ok ok spec spec",
    "GetParametersForImport": "origin ok origin ok",
    "ImportKeyMaterial": "origin ok origin ok",
    "DeleteImportedKeyMaterial": "origin ok origin ok",
}
SENTENCES = {"spec": "only symmetric encryption keys rotate", "origin": "which is not valid for this operation"}
CELLS = [
    (operation, spec, origin, cell)
    for operation, row in TABLE.items()
    for (spec, origin), cell in zip(HEAD, row.split(), strict=True)
]


@pytest.mark.parametrize("state", [KeyState.ENABLED, KeyState.DISABLED, KeyState.PENDING_DELETION])
@pytest.mark.parametrize(("operation", "spec", "origin", "cell"), CELLS)
def test_kinds_are_the_reference(
    make_key: Callable[..., KeyRecord], operation: str, spec: KeySpec, origin: Origin, cell: str, state: KeyState
) -> None:
    """Every kind of key admits the operation, or refuses it for its spec or its origin, in every state alike."""
    key = make_key(spec=spec, origin=origin, state=state)
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
