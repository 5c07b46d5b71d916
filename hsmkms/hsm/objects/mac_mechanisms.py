"""Map each MAC algorithm and each HMAC key spec to its PKCS #11 mechanism."""

from collections.abc import Mapping
from typing import Final

from pkcs11.mechanisms import Mechanism

from hsmkms.model.enums import KeySpec, MacAlgorithm

MACS: Final = {
    MacAlgorithm.HMAC_SHA_224: Mechanism.SHA224_HMAC,
    MacAlgorithm.HMAC_SHA_256: Mechanism.SHA256_HMAC,
    MacAlgorithm.HMAC_SHA_384: Mechanism.SHA384_HMAC,
    MacAlgorithm.HMAC_SHA_512: Mechanism.SHA512_HMAC,
}


MAC_BYTES: Final[Mapping[Mechanism, int]] = {
    Mechanism.SHA224_HMAC: 28,
    Mechanism.SHA256_HMAC: 32,
    Mechanism.SHA384_HMAC: 48,
    Mechanism.SHA512_HMAC: 64,
}
"""Length of a MAC."""

MAC_OF: Final[Mapping[KeySpec, Mechanism]] = {
    KeySpec.HMAC_224: Mechanism.SHA224_HMAC,
    KeySpec.HMAC_256: Mechanism.SHA256_HMAC,
    KeySpec.HMAC_384: Mechanism.SHA384_HMAC,
    KeySpec.HMAC_512: Mechanism.SHA512_HMAC,
}
"""The only mechanism that an HMAC key is used with."""
