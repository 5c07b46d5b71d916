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
        Operation.GENERATE_DATA_KEY_PAIR,
        Operation.GENERATE_DATA_KEY_PAIR_WITHOUT_PLAINTEXT,
        OperatorAct.BACKUP,
        OperatorAct.CREDENTIALS,
    }
)
MAY_MAKE_DATA_KEY_PAIRS: Final[_Acts] = frozenset(
    {Operation.GENERATE_DATA_KEY_PAIR, Operation.GENERATE_DATA_KEY_PAIR_WITHOUT_PLAINTEXT}
)
MAY_DECRYPT: Final[_Acts] = frozenset(
    {Operation.DECRYPT, Operation.RE_ENCRYPT, OperatorAct.BACKUP, OperatorAct.CREDENTIALS}
)
MAY_SIGN: Final[_Acts] = frozenset({Operation.SIGN, OperatorAct.REPORT})
MAY_VERIFY: Final[_Acts] = frozenset({Operation.VERIFY})
MAY_USE_PUBLIC_HALVES: Final[_Acts] = frozenset(
    {Operation.ENCRYPT, Operation.GET_PUBLIC_KEY, Operation.RE_ENCRYPT, OperatorAct.REPORT}
)
MAY_AGREE: Final[_Acts] = frozenset({Operation.DERIVE_SHARED_SECRET})
MAY_ENCAPSULATE: Final[_Acts] = frozenset({Operation.ENCAPSULATE})
MAY_DECAPSULATE: Final[_Acts] = frozenset({Operation.DECAPSULATE})
MAY_MAKE_MACS: Final[_Acts] = frozenset({Operation.GENERATE_MAC, Operation.VERIFY_MAC})
MAY_DRAW_RANDOM: Final[_Acts] = frozenset(
    {
        Operation.GENERATE_RANDOM,
        Operation.GENERATE_DATA_KEY,
        Operation.GENERATE_DATA_KEY_WITHOUT_PLAINTEXT,
        OperatorAct.BACKUP,
        OperatorAct.CREDENTIALS,
        OperatorAct.INITIALISE,
    }
)
MAY_GENERATE: Final[_Acts] = frozenset(
    {Operation.CREATE_KEY, OperatorAct.BACKUP, OperatorAct.CREDENTIALS, OperatorAct.MAINTAIN, OperatorAct.REPORT}
)
"""Rotations, and the keys of services, are the installation's own acts, whichever request caused them."""
MAY_GENERATE_WRAPPING_KEY: Final[_Acts] = frozenset({Operation.GET_PARAMETERS_FOR_IMPORT})
MAY_UNWRAP: Final[_Acts] = frozenset({Operation.IMPORT_KEY_MATERIAL})
MAY_INITIALISE: Final[_Acts] = frozenset({OperatorAct.INITIALISE, OperatorAct.SEAL})
MAY_CHANGE_PIN: Final[_Acts] = frozenset({OperatorAct.CHANGE_PIN})
MAY_SEAL: Final[_Acts] = frozenset({OperatorAct.SEAL})
MAY_DESTROY: Final[_Acts] = frozenset(
    {
        Operation.DELETE_IMPORTED_KEY_MATERIAL,
        Operation.IMPORT_KEY_MATERIAL,
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
        OperatorAct.BACKUP,
        OperatorAct.CREDENTIALS,
        OperatorAct.INITIALISE,
        OperatorAct.OPEN,
        OperatorAct.SEAL,
    }
)
