"""Run AES-256-GCM on the device with a key identified by its handle."""

from typing import Final

from pkcs11.types import Session

from hsmkms.errors import TokenError
from hsmkms.hsm.calls.mechanisms import gcm
from hsmkms.hsm.calls.messages import OTHER_ANSWER, TAG_BYTES
from hsmkms.hsm.calls.operations import decrypt, encrypt

BUFFER_SLACK: Final = 32
"""Bytes of room for the tag, and for an IV that the token puts beside the ciphertext."""


def seal(session: Session, handle: int, iv: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Encrypt; return ciphertext || 16-byte tag. PKCS11Error is not translated.

    Only for tokens that accept the caller's IV (see token_iv.py); TokenError if the output has another length.
    """
    sealed = encrypt(session, handle, gcm(iv, aad), plaintext, len(plaintext) + BUFFER_SLACK)
    if len(sealed) != len(plaintext) + TAG_BYTES:
        raise TokenError(OTHER_ANSWER)
    return sealed


def open_sealed(session: Session, handle: int, iv: bytes, body: bytes, aad: bytes) -> bytes:
    """Decrypt ciphertext || tag; return the plaintext. PKCS11Error is not translated.

    TokenError if the plaintext has another length than the ciphertext: the token has not written it, or not all of it.
    """
    opened = decrypt(session, handle, gcm(iv, aad), body, len(body) + BUFFER_SLACK)
    if len(opened) != len(body) - TAG_BYTES:
        raise TokenError(OTHER_ANSWER)
    return opened
