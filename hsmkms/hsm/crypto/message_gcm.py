"""Try whether a token encrypts messages of PKCS#11 3.x, and who chooses their IVs.

The caller's own IV is tried first: it comes from the token's random generator (iv.py). A token that takes none (FIPS
140) may choose at random itself; IVs that are equal, near each other or zero are refused. What was encrypted by message
must decrypt in the usual way. Nothing of it is needed: any refusal means that encryption takes two calls.
"""

from typing import Final

from pkcs11.exceptions import PKCS11Error
from pkcs11.types import Session

from hsmkms.errors import TokenError
from hsmkms.hsm.calls.function_list import MessageFunctions
from hsmkms.hsm.calls.messages import IV_BYTES, TAG_BYTES, Generator, Messages
from hsmkms.hsm.crypto.gcm import open_sealed
from hsmkms.hsm.faults import is_loss, translated
from hsmkms.hsm.objects.attributes import AES_256_BACKING_KEY
from hsmkms.hsm.objects.objects import discard, generate, handle_of
from hsmkms.hsm.objects.support import AttributeSupport

_SAMPLE: Final = b"hsmkms: a message of PKCS#11 3"
_AAD: Final = b"hsmkms probe"
_PROBE_ID: Final = b"hsmkms probe 004"
_PROBE_LABEL: Final = "hsmkms probe (a session object)"
_NEAR: Final = 1 << 48
"""Random IVs differ by less with a probability of 2^-47; those of a counter do."""


def find_generator(functions: MessageFunctions | None, session: Session, support: AttributeSupport) -> Generator | None:
    """Return who is to choose the IVs of messages; None if the token cannot encrypt messages, or not safely."""
    if functions is None or not functions.knows(session):
        return None
    key = generate(session, AES_256_BACKING_KEY, _PROBE_ID, _PROBE_LABEL, support, store=False)
    try:
        with translated():
            return next((each for each in Generator if _works(functions, session, handle_of(key), each)), None)
    finally:
        discard(key)


def _works(functions: MessageFunctions, session: Session, key: int, generator: Generator) -> bool:
    messages = Messages(functions, generator, clock=lambda: 0.0)  # however slow: the trial is of one operation
    try:
        _, *sealed = [messages.seal(session, _PROBE_ID, key, _draw, _SAMPLE, _AAD) for _ in range(3)]
    except TokenError:
        return False
    except PKCS11Error as exc:
        if is_loss(exc):
            raise
        return False
    finally:
        messages.end(session)
    (first_iv, first), (second_iv, second) = (each or (b"", b"") for each in sealed)
    return _are_random(first_iv, second_iv) and all(
        _opens(session, key, iv, body) for iv, body in ((first_iv, first), (second_iv, second))
    )


def _draw(session: Session) -> bytes:
    return session.generate_random(8 * IV_BYTES)


def _are_random(first: bytes, second: bytes) -> bool:
    return any(first) and any(second) and abs(int.from_bytes(first) - int.from_bytes(second)) >= _NEAR


def _opens(session: Session, key: int, iv: bytes, body: bytes) -> bool:
    try:
        return len(body) == len(_SAMPLE) + TAG_BYTES and open_sealed(session, key, iv, body, _AAD) == _SAMPLE
    except PKCS11Error as exc:
        if is_loss(exc):
            raise
        return False
