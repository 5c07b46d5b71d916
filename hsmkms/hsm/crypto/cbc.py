"""Run AES-256-CBC with HMAC-SHA-256 on the device, for tokens that have no AES-GCM: encrypt, then authenticate.

The two keys are independent objects of the token. The HMAC covers A || IV || C || AL: the additional data, the IV (16
bytes), the ciphertext, and the length of the additional data in bits as a 64-bit number, so that no part can be taken
for another. That is the construction of RFC 7518, section 5.2.2.1, with AES-256 and all 32 bytes of the tag. Decryption
computes the HMAC first, compares it in constant time, and decrypts nothing that was changed: PKCS #7 padding is no
oracle. The padding is added here, as CKM_AES_CBC is where CKM_AES_CBC_PAD is not.
"""

import hmac
from typing import Final, NamedTuple

from pkcs11.exceptions import DataLenRange, PKCS11Error
from pkcs11.mechanisms import Mechanism
from pkcs11.types import Session

from hsmkms.errors import MisuseError, RejectedDataError, TokenError, UnsupportedOperationException
from hsmkms.hsm.calls.mechanisms import mechanism
from hsmkms.hsm.calls.messages import OTHER_ANSWER
from hsmkms.hsm.calls.operations import decrypt, encrypt, sign
from hsmkms.hsm.crypto.decrypt_faults import is_refusal
from hsmkms.hsm.faults import REJECTED

BLOCK: Final = 16
IV_BYTES: Final = BLOCK
TAG_BYTES: Final = 32
LARGEST_PLAINTEXT: Final = 4096
"""Bytes of one encryption. The number of encryptions that a material may make counts on it (rules/budget.py)."""


TOO_LONG: Final = (
    "This token does not take as much data at once (CKR_DATA_LEN_RANGE) as this plaintext, or ciphertext, and its "
    "encryption context have: use a shorter encryption context, or encrypt a data key instead of the data."
)
OTHERWISE: Final = "the token does not decrypt what it encrypted: `hsmkms attest` shows the keys"


class Keys(NamedTuple):
    """Handles of the two objects of a material."""

    encrypting: int
    authenticating: int


def seal(session: Session, keys: Keys, iv: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Encrypt; return ciphertext || 32-byte tag. PKCS11Error is not translated.

    TokenError if the output has another length than the padded plaintext, or the tag is none;
    UnsupportedOperationException if the token takes less data at once.
    """
    if len(plaintext) > LARGEST_PLAINTEXT:
        raise MisuseError(f"{len(plaintext)} bytes were to be encrypted at once: at most {LARGEST_PLAINTEXT} can be")
    padded = pad(plaintext)
    try:
        ciphertext = encrypt(session, keys.encrypting, mechanism(Mechanism.AES_CBC, iv), padded, len(padded))
    except DataLenRange as exc:
        raise UnsupportedOperationException(TOO_LONG) from exc
    if len(ciphertext) != len(padded):
        raise TokenError(OTHER_ANSWER)
    return ciphertext + _tag(session, keys, iv, ciphertext, aad)


def open_sealed(session: Session, keys: Keys, iv: bytes, body: bytes, aad: bytes) -> bytes:
    """Verify and decrypt ciphertext || tag. RejectedDataError, before anything is decrypted, if the tag is wrong.

    PKCS11Error is not translated. TokenError if the token refuses authentic data, or it is not padded: then the token
    decrypts otherwise than it encrypted, or its two keys do not belong together.
    """
    ciphertext, tag = body[:-TAG_BYTES], body[-TAG_BYTES:]
    if len(iv) != IV_BYTES or len(ciphertext) < BLOCK or len(ciphertext) % BLOCK:
        raise RejectedDataError(REJECTED)
    if not hmac.compare_digest(_tag(session, keys, iv, ciphertext, aad), tag):
        raise RejectedDataError(REJECTED)
    try:
        padded = decrypt(session, keys.encrypting, mechanism(Mechanism.AES_CBC, iv), ciphertext, len(ciphertext))
    except PKCS11Error as exc:
        if is_refusal(exc):
            raise TokenError(OTHERWISE) from exc
        raise
    return unpad(padded)


def mac_input(aad: bytes, iv: bytes, ciphertext: bytes) -> bytes:
    """Return what the HMAC covers."""
    return aad + iv + ciphertext + (8 * len(aad)).to_bytes(8)


def _tag(session: Session, keys: Keys, iv: bytes, ciphertext: bytes, aad: bytes) -> bytes:
    try:
        tag = sign(session, keys.authenticating, mechanism(Mechanism.SHA256_HMAC), mac_input(aad, iv, ciphertext))
    except DataLenRange as exc:
        raise UnsupportedOperationException(TOO_LONG) from exc
    if len(tag) != TAG_BYTES:
        raise TokenError(OTHER_ANSWER)
    return tag


def pad(plaintext: bytes) -> bytes:
    """Add PKCS #7 padding (RFC 5652, section 6.3)."""
    missing = BLOCK - len(plaintext) % BLOCK
    return plaintext + bytes((missing,)) * missing


def unpad(padded: bytes) -> bytes:
    """Remove the padding of authentic data; TokenError if there is none."""
    count = padded[-1] if padded else 0
    if not 1 <= count <= BLOCK or not padded.endswith(bytes((count,)) * count):
        raise TokenError(OTHERWISE)
    return padded[:-count]
