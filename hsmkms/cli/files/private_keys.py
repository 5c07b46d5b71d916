"""Files with private keys, PEM or DER in whatever form OpenSSL writes: the API takes PKCS #8 (RFC 5958) in DER."""

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
_TRAILING: Final = "{name} has {count} bytes behind the end of the private key: give the key alone."

_PRIME_FIELD: Final = bytes.fromhex("06072a8648ce3d0101")
"""The DER of the OID prime-field (RFC 3279, section 2.3.5), which stands in explicit curve parameters alone."""

_find_body: Final = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)-----END", re.DOTALL).search


def is_pem(held: bytearray) -> bool:
    """Whether a file's bytes are PEM, which no other key material is."""
    return held.lstrip().startswith(_PEM)


@contextmanager
def pkcs8(name: str, held: bytearray) -> Iterator[bytearray]:
    """The private key of a file's bytes as PKCS #8 in DER; overwritten in the end, as far as Python lets us.

    ValidationException if there is none, one that is encrypted, one with explicit curve parameters, or one with
    something behind it.
    """
    _check_der(name, held)
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


def _check_der(name: str, held: bytearray) -> None:
    """Refuse what lenient parsers pass over or what they refuse without saying why."""
    der = _der_of(held)
    try:
        if _PRIME_FIELD in der:
            raise ValidationException(_EXPLICIT_CURVE.format(name=name, quoted=shlex.quote(name)))
        behind = len(der) - _outer_length(der)
        if behind > 0:
            raise ValidationException(_TRAILING.format(name=name, count=behind))
    finally:
        der[:] = bytes(len(der))


def _der_of(held: bytearray) -> bytearray:
    """A copy of the structure in its DER form; empty for PEM whose body cannot be read, or that is encrypted."""
    if not is_pem(held):
        return bytearray(held)
    body = _find_body(held)
    try:
        return bytearray(base64.b64decode(b"".join(body[1].split()), validate=True) if body is not None else b"")
    except binascii.Error:
        return bytearray()


def _outer_length(der: bytearray) -> int:
    """The length of the first structure, with its header; all there is where that has no definite length (BER)."""
    if len(der) < 2 or der[1] == 0x80:  # noqa: PLR2004 - tag and length; the indefinite form
        return len(der)
    if der[1] < 0x80:  # noqa: PLR2004 - the short form (ITU-T X.690, section 8.1.3)
        return 2 + der[1]
    octets = der[1] & 0x7F
    return 2 + octets + int.from_bytes(der[2 : 2 + octets])
