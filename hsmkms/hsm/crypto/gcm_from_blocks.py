"""Compute AES-GCM from single AES blocks of a key on the token: counter mode plus GHASH.

GHASH is arithmetic that needs no secret except AES(K, 0). It proves at start that the token's AES-GCM is that of the
standard: no known key may enter the token then (nothing of hsmkms ever creates an object from key bytes), so the probe
compares the answers of a random session key; ``token-check`` adds NIST vectors. And it decrypts what was encrypted
while a token still had AES-GCM, if it has AES-ECB. Nothing is encrypted in this way: AES(K, 0), which comes into this
process, is enough to change a ciphertext without being noticed, though not to read one.

Source: NIST SP 800-38D, sections 6.3 to 7.1.
"""

import hmac
from collections.abc import Callable
from typing import Final

from pkcs11.mechanisms import Mechanism
from pkcs11.types import Session

from hsmkms.errors import RejectedDataError
from hsmkms.hsm.calls.mechanisms import mechanism
from hsmkms.hsm.calls.messages import TAG_BYTES
from hsmkms.hsm.calls.operations import encrypt
from hsmkms.hsm.crypto.iv import IV_BYTES
from hsmkms.hsm.faults import REJECTED

_REDUCTION: Final = 0xE1000000000000000000000000000000
_BLOCK: Final = 16


def expected_gcm(aes_block: Callable[[bytes], bytes], iv: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Return ciphertext and 16-byte tag for a 96-bit IV, given the forward AES block function of the key."""
    hash_key = int.from_bytes(aes_block(bytes(_BLOCK)))
    ciphertext = b"".join(
        _xor(plaintext[at : at + _BLOCK], aes_block(iv + (2 + at // _BLOCK).to_bytes(4)))
        for at in range(0, len(plaintext), _BLOCK)
    )
    return ciphertext + _tag(hash_key, aes_block(iv + (1).to_bytes(4)), ciphertext, aad)


def open_from_blocks(session: Session, handle: int, iv: bytes, body: bytes, aad: bytes) -> bytes:
    """Verify and decrypt ciphertext || tag on a token without AES-GCM, with one encryption by AES-ECB.

    RejectedDataError if the tag is wrong. PKCS11Error is not translated.
    """
    ciphertext, tag = body[:-TAG_BYTES], body[-TAG_BYTES:]
    if len(iv) != IV_BYTES or len(tag) != TAG_BYTES:
        raise RejectedDataError(REJECTED)
    counters = range(1, 2 + -(-len(ciphertext) // _BLOCK))
    inputs = bytes(_BLOCK) + b"".join(iv + each.to_bytes(4) for each in counters)
    blocks = encrypt(session, handle, mechanism(Mechanism.AES_ECB), inputs, len(inputs))
    hash_key, mask, keystream = int.from_bytes(blocks[:_BLOCK]), blocks[_BLOCK : 2 * _BLOCK], blocks[2 * _BLOCK :]
    if not hmac.compare_digest(_tag(hash_key, mask, ciphertext, aad), tag):
        raise RejectedDataError(REJECTED)
    return _xor(ciphertext, keystream)


def _tag(hash_key: int, mask: bytes, ciphertext: bytes, aad: bytes) -> bytes:
    lengths = (len(aad) * 8).to_bytes(8) + (len(ciphertext) * 8).to_bytes(8)
    return _xor(_ghash(hash_key, _padded(aad) + _padded(ciphertext) + lengths), mask)


def _ghash(hash_key: int, data: bytes) -> bytes:
    state = 0
    for at in range(0, len(data), _BLOCK):
        state = _multiply(state ^ int.from_bytes(data[at : at + _BLOCK]), hash_key)
    return state.to_bytes(_BLOCK)


def _multiply(x: int, y: int) -> int:
    """Multiply in GF(2^128) with the bit order of SP 800-38D, section 6.3."""
    product = 0
    for bit in range(127, -1, -1):
        if x >> bit & 1:
            product ^= y
        y = y >> 1 ^ (_REDUCTION if y & 1 else 0)
    return product


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=False))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _BLOCK)
