"""Capabilities of the KMS on a token, each checked against another implementation if there is one.

One function each, of an open installation; a capability that the token lacks is refused with an HsmKmsError.
"""

import hashlib
import hmac
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

import wrapped
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey, MLDSA65PublicKey, MLDSA87PublicKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from hsmkms.errors import HsmKmsError, InvalidCiphertextException, KMSInvalidMacException, KMSInvalidSignatureException
from hsmkms.kms import Kms
from hsmkms.model import asymmetric, crypto, deletion, importing, keys, rotation
from hsmkms.model.enums import (
    EncryptionAlgorithm,
    KeySpec,
    KeyUsage,
    MacAlgorithm,
    SigningAlgorithm,
    WrappingAlgorithm,
    WrappingKeySpec,
)

CONTEXT: Final = {"purpose": "matrix"}
MESSAGE: Final = b"a message"
HASHES: Final = {
    SigningAlgorithm.ECDSA_SHA_256: SHA256(),
    SigningAlgorithm.ECDSA_SHA_384: SHA384(),
    SigningAlgorithm.ECDSA_SHA_512: SHA512(),
}


class Clock:
    """A clock that stands still until it is advanced."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        """Return the present instant."""
        return self.now

    def advance(self, **amount: float) -> None:
        """Advance by a time delta."""
        self.now += timedelta(**amount)


class Bench:
    """An open installation and its clock."""

    def __init__(self, kms: Kms, clock: Clock) -> None:
        self.kms = kms
        self.clock = clock

    def new_key(self, spec: KeySpec = KeySpec.SYMMETRIC_DEFAULT, usage: KeyUsage | None = None, **more: object) -> str:
        """Create a key; return its id."""
        usage = usage or (KeyUsage.ENCRYPT_DECRYPT if spec is KeySpec.SYMMETRIC_DEFAULT else KeyUsage.SIGN_VERIFY)
        request = keys.CreateKeyRequest(key_spec=spec, key_usage=usage, **more)
        return self.kms.create_key(request).key_metadata.key_id

    def encrypt(self, key: str, plaintext: bytes = MESSAGE) -> bytes:
        """Encrypt with the context; return the ciphertext."""
        request = crypto.EncryptRequest(key_id=key, plaintext=plaintext, encryption_context=CONTEXT)
        return self.kms.encrypt(request).ciphertext_blob

    def decrypt(self, ciphertext: bytes, context: dict[str, str] | None = None) -> bytes | None:
        """Decrypt; return the plaintext."""
        request = crypto.DecryptRequest(ciphertext_blob=ciphertext, encryption_context=context or CONTEXT)
        return self.kms.decrypt(request).plaintext

    def public_key(self, key: str) -> object:
        """Return the public key, parsed by another library."""
        return load_der_public_key(self.kms.get_public_key(asymmetric.GetPublicKeyRequest(key_id=key)).public_key)


def refuses(kind: type[HsmKmsError], call: Callable[[], object]) -> None:
    """Assert that the call raises this error."""
    try:
        call()
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was expected")


def symmetric(bench: Bench) -> None:
    """Encrypt, decrypt with the right context alone, and attest the key."""
    key = bench.new_key()
    sealed = bench.encrypt(key)
    assert bench.decrypt(sealed) == MESSAGE
    refuses(InvalidCiphertextException, lambda: bench.decrypt(sealed, {"purpose": "another"}))
    refuses(InvalidCiphertextException, lambda: bench.decrypt(sealed[:-1] + bytes([sealed[-1] ^ 1])))
    (attested,) = bench.kms.operator.attest(key)
    assert attested.as_made, attested.deviations


def data_key(bench: Bench) -> None:
    """Check that an encrypted data key decrypts to its plaintext."""
    key = bench.new_key()
    request = crypto.GenerateDataKeyRequest(key_id=key, key_spec="AES_256", encryption_context=CONTEXT)
    made = bench.kms.generate_data_key(request)
    assert bench.decrypt(made.ciphertext_blob) == made.plaintext


def rotated(bench: Bench) -> None:
    """Check that each ciphertext decrypts after two rotations."""
    key = bench.new_key()
    sealed = [bench.encrypt(key)]
    for _ in range(2):
        bench.kms.rotate_key_on_demand(rotation.RotateKeyOnDemandRequest(key_id=key))
        sealed.append(bench.encrypt(key))
    assert [bench.decrypt(each) for each in sealed] == [MESSAGE] * 3


def imported(
    bench: Bench,
    algorithm: WrappingAlgorithm,
    material: bytes | None = None,
    spec: KeySpec = KeySpec.SYMMETRIC_DEFAULT,
    usage: KeyUsage | None = None,
) -> str:
    """Import key material, with which a symmetric key encrypts; return the key's id."""
    key = bench.new_key(spec, usage, origin="EXTERNAL")
    wanted = bench.kms.get_parameters_for_import(
        importing.GetParametersForImportRequest(
            key_id=key, wrapping_algorithm=algorithm, wrapping_key_spec=WrappingKeySpec.RSA_2048
        )
    )
    bench.kms.import_key_material(
        importing.ImportKeyMaterialRequest(
            key_id=key,
            import_token=wanted.import_token,
            encrypted_key_material=wrapped.wrap(wanted.public_key, algorithm, material or os.urandom(32)),
            expiration_model="KEY_MATERIAL_DOES_NOT_EXPIRE",
        )
    )
    if spec is KeySpec.SYMMETRIC_DEFAULT:
        assert bench.decrypt(bench.encrypt(key)) == MESSAGE
    return key


