"""What a device does with key pairs and HMAC keys: the part of ``Device`` that is not about symmetric encryption.

Private halves never leave the token and do all that needs them there. Public halves are read once in a process, proven
to be the private half's own, and kept; what needs no secret is done with them in this process where it can be.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Object, Session

from hsmkms.errors import ObjectLostError, RejectedDataError, TokenError, UnsupportedOperationException
from hsmkms.hsm.allowed_acts import (
    MAY_AGREE,
    MAY_DECRYPT,
    MAY_MAKE_DATA_KEY_PAIRS,
    MAY_MAKE_MACS,
    MAY_SIGN,
    MAY_USE_PUBLIC_HALVES,
    MAY_VERIFY,
)
from hsmkms.hsm.crypto import agreement, oaep, signing
from hsmkms.hsm.crypto.data_key_pairs import READABLE, WRAPPING, DataKeyPair, make_data_key_pair
from hsmkms.hsm.crypto.oaep_params import Oaep
from hsmkms.hsm.crypto.pairs import Public, disproof, make_pair, read_public
from hsmkms.hsm.crypto.prehash import signs_prehashed
from hsmkms.hsm.faults import OBJECT_LOST, REJECTED
from hsmkms.hsm.objects.backing_keys import Kind, PairTemplate, kinds, template_of
from hsmkms.hsm.objects.handle_keys import BorrowedKey
from hsmkms.hsm.objects.key_specs import KEY_FACTS
from hsmkms.hsm.objects.mac_mechanisms import MAC_OF, MACS
from hsmkms.hsm.objects.objects import attest, differences, find, handle_of
from hsmkms.hsm.session.connection import Connection, DeviceSettings
from hsmkms.hsm.session.login import PinReader
from hsmkms.hsm.session.module import Module
from hsmkms.key_wrapping import oaep_encrypt
from hsmkms.model.enums import EncryptionAlgorithm, KeySpec, KeyUsage, MacAlgorithm, SigningAlgorithm
from hsmkms.model.permit import Permit

NO_PUBLIC_HALF: Final = "the public half of the key pair is not on the token: check the token with `hsmkms attest`"
FOREIGN_PUBLIC_HALF: Final = "the public half on the token is not that of the private half: somebody has replaced it"

_PROBED: Final[Kind] = (KeySpec.RSA_2048, KeyUsage.ENCRYPT_DECRYPT)


_USES: Final[Mapping[tuple[KeyType, KeyUsage], tuple[Mechanism, ...]]] = {
    (KeyType.AES, KeyUsage.ENCRYPT_DECRYPT): (Mechanism.AES_GCM,),
    (KeyType.RSA, KeyUsage.SIGN_VERIFY): (Mechanism.RSA_PKCS_PSS, Mechanism.RSA_PKCS),
    (KeyType.RSA, KeyUsage.ENCRYPT_DECRYPT): (Mechanism.RSA_PKCS_OAEP, Mechanism.RSA_X_509),
    (KeyType.EC, KeyUsage.SIGN_VERIFY): (Mechanism.ECDSA,),
    (KeyType.EC, KeyUsage.KEY_AGREEMENT): (agreement.MECHANISM,),
    (KeyType.EC_EDWARDS, KeyUsage.SIGN_VERIFY): (Mechanism.EDDSA,),
    (KeyType.ML_DSA, KeyUsage.SIGN_VERIFY): (Mechanism.ML_DSA,),
}


def uses(kind: Kind) -> tuple[Mechanism, ...]:
    """The mechanisms that such keys are used with: without any of them there is no point in making one."""
    spec, usage = kind
    return (MAC_OF[spec],) if spec in MAC_OF else _USES[KEY_FACTS[spec].key_type, usage]


class KeyPairs(Connection):
    """Signing, key agreement, RSA encryption and HMAC on a logged-in token."""

    def __init__(
        self, settings: DeviceSettings, module: Module, read_pin: PinReader, *, accept_final_try: bool = False
    ) -> None:
        super().__init__(settings, module, read_pin, accept_final_try=accept_final_try)
        self._publics: dict[bytes, Public] = {}
        self._trying = threading.Lock()
        self._oaeps: tuple[Oaep, ...] | None = None
        self._prehash: bool | None = None

    # -- what an operation of the API does on the token ---------------------------------------------------------

    def sign(self, permit: Permit, cka_id: bytes, algorithm: SigningAlgorithm, data: bytes) -> bytes:
        """Sign a digest, or a message where the algorithm hashes by itself; the signature in the API's encoding."""
        permit.require(MAY_SIGN, cka_id)
        return self._use(cka_id, lambda session, handle: signing.sign(session, handle, algorithm, data), "sign")

    def verify(
        self, permit: Permit, cka_id: bytes, kind: Kind, algorithm: SigningAlgorithm, data: bytes, signature: bytes
    ) -> bool:
        """Whether the signature is that of the data: in this process if it knows the algorithm, else on the token."""
        permit.require(MAY_VERIFY, cka_id)
        check = signing.SIGNINGS[algorithm].verify
        public = self._public(cka_id, kind)
        if check is not None and public.key is not None:
            return signing.verify_here(check, public.key, signature, data)

        def attempt(session: Session) -> bool:
            half = handle_of(_required(find(session, ObjectClass.PUBLIC_KEY, cka_id), NO_PUBLIC_HALF))
            return signing.verify_on_token(session, half, algorithm, signature, data)

        return self._repeatable(attempt, "verify")

    def public_key(self, permit: Permit, cka_id: bytes, kind: Kind) -> bytes:
        """The public half of a key pair as DER SubjectPublicKeyInfo, proven to be that of the private half."""
        permit.require(MAY_USE_PUBLIC_HALVES, cka_id)
        return self._public(cka_id, kind).info

    def encrypt_oaep(
        self, permit: Permit, cka_id: bytes, spec: KeySpec, algorithm: EncryptionAlgorithm, plaintext: bytes
    ) -> bytes:
        """RSAES-OAEP to a key pair's public half, in this process. The caller has checked that the plaintext fits."""
        permit.require(MAY_USE_PUBLIC_HALVES, cka_id)
        return oaep_encrypt(self._rsa(cka_id, spec), oaep.OAEPS[algorithm].algorithm, plaintext)

    def decrypt_oaep(
        self, permit: Permit, cka_id: bytes, spec: KeySpec, algorithm: EncryptionAlgorithm, block: bytes
    ) -> bytes:
        """RSAES-OAEP by a private half; RejectedDataError, one for all, for what is wrong with the block."""
        permit.require(MAY_DECRYPT, cka_id)
        wanted, public = oaep.OAEPS[algorithm], self._rsa(cka_id, spec)
        on_token = wanted in self._oaeps_of_token()
        if not on_token:
            self._require(algorithm, Mechanism.RSA_X_509)

        def attempt(session: Session, handle: int) -> bytes:
            private = oaep.Private(session, handle, public)
            return private.open_on_token(wanted, block) if on_token else private.open_here(wanted, block)

        return self._use(cka_id, attempt, "decrypt")

    def agree(self, permit: Permit, cka_id: bytes, spec: KeySpec, peer: ec.EllipticCurvePublicKey) -> bytes:
        """The raw secret that a private half shares with a public key of the same curve (``peer_key`` reads one)."""
        permit.require(MAY_AGREE, cka_id)
        facts = KEY_FACTS[spec]
        return self._use(cka_id, lambda session, handle: agreement.agree(session, handle, facts, peer), "agree")

    def generate_mac(self, permit: Permit, cka_id: bytes, algorithm: MacAlgorithm, message: bytes) -> bytes:
        """HMAC in full length."""
        permit.require(MAY_MAKE_MACS, cka_id)

        def attempt(session: Session, handle: int) -> bytes:
            made: bytes = BorrowedKey(session, handle, KeyType.GENERIC_SECRET).sign(message, mechanism=MACS[algorithm])
            return made

        return self._use(cka_id, attempt, "mac")

    def data_key_pair(self, permit: Permit, spec: KeySpec) -> DataKeyPair:
        """Make a key pair for the caller, whose private key comes into this process. Nothing stays on the token."""
        permit.require(MAY_MAKE_DATA_KEY_PAIRS)
        facts, wraps = KEY_FACTS[spec], self._has(WRAPPING)
        return self._repeatable(lambda session: make_data_key_pair(session, facts, wraps=wraps), "make")

    # -- what the token can do ----------------------------------------------------------------------------------

    def check_kind(self, kind: Kind) -> None:
        """Raise UnsupportedOperationException, naming what can be had, if the token cannot make and use such keys."""
        if not self._can(kind):
            spec, usage = kind
            possible = ", ".join(dict.fromkeys(spec for spec, _ in filter(self._can, kinds())))
            raise UnsupportedOperationException(
                f"This token has no keys of KeySpec {spec} for {usage}: it has keys of {possible}."
            )

    def check_data_key_pair(self, spec: KeySpec) -> None:
        """Raise UnsupportedOperationException, naming what can be had, if the token makes no pairs of that spec."""
        pairs = [
            each for each, facts in KEY_FACTS.items() if facts.key_type in READABLE and self._has(facts.generation)
        ]
        if spec not in pairs:
            raise UnsupportedOperationException(
                f"This token makes no data key pairs of KeyPairSpec {spec}: it makes {', '.join(pairs) or 'none'}."
            )

    def check_signing(self, algorithm: SigningAlgorithm) -> None:
        """Raise UnsupportedOperationException, naming what can be had instead, if the token cannot do the algorithm."""
        self._require(algorithm, signing.SIGNINGS[algorithm].mechanism)
        if algorithm is SigningAlgorithm.ED25519_PH_SHA_512 and not self._signs_prehashed():
            raise UnsupportedOperationException(
                f"Nothing shows that this token does {algorithm}: some sign pure Ed25519 instead. "
                f"Use {SigningAlgorithm.ED25519_SHA_512} with the message itself."
            )

    def peer_key(self, spec: KeySpec, info: bytes) -> ec.EllipticCurvePublicKey:
        """A public key (DER SubjectPublicKeyInfo) on the curve of that spec; RejectedDataError for anything else."""
        try:
            peer = load_der_public_key(info)  # refuses points that are not on their curve
        except (ValueError, UnsupportedAlgorithm) as exc:
            raise RejectedDataError(REJECTED) from exc
        curve = KEY_FACTS[spec].curve
        if curve is None or not isinstance(peer, ec.EllipticCurvePublicKey) or peer.curve.name != curve.name:
            raise RejectedDataError(REJECTED)
        return peer

    def identify(self, cka_id: bytes) -> Kind | None:
        """Spec and usage of a generated key, as the object tells about itself; None if it is like none of them.

        Raises ObjectLostError if there is no such object.
        """

        def attempt(session: Session) -> Kind | None:
            found = _required(self._find(session, cka_id), OBJECT_LOST)
            public = find(session, ObjectClass.PUBLIC_KEY, cka_id)
            fitting = [kind for kind in kinds() if _fits(kind, found, public)]
            return fitting[0] if len(fitting) == 1 else None

        return self._repeatable(attempt)

    def attest_public(self, cka_id: bytes, kind: Kind) -> tuple[dict[str, Any], list[str]]:
        """A pair's public half as the token reports it now, and what is wrong with it; nothing for a secret key."""
        template = template_of(*kind)
        if not isinstance(template, PairTemplate):
            return {}, []

        def attempt(session: Session) -> tuple[dict[str, Any], list[str]]:
            public, private = find(session, ObjectClass.PUBLIC_KEY, cka_id), self._find(session, cka_id)
            if public is None or private is None:
                return {}, [NO_PUBLIC_HALF]
            told, wrong = attest(public, template.expected_public(b"", ""))
            return told, wrong + disproof(session, template, private, read_public(public, template.facts))

        return self._repeatable(attempt)

    # -- inside -------------------------------------------------------------------------------------------------

    def _forget_objects(self) -> None:
        super()._forget_objects()
        self._publics = {}

    def _can(self, kind: Kind) -> bool:
        facts = KEY_FACTS.get(kind[0])
        return facts is not None and self._has(facts.generation) and any(map(self._has, uses(kind)))

    def _public(self, cka_id: bytes, kind: Kind) -> Public:
        self._guard.check()
        known = self._publics.get(cka_id)
        if known is None:
            known = self._publics[cka_id] = self._repeatable(lambda session: self._read_public(session, cka_id, kind))
        return known

    def _read_public(self, session: Session, cka_id: bytes, kind: Kind) -> Public:
        template = template_of(*kind)
        if not isinstance(template, PairTemplate):
            raise TokenError("a secret key has no public half")
        private = _required(self._find(session, cka_id), OBJECT_LOST)
        public = read_public(_required(find(session, ObjectClass.PUBLIC_KEY, cka_id), NO_PUBLIC_HALF), template.facts)
        if disproof(session, template, private, public):
            raise TokenError(FOREIGN_PUBLIC_HALF)
        return public

    def _rsa(self, cka_id: bytes, spec: KeySpec) -> RSAPublicKey:
        key = self._public(cka_id, (spec, KeyUsage.ENCRYPT_DECRYPT)).key
        if not isinstance(key, RSAPublicKey):
            raise TokenError("the key pair is not one of RSA")
        return key

    def _has(self, mechanism: Mechanism) -> bool:
        return mechanism.name in self.profile.mechanisms

    def _require(self, algorithm: str, mechanism: Mechanism) -> None:
        if not self._has(mechanism):
            raise UnsupportedOperationException(f"This token cannot do {algorithm}: it lacks CKM_{mechanism.name}.")

    def _oaeps_of_token(self) -> tuple[Oaep, ...]:
        """The hashes that the token's own OAEP decrypts with: tried out when somebody first asks."""
        probe = _probe_oaep if self._has(Mechanism.RSA_PKCS_OAEP) else _nothing
        found: tuple[Oaep, ...] = self._tried("_oaeps", probe)
        return found

    def _signs_prehashed(self) -> bool:
        """Whether the token does Ed25519ph, and not Ed25519 whatever it is told: tried out when somebody first asks."""
        found: bool = self._tried("_prehash", signs_prehashed)
        return found

    def _tried(self, name: str, probe: Callable[[Session], Any]) -> Any:  # noqa: ANN401 - as the probe answers
        if getattr(self, name) is not None:
            return getattr(self, name)
        with self._trying:
            if getattr(self, name) is None:
                setattr(self, name, self._repeatable(probe))
            return getattr(self, name)


