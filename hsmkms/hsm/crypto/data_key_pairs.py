"""Generate data key pairs on the token, read them once, and destroy them there at once.

A backing key cannot wrap, so the private key of a data key pair comes into this process before it is encrypted under
its KMS key. It is generated as a sensitive session object and leaves the token wrapped (AES-KWP, RFC 5649) under a
single-use transport key. Where the token cannot wrap such keys, the pair is generated readable and read by attribute.
Which way works is found out by the first pair of each key type.
A private key is returned only after it has proven to belong to its public key: in this process or, for a parameter set
of ML-KEM that ``cryptography`` lacks, on the token, with a session key made of the seed alone.
Source of the attributes: PKCS #11 3.2, sections on RSA, elliptic curve and ML-KEM private keys; PKCS #8 is RFC 5958,
and RFC 9935 for ML-KEM, whose private keys are returned as seeds.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final, NamedTuple, Protocol, runtime_checkable

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap_with_padding
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from pkcs11.constants import Attribute, MechanismFlag, ObjectClass
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Object, Session

from hsmkms.errors import TokenError, UnsupportedOperationException
from hsmkms.hsm.ckr_names import ckr_name
from hsmkms.hsm.crypto.kem import decapsulate, encapsulate_on_token
from hsmkms.hsm.faults import is_loss, is_trouble
from hsmkms.hsm.objects.handle_keys import HandleKey, create_object, generate_key_pair
from hsmkms.hsm.objects.key_specs import EncapsulationKey, KeyFacts, public_half, subject_public_key_info
from hsmkms.hsm.objects.objects import discard


@runtime_checkable
class DecapsulationKey(Protocol):
    """An ML-KEM private key of ``cryptography``; its older versions, and its newer ones for ML-KEM-512, have none."""

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """Recover a shared secret."""

    def public_key(self) -> EncapsulationKey:
        """Return its public key."""

    def private_bytes(
        self,
        encoding: Encoding,
        format: PrivateFormat,  # noqa: A002 - as it is there
        encryption_algorithm: NoEncryption,
    ) -> bytes:
        """Encode the key by its seed."""


class MlKemSeed(NamedTuple):
    """An ML-KEM private key of a parameter set that ``cryptography`` has not: its seed, and its DER PKCS #8."""

    seed: bytes
    info: bytes


PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | Ed25519PrivateKey | DecapsulationKey

UNREADABLE: Final = "the token made a key pair and gave no usable private key of it: check it with `hsmkms token-check`"

_SIGNING: Final = MechanismFlag.SIGN | MechanismFlag.VERIFY
_CAPABILITIES: Final = {KeyType.ML_KEM: MechanismFlag.ENCAPSULATE | MechanismFlag.DECAPSULATE}
_TRANSPORT_KEY_BYTES: Final = 32
_SEED_BYTES: Final = 64
"""Of an ML-KEM private key: d and z (FIPS 203, algorithm 19)."""
_PUBLIC: Final = {Attribute.TOKEN: False, Attribute.PRIVATE: False, Attribute.VERIFY_RECOVER: False}
_TRANSPORT: Final = {
    Attribute.CLASS: ObjectClass.SECRET_KEY,
    Attribute.KEY_TYPE: KeyType.AES,
    Attribute.TOKEN: False,
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.WRAP: True,
}
"""Template of the transport key, which can only wrap."""


_OF_SEED: Final = {
    Attribute.CLASS: ObjectClass.PRIVATE_KEY,
    Attribute.KEY_TYPE: KeyType.ML_KEM,
    Attribute.TOKEN: False,
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.DECAPSULATE: True,
}
"""Template of the private key that is made of a seed, which can only decapsulate."""


class DataKeyPair(NamedTuple):
    """A private key as DER PKCS #8, and its public key as DER SubjectPublicKeyInfo."""

    private: bytes
    public: bytes


class Way(NamedTuple):
    """A way by which a private key leaves the token: wrapped by a mechanism, or read by attribute (None)."""

    wrapping: Mechanism | None

    @property
    def name(self) -> str:
        """The way's name for people."""
        return "by attribute" if self.wrapping is None else f"by CKM_{self.wrapping.name}"


