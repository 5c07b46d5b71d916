"""Generate key pairs on the token, and prove that their halves belong together.

The halves are two objects, each of which anyone with the PIN could replace. Encrypting to a public key that is not the
private half's, or trusting signatures under it, would be fatal. So a public key is not returned before the private half
has proven that it belongs to it: by its modulus, by a signature, or by a shared secret, agreed or encapsulated.
"""

from collections.abc import Mapping
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from msgspec import Struct
from pkcs11.constants import Attribute, MechanismFlag
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType
from pkcs11.types import Object, Session

from hsmkms.errors import HsmKmsError, TokenError, TokenUnfitError
from hsmkms.hsm.ckr_names import ckr_of
from hsmkms.hsm.crypto.agreement import agree
from hsmkms.hsm.crypto.kem import decapsulate, encapsulate_here, encapsulate_on_token
from hsmkms.hsm.crypto.signing import SIGNINGS, sign, verify_here, verify_on_token
from hsmkms.hsm.faults import translated
from hsmkms.hsm.objects.attributes import KEPT_PUBLIC_HALF, PRIVATE_HALF
from hsmkms.hsm.objects.backing_keys import PairTemplate
from hsmkms.hsm.objects.handle_keys import HandleObject, generate_key_pair
from hsmkms.hsm.objects.key_specs import EncapsulationKey, KeyFacts, MlDsaPublicKey, PublicKey, public_half
from hsmkms.hsm.objects.objects import differences, handle_of
from hsmkms.hsm.objects.support import STANDARD, AttributeSupport
from hsmkms.model.enums import SigningAlgorithm

_CHALLENGE: Final = b"hsmkms: a pair's proof, no message of anybody's"
_DIGEST_BYTES: Final = 32

_NEWER: Final[Mapping[KeyType, type]] = {KeyType.ML_DSA: MlDsaPublicKey, KeyType.ML_KEM: EncapsulationKey}
"""Key types that not every supported version of ``cryptography`` has, or not with each parameter set."""


class Public(Struct, frozen=True):
    """A public half: DER SubjectPublicKeyInfo, its handle, and the parsed key.

    ``key``: None for ML-DSA and ML-KEM if this version of ``cryptography`` cannot use keys of the parameter set.
    """

    info: bytes
    handle: int
    key: PublicKey | None


def make_pair(
    session: Session,
    template: PairTemplate,
    cka_id: bytes,
    label: str,
    support: AttributeSupport = STANDARD,
    *,
    store: bool = True,
) -> tuple[HandleObject, HandleObject]:
    """Call C_GenerateKeyPair: both halves get the same CKA_ID. PKCS11Error is not translated."""
    facts = template.facts
    return generate_key_pair(
        session,
        mechanism=facts.generation,
        cka_id=cka_id,
        label=label,
        store=store,
        capabilities=template.capabilities,
        public_template={**support.ordered(KEPT_PUBLIC_HALF), **facts.parameters},
        private_template=support.ordered(PRIVATE_HALF),
        rsa_bits=facts.generated_bits,
    )


def generate_pair(
    session: Session,
    template: PairTemplate,
    cka_id: bytes,
    label: str,
    support: AttributeSupport = STANDARD,
    *,
    store: bool = True,
) -> Object:
    """Generate a key pair, read both halves back, prove that they belong together; return the private half.

    Raises TokenUnfitError naming the attributes that the token ignored, but for what ``support`` tolerates; both halves
    are destroyed then.
    """
    with translated():
        pair = make_pair(session, template, cka_id, label, support, store=store)
    return read_back_pair(session, pair, template, cka_id, label, support, store=store)


