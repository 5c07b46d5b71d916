"""Try AES-CBC with HMAC, the ciphertext format of a token that has no AES-GCM, with session keys.

As no known key enters the token at start, the ciphertext is compared with a computation from single AES blocks of the
same key. Source: NIST SP 800-38A, section 6.2.
"""

from collections.abc import Callable
from typing import Final

from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import Mechanism
from pkcs11.types import Session

from hsmkms.errors import RejectedDataError, TokenUnfitError, UnsupportedOperationException
from hsmkms.hsm.calls.mechanisms import mechanism
from hsmkms.hsm.calls.operations import decrypt, encrypt
from hsmkms.hsm.crypto import cbc
from hsmkms.hsm.faults import translated
from hsmkms.hsm.objects.cbc_pairs import generate_both
from hsmkms.hsm.objects.objects import discard, handle_of
from hsmkms.hsm.objects.support import STANDARD, AttributeSupport

_PROBE_ID: Final = bytes.fromhex("68736d6b6d738cbcb063626300000001")
_PROBE_LABEL: Final = "hsmkms probe (a session object)"
_PLAINTEXT: Final = b"hsmkms known answer test: 40 bytes long."
_AAD: Final = b"additional authenticated data"
_LONGEST_AAD: Final = 75 + 8192
"""Bytes of a ciphertext's header and of the longest encryption context (rules/blob.py, rules/context.py)."""
_UNFIT: Final = "the token's AES-CBC with HMAC-SHA-256"


def check_cbc(session: Session, support: AttributeSupport = STANDARD, *, exact: bool) -> None:
    """Encrypt, compare, decrypt, and require that changed data is refused. TokenUnfitError if the token fails.

    ``exact``: compare with an independent computation, for which the token must have AES-ECB.
    """
    encrypting, authenticating = generate_both(session, _PROBE_ID, _PROBE_LABEL, support, store=False)
    keys = cbc.Keys(handle_of(encrypting), handle_of(authenticating))
    try:
        with translated():
            iv = session.generate_random(8 * cbc.IV_BYTES)
            body = cbc.seal(session, keys, iv, _PLAINTEXT, _AAD)
            opened = cbc.open_sealed(session, keys, iv, body, _AAD)
            again = cbc.seal(session, keys, iv, _PLAINTEXT, _AAD)
            wrong = exact and body[: -cbc.TAG_BYTES] != _expected(_aes_block(session, keys.encrypting), iv, _PLAINTEXT)
        if wrong:
            raise TokenUnfitError(f"{_UNFIT} is not that of NIST SP 800-38A: hsmkms cannot use it")
        if opened != _PLAINTEXT or again != body or _accepts(session, keys, iv, bytes((body[0] ^ 1,)) + body[1:]):
            raise TokenUnfitError(f"{_UNFIT} accepts changed data or loses plaintext: hsmkms cannot use it")
    finally:
        discard(encrypting)
        discard(authenticating)


def takes_longest(session: Session, support: AttributeSupport = STANDARD) -> bool:
    """Return whether the token encrypts the longest plaintext with the longest additional data, and decrypts it."""
    both = generate_both(session, _PROBE_ID, _PROBE_LABEL, support, store=False)
    keys, plaintext, aad = cbc.Keys(*map(handle_of, both)), bytes(cbc.LARGEST_PLAINTEXT), bytes(_LONGEST_AAD)
    try:
        with translated():
            iv = session.generate_random(8 * cbc.IV_BYTES)
            return cbc.open_sealed(session, keys, iv, cbc.seal(session, keys, iv, plaintext, aad), aad) == plaintext
    except UnsupportedOperationException:
        return False
    finally:
        for each in both:
            discard(each)


def computes(session: Session, key: int, iv: bytes, plaintext: bytes, ciphertext: bytes) -> bool:
    """Return whether AES-CBC turns whole blocks into these, and back."""
    by = mechanism(Mechanism.AES_CBC, iv)
    right = encrypt(session, key, by, plaintext, len(plaintext)) == ciphertext
    return right and decrypt(session, key, by, ciphertext, len(ciphertext)) == plaintext


def _expected(aes_block: Callable[[bytes], bytes], iv: bytes, plaintext: bytes) -> bytes:
    """Return the ciphertext of the padded plaintext, given the forward AES block function of the key."""
    padded, blocks = cbc.pad(plaintext), [iv]
    for at in range(0, len(padded), cbc.BLOCK):
        mixed = bytes(a ^ b for a, b in zip(padded[at : at + cbc.BLOCK], blocks[-1], strict=True))
        blocks.append(aes_block(mixed))
    return b"".join(blocks[1:])


def _aes_block(session: Session, key: int) -> Callable[[bytes], bytes]:
    return lambda block: encrypt(session, key, mechanism(Mechanism.AES_ECB), block, cbc.BLOCK)


def _accepts(session: Session, keys: cbc.Keys, iv: bytes, body: bytes) -> bool:
    try:
        cbc.open_sealed(session, keys, iv, body, _AAD)
    except (RejectedDataError, PKCS11Error):
        return False
    return True
