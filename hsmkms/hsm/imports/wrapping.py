"""Wrapping algorithms and wrapping keys: the tables, and what makes a key pair on the token.

A wrapping key is an RSA key pair. Its private half stays on the token and unwraps; its public half goes to whoever has
key material to import. Source of the algorithms: AWS KMS API Reference, GetParametersForImport; RFC 8017, section 7.1
(OAEP, with the hash in MGF1 as well, and no label); RFC 5649 (AES key wrap with padding).
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from msgspec import Struct
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import PrivateKey, PublicKey, Session

from hsmkms.hsm.crypto.oaep_params import OAEP_SHA_1, OAEP_SHA_256, Oaep
from hsmkms.hsm.faults import translated
from hsmkms.hsm.objects.attributes import PRIVATE_HALF, PUBLIC_HALF, WrappingKeyTemplate
from hsmkms.hsm.objects.key_specs import KeyFacts, public_half
from hsmkms.hsm.objects.objects import differences, require_as_ordered
from hsmkms.key_wrapping import METHODS
from hsmkms.model.enums import WrappingAlgorithm

MATERIAL_BYTES: Final = 32
"""What a SYMMETRIC_DEFAULT key takes."""


class Steps(NamedTuple):
    """What an algorithm consists of: OAEP, of the material itself or of an AES key that wraps it."""

    oaep: Oaep
    key_wrap: bool


class Prf(NamedTuple):
    """A function that tells materials from each other and gives nothing away of them."""

    name: str
    key_type: KeyType
    mechanism: Mechanism


_BY_HASH: Final = {each.algorithm: each for each in (OAEP_SHA_1, OAEP_SHA_256)}

ALGORITHMS: Final[Mapping[WrappingAlgorithm, Steps]] = {
    algorithm: Steps(_BY_HASH[method.hash], method.key_wrap) for algorithm, method in METHODS.items()
}
"""How each algorithm is undone. The strongest first."""

AES_CMAC: Final = Prf("AES_CMAC", KeyType.AES, Mechanism.AES_CMAC)
SHA256_HMAC: Final = Prf("SHA256_HMAC", KeyType.GENERIC_SECRET, Mechanism.SHA256_HMAC)
PRFS: Final = (AES_CMAC, SHA256_HMAC)
"""The preferred one first. The names go into material ids: they never change."""


class Lengths(StrEnum):
    """How a token lets the length of unwrapped material be proven."""

    HONEST = "CKA_VALUE_LEN of unwrapped keys is right"
    PROBED = "CKA_VALUE_LEN of unwrapped keys is not right: their length is proven by trying HMAC and AES"
    UNPROVEN = "nothing proves the length of unwrapped keys: no key material can be imported"


class ImportProfile(Struct, frozen=True, kw_only=True):
    """What a token can do with imported material, found out by trying.

    ``oaep``: the hashes that it unwraps OAEP with. ``key_wrap``: AES-KWP as well. ``raw_rsa``: this process may remove
    the padding of other hashes, and the token lets it. ``pairs``: the types of private keys that it unwraps and lets be
    recognised. ``macs``: the bits of HMAC keys whose length it lets be proven.
    """

    oaep: tuple[Oaep, ...] = ()
    key_wrap: bool = False
    prfs: tuple[Prf, ...] = ()
    lengths: Lengths = Lengths.UNPROVEN
    raw_rsa: bool = False
    pairs: frozenset[KeyType] = frozenset()
    macs: frozenset[int] = frozenset()

    def imports(self, facts: KeyFacts) -> bool:
        """True if keys of that spec can be imported."""
        if facts.public is not None:
            return facts.key_type in self.pairs
        return facts.key_type is KeyType.AES or facts.bits in self.macs

    def algorithms(self) -> tuple[WrappingAlgorithm, ...]:
        """What can be imported with: what the token does by itself first, and of both the strongest first."""
        on_device = tuple(filter(self.on_device, ALGORITHMS))
        return on_device + tuple(each for each in ALGORITHMS if self.through_host(each))

    def on_device(self, algorithm: WrappingAlgorithm) -> bool:
        """True if the token does every step by itself."""
        steps = ALGORITHMS.get(algorithm)
        return steps is not None and self._fit and steps.oaep in self.oaep and (self.key_wrap or not steps.key_wrap)

    def through_host(self, algorithm: WrappingAlgorithm) -> bool:
        """True if the bytes have to pass through this process, and may."""
        steps = ALGORITHMS.get(algorithm)
        return (
            (steps is not None and self._fit and self.raw_rsa)
            and steps.oaep not in self.oaep
            and (self.key_wrap or not steps.key_wrap)
        )

    @property
    def _fit(self) -> bool:
        return bool(self.oaep and self.prfs) and self.lengths is not Lengths.UNPROVEN


# -- on the token ---------------------------------------------------------------------------------------------------


def generate_pair(
    session: Session, template: WrappingKeyTemplate, bits: int, cka_id: bytes, label: str
) -> RSAPublicKey:
    """Make a wrapping key that stays on the token, read it back and compare; its public half.

    Raises TokenUnfitError naming what the token ignored; the key is destroyed then.
    """
    public, private = make_pair(session, template, bits, cka_id, label, store=True)
    told = public_half(public)
    with translated():
        public.destroy()
    wrong = differences(private, template.expected(cka_id, label))
    if told.key_size != bits:
        wrong.append(f"it has {told.key_size} bits instead of {bits}")
    if public_half(private).public_numbers() != told.public_numbers():
        wrong.append("its halves do not belong together")
    require_as_ordered(private, wrong)
    return told


def make_pair(
    session: Session, template: WrappingKeyTemplate, bits: int, cka_id: bytes, label: str, *, store: bool
) -> tuple[PublicKey, PrivateKey]:
    """C_GenerateKeyPair. ``store`` is for the private half; the public one is a session object."""
    with translated():
        return session.generate_keypair(
            KeyType.RSA,
            bits,
            id=cka_id,
            label=label,
            store=store,
            capabilities=template.capabilities,
            mechanism=Mechanism.RSA_PKCS_KEY_PAIR_GEN,
            public_template=dict(PUBLIC_HALF),
            private_template=dict(PRIVATE_HALF),
        )
