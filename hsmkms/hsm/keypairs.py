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
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Session

from hsmkms.errors import RejectedDataError, TokenError, UnsupportedOperationException
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
from hsmkms.hsm.faults import NO_PUBLIC_HALF, OBJECT_LOST, REJECTED
from hsmkms.hsm.objects.backing_keys import Kind, PairTemplate, template_of
from hsmkms.hsm.objects.handle_keys import BorrowedKey
from hsmkms.hsm.objects.key_specs import KEY_FACTS
from hsmkms.hsm.objects.mac_mechanisms import MACS
from hsmkms.hsm.objects.objects import find, handle_of, required
from hsmkms.hsm.session.connection import Connection
from hsmkms.key_wrapping import oaep_encrypt
from hsmkms.model.enums import EncryptionAlgorithm, KeySpec, KeyUsage, MacAlgorithm, SigningAlgorithm
from hsmkms.model.permit import Permit

FOREIGN_PUBLIC_HALF: Final = "the public half on the token is not that of the private half: somebody has replaced it"

_PROBED: Final[Kind] = (KeySpec.RSA_2048, KeyUsage.ENCRYPT_DECRYPT)


class KeyPairs:
    """Signing, key agreement, RSA encryption and HMAC on a token. Thread-safe; of no use in a forked child."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._publics: dict[bytes, Public] = {}
        connection.caches.append(self._publics)
        self._trying = threading.Lock()
        self._oaeps: tuple[Oaep, ...] | None = None
        self._prehash: bool | None = None

    def sign(self, permit: Permit, cka_id: bytes, algorithm: SigningAlgorithm, data: bytes) -> bytes:
        """Sign a digest, or a message where the algorithm hashes by itself; the signature in the API's encoding."""
        permit.require(MAY_SIGN, cka_id)
        return self._connection.use(
            cka_id, lambda session, handle: signing.sign(session, handle, algorithm, data), "sign"
        )

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
            half = handle_of(required(find(session, ObjectClass.PUBLIC_KEY, cka_id), NO_PUBLIC_HALF))
            return signing.verify_on_token(session, half, algorithm, signature, data)

        return self._connection.repeatable(attempt, "verify")

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

        return self._connection.use(cka_id, attempt, "decrypt")

    def agree(self, permit: Permit, cka_id: bytes, spec: KeySpec, peer: ec.EllipticCurvePublicKey) -> bytes:
        """The raw secret that a private half shares with a public key of the same curve (``peer_key`` reads one)."""
        permit.require(MAY_AGREE, cka_id)
        facts = KEY_FACTS[spec]
        return self._connection.use(
            cka_id, lambda session, handle: agreement.agree(session, handle, facts, peer), "agree"
        )

    def generate_mac(self, permit: Permit, cka_id: bytes, algorithm: MacAlgorithm, message: bytes) -> bytes:
        """HMAC in full length."""
        permit.require(MAY_MAKE_MACS, cka_id)

        def attempt(session: Session, handle: int) -> bytes:
            made: bytes = BorrowedKey(session, handle, KeyType.GENERIC_SECRET).sign(message, mechanism=MACS[algorithm])
            return made

        return self._connection.use(cka_id, attempt, "mac")

    def data_key_pair(self, permit: Permit, spec: KeySpec) -> DataKeyPair:
        """Make a key pair for the caller, whose private key comes into this process. Nothing stays on the token."""
        permit.require(MAY_MAKE_DATA_KEY_PAIRS)
        facts, wraps = KEY_FACTS[spec], self._connection.has(WRAPPING)
        return self._connection.repeatable(lambda session: make_data_key_pair(session, facts, wraps=wraps), "make")

    def check_data_key_pair(self, spec: KeySpec) -> None:
        """Raise UnsupportedOperationException, naming what can be had, if the token makes no pairs of that spec."""
        pairs = [
            each
            for each, facts in KEY_FACTS.items()
            if facts.key_type in READABLE and self._connection.has(facts.generation)
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

    def _oaeps_of_token(self) -> tuple[Oaep, ...]:
        """The hashes that the token's own OAEP decrypts with: tried out when somebody first asks."""
        probe = _probe_oaep if self._connection.has(Mechanism.RSA_PKCS_OAEP) else _nothing
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
                setattr(self, name, self._connection.repeatable(probe))
            return getattr(self, name)


def _nothing(_session: Session) -> tuple[Oaep, ...]:
    return ()


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
