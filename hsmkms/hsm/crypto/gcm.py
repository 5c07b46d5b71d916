"""Run AES-256-GCM on the device with a key identified by its handle."""

from typing import Final

from pkcs11.types import Session

from hsmkms.errors import TokenError
from hsmkms.hsm.calls.function_list import functions_of, session_handle
from hsmkms.hsm.calls.mechanisms import gcm
from hsmkms.hsm.calls.messages import OTHER_ANSWER, TAG_BYTES
from hsmkms.hsm.calls.operations import operate

BUFFER_SLACK: Final = 32
"""Bytes of room for the tag, and for an IV that the token puts beside the ciphertext."""


def seal(session: Session, handle: int, iv: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Encrypt; return ciphertext || 16-byte tag. PKCS11Error is not translated.

    Only for tokens that accept the caller's IV (see token_iv.py); TokenError if the output has another length.
    """
    functions, size = functions_of(session), len(plaintext)
    begin, finish = functions.encrypt_init, functions.encrypt
    sealed = operate(begin, finish, session_handle(session), handle, gcm(iv, aad), plaintext, size + BUFFER_SLACK)
    if len(sealed) != size + TAG_BYTES:
        raise TokenError(OTHER_ANSWER)
    return sealed


def open_sealed(session: Session, handle: int, iv: bytes, body: bytes, aad: bytes) -> bytes:
    """Decrypt ciphertext || tag; return the plaintext. PKCS11Error is not translated.

    TokenError if the plaintext has another length than the ciphertext: the token has not written it, or not all of it.
    """
    functions, size = functions_of(session), len(body)
    begin, finish = functions.decrypt_init, functions.decrypt
    opened = operate(begin, finish, session_handle(session), handle, gcm(iv, aad), body, size + BUFFER_SLACK, wipe=True)
    if len(opened) != size - TAG_BYTES:
        raise TokenError(OTHER_ANSWER)
    return opened
