"""Records to test rules with."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from hsmkms.model.enums import KeyManager, KeySpec, KeyState, KeyUsage, MaterialState, Origin
from hsmkms.model.records import KeyRecord, MaterialRecord

KEY_ID = "1234abcd-12ab-34cd-56ef-1234567890ab"
BASE: dict[str, Any] = {
    "key_id": KEY_ID,
    "region": "eu-central-1",
    "arn": f"arn:aws:kms:eu-central-1:111122223333:key/{KEY_ID}",
    "spec": KeySpec.SYMMETRIC_DEFAULT,
    "usage": KeyUsage.ENCRYPT_DECRYPT,
    "origin": Origin.AWS_KMS,
    "manager": KeyManager.CUSTOMER,
    "multi_region": False,
    "state": KeyState.ENABLED,
    "description": "",
    "policy": "{}",
    "creation_date": datetime(2026, 1, 1, tzinfo=UTC),
    "version": 1,
}


@pytest.fixture(scope="session")
def make_key() -> Callable[..., KeyRecord]:
    """An enabled symmetric key, but for the properties that are given."""
    return lambda **changes: KeyRecord(**{**BASE, **changes})


@pytest.fixture(scope="session")
def make_material() -> Callable[..., MaterialRecord]:
    """A current material that is present, but for the properties that are given."""
    base: dict[str, Any] = {
        "material_id": "ab" * 32,
        "sequence": 1,
        "state": MaterialState.CURRENT,
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "token_id": "token",
        "cka_id": bytes(16),
    }
    return lambda **changes: MaterialRecord(**{**base, **changes})
