"""Import key pairs: unwrap the private key like all imported material, and derive its public half on the token.

Only the private half is imported (PKCS #8, RFC 5958). Its public key is determined from session copies: for RSA, from
the modulus and a signature that verifies under it. An unwrapped EC private key may have no CKA_EC_POINT (SoftHSM), so
for EC, ECDH with the curve's generator gives the point's x coordinate, and a signature selects one of the two y.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pkcs11.constants import Attribute, MechanismFlag, ObjectClass
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType
from pkcs11.types import Object, Session

from hsmkms.errors import RejectedMaterialError, TokenError, TokenUnfitError
from hsmkms.hsm.crypto.agreement import agree
from hsmkms.hsm.crypto.pairs import disproof, read_public
from hsmkms.hsm.crypto.signing import SIGNINGS, sign, verify_here
from hsmkms.hsm.faults import translated
from hsmkms.hsm.imports.unwrapping import Source, Unwrapping, unwrapped_differences
from hsmkms.hsm.objects.attributes import KEPT_PUBLIC_HALF, PUBLIC_USAGES, USAGES
from hsmkms.hsm.objects.backing_keys import ImportedPairTemplate
from hsmkms.hsm.objects.handle_keys import create_object
from hsmkms.hsm.objects.key_specs import KeyFacts, PublicKey, der_octet_string, public_half, subject_public_key_info
from hsmkms.hsm.objects.objects import attest, handle_of
from hsmkms.model.enums import SigningAlgorithm

FINGERPRINT: Final = "SUBJECT_PUBLIC_KEY_INFO"
"""Name of the fingerprint that distinguishes private keys. It is part of material ids: it never changes."""

NO_PRIVATE_KEY: Final = (
    "the key material is no private key of this kind in PKCS #8 (DER, not encrypted): `openssl pkcs8 -topk8 -nocrypt "
    "-outform DER` writes it"
)
ANOTHER_SPEC: Final = "the private key is not of the KeySpec of the KMS key: its curve or its number of bits is another"

_CHALLENGE: Final = hashlib.sha256(b"hsmkms: an imported private key's proof").digest()
_USAGES: Final = {KeyType.RSA: MechanismFlag.SIGN, KeyType.EC: MechanismFlag.SIGN | MechanismFlag.DERIVE}


class PairImport:
    """Import one private key; ``unwrapping`` holds the wrapping key that opens it."""

    def __init__(self, session: Session, unwrapping: Unwrapping, template: ImportedPairTemplate) -> None:
        self._session = session
        self._unwrapping = unwrapping
        self._template = template
        self._facts = template.facts

    def fingerprints(self, ciphertext: bytes, _message: bytes) -> dict[str, bytes]:
        """Return the material's public key as DER SubjectPublicKeyInfo, keyed by the name of this fingerprint."""
        with self._unwrapping.material(ciphertext) as source:
            return {FINGERPRINT: subject_public_key_info(self._public(source))}

    def keep(self, ciphertext: bytes, cka_id: bytes, label: str) -> Object:
        """Create both halves once the private one is proven to be of the spec; read them back and prove them again.

        On failure, both objects are destroyed.
        """
        with self._unwrapping.material(ciphertext) as source, ExitStack() as undo:
            public = self._make_public(self._public(source), cka_id, label)
            undo.callback(_destroy, public)
            usage = self._template.capabilities
            private = source.unwrap(self._facts.key_type, usage, cka_id, label, ObjectClass.PRIVATE_KEY)
            undo.callback(_destroy, private)
            self._check(private, public, cka_id, label)
            undo.pop_all()
            return private

    def keeps_usages(self, ciphertext: bytes) -> bool:
        """Return whether a session copy of the private half has exactly the ordered usages; for the probe."""
        template = self._template
        ordered = {each: value for each, value in template.expected(b"", "").items() if each in USAGES}
        refusal = RejectedMaterialError(NO_PRIVATE_KEY)
        with (
            self._unwrapping.material(ciphertext) as source,
            self._unwrapping.copy(
                source, self._facts.key_type, template.capabilities, refusal, ObjectClass.PRIVATE_KEY
            ) as copy,
        ):
            return not unwrapped_differences(copy, ordered, self._unwrapping.profile)

    # -- what the material is ---------------------------------------------------------------------------------------

    def _public(self, source: Source) -> PublicKey:
        """Return the material's public key. RejectedMaterialError if it is not a private key of the spec."""
        with self._unwrapping.opened(source):
            pass  # the material unwraps: a refusal from here on means that it is not a private key of this kind
        with self._copy(source) as copy, translated():
            public = _PUBLICS[self._facts.key_type](self._session, self._facts, copy)
        if public is None:
            raise RejectedMaterialError(ANOTHER_SPEC)
        return public

    @contextmanager
    def _copy(self, source: Source) -> Iterator[Object]:
        key_type = self._facts.key_type
        usage = _USAGES.get(key_type, MechanismFlag.SIGN)
        refusal = RejectedMaterialError(NO_PRIVATE_KEY)
        with self._unwrapping.copy(source, key_type, usage, refusal, ObjectClass.PRIVATE_KEY) as copy:
            yield copy

    # -- both halves ------------------------------------------------------------------------------------------------

    def _make_public(self, public: PublicKey, cka_id: bytes, label: str) -> Object:
        template, usages = self._template, self._template.capabilities
        with translated():
            return create_object(
                self._session,
                {
                    Attribute.CLASS: ObjectClass.PUBLIC_KEY,
                    Attribute.KEY_TYPE: template.key_type,
                    Attribute.TOKEN: True,
                    **self._unwrapping.profile.attributes.ordered(KEPT_PUBLIC_HALF),
                    **{each: bool(usages & USAGES[each]) for each in PUBLIC_USAGES},
                    **_public_parts(self._facts, public),
                    Attribute.ID: cka_id,
                    Attribute.LABEL: label,
                },
            )

    def _check(self, private: Object, public: Object, cka_id: bytes, label: str) -> None:
        template = self._template
        profile = self._unwrapping.profile
        wrong = unwrapped_differences(private, template.expected(cka_id, label), profile)
        wrong += attest(public, template.expected_public(cka_id, label), profile.attributes.public)[1]
        if not wrong:
            wrong = disproof(self._session, template, private, read_public(public, template.facts))
        if wrong:
            raise TokenUnfitError(
                f"the token did not keep the imported key pair as ordered ({'; '.join(wrong)}), so it was destroyed: "
                "create the key with Origin AWS_KMS, so that the token generates it"
            )


