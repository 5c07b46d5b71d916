"""Key pairs and HMAC keys on a token.

Private halves never leave the token and do all that needs them there. Public halves are read once in a process, proven
to be the private half's own, and kept; what needs no secret is done with them in this process where it can be.
"""

import threading
from collections.abc import Callable
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11.constants import ObjectClass
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Session

from hsmkms.errors import RejectedDataError, TokenError, UnsupportedOperationException
from hsmkms.hsm.allowed_acts import (
    MAY_AGREE,
    MAY_DECAPSULATE,
    MAY_DECRYPT,
    MAY_ENCAPSULATE,
    MAY_MAKE_DATA_KEY_PAIRS,
    MAY_MAKE_MACS,
    MAY_SIGN,
    MAY_USE_PUBLIC_HALVES,
    MAY_VERIFY,
)
from hsmkms.hsm.crypto import agreement, kem, oaep, signing
from hsmkms.hsm.crypto.data_key_pairs import READABLE, WAYS, DataKeyPair, Way, make_data_key_pair
from hsmkms.hsm.crypto.oaep_params import Oaep
from hsmkms.hsm.crypto.pairs import Public, disproof, make_pair, read_public
from hsmkms.hsm.crypto.prehash import signs_prehashed
from hsmkms.hsm.faults import NO_PUBLIC_HALF, OBJECT_LOST, REJECTED, is_loss
from hsmkms.hsm.objects.backing_keys import Kind, PairTemplate, template_of
from hsmkms.hsm.objects.handle_keys import HandleKey
from hsmkms.hsm.objects.key_specs import KEY_FACTS, EncapsulationKey
from hsmkms.hsm.objects.mac_mechanisms import MAC_BYTES, MACS
from hsmkms.hsm.objects.objects import find, handle_of, required
from hsmkms.hsm.objects.support import AttributeSupport
from hsmkms.hsm.pair_trials import PairTrials
from hsmkms.hsm.session.connection import Connection
from hsmkms.key_wrapping import oaep_encrypt
from hsmkms.model.enums import EncryptionAlgorithm, KeySpec, KeyUsage, MacAlgorithm, SigningAlgorithm
from hsmkms.model.permit import Permit

FOREIGN_PUBLIC_HALF: Final = "the public half on the token does not belong to the private half: it was replaced"

NO_EXTERNAL_MU: Final = (
    "PKCS#11 has no verification by an external mu, and the installed version of the Python package cryptography has "
    "none for this key: verify the message itself with MessageType RAW, or install a newer version."
)
WRONG_LENGTH: Final = (
    "the token gave a MAC of a wrong length, so it was thrown away: check it with `hsmkms token-check`"
)

_PROBED: Final[Kind] = (KeySpec.RSA_2048, KeyUsage.ENCRYPT_DECRYPT)


