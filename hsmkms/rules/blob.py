"""Encode and parse the ciphertext blob of symmetric keys.

::

    header   magic "hkms" | format version 1 | algorithm | length of key id | key id (ASCII) | material id (32)
    iv       12 bytes (algorithm 1) or 16 (2)
    body     ciphertext | tag: 16 bytes (algorithm 1) or 32 (2)

Algorithm 1 is AES-256-GCM with a 96-bit IV and a 128-bit tag (NIST SP 800-38D); the ciphertext is as long as the
plaintext (at least 1 byte). Algorithm 2 is AES-256-CBC with PKCS #7 padding, then HMAC-SHA-256 over the additional
data, the IV, the ciphertext and the length of the additional data (hsm/crypto/cbc.py); the ciphertext is a multiple of
16 bytes. The additional authenticated data is the header and the canonical encryption context. The IV is not part of
it, because some tokens choose that of AES-GCM themselves and return it afterwards; both tags depend on it anyway.
"""

from functools import lru_cache
from typing import Final

from msgspec import Struct

from hsmkms.errors import InvalidCiphertextException, MisuseError
from hsmkms.model.cipher_format import LAYOUTS, CipherFormat
from hsmkms.model.ids import is_key_id

MAGIC: Final = b"hkms"
VERSION: Final = 1
MATERIAL_ID_LENGTH: Final = 32
KEY_ID_LENGTH: Final = 36
"""Length of both forms of a key id; a blob still states it, so that another form needs no new version."""

_PREFIXES: Final = {each: MAGIC + bytes((VERSION, LAYOUTS[each].algorithm)) for each in CipherFormat}
_FORMATS: Final = {prefix: each for each, prefix in _PREFIXES.items()}
_ID_START: Final = len(MAGIC) + 3

HEADER_LENGTH: Final = _ID_START + KEY_ID_LENGTH + MATERIAL_ID_LENGTH


class Blob(Struct, frozen=True):
    """A parsed blob. ``material_id`` is lower-case hex; ``body`` is ciphertext and tag, as the token takes them."""

    key_id: str
    material_id: str
    header: bytes
    iv: bytes
    body: bytes
    cipher_format: CipherFormat = CipherFormat.AES_256_GCM


def header(key_id: str, material_id: str, cipher_format: CipherFormat = CipherFormat.AES_256_GCM) -> bytes:
    """Return everything before the IV; it is the same for every blob of a material, so callers may cache it."""
    material = bytes.fromhex(material_id)
    if not is_key_id(key_id) or len(material) != MATERIAL_ID_LENGTH:
        raise MisuseError(f"no header can be made for key id {key_id!r} and material id {material_id!r}")
    return _PREFIXES[cipher_format] + bytes((len(key_id),)) + key_id.encode("ascii") + material


def aad(header: bytes, context: bytes) -> bytes:
    """Return the additional authenticated data: the header, then the canonical encryption context."""
    return header + context


def assemble(header: bytes, iv: bytes, body: bytes) -> bytes:
    """Return the complete blob, as the API returns it."""
    return header + iv + body


def parse(data: bytes) -> Blob:
    """Parse a blob. Every fault is the same InvalidCiphertextException without a message, so that it is no oracle."""
    header = data[:HEADER_LENGTH]
    named = _parse_header(header)
    if named is None:
        raise InvalidCiphertextException
    key_id, material_id, cipher_format = named
    layout = LAYOUTS[cipher_format]
    iv_end = HEADER_LENGTH + layout.iv
    length = len(data) - iv_end - layout.tag
    if length < layout.block or length % layout.block:
        raise InvalidCiphertextException
    return Blob(key_id, material_id, header, data[HEADER_LENGTH:iv_end], data[iv_end:], cipher_format)


@lru_cache(maxsize=4096)
def _parse_header(header: bytes) -> tuple[str, str, CipherFormat] | None:
    """Return key id, material id and format, which all ciphertexts of a material have in common; None if it is none."""
    cipher_format = _FORMATS.get(header[: _ID_START - 1])
    if cipher_format is None or len(header) < HEADER_LENGTH or header[_ID_START - 1] != KEY_ID_LENGTH:
        return None
    id_end = _ID_START + KEY_ID_LENGTH
    # Latin-1 decodes any byte, and is_key_id refuses characters beyond ASCII.
    key_id = header[_ID_START:id_end].decode("latin-1")
    return (key_id, header[id_end:].hex(), cipher_format) if is_key_id(key_id) else None
