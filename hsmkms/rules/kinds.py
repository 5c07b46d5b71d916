"""Check operations that only some kinds of keys support, before or after the check of the key's state.

Mostly the kind is checked first: otherwise an error would ask the user to enable a key, or to import its material,
although that does not help. Operations on rotation check the state first, as AWS does. Source: AWS KMS Developer
Guide, "Key states of AWS KMS keys", the footnotes that name UnsupportedOperationException, and answers of the service.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from hsmkms.model.enums import Operation
from hsmkms.model.records import KeyRecord
from hsmkms.rules import importing, multi_region, rotation, states

CHECKS: Final[Mapping[Operation, Callable[[KeyRecord], None]]] = {
    Operation.ENABLE_KEY_ROTATION: rotation.check_automatic,
    Operation.DISABLE_KEY_ROTATION: rotation.check_automatic,
    Operation.LIST_KEY_ROTATIONS: rotation.check_rotatable,
    Operation.ROTATE_KEY_ON_DEMAND: rotation.check_startable,
    Operation.GET_PARAMETERS_FOR_IMPORT: importing.check_origin,
    Operation.IMPORT_KEY_MATERIAL: importing.check_origin,
    Operation.DELETE_IMPORTED_KEY_MATERIAL: importing.check_origin,
    Operation.REPLICATE_KEY: multi_region.require_primary,
    Operation.UPDATE_PRIMARY_REGION: multi_region.require_primary,
}
"""Check of the key's kind, by operation. Each raises UnsupportedOperationException."""

STATE_FIRST: Final = frozenset(
    {Operation.ENABLE_KEY_ROTATION, Operation.DISABLE_KEY_ROTATION, Operation.ROTATE_KEY_ON_DEMAND}
)
"""Operations that check the state before the kind: for a disabled RSA key the error is DisabledException."""


Admission = Callable[[Operation, KeyRecord, datetime], None]
"""Raises the operation's error if the key's kind, or its state at the instant, does not allow it."""


def _admit_kind_first(operation: Operation, key: KeyRecord, now: datetime) -> None:
    CHECKS[operation](key)
    states.admit(operation, key, now)


def _admit_state_first(operation: Operation, key: KeyRecord, now: datetime) -> None:
    states.admit(operation, key, now)
    CHECKS[operation](key)


ADMIT: Final[Mapping[Operation, Admission]] = {
    **dict.fromkeys(Operation, states.admit),
    **dict.fromkeys(CHECKS, _admit_kind_first),
    **dict.fromkeys(STATE_FIRST, _admit_state_first),
}
"""Admission of each operation: of its state alone, unless only some kinds of keys support it."""
