"""Check that a module survives material that it cannot unwrap: any caller of ImportKeyMaterial can send such material.

Some module corrupts its memory at it and aborts, now or later (opencryptoki 3.27), so it is sent many kinds of such
material, several times, and good material in between. This is never tried in a process that serves.
"""

import os
from collections.abc import Iterator
from typing import Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from pkcs11.constants import MechanismFlag
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType, Mechanism

from hsmkms.hsm.checks.bench import CHECK_LABEL, Bench, Finding
from hsmkms.hsm.ckr_names import ckr_of
from hsmkms.hsm.crypto.oaep_params import OAEP_SHA_1, OAEP_SHA_256, Oaep
from hsmkms.hsm.imports.unwrapping import Source
from hsmkms.hsm.imports.wrapping import KEY_WRAPS, MATERIAL_BYTES, make_pair
from hsmkms.hsm.objects.attributes import WRAPPING_KEY
from hsmkms.hsm.objects.handle_keys import HandleUnwrapper
from hsmkms.hsm.objects.key_specs import public_half
from hsmkms.hsm.objects.objects import handle_of
from hsmkms.key_wrapping import wrap
from hsmkms.model.enums import WrappingAlgorithm
from hsmkms.model.token_check import Outcome

NAME: Final = "refused material"

_BITS: Final = 2048
_BYTES: Final = _BITS // 8
_ROUNDS: Final = 4
_ID: Final = b"hsmkms refused 1"
_BY: Final[dict[Oaep, tuple[WrappingAlgorithm, WrappingAlgorithm, WrappingAlgorithm]]] = {
    OAEP_SHA_1: (
        WrappingAlgorithm.RSAES_OAEP_SHA_1,
        WrappingAlgorithm.RSAES_OAEP_SHA_256,
        WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_1,
    ),
    OAEP_SHA_256: (
        WrappingAlgorithm.RSAES_OAEP_SHA_256,
        WrappingAlgorithm.RSAES_OAEP_SHA_1,
        WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_256,
    ),
}
"""By the hash that the token is asked to use: the algorithm that wraps for it, one that does not, one with AES-KWP."""


def material(bench: Bench) -> Finding:
    """Unwrap what cannot be unwrapped with a session key pair; the token must refuse it, and go on."""
    public, private = make_pair(bench.session, WRAPPING_KEY, _BITS, _ID, CHECK_LABEL, bench.support, store=False)
    codes: set[str] = set()
    try:
        key, half = HandleUnwrapper(bench.session, handle_of(private), KeyType.RSA), public_half(private)
        for _ in range(_ROUNDS):
            for oaep, (right, wrong, in_layers) in _BY.items():
                for block in _refusable(half, right, wrong):
                    codes.add(_unwrap(key, oaep, block))
                    _unwrap(key, oaep, wrap(half, right, os.urandom(MATERIAL_BYTES)))
                codes |= _unwrap_in_layers(bench, key, oaep, wrap(half, in_layers, os.urandom(MATERIAL_BYTES)))
    finally:
        public.destroy()
        private.destroy()
    refusals = ", ".join(sorted(codes - {""}))
    if "" in codes:
        return Finding(Outcome.LIMITED, f"some of what cannot be unwrapped was unwrapped; the rest: {refusals}")
    return Finding(Outcome.WORKS, f"it is refused ({refusals}), and the module goes on")


def _unwrap(key: HandleUnwrapper, oaep: Oaep, block: bytes) -> str:
    return _code(Source(key, Mechanism.RSA_PKCS_OAEP, oaep.parameters, block))


def _unwrap_in_layers(bench: Bench, key: HandleUnwrapper, oaep: Oaep, good: bytes) -> set[str]:
    """Unwrap an AES key, and by that what AES-KWP cannot unwrap; return the codes."""
    block, rest = good[:_BYTES], good[_BYTES:]
    kwps = [each for each in KEY_WRAPS if each in bench.mechanisms()]
    try:
        made = Source(key, Mechanism.RSA_PKCS_OAEP, oaep.parameters, block).unwrap(KeyType.AES, MechanismFlag.UNWRAP)
    except PKCS11Error:
        return set()  # said by the check of that hash
    inner = HandleUnwrapper(bench.session, handle_of(made), KeyType.AES)
    codes = set()
    try:
        for kwp in kwps:
            for length in (16, 24, 40, 296):
                codes.add(_code(Source(inner, kwp, None, os.urandom(length))))
            for at in range(0, len(rest), 5):
                codes.add(_code(Source(inner, kwp, None, rest[:at] + bytes((rest[at] ^ 1,)) + rest[at + 1 :])))
                _code(Source(inner, kwp, None, rest))
    finally:
        made.destroy()
    return codes


def _code(source: Source) -> str:
    """Unwrap into a session object, and destroy it; return the code of the refusal, empty if there was none."""
    try:
        source.unwrap(KeyType.GENERIC_SECRET, MechanismFlag.SIGN).destroy()
    except PKCS11Error as exc:
        return ckr_of(exc)
    return ""


def _refusable(public: RSAPublicKey, right: WrappingAlgorithm, wrong: WrappingAlgorithm) -> Iterator[bytes]:
    """Yield blocks that cannot be unwrapped."""
    good, modulus = wrap(public, right, os.urandom(MATERIAL_BYTES)), public.public_numbers().n
    yield from (bytes(_BYTES), b"\xff" * _BYTES, (1).to_bytes(_BYTES))
    yield from (modulus.to_bytes(_BYTES), (modulus - 1).to_bytes(_BYTES))
    yield from (b"\0" + os.urandom(_BYTES - 1) for _ in range(4))
    yield from (good[:-1] + bytes((good[-1] ^ 1,)), good[:-1], good + b"\0")
    yield wrap(public, wrong, os.urandom(MATERIAL_BYTES))
