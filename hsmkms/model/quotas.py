"""Classes of operations that share one quota, named for ``serve.quotas``.

AWS counts these together as well. Source: AWS KMS Developer Guide, "Request quotas". What a key's spec decides there
(RSA or symmetric in Encrypt) is decided by the operation here: a quota is spent before anything is looked up.
"""

from collections.abc import Mapping
from typing import Final

from hsmkms.model.enums import Operation

QUOTA_CLASSES: Final[Mapping[str, frozenset[Operation]]] = {
    "SymmetricCryptography": frozenset(
        {
            Operation.DECRYPT,
            Operation.ENCRYPT,
            Operation.GENERATE_DATA_KEY,
            Operation.GENERATE_DATA_KEY_WITHOUT_PLAINTEXT,
            Operation.GENERATE_MAC,
            Operation.GENERATE_RANDOM,
            Operation.RE_ENCRYPT,
            Operation.VERIFY_MAC,
        }
    ),
    "AsymmetricCryptography": frozenset({Operation.DERIVE_SHARED_SECRET, Operation.SIGN, Operation.VERIFY}),
    "DataKeyPairs": frozenset({Operation.GENERATE_DATA_KEY_PAIR, Operation.GENERATE_DATA_KEY_PAIR_WITHOUT_PLAINTEXT}),
}

QUOTA_NAMES: Final = frozenset(Operation) | QUOTA_CLASSES.keys()
"""Everything that a quota may be given to."""


def quota_members(name: str) -> frozenset[Operation]:
    """The operations of a class, or the one operation of that name."""
    return QUOTA_CLASSES.get(name) or frozenset({Operation(name)})
