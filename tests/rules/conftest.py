"""Records to test rules with."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from questions import BASE

from hsmkms.model.enums import MaterialState
from hsmkms.model.records import KeyRecord, MaterialRecord


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