def read_back_pair(
    session: Session,
    pair: tuple[HandleObject, HandleObject],
    template: PairTemplate,
    cka_id: bytes,
    label: str,
    support: AttributeSupport = STANDARD,
    *,
    store: bool = True,
) -> Object:
    """Compare what ``make_pair`` made with the order, as ``generate_pair`` does; return the private half."""
    public, private = pair
    stored = {Attribute.TOKEN: store}
    wrong = differences(private, template.expected(cka_id, label) | stored, support.generated)
    expected = template.expected_public(cka_id, label) | stored
    wrong += differences(public, expected, support.public, support.observer("public halves"))
    cause: HsmKmsError | None = None
    if not wrong:
        try:
            wrong = disproof(session, template, private, read_public(public, template.facts))
        except HsmKmsError as exc:
            wrong, cause = [f"it could not be proven: {ckr_of(exc) or exc}"], exc
    if wrong:
        _destroy_both(public, private, wrong)
        raise TokenUnfitError(
            f"the token made a key pair not as ordered ({'; '.join(wrong)}): it was destroyed"
        ) from cause
    return private


def _destroy_both(public: Object, private: Object, wrong: list[str]) -> None:
    try:
        private.destroy()
        public.destroy()
    except PKCS11Error as exc:
        # Not the class of the original error, which may claim that nothing was created.
        raise TokenError(
            f"the token made a key pair that is not as ordered ({'; '.join(wrong)}) and keeps it: remove it by hand"
        ) from exc


def read_public(half: Object, facts: KeyFacts) -> Public:
    """Read the public key of a public half. TokenError if it is not a key of its spec."""
    if facts.public is None:
        raise TokenError("a secret key has no public half")
    info = facts.public(half)
    usable = _NEWER.get(facts.key_type)
    try:
        key: Any = load_der_public_key(info)
    except UnsupportedAlgorithm:
        if usable is None:
            raise
        key = None
    except ValueError as exc:
        raise TokenError("the token tells no usable public key") from exc
    return Public(info, handle_of(half), key if usable is None or isinstance(key, usable) else None)


def disproof(session: Session, template: PairTemplate, private: Object, public: Public) -> list[str]:
    """Check that the halves of a pair belong together; return a phrase for each contradiction, empty if they do."""
    with translated():
        proven = _PROOFS[template.key_type](session, template, private, public)
    return [] if proven else ["its halves do not belong together"]


def _proven_by_modulus(_session: Session, template: PairTemplate, private: Object, public: Public) -> bool:
    modulus_key = public_half(private)
    return public.key == modulus_key and modulus_key.key_size == template.facts.bits


def _proven_by_use(session: Session, template: PairTemplate, private: Object, public: Public) -> bool:
    if not isinstance(public.key, ec.EllipticCurvePublicKey):
        return False
    if template.capabilities & MechanismFlag.DERIVE:
        peer = ec.generate_private_key(public.key.curve)
        shared = agree(session, handle_of(private), template.facts, peer.public_key())
        return shared == peer.exchange(ec.ECDH(), public.key)
    return _proven_by_signature(
        session, private, public.key, SigningAlgorithm.ECDSA_SHA_256, _CHALLENGE[:_DIGEST_BYTES]
    )


def _proven_by_eddsa(session: Session, _template: PairTemplate, private: Object, public: Public) -> bool:
    key = public.key
    return key is not None and _proven_by_signature(session, private, key, SigningAlgorithm.ED25519_SHA_512, _CHALLENGE)


def _proven_by_ml_dsa(session: Session, _template: PairTemplate, private: Object, public: Public) -> bool:
    algorithm = SigningAlgorithm.ML_DSA_SHAKE_256
    if public.key is not None:
        return _proven_by_signature(session, private, public.key, algorithm, _CHALLENGE)
    signature = sign(session, handle_of(private), algorithm, _CHALLENGE)
    return verify_on_token(session, public.handle, algorithm, signature, _CHALLENGE)


def _proven_by_encapsulation(session: Session, template: PairTemplate, private: Object, public: Public) -> bool:
    if isinstance(public.key, EncapsulationKey):
        secret, ciphertext = encapsulate_here(public.key)
    else:
        secret, ciphertext = encapsulate_on_token(session, template.facts, public.info)
    return decapsulate(session, handle_of(private), ciphertext) == secret


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
    KeyType.ML_DSA: _proven_by_ml_dsa,
    KeyType.ML_KEM: _proven_by_encapsulation,
}
