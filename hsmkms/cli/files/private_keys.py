"""Convert private keys, PEM or DER in any form that OpenSSL writes, to the API's form: DER PKCS #8 (RFC 5958)."""

import base64
import binascii
import re
import shlex
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
_EXPLICIT_CURVE: Final = (
    "{name} describes its curve by explicit parameters: name the curve instead "
    "(`openssl pkey -in {quoted} -ec_param_enc named_curve -out NAMED` writes it so)."
)
_TRAILING: Final = "{name} has {count} bytes after the end of the private key: give only the key."

_PRIME_FIELD: Final = bytes.fromhex("06072a8648ce3d0101")
"""The DER of the OID prime-field (RFC 3279, section 2.3.5), which occurs only in explicit curve parameters."""

_find_body: Final = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)-----END", re.DOTALL).search


def is_pem(data: bytearray) -> bool:
    """Return True if a file's content is PEM, which no other key material is."""
    return data.lstrip().startswith(_PEM)


@contextmanager
def pkcs8(name: str, data: bytearray) -> Iterator[bytearray]:
    """Convert the private key in a file's content to DER PKCS #8; it is overwritten at the end of the block.

    Python may still have copied it. ValidationException if there is no key, an encrypted one, one with explicit curve
    parameters, or one followed by other bytes.
    """
    _check_der(name, data)
    load = load_pem_private_key if is_pem(data) else load_der_private_key
    try:
        key = load(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise ValidationException(_NO_PRIVATE_KEY.format(name=name)) from exc
    encoded = bytearray(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
    try:
        yield encoded
    finally:
        encoded[:] = bytes(len(encoded))


def _check_der(name: str, data: bytearray) -> None:
    """Refuse explicit curves and trailing bytes, which the parsers ignore or refuse without a reason."""
    der = _der_of(data)
    try:
        if _PRIME_FIELD in der:
            raise ValidationException(_EXPLICIT_CURVE.format(name=name, quoted=shlex.quote(name)))
        trailing = len(der) - _outer_length(der)
        if trailing > 0:
            raise ValidationException(_TRAILING.format(name=name, count=trailing))
    finally:
        der[:] = bytes(len(der))


def _der_of(data: bytearray) -> bytearray:
    """Return a copy of the structure in DER; empty for PEM whose body cannot be decoded, or that is encrypted."""
    if not is_pem(data):
        return bytearray(data)
    body = _find_body(data)
    try:
        return bytearray(base64.b64decode(b"".join(body[1].split()), validate=True) if body is not None else b"")
    except binascii.Error:
        return bytearray()


def _outer_length(der: bytearray) -> int:
    """Return the length of the first structure with its header, or of all bytes if its length is indefinite (BER)."""
    if len(der) < 2 or der[1] == 0x80:  # noqa: PLR2004 - tag and length; the indefinite form
        return len(der)
    if der[1] < 0x80:  # noqa: PLR2004 - the short form (ITU-T X.690, section 8.1.3)
        return 2 + der[1]
    octets = der[1] & 0x7F
    return 2 + octets + int.from_bytes(der[2 : 2 + octets])