class KeyPairs:
    """Signing, key agreement, RSA encryption and HMAC on a token. Thread-safe; of no use in a forked child."""

    def __init__(self, connection: Connection, trials: PairTrials) -> None:
        self._connection = connection
        self._trials = trials
        self._publics: dict[bytes, Public] = {}
        connection.caches.append(self._publics)
        self._trying = threading.Lock()
        self._oaeps: dict[Oaep, str | None] | None = None
        self._prehash: bool | None = None
        self._ways: dict[KeyType, Way] = {}
        """By which way private keys of data key pairs leave the token, once a pair of the type was made."""

    def sign(self, permit: Permit, cka_id: bytes, algorithm: SigningAlgorithm, data: bytes) -> bytes:
        """Sign a digest, or a message if the algorithm hashes it itself; return the signature in the API's encoding."""
        permit.require(MAY_SIGN, cka_id)
        return self._connection.use(
            cka_id, lambda session, handle: signing.sign(session, handle, algorithm, data), "sign"
        )

    def verify(
        self,
        permit: Permit,
        cka_id: bytes,
        kind: Kind,
        algorithm: SigningAlgorithm,
        data: bytes,
        signature: bytes,
        *,
        external_mu: bool = False,
    ) -> bool:
        """Return whether the signature is right; checked here if this process has the algorithm, else on the token.

        ``external_mu``: the data represents a message of ML-DSA, which only this process can check.
        """
        permit.require(MAY_VERIFY, cka_id)
        check = signing.check_external_mu if external_mu else signing.SIGNINGS[algorithm].verify
        public = self._public(cka_id, kind)
        if external_mu and public.key is None:
            raise UnsupportedOperationException(NO_EXTERNAL_MU)
        if check is not None and public.key is not None:
            return signing.verify_here(check, public.key, signature, data)

        def attempt(session: Session) -> bool:
            half = handle_of(required(find(session, ObjectClass.PUBLIC_KEY, cka_id), NO_PUBLIC_HALF))
            try:
                return signing.verify_on_token(session, half, algorithm, signature, data)
            except PKCS11Error as exc:
                if is_loss(exc):
                    raise
                self._read_public(session, cka_id, kind)  # the device's error, if it verifies nothing at all
            try:
                return signing.verify_on_token(session, half, algorithm, signature, data)
            except PKCS11Error as exc:  # twice, with the device well in between: the code means the signature
                if is_loss(exc):
                    raise
                return False

        return self._connection.repeatable(attempt, "verify")

    def public_key(self, permit: Permit, cka_id: bytes, kind: Kind) -> bytes:
        """Return a key pair's public half as DER SubjectPublicKeyInfo, proven to belong to the private half."""
        permit.require(MAY_USE_PUBLIC_HALVES, cka_id)
        return self._public(cka_id, kind).info

    def encrypt_oaep(
        self, permit: Permit, cka_id: bytes, spec: KeySpec, algorithm: EncryptionAlgorithm, plaintext: bytes
    ) -> bytes:
        """Encrypt by RSAES-OAEP with a public half, in this process. The caller has checked that the plaintext fits."""
        permit.require(MAY_USE_PUBLIC_HALVES, cka_id)
        return oaep_encrypt(self._rsa(cka_id, spec), oaep.OAEPS[algorithm].algorithm, plaintext)

    def decrypt_oaep(
        self, permit: Permit, cka_id: bytes, spec: KeySpec, algorithm: EncryptionAlgorithm, block: bytes
    ) -> bytes:
        """Decrypt by RSAES-OAEP with a private half; the same RejectedDataError for every fault of the block."""
        permit.require(MAY_DECRYPT, cka_id)
        wanted, public = oaep.OAEPS[algorithm], self._rsa(cka_id, spec)
        refusal = self._oaep_refusals()[wanted]
        on_token = refusal is None
        if not on_token and not self._connection.has(Mechanism.RSA_X_509):
            raise UnsupportedOperationException(
                f"This token cannot do {algorithm}: its own OAEP with {wanted.name} {refusal}, and it lacks "
                "CKM_RSA_X_509, with which the padding could be removed here."
            )

        def attempt(session: Session, handle: int) -> bytes:
            private = oaep.Private(session, handle, public)
            return private.open_on_token(wanted, block) if on_token else private.open_here(wanted, block)

        return self._connection.use(cka_id, attempt, "decrypt")

    def agree(self, permit: Permit, cka_id: bytes, spec: KeySpec, peer: ec.EllipticCurvePublicKey) -> bytes:
        """Return the raw secret shared with a public key of the same curve (``peer_key`` parses one)."""
        permit.require(MAY_AGREE, cka_id)
        facts = KEY_FACTS[spec]
        return self._connection.use(
            cka_id, lambda session, handle: agreement.agree(session, handle, facts, peer), "agree"
        )

    def encapsulate(self, permit: Permit, cka_id: bytes, kind: Kind) -> kem.Encapsulated:
        """Return a new shared secret and its ciphertext: made in this process if it supports the parameter set."""
        permit.require(MAY_ENCAPSULATE, cka_id)
        facts, public = KEY_FACTS[kind[0]], self._public(cka_id, kind)
        if isinstance(public.key, EncapsulationKey):
            return kem.encapsulate_here(public.key)
        return self._connection.repeatable(
            lambda session: kem.encapsulate_on_token(session, facts, public.info), "encapsulate"
        )

    def decapsulate(self, permit: Permit, cka_id: bytes, ciphertext: bytes) -> bytes:
        """Return the shared secret of a ciphertext, always 32 bytes. The caller has checked the ciphertext's length."""
        permit.require(MAY_DECAPSULATE, cka_id)
        return self._connection.use(
            cka_id, lambda session, handle: kem.decapsulate(session, handle, ciphertext), "decapsulate"
        )

    def generate_mac(self, permit: Permit, cka_id: bytes, algorithm: MacAlgorithm, message: bytes) -> bytes:
        """Return the HMAC of the message in full length."""
        permit.require(MAY_MAKE_MACS, cka_id)

        def attempt(session: Session, handle: int) -> bytes:
            mechanism = MACS[algorithm]
            made: bytes = HandleKey(session, handle, KeyType.GENERIC_SECRET).sign(message, mechanism=mechanism)
            if len(made) != MAC_BYTES[mechanism]:
                raise TokenError(WRONG_LENGTH)
            return made

        return self._connection.use(cka_id, attempt, "mac")

    def data_key_pair(self, permit: Permit, spec: KeySpec) -> DataKeyPair:
        """Make a key pair for the caller, whose private key comes into this process. Nothing stays on the token.

        UnsupportedOperationException, with the token's answers, if it gives no such private key away.
        """
        permit.require(MAY_MAKE_DATA_KEY_PAIRS)
        facts = self._trials.facts(spec)
        known = self._ways.get(facts.key_type)
        ways = (known,) if known is not None else self._possible_ways()
        made = self._connection.repeatable(lambda session: make_data_key_pair(session, facts, ways), "make")
        if made.settled:
            self._ways[facts.key_type] = made.way
        return made.pair

    def _possible_ways(self) -> tuple[Way, ...]:
        return tuple(each for each in WAYS if each.wrapping is None or self._connection.has(each.wrapping))

    def check_data_key_pair(self, spec: KeySpec) -> None:
        """Raise UnsupportedOperationException, naming what can be had, if there are no pairs of that spec."""
        if not self._makes_pairs(spec):
            pairs = ", ".join(each for each in KEY_FACTS if self._makes_pairs(each))
            raise UnsupportedOperationException(
                f"This token makes no data key pairs of KeyPairSpec {spec}: it makes {pairs or 'none'}."
            )

    def _makes_pairs(self, spec: KeySpec) -> bool:
        facts = KEY_FACTS[spec]
        return (
            facts.key_type in READABLE
            and self._connection.has(facts.generation)
            and not isinstance(self._trials.outcome(spec), str)
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
        """Parse a DER SubjectPublicKeyInfo with a key on the spec's curve; RejectedDataError for anything else."""
        try:
            peer = load_der_public_key(info)  # refuses points that are not on their curve
        except (ValueError, UnsupportedAlgorithm) as exc:
            raise RejectedDataError(REJECTED) from exc
        curve = KEY_FACTS[spec].curve
        if curve is None or not isinstance(peer, ec.EllipticCurvePublicKey) or peer.curve.name != curve.name:
            raise RejectedDataError(REJECTED)
        return peer

    def _public(self, cka_id: bytes, kind: Kind) -> Public:
        self._connection.guard.check()
        known = self._publics.get(cka_id)
        if known is None:
            known = self._publics[cka_id] = self._connection.repeatable(
                lambda session: self._read_public(session, cka_id, kind)
            )
        return known

    def _read_public(self, session: Session, cka_id: bytes, kind: Kind) -> Public:
        template = template_of(*kind)
        if not isinstance(template, PairTemplate):
            raise TokenError("a secret key has no public half")
        private = required(self._connection.find(session, cka_id), OBJECT_LOST)
        public = read_public(required(find(session, ObjectClass.PUBLIC_KEY, cka_id), NO_PUBLIC_HALF), template.facts)
        if disproof(session, template, private, public):
            raise TokenError(FOREIGN_PUBLIC_HALF)
        return public

    def _rsa(self, cka_id: bytes, spec: KeySpec) -> RSAPublicKey:
        key = self._public(cka_id, (spec, KeyUsage.ENCRYPT_DECRYPT)).key
        if not isinstance(key, RSAPublicKey):
            raise TokenError("the key pair is not one of RSA")
        return key

    def _require(self, algorithm: str, mechanism: Mechanism) -> None:
        if not self._connection.has(mechanism):
            raise UnsupportedOperationException(f"This token cannot do {algorithm}: it lacks CKM_{mechanism.name}.")

    def _oaep_refusals(self) -> dict[Oaep, str | None]:
        """Return how the token's OAEP refuses each hash, None if it decrypts with it; tried at the first call."""
        support = self._connection.profile.attributes
        listed = self._connection.has(Mechanism.RSA_PKCS_OAEP)
        probe = (lambda session: _probe_oaep(session, support)) if listed else _no_oaep
        refusals: dict[Oaep, str | None] = self._tried("_oaeps", probe)
        return refusals

    def _signs_prehashed(self) -> bool:
        """Return whether the token does Ed25519ph, rather than always Ed25519; tried at the first call."""
        found: bool = self._tried("_prehash", signs_prehashed)
        return found

    def _tried(self, name: str, probe: Callable[[Session], Any]) -> Any:  # noqa: ANN401 - as the probe answers
        if getattr(self, name) is not None:
            return getattr(self, name)
        with self._trying:
            if getattr(self, name) is None:
                setattr(self, name, self._connection.repeatable(probe))
            return getattr(self, name)


def _no_oaep(_session: Session) -> dict[Oaep, str | None]:
    return dict.fromkeys(oaep.OAEPS.values(), "is not listed")


def _probe_oaep(session: Session, support: AttributeSupport) -> dict[Oaep, str | None]:
    template = template_of(*_PROBED)
    if not isinstance(template, PairTemplate):
        raise TypeError(_PROBED)
    public, private = make_pair(
        session, template, b"hsmkms probe 003", "hsmkms probe (a session object)", support, store=False
    )
    try:
        key = read_public(public, template.facts).key
        if not isinstance(key, RSAPublicKey):
            raise TypeError(_PROBED)
        opener = oaep.Private(session, handle_of(private), key)
        return {each: opener.refusal(each) for each in oaep.OAEPS.values()}
    finally:
        private.destroy()
        public.destroy()
