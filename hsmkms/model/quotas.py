"""Classes of operations that share one quota, named for ``serve.quotas``.

AWS counts these together as well. Source: AWS KMS Developer Guide, "Request quotas". AWS also distinguishes by the
key's spec (RSA or symmetric in Encrypt); here only the operation counts, because a quota is checked before the key is
read.
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
"""Names that a quota can be set for."""


def quota_members(name: str) -> frozenset[Operation]:
    """Return the operations of a class, or the one operation of that name."""
    return QUOTA_CLASSES.get(name) or frozenset({Operation(name)})
