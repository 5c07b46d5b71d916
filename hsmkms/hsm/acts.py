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
MAY_GENERATE: Final[_Acts] = frozenset({Operation.CREATE_KEY})
MAY_INITIALISE: Final[_Acts] = frozenset({OperatorAct.INITIALISE})
MAY_DESTROY: Final[_Acts] = frozenset({OperatorAct.RECONCILE})
MAY_AUTHENTICATE: Final[_Acts] = frozenset({OperatorAct.INITIALISE, OperatorAct.OPEN})