WAYS: Final = (Way(Mechanism.AES_KEY_WRAP_PAD), Way(Mechanism.AES_KEY_WRAP_KWP), Way(None))
"""Every way, the preferred one first."""


class Made(NamedTuple):
    """A pair, the way by which it was read, and whether nothing but a lack of the others led to that way."""

    pair: DataKeyPair
    way: Way
    settled: bool


def make_data_key_pair(session: Session, facts: KeyFacts, ways: Sequence[Way]) -> Made:
    """Generate a key pair of which nothing stays on the token, and read it by the first way that works.

    UnsupportedOperationException, with the token's answers, if none works; PKCS11Error of a lost session is not
    translated, nor is that of a device in trouble.
    """
    refusals: list[str] = []
    trouble: PKCS11Error | None = None
    for way in ways:
        try:
            return Made(_made(session, facts, way), way, trouble is None)
        except PKCS11Error as exc:
            if is_loss(exc):
                raise
            if is_trouble(exc):
                trouble = exc
            refusals.append(f"{ckr_name(exc)} {way.name}")
        except UnreadableError:
            refusals.append(f"no usable private key {way.name}")
    if trouble is not None:
        raise trouble
    raise UnsupportedOperationException(
        f"This token gives no private key of a data key pair away: {', '.join(refusals)}."
    )


class UnreadableError(TokenError):
    """The token returned no usable private key."""


