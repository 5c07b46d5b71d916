"""Compute known answers that prove that the token's AES-GCM is that of the standard.

At start no known key may enter the token (nothing of hsmkms ever creates an object from key bytes), so the probe
generates a random session key and computes the expected answer from single AES blocks of the same key: GCM is counter
mode plus GHASH, and GHASH is arithmetic that needs no secret except AES(K, 0). ``token-check`` adds NIST vectors.

Source: NIST SP 800-38D, sections 6.3 to 7.1.
"""

from collections.abc import Callable
from typing import Final

_REDUCTION: Final = 0xE1000000000000000000000000000000
_BLOCK: Final = 16


def expected_gcm(aes_block: Callable[[bytes], bytes], iv: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Return ciphertext and 16-byte tag for a 96-bit IV, given the forward AES block function of the key."""
    hash_key = int.from_bytes(aes_block(bytes(_BLOCK)))
    ciphertext = b"".join(
        _xor(plaintext[at : at + _BLOCK], aes_block(iv + (2 + at // _BLOCK).to_bytes(4)))
        for at in range(0, len(plaintext), _BLOCK)
    )
    lengths = (len(aad) * 8).to_bytes(8) + (len(ciphertext) * 8).to_bytes(8)
    digest = _ghash(hash_key, _padded(aad) + _padded(ciphertext) + lengths)
    return ciphertext + _xor(digest, aes_block(iv + (1).to_bytes(4)))


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