def _destroy(half: Object) -> None:
    try:
        half.destroy()
    except PKCS11Error as exc:
        raise TokenError("the token keeps a half of a key pair that was refused: see `hsmkms reconcile`") from exc


# -- public keys ----------------------------------------------------------------------------------------------------


def _rsa_public(session: Session, facts: KeyFacts, copy: Object) -> PublicKey | None:
    public = public_half(copy)
    fits = public.key_size == facts.bits
    algorithm = SigningAlgorithm.RSASSA_PKCS1_V1_5_SHA_256
    return public if fits and _signs_for(session, copy, algorithm, (public,)) else None


def _ec_public(session: Session, facts: KeyFacts, copy: Object) -> PublicKey | None:
    curve = facts.curve
    if curve is None or copy[Attribute.EC_PARAMS] not in facts.encodings:
        return None
    generator = ec.derive_private_key(1, curve).public_key()
    x = agree(session, handle_of(copy), facts, generator)
    candidates = [ec.EllipticCurvePublicKey.from_encoded_point(curve, y + x) for y in (b"\x02", b"\x03")]
    return _signs_for(session, copy, SigningAlgorithm.ECDSA_SHA_256, candidates)


def _ed25519_public(session: Session, facts: KeyFacts, copy: Object) -> PublicKey | None:
    if facts.public is None:
        return None
    # Needs a token that reports the point of an unwrapped Ed25519 key; none that Debian packages does.
    public: Any = load_der_public_key(facts.public(copy))
    return _signs_for(session, copy, SigningAlgorithm.ED25519_SHA_512, (public,))


def _signs_for(
    session: Session, copy: Object, algorithm: SigningAlgorithm, candidates: Sequence[PublicKey]
) -> PublicKey | None:
    """Return the candidate public key that verifies a signature made by the copy, or None."""
    signature = sign(session, handle_of(copy), algorithm, _CHALLENGE)
    check = SIGNINGS[algorithm].verify
    fitting = (each for each in candidates if check is not None and verify_here(check, each, signature, _CHALLENGE))
    return next(fitting, None)


_PUBLICS: Final[Mapping[KeyType, Callable[[Session, KeyFacts, Object], PublicKey | None]]] = {
    KeyType.RSA: _rsa_public,
    KeyType.EC: _ec_public,
    KeyType.EC_EDWARDS: _ed25519_public,
}


def _public_parts(facts: KeyFacts, public: PublicKey) -> dict[Attribute, Any]:
    if isinstance(public, RSAPublicKey):
        numbers = public.public_numbers()
        return {
            Attribute.MODULUS: numbers.n.to_bytes(facts.size),
            Attribute.PUBLIC_EXPONENT: numbers.e.to_bytes((numbers.e.bit_length() + 7) // 8),
        }
    if isinstance(public, Ed25519PublicKey):
        point = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    else:
        point = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return {**facts.parameters, Attribute.EC_POINT: der_octet_string(point)}
