"""Ciphertext formats of symmetric key material, and the CKA_ID that records which one a material has.

A CKA_ID is a UUID. Version 4 (random) is that of a material with one object, for AES-GCM. Version 8 (RFC 9562, section
5.8: custom) is that of a material with two objects, for AES-CBC with HMAC: its third group is ``8cbc`` for the object
that encrypts and ``8abc`` for the one that authenticates; the other digits are the same. The database names the
material by the first of them. So the format is recorded with the material wherever its CKA_ID is: in the sealed rows,
and on the token, from which a lost row is rebuilt. It never changes, whatever mechanisms the token gains or loses.
"""

import uuid
from functools import lru_cache
from typing import Final, NamedTuple

from hsmkms.model.enums import Word

_THIRD_GROUP: Final = slice(6, 8)
_VARIANT_BYTE: Final = 8
_ENCRYPTS: Final = bytes.fromhex("8cbc")
_AUTHENTICATES: Final = bytes.fromhex("8abc")
_CKA_ID_BYTES: Final = 16


class CipherFormat(Word):
    """Algorithm and layout of the ciphertexts of a material."""

    AES_256_GCM = "AES_256_GCM"
    """One key; 96-bit IV, 128-bit tag (NIST SP 800-38D)."""
    AES_256_CBC_HMAC_SHA_256 = "AES_256_CBC_HMAC_SHA_256"
    """Two keys: encrypt, then authenticate; 128-bit IV, 256-bit tag. Only on tokens that have no AES-GCM."""


class Layout(NamedTuple):
    """What a blob has of a format: its algorithm byte, and lengths in bytes. ``block``: ciphertexts are multiples."""

    algorithm: int
    iv: int
    block: int
    tag: int


LAYOUTS: Final = {
    CipherFormat.AES_256_GCM: Layout(algorithm=1, iv=12, block=1, tag=16),
    CipherFormat.AES_256_CBC_HMAC_SHA_256: Layout(algorithm=2, iv=16, block=16, tag=32),
}


def new_cka_id(cipher_format: CipherFormat = CipherFormat.AES_256_GCM) -> bytes:
    """Return a CKA_ID for a new object; for symmetric material, one that records its format."""
    fresh = uuid.uuid4().bytes
    return fresh if cipher_format is CipherFormat.AES_256_GCM else _marked(fresh, _ENCRYPTS)


@lru_cache(maxsize=65_536)
def format_of(cka_id: bytes) -> CipherFormat:
    """Return the format that the CKA_ID of a symmetric material records."""
    if _is_marked(cka_id, _ENCRYPTS):
        return CipherFormat.AES_256_CBC_HMAC_SHA_256
    return CipherFormat.AES_256_GCM


def mac_key_id(cka_id: bytes) -> bytes | None:
    """Return the CKA_ID of the HMAC key that belongs to a material; None if its format has none."""
    return _marked(cka_id, _AUTHENTICATES) if _is_marked(cka_id, _ENCRYPTS) else None


def material_of_mac_key(cka_id: bytes) -> bytes | None:
    """Return the CKA_ID of the material to which an HMAC key belongs; None if the CKA_ID is none of such a key."""
    return _marked(cka_id, _ENCRYPTS) if _is_marked(cka_id, _AUTHENTICATES) else None


def _marked(cka_id: bytes, mark: bytes) -> bytes:
    return cka_id[: _THIRD_GROUP.start] + mark + cka_id[_THIRD_GROUP.stop :]


def _is_marked(cka_id: bytes, mark: bytes) -> bool:
    return len(cka_id) == _CKA_ID_BYTES and cka_id[_THIRD_GROUP] == mark and cka_id[_VARIANT_BYTE] >> 6 == 0b10  # noqa: PLR2004 - the variant of RFC 9562
