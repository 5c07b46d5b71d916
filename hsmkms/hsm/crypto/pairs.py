"""Key pairs on the token: making both halves, and the proof that they belong together.

The halves are two objects that anybody with the PIN could destroy and make anew. Who encrypts to a public key that is
not the private one's, or trusts its signatures, is lost. So nobody gets a public key before the private half has
shown that it is its own: by its modulus, by a signature, or by a shared secret.
"""

from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from msgspec import Struct
from pkcs11.constants import Attribute, MechanismFlag
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType
from pkcs11.types import Object, PrivateKey, Session
from pkcs11.types import PublicKey as PublicObject

from hsmkms.errors import HsmKmsError, TokenError, TokenUnfitError
from hsmkms.hsm.crypto.agreement import agree
from hsmkms.hsm.crypto.signing import SIGNINGS, sign, verify_here, verify_on_token
from hsmkms.hsm.faults import translated
from hsmkms.hsm.objects.attributes import KEPT_PUBLIC_HALF, PRIVATE_HALF
from hsmkms.hsm.objects.backing_keys import PairTemplate
from hsmkms.hsm.objects.key_specs import KeyFacts, PublicKey, public_half
from hsmkms.hsm.objects.objects import differences, handle_of
from hsmkms.model.enums import SigningAlgorithm

_CHALLENGE: Final = b"hsmkms: a pair's proof, no message of anybody's"
_DIGEST_BYTES: Final = 32


class Public(Struct, frozen=True):
    """A public half: DER SubjectPublicKeyInfo, its handle, and the key in this process where it knows that kind."""

    info: bytes
    handle: int
    key: PublicKey | None


def make_pair(
    session: Session, template: PairTemplate, cka_id: bytes, label: str, *, store: bool = True
) -> tuple[PublicObject, PrivateKey]:
    """C_GenerateKeyPair: both halves under one CKA_ID. python-pkcs11's errors come out as they are."""
    facts = template.facts
    return session.generate_keypair(
        facts.key_type,
        facts.generated_bits,
        id=cka_id,
        label=label,
        store=store,
        capabilities=template.capabilities,
        mechanism=facts.generation,
        public_template={**KEPT_PUBLIC_HALF, **facts.parameters},
        private_template=dict(PRIVATE_HALF),
    )


def generate_pair(session: Session, template: PairTemplate, cka_id: bytes, label: str, *, store: bool = True) -> Object:
    """Make a key pair, read both halves back and compare, and prove that they belong together; its private half.

    Raises TokenUnfitError naming what the token ignored; both halves are destroyed then.
    """
    with translated():
        public, private = make_pair(session, template, cka_id, label, store=store)
    stored = {Attribute.TOKEN: store}
    wrong = differences(private, template.expected(cka_id, label) | stored)
    wrong += differences(public, template.expected_public(cka_id, label) | stored)
    if not wrong:
        try:
            wrong = disproof(session, template, private, read_public(public, template.facts))
        except HsmKmsError as exc:
            wrong = [f"it could not be proven: {exc}"]
    if wrong:
        _destroy_both(public, private, wrong)
        raise TokenUnfitError(f"the token made a key pair not as ordered ({'; '.join(wrong)}): it was destroyed")
    return private


def _destroy_both(public: Object, private: Object, wrong: list[str]) -> None:
    try:
        private.destroy()
        public.destroy()
    except PKCS11Error as exc:
        # Not the fault's own class: it may say that nothing was made, and that would not be true.
        raise TokenError(
            f"the token made a key pair that is not as ordered ({'; '.join(wrong)}) and keeps it: remove it by hand"
        ) from exc


def read_public(half: Object, facts: KeyFacts) -> Public:
    """The public key that a public half tells. TokenError if it is none of its spec."""
    if facts.public is None:
        raise TokenError("a secret key has no public half")
    info = facts.public(half)
    # RFC 9881 is newer than some versions of the library that are about.
    key = load_der_public_key(info) if facts.key_type is not KeyType.ML_DSA else None
    return Public(info, handle_of(half), key)  # type: ignore[arg-type]  # facts.public made it of one of these kinds


def disproof(session: Session, template: PairTemplate, private: Object, public: Public) -> list[str]:
    """What speaks against the halves of a pair belonging together, as phrases: none if they do."""
    with translated():
        proven = _PROOFS[template.key_type](session, template, private, public)
    return [] if proven else ["its halves do not belong together"]


def _proven_by_modulus(_session: Session, template: PairTemplate, private: Object, public: Public) -> bool:
    told = public_half(private)
    return public.key == told and told.key_size == template.facts.bits


def _proven_by_use(session: Session, template: PairTemplate, private: Object, public: Public) -> bool:
    if not isinstance(public.key, ec.EllipticCurvePublicKey):
        return False
    if template.capabilities & MechanismFlag.DERIVE:
        ours = ec.generate_private_key(public.key.curve)
        shared = agree(session, handle_of(private), template.facts, ours.public_key())
        return shared == ours.exchange(ec.ECDH(), public.key)
    return _proven_by_signature(
        session, private, public.key, SigningAlgorithm.ECDSA_SHA_256, _CHALLENGE[:_DIGEST_BYTES]
    )


def _proven_by_eddsa(session: Session, _template: PairTemplate, private: Object, public: Public) -> bool:
    key = public.key
    return key is not None and _proven_by_signature(session, private, key, SigningAlgorithm.ED25519_SHA_512, _CHALLENGE)


def _proven_on_token(session: Session, _template: PairTemplate, private: Object, public: Public) -> bool:
    algorithm = SigningAlgorithm.ML_DSA_SHAKE_256
    signature = sign(session, handle_of(private), algorithm, _CHALLENGE)
    return verify_on_token(session, public.handle, algorithm, signature, _CHALLENGE)


def _proven_by_signature(
    session: Session, private: Object, public: PublicKey, algorithm: SigningAlgorithm, data: bytes
) -> bool:
    signature = sign(session, handle_of(private), algorithm, data)
    check = SIGNINGS[algorithm].verify
    return check is not None and verify_here(check, public, signature, data)


_PROOFS: Final = {
    KeyType.RSA: _proven_by_modulus,
    KeyType.EC: _proven_by_use,
    KeyType.EC_EDWARDS: _proven_by_eddsa,
    KeyType.ML_DSA: _proven_on_token,
}
