"""Encode and parse the ciphertext blob of symmetric keys.

::

    header   magic "hkms" | format version 1 | algorithm 1 | length of key id | key id (ASCII) | material id (32)
    iv       12 bytes
    body     ciphertext, as long as the plaintext (at least 1 byte) | tag (16)

Algorithm 1 is AES-256-GCM with a 96-bit IV and a 128-bit tag (NIST SP 800-38D). The header and the canonical
encryption context are the additional authenticated data. The IV is not part of it, because some tokens choose it
themselves and return it afterwards; GCM authenticates it anyway, as the tag depends on it.
"""

from typing import Final

from msgspec import Struct

from hsmkms.errors import InvalidCiphertextException, MisuseError
from hsmkms.model.ids import is_key_id

MAGIC: Final = b"hkms"
VERSION: Final = 1
AES_256_GCM: Final = 1
IV_LENGTH: Final = 12
TAG_LENGTH: Final = 16
MATERIAL_ID_LENGTH: Final = 32
KEY_ID_LENGTH: Final = 36
"""Length of both forms of a key id; a blob still states it, so that another form needs no new version."""

_PREFIX: Final = MAGIC + bytes((VERSION, AES_256_GCM))
_ID_START: Final = len(_PREFIX) + 1
_MINIMUM_AFTER_HEADER: Final = IV_LENGTH + 1 + TAG_LENGTH

HEADER_LENGTH: Final = _ID_START + KEY_ID_LENGTH + MATERIAL_ID_LENGTH
OVERHEAD: Final = HEADER_LENGTH + IV_LENGTH + TAG_LENGTH
"""How much longer a blob is than its plaintext, in bytes."""


class Blob(Struct, frozen=True):
    """A parsed blob. ``material_id`` is lower-case hex; ``body`` is ciphertext and tag, as the token takes them."""

    key_id: str
    material_id: str
    header: bytes
    iv: bytes
    body: bytes


def header(key_id: str, material_id: str) -> bytes:
    """Return everything before the IV; it is the same for every blob of a material, so callers may cache it."""
    material = bytes.fromhex(material_id)
    if not is_key_id(key_id) or len(material) != MATERIAL_ID_LENGTH:
        raise MisuseError(f"no header can be made for key id {key_id!r} and material id {material_id!r}")
    return _PREFIX + bytes((len(key_id),)) + key_id.encode("ascii") + material


def aad(header: bytes, context: bytes) -> bytes:
    """Return the additional authenticated data: the header, then the canonical encryption context."""
    return header + context


def assemble(header: bytes, iv: bytes, body: bytes) -> bytes:
    """Return the complete blob, as the API returns it."""
    return header + iv + body


def parse(data: bytes) -> Blob:
    """Parse a blob. Every fault is the same InvalidCiphertextException without a message, so that it is no oracle."""
    if len(data) < _ID_START or not data.startswith(_PREFIX):
        raise InvalidCiphertextException
    id_end = _ID_START + data[_ID_START - 1]
    header_end = id_end + MATERIAL_ID_LENGTH
    # Latin-1 decodes any byte, and is_key_id refuses characters beyond ASCII.
    key_id = data[_ID_START:id_end].decode("latin-1")
    if len(data) < header_end + _MINIMUM_AFTER_HEADER or not is_key_id(key_id):
        raise InvalidCiphertextException
    iv_end = header_end + IV_LENGTH
    return Blob(key_id, data[id_end:header_end].hex(), data[:header_end], data[header_end:iv_end], data[iv_end:])
