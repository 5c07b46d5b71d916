"""Operations that are for some keys only: on other keys they are refused whatever the state.

So nobody is told to enable a key, or to wait for its material, who would then learn that it was of no use. Source: AWS
KMS Developer Guide, "Key states of AWS KMS keys", the footnotes that name UnsupportedOperationException.
"""

from collections.abc import Callable, Mapping
from typing import Final

from hsmkms.model.enums import Operation
from hsmkms.model.records import KeyRecord
from hsmkms.rules import importing, multi_region, rotation

CHECKS: Final[Mapping[Operation, Callable[[KeyRecord], None]]] = {
    Operation.ENABLE_KEY_ROTATION: rotation.check_automatic,
    Operation.DISABLE_KEY_ROTATION: rotation.check_automatic,
    Operation.GET_KEY_ROTATION_STATUS: rotation.check_rotatable,
    Operation.LIST_KEY_ROTATIONS: rotation.check_rotatable,
    Operation.ROTATE_KEY_ON_DEMAND: rotation.check_startable,
    Operation.GET_PARAMETERS_FOR_IMPORT: importing.check_origin,
    Operation.IMPORT_KEY_MATERIAL: importing.check_origin,
    Operation.DELETE_IMPORTED_KEY_MATERIAL: importing.check_origin,
    Operation.REPLICATE_KEY: multi_region.require_primary,
    Operation.UPDATE_PRIMARY_REGION: multi_region.require_primary,
}
"""What each of them asks of a key. Each check raises UnsupportedOperationException."""


def check(operation: Operation, key: KeyRecord) -> None:
    """Raise UnsupportedOperationException if the operation is not for keys of this kind."""
    wanted = CHECKS.get(operation)
    if wanted is not None:
        wanted(key)
