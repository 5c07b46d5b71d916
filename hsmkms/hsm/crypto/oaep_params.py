"""PKCS #11 parameters of RSAES-OAEP, one row per hash. Source: RFC 8017, section 7.1; PKCS#11, section 6.1.8."""

from collections.abc import Callable
from typing import Final, NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from pkcs11.mechanisms import MGF, Mechanism


class Oaep(NamedTuple):
    """RSAES-OAEP with one hash: the mechanism's parameters, and the hash class for use in this process."""

    name: str
    parameters: tuple[Mechanism, MGF, None]
    algorithm: Callable[[], hashes.HashAlgorithm]


OAEP_SHA_1: Final = Oaep("SHA-1", (Mechanism.SHA_1, MGF.SHA1, None), hashes.SHA1)
OAEP_SHA_256: Final = Oaep("SHA-256", (Mechanism.SHA256, MGF.SHA256, None), hashes.SHA256)


def modulus_bytes(public: RSAPublicKey) -> int:
    """Return the length of one RSA block in bytes."""
    return (public.key_size + 7) // 8