def imported_mac(bench: Bench) -> None:
    """Check that an imported HMAC key computes the standard's HMAC."""
    material = os.urandom(32)
    usage = KeyUsage.GENERATE_VERIFY_MAC
    key = imported(bench, WrappingAlgorithm.RSAES_OAEP_SHA_1, material, KeySpec.HMAC_256, usage)
    request = asymmetric.GenerateMacRequest(key_id=key, message=MESSAGE, mac_algorithm=MacAlgorithm.HMAC_SHA_256)
    assert bench.kms.generate_mac(request).mac == hmac.digest(material, MESSAGE, "sha256")


def signed(bench: Bench, spec: KeySpec, algorithm: SigningAlgorithm) -> None:
    """Sign; verify with another library if it can, and with the KMS, which must refuse another message."""
    key = bench.new_key(spec)
    request = asymmetric.SignRequest(key_id=key, message=MESSAGE, signing_algorithm=algorithm)
    signature = bench.kms.sign(request).signature
    public = bench.public_key(key)
    if isinstance(public, rsa.RSAPublicKey):
        pss = padding.PSS(padding.MGF1(SHA256()), padding.PSS.DIGEST_LENGTH)
        scheme = pss if algorithm.startswith("RSASSA_PSS") else padding.PKCS1v15()
        public.verify(signature, MESSAGE, scheme, SHA256())
    elif isinstance(public, ec.EllipticCurvePublicKey):
        public.verify(signature, MESSAGE, ec.ECDSA(HASHES[algorithm]))
    elif isinstance(public, Ed25519PublicKey | MLDSA44PublicKey | MLDSA65PublicKey | MLDSA87PublicKey):
        public.verify(signature, MESSAGE)

    def verify(message: bytes) -> None:
        bench.kms.verify(
            asymmetric.VerifyRequest(key_id=key, message=message, signature=signature, signing_algorithm=algorithm)
        )

    verify(MESSAGE)
    refuses(KMSInvalidSignatureException, lambda: verify(b"another"))


def rsa_encrypted(bench: Bench, algorithm: EncryptionAlgorithm) -> None:
    """Decrypt what another library, and the KMS, encrypt to an RSA key."""
    key = bench.new_key(KeySpec.RSA_2048, KeyUsage.ENCRYPT_DECRYPT)
    public = bench.public_key(key)
    assert isinstance(public, rsa.RSAPublicKey)
    used = SHA1() if algorithm is EncryptionAlgorithm.RSAES_OAEP_SHA_1 else SHA256()  # noqa: S303 - OAEP may
    theirs = public.encrypt(MESSAGE, padding.OAEP(padding.MGF1(used), used, None))
    ours = bench.kms.encrypt(
        crypto.EncryptRequest(key_id=key, plaintext=MESSAGE, encryption_algorithm=algorithm)
    ).ciphertext_blob
    for sealed in (theirs, ours):
        request = crypto.DecryptRequest(key_id=key, ciphertext_blob=sealed, encryption_algorithm=algorithm)
        assert bench.kms.decrypt(request).plaintext == MESSAGE


def agreed(bench: Bench) -> None:
    """Check that both sides of ECDH derive the same secret."""
    key = bench.new_key(KeySpec.ECC_NIST_P256, KeyUsage.KEY_AGREEMENT)
    own = ec.generate_private_key(ec.SECP256R1())
    public = own.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    request = asymmetric.DeriveSharedSecretRequest(key_id=key, key_agreement_algorithm="ECDH", public_key=public)
    theirs = bench.public_key(key)
    assert isinstance(theirs, ec.EllipticCurvePublicKey)
    assert bench.kms.derive_shared_secret(request).shared_secret == own.exchange(ec.ECDH(), theirs)


def encapsulated(bench: Bench, spec: KeySpec) -> None:
    """Decapsulate what the KMS, and another library if it has the spec, encapsulate."""
    key = bench.new_key(spec, KeyUsage.ENCAPSULATE_DECAPSULATE)
    request = asymmetric.EncapsulateRequest(key_id=key, encapsulation_algorithm="ML_KEM")
    made = bench.kms.encapsulate(request)

    def decapsulate(ciphertext: bytes) -> bytes:
        return bench.kms.decapsulate(
            asymmetric.DecapsulateRequest(
                key_id=key, encapsulation_algorithm="ML_KEM", shared_secret_ciphertext_blob=ciphertext
            )
        ).shared_secret

    assert decapsulate(made.shared_secret_ciphertext_blob) == made.shared_secret
    refuses(InvalidCiphertextException, lambda: decapsulate(made.shared_secret_ciphertext_blob[:-1]))
    if spec is not KeySpec.ML_KEM_512:
        peer: Any = bench.public_key(key)
        secret, ciphertext = peer.encapsulate()
        assert decapsulate(ciphertext) == secret


