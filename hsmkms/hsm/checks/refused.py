"""Check that a module survives material that it cannot unwrap: any caller of ImportKeyMaterial can send such material.

Some module corrupts its memory at it and aborts, now or later (opencryptoki 3.27). So it is sent many kinds of such
material, by every algorithm that the token can do, as an import sends it, and good material in between. token_check.py
lets glibc check the memory of the process meanwhile. This is never tried in a process that serves.
"""

import os
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from pkcs11.exceptions import PKCS11Error
from pkcs11.types import Object, Session

from hsmkms.errors import HsmKmsError
from hsmkms.hsm.checks.bench import CHECK_LABEL, Bench, Finding
from hsmkms.hsm.imports.probe import NEEDED, probe_import
from hsmkms.hsm.imports.unwrapping import Unwrapping
from hsmkms.hsm.imports.wrapping import ALGORITHMS, MATERIAL_BYTES, ImportProfile, make_pair
from hsmkms.hsm.objects.attributes import WRAPPING_KEY
from hsmkms.hsm.objects.key_specs import public_half
from hsmkms.key_wrapping import wrap
from hsmkms.model.enums import WrappingAlgorithm
from hsmkms.model.token_check import Outcome

NAME: Final = "refused material"

_BITS: Final = 2048
_BYTES: Final = _BITS // 8
_ROUNDS: Final = 3
_SECONDS: Final = 20.0
"""For all samples together: a smart card takes a second for each, and must not be taken for a module that hangs."""
_ID: Final = b"hsmkms refused 1"
_MESSAGE: Final = b"hsmkms token-check"
_NOTHING_SENT: Final = Finding(Outcome.WORKS, "nothing is sent to it, since it can do no wrapping algorithm")


def material(bench: Bench) -> Finding:
    """Import what cannot be imported, with a session key pair; the token must refuse it, and go on."""
    if not bench.mechanisms() >= NEEDED:
        return _NOTHING_SENT
    public, private = make_pair(bench.session, WRAPPING_KEY, _BITS, _ID, CHECK_LABEL, bench.support, store=False)
    try:
        profile = probe_import(bench.token, bench.session, bench.support, host_unwrap=False, key=private)
        if not profile.algorithms():
            return _NOTHING_SENT
        sent = _send(bench.session, private, profile)
    finally:
        public.destroy()
        private.destroy()
    if sent.unwrapped:
        return Finding(Outcome.LIMITED, f"{sent.unwrapped} of the samples that cannot be unwrapped were unwrapped")
    slow = f", as far as {sent.samples} samples show: the token is too slow for more" if sent.cut_short else ""
    return Finding(Outcome.WORKS, f"it is refused, and the module goes on{slow}")


class _Sent(NamedTuple):
    """How many samples were sent, and unwrapped though they cannot be; ``cut_short``: there was no time for all."""

    samples: int
    unwrapped: int
    cut_short: bool


def _send(session: Session, private: Object, profile: ImportProfile) -> _Sent:
    """Send samples that cannot be unwrapped, of each algorithm for a while, and good ones in between."""
    public = public_half(private)
    rounds = profile.algorithms() * _ROUNDS
    taken: list[bool] = []
    cut_short = False
    for algorithm in rounds:
        until = time.monotonic() + _SECONDS / len(rounds)
        unwrapping = Unwrapping(session, private, profile, algorithm, public=public)
        for each in _refusable(public, algorithm, profile):
            taken.append(_is_taken(unwrapping, each))
            if time.monotonic() > until:
                cut_short = True
                break
        unwrapping.prove(wrap(public, algorithm, os.urandom(MATERIAL_BYTES)))
    return _Sent(len(taken), sum(taken), cut_short)


def _is_taken(unwrapping: Unwrapping, ciphertext: bytes) -> bool:
    """Return whether the token unwraps this to 32 bytes."""
    try:
        unwrapping.fingerprints(ciphertext, _MESSAGE)
    except (HsmKmsError, PKCS11Error):
        return False
    return True


def _refusable(public: RSAPublicKey, algorithm: WrappingAlgorithm, profile: ImportProfile) -> Iterator[bytes]:
    """Yield ciphertexts that cannot be unwrapped: of damaged RSA blocks, and of what AES-KWP cannot unwrap."""
    good, modulus = wrap(public, algorithm, os.urandom(MATERIAL_BYTES)), public.public_numbers().n
    block, rest = good[:_BYTES], good[_BYTES:]
    damaged = [bytes(_BYTES), b"\xff" * _BYTES, *(each.to_bytes(_BYTES) for each in (1, modulus - 1, modulus))]
    damaged += [os.urandom(_BYTES) for _ in range(4)]
    damaged += [_flipped(block, at) for at in (0, 1, 128, 254, 255)]
    damaged += [
        wrap(public, each, os.urandom(MATERIAL_BYTES))[:_BYTES]
        for each, steps in ALGORITHMS.items()
        if steps.oaep != ALGORITHMS[algorithm].oaep
    ]
    yield from (each + rest for each in damaged)
    if rest and profile.key_wrap is not None:
        yield from (block + os.urandom(length) for length in (16, 24, 40, 296))
        yield from (block + _flipped(rest, at) for at in range(0, len(rest), 5))


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
