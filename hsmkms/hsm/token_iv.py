"""Tokens that choose the IVs of AES-GCM by themselves, as certified ones often must (FIPS 140).

They tell the IV in one of three places. python-pkcs11 lends a token the inside of a ``bytes`` object for it, which must
never change, so here the parameters of the mechanism are made by hand around a buffer that may be written to. What the
token did with it is found out by decrypting.

Source: PKCS #11 Cryptographic Token Interface Current Mechanisms 2.40, section 2.12.4 (CK_GCM_PARAMS); the places are
those of the vendors' own manuals.
"""

import ctypes
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from pkcs11.exceptions import PKCS11Error
from pkcs11.types import Session

from hsmkms.errors import TokenError, TokenUnfitError
from hsmkms.hsm.borrowed import BorrowedKey
from hsmkms.hsm.gcm import BUFFER_SLACK, MECHANISM, OTHER_ANSWER, TAG_BYTES, open_sealed
from hsmkms.hsm.iv import IV_BYTES

NO_IV: Final = bytes(IV_BYTES)
"""What is offered to a token that chooses by itself: some want the buffer zeroed. Never the IV of a message."""

_SAMPLE: Final = b"hsmkms: who chooses the IV?"
_SAMPLE_AAD: Final = b"hsmkms probe"


class IvOrigin(StrEnum):
    """Who chooses the IV of an encryption, and where a token that does it tells which it was."""

    CALLER = "caller"
    WRITTEN_BACK = "token_written_back"
    APPENDED = "token_appended"
    PREPENDED = "token_prepended"


QUIRKS: Final = {
    IvOrigin.WRITTEN_BACK: "the token chooses the IVs of AES-GCM itself: they are read from where it writes them",
    IvOrigin.APPENDED: "the token chooses the IVs of AES-GCM itself: they are taken from behind its ciphertext",
    IvOrigin.PREPENDED: "the token chooses the IVs of AES-GCM itself: they are taken from before its ciphertext",
}
"""For people."""

_PLACES: Final[dict[IvOrigin, Callable[[bytes, bytes], tuple[bytes, bytes]]]] = {
    IvOrigin.CALLER: lambda buffer, output: (buffer, output),
    IvOrigin.WRITTEN_BACK: lambda buffer, output: (buffer, output),
    IvOrigin.APPENDED: lambda _buffer, output: (output[-IV_BYTES:], output[:-IV_BYTES]),
    IvOrigin.PREPENDED: lambda _buffer, output: (output[:IV_BYTES], output[IV_BYTES:]),
}
"""IV, and ciphertext || tag, from the IV's buffer after the call and from what the token put out."""


class _GcmParams(ctypes.Structure):
    _fields_ = (
        ("iv", ctypes.c_void_p),
        ("iv_bytes", ctypes.c_ulong),
        ("iv_bits", ctypes.c_ulong),
        ("aad", ctypes.c_char_p),
        ("aad_bytes", ctypes.c_ulong),
        ("tag_bits", ctypes.c_ulong),
    )


def encrypt(session: Session, handle: int, offered: bytes, plaintext: bytes, aad: bytes) -> tuple[bytes, bytes]:
    """AES-GCM with an IV that the token may use or not: the IV's buffer afterwards, and what the token put out.

    python-pkcs11's errors come out as they are.
    """
    buffer = ctypes.create_string_buffer(offered, len(offered))
    parameters = _GcmParams(
        iv=ctypes.addressof(buffer),
        iv_bytes=len(offered),
        iv_bits=8 * len(offered),
        aad=aad,
        aad_bytes=len(aad),
        tag_bits=8 * TAG_BYTES,
    )
    output: bytes = BorrowedKey(session, handle).encrypt(
        plaintext,
        buffer_size=len(plaintext) + BUFFER_SLACK,
        mechanism=MECHANISM,
        mechanism_param=bytes(parameters),
    )
    return buffer.raw, output


def seal_by_token(session: Session, handle: int, origin: IvOrigin, plaintext: bytes, aad: bytes) -> tuple[bytes, bytes]:
    """Return the IV that the token chose, and ciphertext || 16-byte tag. TokenError if it did not tell an IV."""
    iv, body = _PLACES[origin](*encrypt(session, handle, NO_IV, plaintext, aad))
    if iv == NO_IV or len(body) != len(plaintext) + TAG_BYTES:
        raise TokenError(OTHER_ANSWER)
    return iv, body


def find_origin(session: Session, handle: int) -> IvOrigin:
    """Find out who chooses, by decrypting what the token made. TokenUnfitError if nothing decrypts.

    python-pkcs11's errors come out as they are.
    """
    offered = session.generate_random(8 * IV_BYTES)
    try:
        answer = encrypt(session, handle, offered, _SAMPLE, _SAMPLE_AAD)
    except PKCS11Error:  # it may want the buffer zeroed
        offered = NO_IV
        answer = encrypt(session, handle, offered, _SAMPLE, _SAMPLE_AAD)
    for origin, place in _PLACES.items():
        iv, body = place(*answer)
        fits = (iv == offered) == (origin is IvOrigin.CALLER)
        if fits and iv != NO_IV and _opens(session, handle, iv, body):
            return origin
    raise TokenUnfitError(
        "the token's AES-GCM does not decrypt what it encrypted, neither with an IV of ours nor with one of its own: "
        "hsmkms cannot use it"
    )


def _opens(session: Session, handle: int, iv: bytes, body: bytes) -> bool:
    try:
        return open_sealed(session, handle, iv, body, _SAMPLE_AAD) == _SAMPLE
    except PKCS11Error:
        return False
