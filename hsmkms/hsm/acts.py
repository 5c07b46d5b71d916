"""Which procedure of the device serves which operation: the permits that it accepts."""

from typing import Final

from hsmkms.model.enums import Operation
from hsmkms.model.permit import OperatorAct

_Acts = frozenset[Operation | OperatorAct]

MAY_ENCRYPT: Final[_Acts] = frozenset(
    {
        Operation.ENCRYPT,
        Operation.RE_ENCRYPT,
        Operation.GENERATE_DATA_KEY,
        Operation.GENERATE_DATA_KEY_WITHOUT_PLAINTEXT,
    }
)
MAY_DECRYPT: Final[_Acts] = frozenset({Operation.DECRYPT, Operation.RE_ENCRYPT})
MAY_DRAW_RANDOM: Final[_Acts] = frozenset(
    {
        Operation.GENERATE_RANDOM,
        Operation.GENERATE_DATA_KEY,
        Operation.GENERATE_DATA_KEY_WITHOUT_PLAINTEXT,
        OperatorAct.INITIALISE,
    }
)
MAY_GENERATE: Final[_Acts] = MAY_ENCRYPT | {
    Operation.CREATE_KEY,
    Operation.DESCRIBE_KEY,  # the first look at a service's key makes it
    Operation.ENABLE_KEY,
    Operation.ROTATE_KEY_ON_DEMAND,
    OperatorAct.MAINTAIN,
}
"""Encryptions too: they may cause an early rotation, or be the first use of a service's key."""
MAY_GENERATE_WRAPPING_KEY: Final[_Acts] = frozenset({Operation.GET_PARAMETERS_FOR_IMPORT})
MAY_UNWRAP: Final[_Acts] = frozenset({Operation.IMPORT_KEY_MATERIAL})
MAY_INITIALISE: Final[_Acts] = frozenset({OperatorAct.INITIALISE})
MAY_DESTROY: Final[_Acts] = frozenset(
    {
        Operation.DELETE_IMPORTED_KEY_MATERIAL,
        Operation.IMPORT_KEY_MATERIAL,
        Operation.ROTATE_KEY_ON_DEMAND,
        OperatorAct.MAINTAIN,
        OperatorAct.RECONCILE,
    }
)
MAY_DESTROY_WRAPPING_KEY: Final[_Acts] = frozenset(
    {
        Operation.DELETE_IMPORTED_KEY_MATERIAL,
        Operation.GET_PARAMETERS_FOR_IMPORT,
        Operation.IMPORT_KEY_MATERIAL,
        OperatorAct.MAINTAIN,
        OperatorAct.RECONCILE,
    }
)
MAY_AUTHENTICATE: Final[_Acts] = frozenset(
    {
        Operation.GET_PARAMETERS_FOR_IMPORT,
        Operation.IMPORT_KEY_MATERIAL,
        OperatorAct.INITIALISE,
        OperatorAct.OPEN,
    }
)
