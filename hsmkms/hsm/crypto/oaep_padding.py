"""Remove OAEP padding in this process, where the token lacks OAEP with that hash.

``remove_padding`` serves Decrypt with RSA keys in production (oaep.py): the caller receives the plaintext anyway.

``relay`` serves the setting ``import.host_unwrap``, which is off except in development. danger: key material passes
through this process in the clear. The token does the RSA decryption, the padding is removed here, and the bytes go back
under OAEP with a hash that the token supports, to be unwrapped there: never by C_CreateObject.

Source: RFC 8017, sections 7.1.2 and B.2.1.
"""

import hashlib
import hmac
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from pkcs11.mechanisms import Mechanism

from hsmkms.errors import RejectedDataError
from hsmkms.hsm.crypto.oaep_params import Oaep, modulus_bytes
from hsmkms.hsm.faults import REJECTED
from hsmkms.hsm.objects.handle_keys import HandleUnwrapper
from hsmkms.key_wrapping import oaep_encrypt

_BUFFER_SLACK: Final = 32


def relay(key: HandleUnwrapper, public: RSAPublicKey, block: bytes, foreign: Oaep, known: Oaep) -> bytes:
    """Turn an RSA block with ``foreign`` padding into one with ``known``.

    Any padding fault raises the same RejectedDataError. PKCS11Error is not translated.
    """
    size = modulus_bytes(public)
    if int.from_bytes(block) >= public.public_numbers().n:
        raise RejectedDataError(REJECTED)
    raw = key.decrypt(block, mechanism=Mechanism.RSA_X_509, buffer_size=size + _BUFFER_SLACK)
    encoded = int.from_bytes(raw).to_bytes(size)  # some tokens leave out leading zeros
    return oaep_encrypt(public, known.algorithm, remove_padding(encoded, foreign))


def remove_padding(encoded: bytes, oaep: Oaep) -> bytes:
    """Decode EME-OAEP with an empty label. All checks run before the single RejectedDataError is raised."""
    name = oaep.algorithm().name
    digest = hashlib.new(name, b"", usedforsecurity=False).digest()
    size = len(digest)
    masked_seed, masked_data = encoded[1 : 1 + size], encoded[1 + size :]
    seed = _xor(masked_seed, _mgf1(masked_data, size, name))
    data = _xor(masked_data, _mgf1(seed, len(masked_data), name))
    good = hmac.compare_digest(data[:size], digest)
    good &= encoded[0] == 0
    separated, start = _separator(data[size:])
    if not good & separated:
        raise RejectedDataError(REJECTED)
    return data[size + start :]


def _separator(padded: bytes) -> tuple[bool, int]:
    """Return whether the data starts with zeros and a 0x01, and where the message begins; reads every byte."""
    looking, bad, start = 1, 0, 0
    for position, byte in enumerate(padded):
        is_one = int(byte == 1)
        start |= (position + 1) * (looking & is_one)
        bad |= looking & (1 - is_one) & int(byte != 0)
        looking &= 1 - is_one
    return not (looking | bad), start


def _mgf1(seed: bytes, length: int, name: str) -> bytes:
    new: Callable[[bytes], bytes] = lambda data: hashlib.new(name, data, usedforsecurity=False).digest()  # noqa: E731
    made = b""
    counter = 0
    while len(made) < length:
        made += new(seed + counter.to_bytes(4))
        counter += 1
    return made[:length]


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left) ^ int.from_bytes(right)).to_bytes(len(left))
