"""Define wrapping algorithms and generate wrapping keys.

A wrapping key is an RSA key pair. Its private half stays on the token and unwraps; its public half goes to the owner of
the key material. Source of the algorithms: AWS KMS API Reference, GetParametersForImport; RFC 8017, section 7.1
(OAEP, with the hash in MGF1 as well, and no label); RFC 5649 (AES key wrap with padding).
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from msgspec import Struct
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Session

from hsmkms.hsm.crypto.oaep_params import OAEP_SHA_1, OAEP_SHA_256, Oaep
from hsmkms.hsm.faults import translated
from hsmkms.hsm.imports.hardening import Hardening
from hsmkms.hsm.objects.attributes import PRIVATE_HALF, PUBLIC_HALF, WrappingKeyTemplate
from hsmkms.hsm.objects.handle_keys import HandleObject, generate_key_pair
from hsmkms.hsm.objects.key_specs import KeyFacts, public_half
from hsmkms.hsm.objects.objects import differences, require_as_ordered
from hsmkms.hsm.objects.support import STANDARD, AttributeSupport
from hsmkms.key_wrapping import METHODS
from hsmkms.model.enums import WrappingAlgorithm

MATERIAL_BYTES: Final = 32
"""Length of the material of a SYMMETRIC_DEFAULT key."""

KEY_WRAPS: Final = (Mechanism.AES_KEY_WRAP_PAD, Mechanism.AES_KEY_WRAP_KWP)
"""Numbers of AES-KWP (RFC 5649): 0x210A before PKCS #11 3.0 and on SoftHSM, 0x210B since. Where both exist, the first
may pad in another way, which only a known answer shows."""


class Steps(NamedTuple):
    """Steps of a wrapping algorithm: OAEP of the material itself, or of an AES key that wraps it (``key_wrap``)."""

    oaep: Oaep
    key_wrap: bool


class Prf(NamedTuple):
    """A pseudorandom function whose output identifies key material without revealing it."""

    name: str
    key_type: KeyType
    mechanism: Mechanism


_BY_HASH: Final = {each.algorithm: each for each in (OAEP_SHA_1, OAEP_SHA_256)}

ALGORITHMS: Final[Mapping[WrappingAlgorithm, Steps]] = {
    algorithm: Steps(_BY_HASH[method.hash], method.key_wrap) for algorithm, method in METHODS.items()
}
"""Unwrapping steps of each algorithm, strongest first."""

AES_CMAC: Final = Prf("AES_CMAC", KeyType.AES, Mechanism.AES_CMAC)
SHA256_HMAC: Final = Prf("SHA256_HMAC", KeyType.GENERIC_SECRET, Mechanism.SHA256_HMAC)
PRFS: Final = (AES_CMAC, SHA256_HMAC)
"""PRFs, the preferred one first. Their names are part of material ids: they never change."""


class Lengths(StrEnum):
    """How the length of unwrapped material can be proven on a token."""

    HONEST = "CKA_VALUE_LEN of unwrapped keys is right"
    PROBED = "CKA_VALUE_LEN of unwrapped keys is not right: their length is proven by trying HMAC and AES"
    UNPROVEN = "nothing proves the length of unwrapped keys: no key material can be imported"


class ImportProfile(Struct, frozen=True, kw_only=True):
    """A token's probed capabilities for imported material.

    ``oaep``: the hashes that it unwraps OAEP with. ``key_wrap``: the number by which it unwraps AES-KWP, None if by
    none. ``raw_rsa``: the padding of other hashes may be removed in this process, and the token allows it. ``pairs``:
    the types of private keys that it unwraps and whose public key can be derived. ``macs``: the bits of HMAC keys whose
    length can be proven. ``hardening``: how unwrapped keys become as ordered. ``refusal``: why nothing can be imported,
    in a phrase, where the token's answers say it. ``accepted``: the fault that the operator accepts.
    """

    oaep: tuple[Oaep, ...] = ()
    key_wrap: Mechanism | None = None
    prfs: tuple[Prf, ...] = ()
    lengths: Lengths = Lengths.UNPROVEN
    raw_rsa: bool = False
    pairs: frozenset[KeyType] = frozenset()
    macs: frozenset[int] = frozenset()
    attributes: AttributeSupport = STANDARD
    hardening: Hardening = Hardening.BY_TEMPLATE
    refusal: str = ""
    accepted: str = ""

    @property
    def quirks(self) -> tuple[str, ...]:
        """Return sentences for people about what is done otherwise on this token, or why nothing can be imported."""
        done_otherwise = () if self.hardening is Hardening.BY_TEMPLATE else (self.hardening.value,)
        accepted = (f"accepted by import.accept_crashes: {self.accepted}",) if self.accepted else ()
        refused = (f"no key material can be imported: {self.refusal}",) if self.refusal else ()
        return (*done_otherwise, *accepted, *refused)

    def imports(self, facts: KeyFacts) -> bool:
        """True if keys of that spec can be imported."""
        if facts.public is not None:
            return facts.key_type in self.pairs
        return facts.key_type is KeyType.AES or facts.bits in self.macs

    def algorithms(self) -> tuple[WrappingAlgorithm, ...]:
        """Return the usable algorithms: those that run on the token first, each group strongest first."""
        on_device = tuple(filter(self.on_device, ALGORITHMS))
        return on_device + tuple(each for each in ALGORITHMS if self.through_host(each))

    def on_device(self, algorithm: WrappingAlgorithm) -> bool:
        """True if the token does every step itself."""
        steps = ALGORITHMS.get(algorithm)
        return steps is not None and self._fit and steps.oaep in self.oaep and self._wraps(steps)

    def through_host(self, algorithm: WrappingAlgorithm) -> bool:
        """True if the key material must pass through this process for this algorithm, and that is allowed."""
        steps = ALGORITHMS.get(algorithm)
        return (steps is not None and self._fit and self.raw_rsa) and steps.oaep not in self.oaep and self._wraps(steps)

    def _wraps(self, steps: Steps) -> bool:
        return self.key_wrap is not None or not steps.key_wrap

    @property
    def _fit(self) -> bool:
        return bool(self.oaep and self.prfs) and self.lengths is not Lengths.UNPROVEN


# -- on the token ---------------------------------------------------------------------------------------------------


def generate_pair(
    session: Session,
    template: WrappingKeyTemplate,
    bits: int,
    cka_id: bytes,
    label: str,
    support: AttributeSupport = STANDARD,
) -> RSAPublicKey:
    """Generate a wrapping key on the token, read it back and compare; return its public half.

    Raises TokenUnfitError naming what the token ignored, but for what ``support`` tolerates; the key is destroyed then.
    """
    public, private = make_pair(session, template, bits, cka_id, label, support, store=True)
    public_key = public_half(public)
    with translated():
        public.destroy()
    wrong = differences(private, template.expected(cka_id, label), support.generated)
    if public_key.key_size != bits:
        wrong.append(f"it has {public_key.key_size} bits instead of {bits}")
    if public_half(private).public_numbers() != public_key.public_numbers():
        wrong.append("its halves do not belong together")
    require_as_ordered(private, wrong)
    return public_key


def make_pair(
    session: Session,
    template: WrappingKeyTemplate,
    bits: int,
    cka_id: bytes,
    label: str,
    support: AttributeSupport,
    *,
    store: bool,
) -> tuple[HandleObject, HandleObject]:
    """Call C_GenerateKeyPair. ``store`` applies to the private half; the public half is a session object."""
    with translated():
        return generate_key_pair(
            session,
            mechanism=Mechanism.RSA_PKCS_KEY_PAIR_GEN,
            cka_id=cka_id,
            label=label,
            store=store,
            capabilities=template.capabilities,
            public_template=dict(PUBLIC_HALF),
            private_template=support.ordered(PRIVATE_HALF),
            rsa_bits=bits,
        )
