"""The tables of the policy simulation: which operations need no key, and which member of a request names the key.

What it decides is tested in test_service_access.py.
"""

import msgspec
import pytest

from hsmkms.model.enums import Operation
from hsmkms.model.operations import OPERATIONS
from hsmkms.rules.states import ADMISSION
from hsmkms.service.operator.simulation import _KEYS, WITHOUT_KEY


def test_operations_without_a_key() -> None:
    """They are those that no key admits, and ListAliases, which may be limited to a key."""
    assert set(OPERATIONS) - set(ADMISSION) | {Operation.LIST_ALIASES} == WITHOUT_KEY


@pytest.mark.parametrize("operation", sorted(set(OPERATIONS) - WITHOUT_KEY))
def test_the_member_that_names_the_key(operation: Operation) -> None:
    """Each member of a request that names a key is filled in by the simulation of one of its actions."""
    fields = msgspec.structs.fields(OPERATIONS[operation].request)
    named = {each.encode_name for each in fields if each.encode_name.endswith("KeyId")}
    ours = {each for each in _KEYS if each.removesuffix("From").removesuffix("To") == f"kms:{operation}"}
    assert named <= ({_KEYS[each] for each in ours} or {"KeyId"})
