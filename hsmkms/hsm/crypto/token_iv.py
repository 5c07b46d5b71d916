"""Support tokens that choose the IVs of AES-GCM themselves, as certified ones often must (FIPS 140).

They return the IV in one of three places; the mechanism's parameters point to a writable buffer for it. Where the token
put the IV is determined by trial decryption.

Source: PKCS #11 Cryptographic Token Interface Current Mechanisms 2.40, additional AES mechanisms (CK_GCM_PARAMS); the
places are those of vendors' manuals.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Final, NamedTuple

from pkcs11.exceptions import MechanismInvalid, MechanismParamInvalid, PKCS11Error
from pkcs11.mechanisms import Mechanism
from pkcs11.types import Session

from hsmkms.errors import TokenError, TokenUnfitError
from hsmkms.hsm.calls.mechanisms import IvBuffer, gcm_with_buffer, mechanism
from hsmkms.hsm.calls.messages import OTHER_ANSWER, TAG_BYTES
from hsmkms.hsm.calls.operations import encrypt
from hsmkms.hsm.crypto.gcm import BUFFER_SLACK, open_sealed
from hsmkms.hsm.crypto.iv import IV_BYTES

_ZEROS: Final = bytes(IV_BYTES)
"""IV buffer passed to a token that chooses the IV: some require it zeroed. Never accepted as the IV of a message."""

_NOTHING: Final = b""
"""IV buffer for a token that accepts no IV at all, only the number of bits that it is to choose."""

_BLOCK: Final = bytes(16)
_SAMPLE: Final = b"hsmkms: who chooses the IV?"
_SAMPLE_AAD: Final = b"hsmkms probe"


class IvOrigin(StrEnum):
    """Who chooses the IV of an encryption, and where a token that chooses it returns it."""

    CALLER = "caller"
    WRITTEN_BACK = "token_written_back"
    APPENDED = "token_appended"
    APPENDED_UNASKED = "token_appended_without_buffer"
    PREPENDED = "token_prepended"


_BEHIND: Final = "the token chooses the IVs of AES-GCM itself: they are taken from behind its ciphertext"

QUIRKS: Final = {
    IvOrigin.WRITTEN_BACK: "the token chooses the IVs of AES-GCM itself: they are read from where it writes them",
    IvOrigin.APPENDED: _BEHIND,
    IvOrigin.APPENDED_UNASKED: f"{_BEHIND}; it takes no IV",
    IvOrigin.PREPENDED: "the token chooses the IVs of AES-GCM itself: they are taken from before its ciphertext",
}
"""Sentences for people, by origin."""


class _Way(NamedTuple):
    """IV buffer to pass, and the function that extracts IV and ciphertext || tag from that buffer and the output."""

    offered: bytes
    find: Callable[[bytes, bytes], tuple[bytes, bytes]]


def _behind(_buffer: bytes, output: bytes) -> tuple[bytes, bytes]:
    return output[-IV_BYTES:], output[:-IV_BYTES]


_WAYS: Final = {
    IvOrigin.CALLER: _Way(_ZEROS, lambda buffer, output: (buffer, output)),
    IvOrigin.WRITTEN_BACK: _Way(_ZEROS, lambda buffer, output: (buffer, output)),
    IvOrigin.APPENDED: _Way(_ZEROS, _behind),
    IvOrigin.APPENDED_UNASKED: _Way(_NOTHING, _behind),
    IvOrigin.PREPENDED: _Way(_ZEROS, lambda _buffer, output: (output[:IV_BYTES], output[IV_BYTES:])),
}


def seal_by_token(session: Session, handle: int, origin: IvOrigin, plaintext: bytes, aad: bytes) -> tuple[bytes, bytes]:
    """Encrypt; return the IV that the token chose, and ciphertext || 16-byte tag. TokenError if there is no IV."""
    way = _WAYS[origin]
    iv, body = way.find(*_encrypt(session, handle, way.offered, plaintext, aad))
    if iv == _ZEROS or len(body) != len(plaintext) + TAG_BYTES:
        raise TokenError(OTHER_ANSWER)
    return iv, body


def encrypt_sample(session: Session, handle: int) -> None:
    """Encrypt a sample by a mechanism that the token accepts, and drop the result. PKCS11Error is not translated."""
    try:
        _encrypt(session, handle, _ZEROS, _SAMPLE, _SAMPLE_AAD)
    except MechanismParamInvalid:
        _encrypt(session, handle, _NOTHING, _SAMPLE, _SAMPLE_AAD)
    except MechanismInvalid:  # the token has no AES-GCM, or the key is none of AES
        encrypt(session, handle, mechanism(Mechanism.AES_CBC, _BLOCK), _BLOCK, len(_BLOCK))


def find_origin(session: Session, handle: int) -> IvOrigin:
    """Determine who chooses the IV, by trial decryption. TokenUnfitError if nothing decrypts.

    Raises PKCS11Error if the token accepts neither an IV nor a buffer for one.
    """
    refusal: PKCS11Error | None = None
    answered = False
    for offered in (session.generate_random(8 * IV_BYTES), _ZEROS, _NOTHING):
        try:
            answer = _encrypt(session, handle, offered, _SAMPLE, _SAMPLE_AAD)
        except PKCS11Error as exc:
            refusal = refusal or exc
            continue
        answered = True
        for origin, way in _WAYS.items():
            iv, body = way.find(*answer)
            fits = bool(way.offered) == bool(offered) and (iv == offered) == (origin is IvOrigin.CALLER)
            if fits and iv != _ZEROS and _opens(session, handle, iv, body):
                return origin
    if refusal is not None and not answered:
        raise refusal
    raise TokenUnfitError(
        "the token's AES-GCM does not decrypt what it encrypted, neither with an IV of ours nor with one of its own "
        f"that has {IV_BYTES} bytes: hsmkms cannot use it"
    )


def _encrypt(session: Session, handle: int, offered: bytes, plaintext: bytes, aad: bytes) -> tuple[bytes, bytes]:
    """Encrypt with an IV that the token may use or replace; return the IV buffer afterwards, and the output."""
    buffer = IvBuffer(offered)
    by = gcm_with_buffer(buffer, 8 * IV_BYTES, aad, 8 * TAG_BYTES)
    output = encrypt(session, handle, by, plaintext, len(plaintext) + BUFFER_SLACK)
    return buffer.read(), output


def _opens(session: Session, handle: int, iv: bytes, body: bytes) -> bool:
    try:
        return open_sealed(session, handle, iv, body, _SAMPLE_AAD) == _SAMPLE
    except PKCS11Error:
        return False