def authenticated(bench: Bench, spec: KeySpec, algorithm: MacAlgorithm) -> None:
    """Check that an HMAC verifies, and that a wrong one is refused."""
    key = bench.new_key(spec, KeyUsage.GENERATE_VERIFY_MAC)
    request = asymmetric.GenerateMacRequest(key_id=key, message=MESSAGE, mac_algorithm=algorithm)
    mac = bench.kms.generate_mac(request).mac
    assert len(mac) == hashlib.new(algorithm.removeprefix("HMAC_").replace("_", "")).digest_size

    def verify(value: bytes) -> None:
        bench.kms.verify_mac(
            asymmetric.VerifyMacRequest(key_id=key, message=MESSAGE, mac_algorithm=algorithm, mac=value)
        )

    verify(mac)
    refuses(KMSInvalidMacException, lambda: verify(bytes(len(mac))))


def data_key_pair(bench: Bench, spec: KeySpec) -> None:
    """Check that the private key of a data key pair decrypts, and belongs to the public one."""
    key = bench.new_key()
    made = bench.kms.generate_data_key_pair(
        crypto.GenerateDataKeyPairRequest(key_id=key, key_pair_spec=spec, encryption_context=CONTEXT)
    )
    opened = bench.decrypt(made.private_key_ciphertext_blob)
    assert opened == made.private_key_plaintext
    public = load_der_private_key(opened or b"", None).public_key()
    assert public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == made.public_key


def deleted(bench: Bench) -> None:
    """Check that a deleted key is gone from the token after its waiting period."""
    key = bench.new_key()
    sealed = bench.encrypt(key)
    bench.kms.schedule_key_deletion(deletion.ScheduleKeyDeletionRequest(key_id=key, pending_window_in_days=7))
    bench.clock.advance(days=8)
    bench.kms.operator.maintain()
    refuses(HsmKmsError, lambda: bench.decrypt(sealed))


CAPABILITIES: Final[dict[str, Callable[[Bench], object]]] = {
    "symmetric keys: encrypt, decrypt, attest": symmetric,
    "data keys": data_key,
    "rotation": rotated,
    "HMAC_256": partial(authenticated, spec=KeySpec.HMAC_256, algorithm=MacAlgorithm.HMAC_SHA_256),
    "HMAC_512": partial(authenticated, spec=KeySpec.HMAC_512, algorithm=MacAlgorithm.HMAC_SHA_512),
    **{
        f"import by {each}": partial(imported, algorithm=each)
        for each in (
            WrappingAlgorithm.RSAES_OAEP_SHA_1,
            WrappingAlgorithm.RSAES_OAEP_SHA_256,
            WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_1,
            WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_256,
        )
    },
    "import of an HMAC key": imported_mac,
    **{
        f"{spec}: {algorithm}": partial(signed, spec=spec, algorithm=algorithm)
        for spec, algorithm in (
            (KeySpec.RSA_2048, SigningAlgorithm.RSASSA_PKCS1_V1_5_SHA_256),
            (KeySpec.RSA_2048, SigningAlgorithm.RSASSA_PSS_SHA_256),
            (KeySpec.ECC_NIST_P256, SigningAlgorithm.ECDSA_SHA_256),
            (KeySpec.ECC_NIST_P384, SigningAlgorithm.ECDSA_SHA_384),
            (KeySpec.ECC_NIST_P521, SigningAlgorithm.ECDSA_SHA_512),
            (KeySpec.ECC_SECG_P256K1, SigningAlgorithm.ECDSA_SHA_256),
            (KeySpec.ECC_NIST_EDWARDS25519, SigningAlgorithm.ED25519_SHA_512),
            (KeySpec.ML_DSA_44, SigningAlgorithm.ML_DSA_SHAKE_256),
            (KeySpec.ML_DSA_65, SigningAlgorithm.ML_DSA_SHAKE_256),
            (KeySpec.ML_DSA_87, SigningAlgorithm.ML_DSA_SHAKE_256),
        )
    },
    **{
        f"RSA_2048: {each}": partial(rsa_encrypted, algorithm=each)
        for each in (EncryptionAlgorithm.RSAES_OAEP_SHA_1, EncryptionAlgorithm.RSAES_OAEP_SHA_256)
    },
    "ECC_NIST_P256: key agreement": agreed,
    **{
        f"{each}: encapsulation": partial(encapsulated, spec=each)
        for each in (KeySpec.ML_KEM_512, KeySpec.ML_KEM_768, KeySpec.ML_KEM_1024)
    },
    **{
        f"data key pair {each}": partial(data_key_pair, spec=each)
        for each in (KeySpec.RSA_2048, KeySpec.ECC_NIST_P256, KeySpec.ECC_NIST_EDWARDS25519, KeySpec.ML_KEM_768)
    },
    "deletion": deleted,
}
"""In the order in which they are tried; the last one moves the clock."""
