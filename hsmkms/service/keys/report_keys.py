"""The installation's key pair for signing reports, of which the token keeps the private half.

It is ECDSA on P-256 with SHA-256 (FIPS 186-5), or RSA with PKCS #1 v1.5 and SHA-256 (RFC 8017) on tokens without that
curve, so that one command of OpenSSL verifies the signatures of either.
"""

import hashlib
from collections.abc import Iterator
from datetime import datetime
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)
from msgspec import Struct

from hsmkms.errors import (
    ConfigurationError,
    ObjectLostError,
    TokenError,
    TokenUnavailableError,
    UnsupportedOperationException,
)
from hsmkms.hsm.objects.backing_keys import Kind
from hsmkms.hsm.ports import Device
from hsmkms.model.enums import KeySpec, KeyUsage, SigningAlgorithm
from hsmkms.model.own_keys import KeyPurpose
from hsmkms.model.permit import OperatorAct, Permit
from hsmkms.service.keys.installation_keys import label_of, newest_key, versions
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.permits import own_permit
from hsmkms.store.installation import InstallationKeyRow

_ALGORITHMS: Final = {
    KeySpec.ECC_NIST_P256: SigningAlgorithm.ECDSA_SHA_256,
    KeySpec.RSA_3072: SigningAlgorithm.RSASSA_PKCS1_V1_5_SHA_256,
}
"""The kinds of key pairs, the first one that the token supports being made, and how each signs."""

_LEAST_RSA_BITS: Final = 2048

VerifyingKey = EllipticCurvePublicKey | RSAPublicKey


class ReportKey(Struct, frozen=True, kw_only=True):
    """A version of the key that signs reports. ``fingerprint``: SHA-256 of its DER SubjectPublicKeyInfo, in hex."""

    version: int
    created_at: datetime
    fingerprint: str
    public_key: bytes


def kind_for(device: Device) -> Kind:
    """Return the kind of key pair that a token can make and sign with. UnsupportedOperationException if there is none.

    The exception says what to do.
    """
    reasons = []
    for spec in _ALGORITHMS:
        kind = spec, KeyUsage.SIGN_VERIFY
        try:
            device.keys.check_kind(kind)
        except UnsupportedOperationException as exc:
            reasons.append(str(exc))
        else:
            return kind
    raise UnsupportedOperationException(
        f"The token cannot sign reports: {' '.join(reasons)} With --unsigned a report is made without a signature, and "
        "`hsmkms verify-report` then relies on the audit log."
    )


def signing_key(core: Core) -> InstallationKeyRow:
    """Return the newest key for reports; created at its first use."""

    def make(key: InstallationKeyRow, label: str) -> None:
        device = core.tokens.of(key.token_id)
        device.keys.generate_backing_key(_permit(key), key.cka_id, label, kind_for(device))

    if not versions(core, KeyPurpose.REPORT):
        kind_for(core.device)  # before the intent is written
    return newest_key(core, KeyPurpose.REPORT, make)


def describe(core: Core, key: InstallationKeyRow) -> ReportKey:
    """Return a version with its public half, read from its token. ObjectLostError, TokenUnavailableError."""
    device = core.tokens.of(key.token_id)
    info = device.pairs.public_key(_permit(key), key.cka_id, _kind_of(core, key))
    return ReportKey(version=key.version, created_at=key.created_at, fingerprint=fingerprint(info), public_key=info)


def available(core: Core) -> Iterator[ReportKey]:
    """Yield all versions that are on tokens that can be reached, the newest first."""
    for each in reversed(versions(core, KeyPurpose.REPORT)):
        try:
            yield describe(core, each)
        except (ObjectLostError, TokenUnavailableError, UnsupportedOperationException):
            continue  # it verifies nothing now; ``count`` includes it


def count(core: Core) -> int:
    """Return how many versions there should be on tokens."""
    return len(versions(core, KeyPurpose.REPORT))


def sign(core: Core, key: InstallationKeyRow, document: bytes) -> bytes:
    """Sign a document on the token: DER for ECDSA. The signature is verified before it is returned."""
    device, kind = core.tokens.of(key.token_id), _kind_of(core, key)
    digest = hashlib.sha256(document).digest()
    signature = device.pairs.sign(_permit(key), key.cka_id, _ALGORITHMS[kind[0]], digest)
    if not verifies(read_public_key(describe(core, key).public_key), document, signature):
        raise TokenError("the token made a wrong signature of the report: check it with `hsmkms token-check`")
    return signature


def verifies(key: VerifyingKey, document: bytes, signature: bytes) -> bool:
    """Return True if the signature over the document is the key's."""
    try:
        if isinstance(key, RSAPublicKey):
            key.verify(signature, document, PKCS1v15(), SHA256())
        else:
            key.verify(signature, document, ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def read_public_key(data: bytes, name: str = "the public key") -> VerifyingKey:
    """Parse a public key in DER or PEM. ConfigurationError if it is none that signs reports."""
    try:
        key = load_pem_public_key(data) if data.lstrip().startswith(b"-----") else load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return key
    if isinstance(key, RSAPublicKey) and key.key_size >= _LEAST_RSA_BITS:
        return key
    raise ConfigurationError(
        f"{name} is no public key that signs reports (EC on P-256, or RSA, in PEM): "
        "`hsmkms report-public-key` prints one"
    )


def fingerprint_of(key: VerifyingKey) -> str:
    """Return the fingerprint of a public key."""
    return fingerprint(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def fingerprint(info: bytes) -> str:
    """Return SHA-256 of a DER SubjectPublicKeyInfo, in hex: ``openssl pkey -pubin -outform DER | sha256sum``."""
    return hashlib.sha256(info).hexdigest()


def _kind_of(core: Core, key: InstallationKeyRow) -> Kind:
    """Return spec and usage of a version. ObjectLostError if it is not on its token, or another key is in its place."""
    device = core.tokens.of(key.token_id)
    if device.keys.is_labelled(key.cka_id, label_of(core, key)):
        kind = device.keys.identify(key.cka_id)
        if kind is not None and kind[0] in _ALGORITHMS and kind[1] is KeyUsage.SIGN_VERIFY:
            return kind
    raise ObjectLostError(f"the installation's key for reports, version {key.version}, is not the one that was made")


def _permit(key: InstallationKeyRow) -> Permit:
    return own_permit(OperatorAct.REPORT, key.cka_id)