def _nothing(_session: Session) -> tuple[Oaep, ...]:
    return ()


def _required(found: Object | None, sentence: str) -> Object:
    if found is None:
        raise ObjectLostError(sentence)
    return found


def _fits(kind: Kind, found: Object, public: Object | None) -> bool:
    """Whether an object, and the public half beside it, are as those of generated keys of that kind."""
    template = template_of(*kind)
    if template is None:
        return False
    decisive = template.expected(b"", "")
    del decisive[Attribute.ID], decisive[Attribute.LABEL]
    if differences(found, decisive):
        return False
    if not isinstance(template, PairTemplate):
        return public is None
    if public is None:
        return False
    expected = {**template.expected_public(b"", ""), **template.facts.parameters}
    if template.key_type is KeyType.RSA:
        expected[Attribute.MODULUS_BITS] = template.facts.bits
    del expected[Attribute.ID], expected[Attribute.LABEL]
    return not differences(public, expected)


def _probe_oaep(session: Session) -> tuple[Oaep, ...]:
    template = template_of(*_PROBED)
    if not isinstance(template, PairTemplate):
        raise TypeError(_PROBED)
    public, private = make_pair(session, template, b"hsmkms probe 003", "hsmkms probe (a session object)", store=False)
    try:
        key = read_public(public, template.facts).key
        if not isinstance(key, RSAPublicKey):
            return ()
        opener = oaep.Private(session, handle_of(private), key)
        return tuple(each for each in oaep.OAEPS.values() if opener.works(each))
    finally:
        private.destroy()
        public.destroy()
