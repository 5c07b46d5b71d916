"""Sign and verify: one table row per signing algorithm.

The private half signs a digest on the token or, for EdDSA and ML-DSA, the message itself. Verification needs no secret:
a row that has ``verify`` does it in this process, faster than any token and as strictly as OpenSSL, if ``cryptography``
has the public key; else the token verifies. Source: AWS KMS Developer Guide, "Key spec reference"; PKCS #11 2.40,
sections 2.1 (RSA) and 2.3 (ECDSA); RFC 8017 (RSA), SEC 1 (ECDSA), RFC 8032 (EdDSA), FIPS 204 (ML-DSA).
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from msgspec import Struct
from pkcs11.mechanisms import MGF, KeyType, Mechanism
from pkcs11.types import Session

from hsmkms.hsm.objects.handle_keys import HandleKey
from hsmkms.hsm.objects.key_specs import MlDsaPublicKey, PublicKey
from hsmkms.model.enums import SigningAlgorithm

_ED25519_BYTES: Final = 64

Check = Callable[[PublicKey, bytes, bytes], None]
"""Takes public key, signature, and the signed digest or message; raises InvalidSignature if they do not match."""


def _as_it_is(data: bytes) -> bytes:
    return data


class Signing(Struct, frozen=True, kw_only=True):
    """A signing algorithm. ``prepare`` makes the mechanism's input of the data, ``encode`` the API's of its output.

    ``size``: of the signature, where the buffer must not be larger: NSS softokn signs by Ed25519 into exactly 64 bytes.
    """

    key_type: KeyType
    mechanism: Mechanism
    parameters: Any = None
    size: int | None = None
    prepare: Callable[[bytes], bytes] = _as_it_is
    encode: Callable[[bytes], bytes] = _as_it_is
    verify: Check | None = None


def sign(session: Session, handle: int, algorithm: SigningAlgorithm, data: bytes) -> bytes:
    """Sign a digest or message; return the signature in the API's encoding. PKCS11Error is not translated."""
    row = SIGNINGS[algorithm]
    signed: bytes = HandleKey(session, handle, row.key_type).sign(
        row.prepare(data), mechanism=row.mechanism, mechanism_param=row.parameters, size=row.size
    )
    return row.encode(signed)


def verify_here(check: Check, public: PublicKey, signature: bytes, data: bytes) -> bool:
    """Return whether the signature is right; every kind of fault gives False."""
    try:
        check(public, signature, data)
    except InvalidSignature:
        return False
    return True


def verify_on_token(session: Session, handle: int, algorithm: SigningAlgorithm, signature: bytes, data: bytes) -> bool:
    """Verify with the public half on the token, for algorithms that this process does not support."""
    row = SIGNINGS[algorithm]
    right: bool = HandleKey(session, handle, row.key_type).verify(
        row.prepare(data), signature, mechanism=row.mechanism, mechanism_param=row.parameters
    )
    return right


# -- the rows -------------------------------------------------------------------------------------------------------


def _pss(hashed: HashAlgorithm, mechanism: Mechanism, mask: MGF) -> Signing:
    """Build a PSS row. The salt is as long as the hash, as at AWS."""

    def check(public: PublicKey, signature: bytes, digest: bytes) -> None:
        _rsa(public).verify(signature, digest, PSS(MGF1(hashed), hashed.digest_size), Prehashed(hashed))

    return Signing(
        key_type=KeyType.RSA,
        mechanism=Mechanism.RSA_PKCS_PSS,
        parameters=(mechanism, mask, hashed.digest_size),
        verify=check,
    )