def private_key_info(key: PrivateKey) -> bytes:
    """Encode a private key as unencrypted DER PKCS #8."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _made(session: Session, facts: KeyFacts, way: Way) -> DataKeyPair:
    with _session_pair(session, facts, sensitive=way.wrapping is not None) as (public, private):
        try:
            if way.wrapping is None:
                key = _READ[facts.key_type](facts, private)
            else:
                key = _wrapped_out(session, way.wrapping, facts, private)
        except (ValueError, InvalidUnwrap, UnsupportedAlgorithm) as exc:  # NSS names Ed25519 as a curve of ECDSA
            raise UnreadableError(UNREADABLE) from exc
        if facts.public is None:
            raise UnreadableError(UNREADABLE)
        info = facts.public(public)
        if isinstance(key, MlKemSeed):
            belongs = _opens(session, facts, key.seed, info)
        else:
            belongs = subject_public_key_info(key.public_key()) == info
        if not belongs:
            raise UnreadableError(UNREADABLE)
    return DataKeyPair(key.info if isinstance(key, MlKemSeed) else private_key_info(key), info)


def _opens(session: Session, facts: KeyFacts, seed: bytes, info: bytes) -> bool:
    """Return whether the key of a seed recovers on the token what was encapsulated to a public key. PKCS11Error."""
    made = create_object(session, {**_OF_SEED, **facts.parameters, Attribute.SEED: seed})
    try:
        encapsulated = encapsulate_on_token(session, facts, info)
        return decapsulate(session, made.handle, encapsulated.ciphertext) == encapsulated.secret
    finally:
        discard(made)


@contextmanager
def _session_pair(session: Session, facts: KeyFacts, *, sensitive: bool) -> Iterator[tuple[Object, Object]]:
    public, private = generate_key_pair(
        session,
        mechanism=facts.generation,
        cka_id=None,
        label=None,
        store=False,
        capabilities=_CAPABILITIES.get(facts.key_type, _SIGNING),  # unused, but some tokens require a usage
        rsa_bits=facts.generated_bits,
        public_template={**_PUBLIC, **facts.parameters},
        private_template={
            Attribute.TOKEN: False,
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: sensitive,
            Attribute.EXTRACTABLE: True,
            Attribute.SIGN_RECOVER: False,
        },
    )
    with ExitStack() as cleanup:
        cleanup.callback(discard, public)
        cleanup.callback(discard, private)
        yield public, private


# -- wrapped under a transport key ----------------------------------------------------------------------------------


def _wrapped_out(session: Session, mechanism: Mechanism, facts: KeyFacts, private: Object) -> PrivateKey | MlKemSeed:
    secret = os.urandom(_TRANSPORT_KEY_BYTES)
    transport = create_object(session, {**_TRANSPORT, Attribute.VALUE: secret})
    try:
        wrapped = HandleKey(session, transport.handle).wrap(private, mechanism=mechanism)
    finally:
        discard(transport)
    info = first_element(aes_key_unwrap_with_padding(secret, wrapped))
    if facts.key_type is KeyType.ML_KEM and info == _seed_info(facts, seed := info[-_SEED_BYTES:]):
        return _of_seed(facts, seed)
    key = load_der_private_key(info, None)
    if not isinstance(key, PrivateKey):
        raise UnreadableError(UNREADABLE)
    return key


def first_element(padded: bytes) -> bytes:
    """Return the leading DER SEQUENCE: SoftHSM pads wrapped private keys with zeros to a multiple of 8 bytes.

    ValueError if the data is not a SEQUENCE, or anything but zeros follows it.
    """
    if len(padded) < 2 or padded[0] != 0x30:  # noqa: PLR2004 - tag and length
        raise ValueError("no DER SEQUENCE")
    more = padded[1] & 0x7F if padded[1] & 0x80 else 0
    length = int.from_bytes(padded[2 : 2 + more]) if more else padded[1]
    end = 2 + more + length
    if end > len(padded) or any(padded[end:]):
        raise ValueError("no DER SEQUENCE alone")
    return padded[:end]


# -- by attribute ---------------------------------------------------------------------------------------------------


def _read_rsa(_facts: KeyFacts, private: Object) -> PrivateKey:
    public = public_half(private).public_numbers()
    d, p, q = (int.from_bytes(private[each]) for each in _RSA_PARTS)
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q), public
    )
    return numbers.private_key()


def _read_ec(facts: KeyFacts, private: Object) -> PrivateKey:
    if facts.curve is None:
        raise ValueError("no curve")
    return ec.derive_private_key(int.from_bytes(private[Attribute.VALUE]), facts.curve)


def _read_ed25519(facts: KeyFacts, private: Object) -> PrivateKey:
    value: bytes = private[Attribute.VALUE]
    return Ed25519PrivateKey.from_private_bytes(value[-facts.size :])  # some tokens return a DER OCTET STRING


def _read_ml_kem(facts: KeyFacts, private: Object) -> PrivateKey | MlKemSeed:
    return _of_seed(facts, private[Attribute.SEED])


def _of_seed(facts: KeyFacts, seed: bytes) -> PrivateKey | MlKemSeed:
    """Return the ML-KEM key of a seed: the seed itself if ``cryptography`` has none of this parameter set."""
    if len(seed) != _SEED_BYTES:
        raise ValueError("no seed of ML-KEM")
    info = _seed_info(facts, seed)
    try:
        key = load_der_private_key(info, None)
    except UnsupportedAlgorithm:
        return MlKemSeed(seed, info)
    if not isinstance(key, DecapsulationKey):
        raise UnreadableError(UNREADABLE)
    return key


def _seed_info(facts: KeyFacts, seed: bytes) -> bytes:
    """Encode a seed as DER PKCS #8 (RFC 9935, section 6): seed [0] IMPLICIT OCTET STRING in the private key."""
    choice = b"\x80" + bytes((len(seed),)) + seed
    content = b"\x02\x01\x00" + facts.algorithm + b"\x04" + bytes((len(choice),)) + choice
    return b"\x30" + bytes((len(content),)) + content


_RSA_PARTS: Final = (Attribute.PRIVATE_EXPONENT, Attribute.PRIME_1, Attribute.PRIME_2)
_READ: Final[Mapping[KeyType, Callable[[KeyFacts, Object], PrivateKey | MlKemSeed]]] = {
    KeyType.RSA: _read_rsa,
    KeyType.EC: _read_ec,
    KeyType.EC_EDWARDS: _read_ed25519,
    KeyType.ML_KEM: _read_ml_kem,
}

READABLE: Final = frozenset(_READ)
"""Key types that data key pairs can have."""
