"""Map each key spec to its PKCS #11 parameters, one table row per spec, and read public keys from the token.

Source: PKCS #11 3.2, sections on RSA, elliptic curves, generic secrets, ML-DSA and ML-KEM; SEC 2 and RFC 5480 for the
names of the curves; RFC 5280, RFC 8410, RFC 9881 and RFC 9935 for SubjectPublicKeyInfo; FIPS 203 and FIPS 204 for the
lengths of keys and ciphertexts.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, runtime_checkable

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Struct
from msgspec.structs import replace
from pkcs11.constants import Attribute
from pkcs11.mechanisms import KeyType, Mechanism, MLDSAParameterSet, MLKEMParameterSet
from pkcs11.types import Object

from hsmkms.errors import TokenError, UnsupportedOperationException
from hsmkms.hsm.faults import translated
from hsmkms.hsm.objects.objects import tell
from hsmkms.model.enums import KeySpec


@runtime_checkable
class EncapsulationKey(Protocol):
    """An ML-KEM public key of ``cryptography``; its older versions, and its newer ones for ML-KEM-512, have none."""

    def encapsulate(self) -> tuple[bytes, bytes]:
        """Return a shared secret and its ciphertext."""

    def public_bytes(self, encoding: Encoding, format: PublicFormat) -> bytes:  # noqa: A002 - as it is there
        """Encode the key."""


@runtime_checkable
class MlDsaPublicKey(Protocol):
    """An ML-DSA public key of ``cryptography``; its older versions have none."""

    def verify_mu(self, signature: bytes, mu: bytes) -> None:
        """Raise InvalidSignature if it is not the signature of the message with this representative."""

    def verify(self, signature: bytes, data: bytes) -> None:
        """Raise InvalidSignature if it is not the signature of the message."""

    def public_bytes(self, encoding: Encoding, format: PublicFormat) -> bytes:  # noqa: A002 - as it is there
        """Encode the key."""


PublicKey = RSAPublicKey | ec.EllipticCurvePublicKey | Ed25519PublicKey | EncapsulationKey | MlDsaPublicKey

_PUBLIC_EXPONENT: Final = b"\x01\x00\x01"


class KeyFacts(Struct, frozen=True, kw_only=True):
    """How a token generates keys of a spec, and how their public half is read.

    ``bits``: of the modulus, the curve's field, the secret, or the public key of ML-DSA and ML-KEM. ``parameters``:
    attributes that a public half's template has instead of a number of bits. ``encodings``: every CKA_EC_PARAMS that
    names the curve; tokens accept one or the other, which a trial finds out (pair_trials.py). ``public``: encodes a
    public half as SubjectPublicKeyInfo (DER); None for secrets. ``algorithm``: DER AlgorithmIdentifier of ML-DSA and
    ML-KEM. ``ciphertext_bytes``: of an encapsulated secret.
    """

    key_type: KeyType
    generation: Mechanism
    bits: int
    parameters: Mapping[Attribute, Any] = {}
    encodings: tuple[bytes, ...] = ()
    curve: ec.EllipticCurve | None = None
    algorithm: bytes = b""
    ciphertext_bytes: int = 0
    public: Callable[[Object], bytes] | None = None

    @property
    def size(self) -> int:
        """``bits`` in bytes: the length of a secret key, an RSA block, or one number of an EC operation (r, s, x)."""
        return (self.bits + 7) // 8

    @property
    def generated_bits(self) -> int | None:
        """Number of bits to pass to C_GenerateKeyPair; None where ``parameters`` determine it."""
        return None if self.parameters else self.bits

    def variants(self) -> tuple["KeyFacts", ...]:
        """Return these facts once for each encoding of the curve, the usual one first."""
        if not self.encodings:
            return (self,)
        return tuple(replace(self, parameters={Attribute.EC_PARAMS: each}) for each in self.encodings)


# -- public halves --------------------------------------------------------------------------------------------------


def subject_public_key_info(public: PublicKey) -> bytes:
    """Encode as DER SubjectPublicKeyInfo (RFC 5280), as the API returns it."""
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def public_half(half: Object) -> RSAPublicKey:
    """Read the public key of an RSA pair from either half; a private half may not report the exponent."""
    reported = tell(half, (Attribute.MODULUS, Attribute.PUBLIC_EXPONENT))
    modulus, exponent = reported[Attribute.MODULUS], reported[Attribute.PUBLIC_EXPONENT] or _PUBLIC_EXPONENT
    if modulus is None:
        modulus = _read(half, Attribute.MODULUS)  # for the token's own error
    try:
        return RSAPublicNumbers(int.from_bytes(exponent), int.from_bytes(modulus)).public_key()
    except ValueError as exc:
        raise TokenError("the token tells no usable public key of an RSA key pair") from exc


def _read(half: Object, attribute: Attribute) -> bytes:
    """Read an attribute that a public half must have. TokenError if the token refuses."""
    try:
        with translated():
            value: bytes = half[attribute]
    except UnsupportedOperationException as exc:  # would claim that the pair was not made
        raise TokenError(f"the token tells no CKA_{attribute.name} of a public key") from exc
    return value


def _rsa_public(half: Object) -> bytes:
    return subject_public_key_info(public_half(half))


def _ec_public(curve: ec.EllipticCurve) -> Callable[[Object], bytes]:
    length = 1 + 2 * ((curve.key_size + 7) // 8)

    def read(half: Object) -> bytes:
        return subject_public_key_info(ec.EllipticCurvePublicKey.from_encoded_point(curve, _point(half, length)))

    return _checked(read)


def _ed25519_public(half: Object) -> bytes:
    return subject_public_key_info(Ed25519PublicKey.from_public_bytes(_point(half, 32)))


def _nist_public(algorithm: bytes, length: int) -> Callable[[Object], bytes]:
    def read(half: Object) -> bytes:
        value = _read(half, Attribute.VALUE)
        if len(value) != length:
            raise ValueError
        bit_string = b"\x03\x82" + (length + 1).to_bytes(2) + b"\x00" + value
        return b"\x30\x82" + (len(algorithm) + len(bit_string)).to_bytes(2) + algorithm + bit_string

    return _checked(read)


def _checked(read: Callable[[Object], bytes]) -> Callable[[Object], bytes]:
    def checked(half: Object) -> bytes:
        try:
            return read(half)
        except ValueError as exc:
            raise TokenError("the token tells no usable public key") from exc

    return checked


def _point(half: Object, length: int) -> bytes:
    """Read CKA_EC_POINT, which is a DER OCTET STRING of the point, or the point itself on some tokens."""
    ec_point = _read(half, Attribute.EC_POINT)
    point = ec_point[-length:]
    if ec_point not in (point, der_octet_string(point)):
        raise ValueError("CKA_EC_POINT is no point of the curve")
    return point


def der_octet_string(content: bytes) -> bytes:
    """Encode less than 256 bytes as a DER OCTET STRING, the encoding of CKA_EC_POINT."""
    length = bytes((len(content),)) if len(content) < 0x80 else bytes((0x81, len(content)))  # noqa: PLR2004 - X.690
    return b"\x04" + length + content


# -- the table ------------------------------------------------------------------------------------------------------


def _rsa(bits: int) -> KeyFacts:
    return KeyFacts(key_type=KeyType.RSA, generation=Mechanism.RSA_PKCS_KEY_PAIR_GEN, bits=bits, public=_rsa_public)


def _curve(curve: ec.EllipticCurve, oid: str) -> KeyFacts:
    """Build the row of a curve. ``oid``: its object identifier in DER, in hex; its other name is that of SEC 2."""
    encodings = (bytes.fromhex(oid), _printable_string(curve.name))
    return KeyFacts(
        key_type=KeyType.EC,
        generation=Mechanism.EC_KEY_PAIR_GEN,
        bits=curve.key_size,
        parameters={Attribute.EC_PARAMS: encodings[0]},
        encodings=encodings,
        curve=curve,
        public=_ec_public(curve),
    )


def _printable_string(text: str) -> bytes:
    """Encode a name of less than 128 characters as a DER PrintableString."""
    return bytes((0x13, len(text))) + text.encode("ascii")


_EDWARDS25519: Final = (
    _printable_string("edwards25519"),
    bytes.fromhex("06032b6570"),  # 1.3.101.112 (RFC 8410)
    bytes.fromhex("06092b06010401da470f01"),  # 1.3.6.1.4.1.11591.15.1, from before RFC 8410
)


def _nist_algorithm(*arcs: int) -> bytes:
    """Encode the AlgorithmIdentifier that is only an OID: 2.16.840.1.101.3.4 and two more arcs (RFC 9881, RFC 9935)."""
    return bytes.fromhex("300b060960864801650304") + bytes(arcs)


def _ml_dsa(parameter_set: MLDSAParameterSet, arc: int, public_bytes: int) -> KeyFacts:
    return KeyFacts(
        key_type=KeyType.ML_DSA,
        generation=Mechanism.ML_DSA_KEY_PAIR_GEN,
        bits=8 * public_bytes,
        parameters={Attribute.PARAMETER_SET: parameter_set},
        public=_nist_public(_nist_algorithm(3, arc), public_bytes),
        algorithm=_nist_algorithm(3, arc),
    )


def _ml_kem(parameter_set: MLKEMParameterSet, arc: int, public_bytes: int, ciphertext_bytes: int) -> KeyFacts:
    return KeyFacts(
        key_type=KeyType.ML_KEM,
        generation=Mechanism.ML_KEM_KEY_PAIR_GEN,
        bits=8 * public_bytes,
        parameters={Attribute.PARAMETER_SET: parameter_set},
        public=_nist_public(_nist_algorithm(4, arc), public_bytes),
        algorithm=_nist_algorithm(4, arc),
        ciphertext_bytes=ciphertext_bytes,
    )


def _hmac(bits: int) -> KeyFacts:
    """Build the row of an HMAC key as long as its hash: some tokens refuse shorter keys, longer ones add nothing."""
    return KeyFacts(key_type=KeyType.GENERIC_SECRET, generation=Mechanism.GENERIC_SECRET_KEY_GEN, bits=bits)


KEY_FACTS: Final[Mapping[KeySpec, KeyFacts]] = {
    KeySpec.SYMMETRIC_DEFAULT: KeyFacts(key_type=KeyType.AES, generation=Mechanism.AES_KEY_GEN, bits=256),
    KeySpec.RSA_2048: _rsa(2048),
    KeySpec.RSA_3072: _rsa(3072),
    KeySpec.RSA_4096: _rsa(4096),
    KeySpec.ECC_NIST_P256: _curve(ec.SECP256R1(), "06082a8648ce3d030107"),
    KeySpec.ECC_NIST_P384: _curve(ec.SECP384R1(), "06052b81040022"),
    KeySpec.ECC_NIST_P521: _curve(ec.SECP521R1(), "06052b81040023"),
    KeySpec.ECC_SECG_P256K1: _curve(ec.SECP256K1(), "06052b8104000a"),
    KeySpec.ECC_NIST_EDWARDS25519: KeyFacts(
        key_type=KeyType.EC_EDWARDS,
        generation=Mechanism.EC_EDWARDS_KEY_PAIR_GEN,
        bits=256,
        parameters={Attribute.EC_PARAMS: _EDWARDS25519[0]},
        encodings=_EDWARDS25519,
        public=_checked(_ed25519_public),
    ),
    KeySpec.ML_DSA_44: _ml_dsa(MLDSAParameterSet.ML_DSA_44, 17, 1312),
    KeySpec.ML_DSA_65: _ml_dsa(MLDSAParameterSet.ML_DSA_65, 18, 1952),
    KeySpec.ML_DSA_87: _ml_dsa(MLDSAParameterSet.ML_DSA_87, 19, 2592),
    KeySpec.ML_KEM_512: _ml_kem(MLKEMParameterSet.ML_KEM_512, 1, 800, 768),
    KeySpec.ML_KEM_768: _ml_kem(MLKEMParameterSet.ML_KEM_768, 2, 1184, 1088),
    KeySpec.ML_KEM_1024: _ml_kem(MLKEMParameterSet.ML_KEM_1024, 3, 1568, 1568),
    KeySpec.HMAC_224: _hmac(224),
    KeySpec.HMAC_256: _hmac(256),
    KeySpec.HMAC_384: _hmac(384),
    KeySpec.HMAC_512: _hmac(512),
}
"""All specs."""