def _pkcs1(hashed: HashAlgorithm, digest_info: str) -> Signing:
    """Build a PKCS #1 v1.5 row. ``digest_info``: hex DER prefix of DigestInfo (RFC 8017, section 9.2, note 1)."""
    prefix = bytes.fromhex(digest_info)

    def check(public: PublicKey, signature: bytes, digest: bytes) -> None:
        _rsa(public).verify(signature, digest, PKCS1v15(), Prehashed(hashed))

    return Signing(
        key_type=KeyType.RSA, mechanism=Mechanism.RSA_PKCS, prepare=lambda digest: prefix + digest, verify=check
    )


def _ecdsa(hashed: HashAlgorithm) -> Signing:
    def check(public: PublicKey, signature: bytes, digest: bytes) -> None:
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise InvalidSignature
        public.verify(signature, digest, ec.ECDSA(Prehashed(hashed)))

    return Signing(key_type=KeyType.EC, mechanism=Mechanism.ECDSA, encode=_ecdsa_der, verify=check)


def _ecdsa_der(raw: bytes) -> bytes:
    """Encode as a DER SEQUENCE of r and s, which the token returns concatenated, equally long."""
    half = len(raw) // 2
    return encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))


def _check_ed25519(public: PublicKey, signature: bytes, message: bytes) -> None:
    if not isinstance(public, Ed25519PublicKey):
        raise InvalidSignature
    public.verify(signature, message)


def _check_ml_dsa(public: PublicKey, signature: bytes, message: bytes) -> None:
    if not isinstance(public, MlDsaPublicKey):
        raise InvalidSignature
    public.verify(signature, message)


def check_external_mu(public: PublicKey, signature: bytes, mu: bytes) -> None:
    """Check an ML-DSA signature of the message with this representative (FIPS 204, algorithm 8, from line 8)."""
    if not isinstance(public, MlDsaPublicKey):
        raise InvalidSignature
    public.verify_mu(signature, mu)


def _rsa(public: PublicKey) -> RSAPublicKey:
    if not isinstance(public, RSAPublicKey):
        raise InvalidSignature
    return public


_EDDSA: Final = Signing(
    key_type=KeyType.EC_EDWARDS, mechanism=Mechanism.EDDSA, size=_ED25519_BYTES, verify=_check_ed25519
)
_EDDSA_PREHASH: Final = Signing(
    key_type=KeyType.EC_EDWARDS, mechanism=Mechanism.EDDSA, parameters=(True, None), size=_ED25519_BYTES
)

SIGNINGS: Final[Mapping[SigningAlgorithm, Signing]] = {
    SigningAlgorithm.RSASSA_PSS_SHA_256: _pss(SHA256(), Mechanism.SHA256, MGF.SHA256),
    SigningAlgorithm.RSASSA_PSS_SHA_384: _pss(SHA384(), Mechanism.SHA384, MGF.SHA384),
    SigningAlgorithm.RSASSA_PSS_SHA_512: _pss(SHA512(), Mechanism.SHA512, MGF.SHA512),
    SigningAlgorithm.RSASSA_PKCS1_V1_5_SHA_256: _pkcs1(SHA256(), "3031300d060960864801650304020105000420"),
    SigningAlgorithm.RSASSA_PKCS1_V1_5_SHA_384: _pkcs1(SHA384(), "3041300d060960864801650304020205000430"),
    SigningAlgorithm.RSASSA_PKCS1_V1_5_SHA_512: _pkcs1(SHA512(), "3051300d060960864801650304020305000440"),
    SigningAlgorithm.ECDSA_SHA_256: _ecdsa(SHA256()),
    SigningAlgorithm.ECDSA_SHA_384: _ecdsa(SHA384()),
    SigningAlgorithm.ECDSA_SHA_512: _ecdsa(SHA512()),
    SigningAlgorithm.ED25519_SHA_512: _EDDSA,
    SigningAlgorithm.ED25519_PH_SHA_512: _EDDSA_PREHASH,
    SigningAlgorithm.ML_DSA_SHAKE_256: Signing(
        key_type=KeyType.ML_DSA, mechanism=Mechanism.ML_DSA, verify=_check_ml_dsa
    ),
}
