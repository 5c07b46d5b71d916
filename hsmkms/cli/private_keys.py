"""Files with private keys, PEM or DER in whatever form OpenSSL writes: the API takes PKCS #8 (RFC 5958) in DER."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)

from hsmkms.errors import ValidationException

_PEM: Final = b"-----BEGIN"
_NO_PRIVATE_KEY: Final = (
    "{name} cannot be read as a private key: give PEM or DER that is not encrypted "
    "(`openssl pkcs8 -topk8 -nocrypt -in ENCRYPTED -out PLAIN` decrypts one)."
)


def is_pem(held: bytearray) -> bool:
    """Whether a file's bytes are PEM, which no other key material is."""
    return held.lstrip().startswith(_PEM)


@contextmanager
def pkcs8(name: str, held: bytearray) -> Iterator[bytearray]:
    """The private key of a file's bytes as PKCS #8 in DER; overwritten in the end, as far as Python lets us.

    ValidationException if there is none, or one that is encrypted.
    """
    load = load_pem_private_key if is_pem(held) else load_der_private_key
    try:
        key = load(held, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise ValidationException(_NO_PRIVATE_KEY.format(name=name)) from exc
    made = bytearray(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
    try:
        yield made
    finally:
        made[:] = bytes(len(made))
