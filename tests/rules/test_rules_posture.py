"""How keys stand with their rotation."""

from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest

from hsmkms.model.enums import KeyManager, KeySpec, KeyState, KeyUsage, MaterialState, Origin
from hsmkms.model.records import KeyRecord, MaterialRecord, RotationSetting
from hsmkms.rules.posture import Posture, judge
from hsmkms.rules.rotation import RotationPolicy

START = datetime.fromisoformat("2026-01-02T03:04:05+00:00")
YEAR = timedelta(days=365)
ON = RotationSetting(anchor=START)
MATERIAL = MaterialRecord(
    material_id="a" * 64,
    sequence=1,
    state=MaterialState.CURRENT,
    created_at=START,
    token_id="t",  # noqa: S106 - the id of a PKCS#11 token
    cka_id=b"c" * 16,
)
EXPIRING = msgspec.structs.replace(MATERIAL, valid_to=START + timedelta(days=40))
NEXT = msgspec.structs.replace(EXPIRING, material_id="b" * 64, sequence=2, state=MaterialState.PENDING_ROTATION)
KEY = KeyRecord(
    key_id="k",
    region="eu-central-1",
    arn="arn",
    spec=KeySpec.SYMMETRIC_DEFAULT,
    usage=KeyUsage.ENCRYPT_DECRYPT,
    origin=Origin.AWS_KMS,
    manager=KeyManager.CUSTOMER,
    multi_region=False,
    state=KeyState.ENABLED,
    description="",
    policy="",
    creation_date=START,
    version=1,
    materials=(MATERIAL,),
)


@pytest.mark.parametrize(
    ("changes", "after", "posture"),
    [
        ({}, timedelta(), Posture.OFF),
        ({}, YEAR - timedelta(seconds=1), Posture.OFF),
        ({}, YEAR, Posture.AGED),
        ({"state": KeyState.DISABLED}, YEAR, Posture.OFF),
        ({"spec": KeySpec.RSA_2048}, YEAR, Posture.CANNOT),
        ({"origin": Origin.EXTERNAL}, YEAR, Posture.AGED),
        ({"rotation": ON}, timedelta(), Posture.OK),
        ({"rotation": ON}, YEAR - timedelta(seconds=1), Posture.OK),
        ({"rotation": ON}, YEAR, Posture.OVERDUE),
        ({"rotation": ON, "state": KeyState.DISABLED}, timedelta(), Posture.PAUSED),
        ({"rotation": ON, "state": KeyState.DISABLED}, YEAR, Posture.OVERDUE),
        ({"rotation": ON, "state": KeyState.PENDING_DELETION}, YEAR, Posture.PAUSED),
        ({"manager": KeyManager.AWS}, 3 * YEAR - timedelta(seconds=1), Posture.OK),
        ({"manager": KeyManager.AWS}, 3 * YEAR, Posture.OVERDUE),
        ({"spec": KeySpec.RSA_2048}, timedelta(), Posture.CANNOT),
        ({"spec": KeySpec.HMAC_256}, timedelta(), Posture.CANNOT),
        ({"origin": Origin.EXTERNAL}, timedelta(), Posture.CANNOT),
        ({"origin": Origin.EXTERNAL, "materials": (EXPIRING,)}, timedelta(days=9), Posture.CANNOT),
        ({"origin": Origin.EXTERNAL, "materials": (EXPIRING,)}, timedelta(days=10), Posture.EXPIRING),
        ({"origin": Origin.EXTERNAL, "materials": (EXPIRING,)}, timedelta(days=40), Posture.WAITING),
        ({"origin": Origin.EXTERNAL, "materials": (MATERIAL, NEXT)}, timedelta(days=39), Posture.CANNOT),
        ({"origin": Origin.EXTERNAL, "materials": ()}, timedelta(), Posture.WAITING),
    ],
)
def test_postures(changes: dict[str, Any], after: timedelta, posture: Posture) -> None:
    """Each case has its word, and a sentence unless all is well."""
    verdict = judge(msgspec.structs.replace(KEY, **changes), RotationPolicy(), START + after)
    assert verdict.posture is posture
    assert bool(verdict.reason) == (posture is not Posture.OK)
