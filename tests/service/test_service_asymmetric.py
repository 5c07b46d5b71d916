"""Key pairs and HMAC keys through the service. Source: AWS KMS API Reference, operation by operation; real answers."""

import hashlib
import os
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from service_sites import ACCOUNT, REGION, new_alias, new_key, seal, unseal

from hsmkms.errors import (
    DisabledException,
    DryRunOperationException,
    HsmKmsError,
    IncorrectKeyException,
    InvalidCiphertextException,
    InvalidKeyUsageException,
    KMSInvalidMacException,
    KMSInvalidSignatureException,
    KMSInvalidStateException,
    UnsupportedOperationException,
    ValidationException,
)
from hsmkms.kms import Kms
from hsmkms.model.aliases import UpdateAliasRequest
from hsmkms.model.asymmetric import (
    DecapsulateRequest,
    DeriveSharedSecretRequest,
    EncapsulateRequest,
    GenerateMacRequest,
    GetPublicKeyRequest,
    SignRequest,
    VerifyMacRequest,
    VerifyRequest,
)
from hsmkms.model.crypto import (
    DecryptRequest,
    EncryptRequest,
    GenerateDataKeyRequest,
    GenerateDataKeyWithoutPlaintextRequest,
    ReEncryptRequest,
)
from hsmkms.model.deletion import GetKeyLastUsageRequest, ScheduleKeyDeletionRequest
from hsmkms.model.enums import KeySpec, KeyUsage, Origin
from hsmkms.model.keys import DescribeKeyRequest, DisableKeyRequest, EnableKeyRequest, KeyMetadata
from hsmkms.model.rotation import (
    DisableKeyRotationRequest,
    EnableKeyRotationRequest,
    GetKeyRotationStatusRequest,
    ListKeyRotationsRequest,
    RotateKeyOnDemandRequest,
)
from hsmkms.model.shapes import Recipient
from hsmkms.rules.iam import policies
from hsmkms.service.keys import creation

MESSAGE = b"The engine is yours."
RECIPIENT = Recipient(key_encryption_algorithm="RSAES_OAEP_SHA_256", attestation_document=b"document")
PSS = [f"RSASSA_PSS_SHA_{bits}" for bits in (256, 384, 512)]
PKCS1 = [f"RSASSA_PKCS1_V1_5_SHA_{bits}" for bits in (256, 384, 512)]
OAEP = ["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"]

KINDS: dict[str, tuple[str, str, str, list[str]]] = {
    "symmetric": ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", "encryption_algorithms", ["SYMMETRIC_DEFAULT"]),
    "rsa": ("RSA_2048", "SIGN_VERIFY", "signing_algorithms", PSS + PKCS1),
    "oaep": ("RSA_2048", "ENCRYPT_DECRYPT", "encryption_algorithms", OAEP),
    "p256": ("ECC_NIST_P256", "SIGN_VERIFY", "signing_algorithms", ["ECDSA_SHA_256"]),
    "p384": ("ECC_NIST_P384", "SIGN_VERIFY", "signing_algorithms", ["ECDSA_SHA_384"]),
    "p521": ("ECC_NIST_P521", "SIGN_VERIFY", "signing_algorithms", ["ECDSA_SHA_512"]),
    "k256": ("ECC_SECG_P256K1", "SIGN_VERIFY", "signing_algorithms", ["ECDSA_SHA_256"]),
    "ed25519": (
        "ECC_NIST_EDWARDS25519",
        "SIGN_VERIFY",
        "signing_algorithms",
        ["ED25519_SHA_512", "ED25519_PH_SHA_512"],
    ),
    "ecdh256": ("ECC_NIST_P256", "KEY_AGREEMENT", "key_agreement_algorithms", ["ECDH"]),
    "ecdh384": ("ECC_NIST_P384", "KEY_AGREEMENT", "key_agreement_algorithms", ["ECDH"]),
    "ecdh521": ("ECC_NIST_P521", "KEY_AGREEMENT", "key_agreement_algorithms", ["ECDH"]),
    "hmac224": ("HMAC_224", "GENERATE_VERIFY_MAC", "mac_algorithms", ["HMAC_SHA_224"]),
    "hmac256": ("HMAC_256", "GENERATE_VERIFY_MAC", "mac_algorithms", ["HMAC_SHA_256"]),
    "hmac384": ("HMAC_384", "GENERATE_VERIFY_MAC", "mac_algorithms", ["HMAC_SHA_384"]),
    "hmac512": ("HMAC_512", "GENERATE_VERIFY_MAC", "mac_algorithms", ["HMAC_SHA_512"]),
}
"""One of each kind by a short name: spec, usage, the one list of algorithms, and what is in it, typed by hand."""

LISTS = ("encryption_algorithms", "signing_algorithms", "key_agreement_algorithms", "mac_algorithms")
PAIRS = [name for name, (spec, *_) in KINDS.items() if not spec.startswith(("HMAC", "SYMMETRIC"))]
SIGNERS = [name for name, (_, usage, *_) in KINDS.items() if usage == "SIGN_VERIFY"]
Keys = Callable[[str], KeyMetadata]


@pytest.fixture(scope="module")
def keys(kms: Kms) -> Keys:
    """Keys of each kind, made when they are first asked for, that the tests of this module share."""
    made: dict[str, KeyMetadata] = {}

    def of(name: str) -> KeyMetadata:
        if name not in made:
            made[name] = fresh(kms, name)
        return made[name]

    return of


def fresh(kms: Kms, name: str) -> KeyMetadata:
    """A new key of a kind."""
    spec, usage, *_ = KINDS[name]
    return new_key(kms, key_spec=spec, key_usage=usage)


def sign(kms: Kms, key_id: str, algorithm: str, message: bytes = MESSAGE, **members: object) -> bytes:
    """Sign; the signature."""
    request = SignRequest(key_id=key_id, message=message, signing_algorithm=algorithm, **members)
    return kms.sign(request).signature


def verify(kms: Kms, key_id: str, algorithm: str, signature: bytes, message: bytes = MESSAGE, **more: object) -> bool:
    """Verify; the answer, which is never False."""
    request = VerifyRequest(key_id=key_id, message=message, signature=signature, signing_algorithm=algorithm, **more)
    return kms.verify(request).signature_valid


def mac(kms: Kms, key_id: str, algorithm: str, message: bytes = MESSAGE, **members: object) -> bytes:
    """GenerateMac; the HMAC."""
    return kms.generate_mac(GenerateMacRequest(key_id=key_id, message=message, mac_algorithm=algorithm, **members)).mac


def derive(kms: Kms, key_id: str, info: bytes, **members: object) -> bytes | None:
    """DeriveSharedSecret; the secret."""
    request = DeriveSharedSecretRequest(key_id=key_id, key_agreement_algorithm="ECDH", public_key=info, **members)
    return kms.derive_shared_secret(request).shared_secret


def public_key(kms: Kms, key_id: str) -> Any:  # noqa: ANN401 - keys of many types
    """GetPublicKey; the key as another program reads it."""
    return load_der_public_key(kms.get_public_key(GetPublicKeyRequest(key_id=key_id)).public_key)


def info_of(public: ec.EllipticCurvePublicKey) -> bytes:
    """DER SubjectPublicKeyInfo."""
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


# -- making and describing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_metadata(kms: Kms, keys: Keys, name: str) -> None:
    """A key reports spec, usage and exactly one list of algorithms, and a material id only if it is symmetric."""
    spec, usage, member, algorithms = KINDS[name]
    for metadata in (keys(name), kms.describe_key(DescribeKeyRequest(key_id=keys(name).key_id)).key_metadata):
        assert (metadata.key_spec, metadata.customer_master_key_spec, metadata.key_usage) == (spec, spec, usage)
        assert (metadata.key_state, metadata.enabled, metadata.origin) == ("Enabled", True, "AWS_KMS")
        assert {each for each in LISTS if getattr(metadata, each) is not None} == {member}
        assert getattr(metadata, member) == algorithms
        assert (metadata.current_key_material_id is not None) == (name == "symmetric")


@pytest.mark.parametrize("name", KINDS)
def test_attest(kms: Kms, keys: Keys, name: str) -> None:
    """Both halves of a pair, or the one secret key, are on the token as hsmkms makes them."""
    (attested,) = kms.operator.attest(keys(name).key_id)
    assert (attested.as_made, attested.deviations) == (True, [])
    assert attested.attributes["CKA_SENSITIVE"] is True
    assert attested.attributes["CKA_EXTRACTABLE"] is False
    assert attested.attributes["CKA_CLASS"] == ("CKO_PRIVATE_KEY" if name in PAIRS else "CKO_SECRET_KEY")
    assert (attested.public_half is not None) == (name in PAIRS)
    if attested.public_half:
        assert attested.public_half["CKA_ID"] == attested.attributes["CKA_ID"] == attested.cka_id
        assert attested.public_half["CKA_LABEL"] == attested.attributes["CKA_LABEL"]


# -- GetPublicKey -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
def test_public_key(kms: Kms, keys: Keys, name: str) -> None:
    """The public key comes with spec, usage and algorithms; an alias will do."""
    spec, usage, member, algorithms = KINDS[name]
    alias = f"alias/public-{name}"
    new_alias(kms, alias, keys(name).key_id)
    public_key = kms.get_public_key(GetPublicKeyRequest(key_id=alias))
    assert (public_key.key_id, public_key.key_spec, public_key.key_usage) == (keys(name).arn, spec, usage)
    assert public_key.customer_master_key_spec == (None if name == "ed25519" else spec)
    assert getattr(public_key, member) == algorithms
    assert load_der_public_key(public_key.public_key)


def test_public_key_states(kms: Kms) -> None:
    """A disabled key still returns its public half; one pending deletion does not."""
    made = fresh(kms, "p256")
    before = kms.get_public_key(GetPublicKeyRequest(key_id=made.key_id)).public_key
    kms.disable_key(DisableKeyRequest(key_id=made.key_id))
    assert kms.get_public_key(GetPublicKeyRequest(key_id=made.key_id)).public_key == before
    for attempt in (
        lambda: sign(kms, made.key_id, "ECDSA_SHA_256"),
        lambda: verify(kms, made.key_id, "ECDSA_SHA_256", b"s"),
    ):
        with pytest.raises(DisabledException, match=f"{made.arn} is disabled."):
            attempt()
    kms.schedule_key_deletion(ScheduleKeyDeletionRequest(key_id=made.key_id))
    with pytest.raises(KMSInvalidStateException, match="is pending deletion"):
        kms.get_public_key(GetPublicKeyRequest(key_id=made.key_id))


def test_public_key_before_the_import(kms: Kms) -> None:
    """A key pair that waits for its material has no public key yet, and says so."""
    core = kms._core
    nature = creation.Nature(spec=KeySpec.RSA_2048, usage=KeyUsage.SIGN_VERIFY, origin=Origin.EXTERNAL)
    record = creation.new_record(core, REGION, nature, description="", policy=policies.default_policy(ACCOUNT))
    creation.make_empty(core, record, {})
    with pytest.raises(KMSInvalidStateException, match=f"{record.arn} is pending import."):
        kms.get_public_key(GetPublicKeyRequest(key_id=record.key_id))


@pytest.mark.parametrize("name", ["symmetric", "hmac256"])
def test_no_public_half(kms: Kms, keys: Keys, name: str) -> None:
    """Symmetric and HMAC keys have no public key."""
    with pytest.raises(UnsupportedOperationException, match="only asymmetric keys"):
        kms.get_public_key(GetPublicKeyRequest(key_id=keys(name).key_id))


# -- Sign and Verify ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIGNERS)
def test_sign_and_verify(kms: Kms, keys: Keys, name: str) -> None:
    """With each of its algorithms a key verifies what it signed, and nothing else; a wrong signature is an error."""
    made = keys(name)
    for algorithm in KINDS[name][3]:
        if algorithm == "ED25519_PH_SHA_512":
            continue
        answer = kms.sign(SignRequest(key_id=made.arn, message=MESSAGE, signing_algorithm=algorithm))
        assert (answer.key_id, answer.signing_algorithm) == (made.arn, algorithm)
        assert verify(kms, made.key_id, algorithm, answer.signature, message_type="RAW") is True
        for message, signature in (
            (MESSAGE + b"!", answer.signature),
            (MESSAGE, answer.signature + b"!"),
            (MESSAGE, b"s"),
        ):
            with pytest.raises(KMSInvalidSignatureException) as caught:
                verify(kms, made.key_id, algorithm, signature, message)
            assert str(caught.value) == ""


@pytest.mark.parametrize("algorithm", ["RSASSA_PSS_SHA_384", "RSASSA_PKCS1_V1_5_SHA_512"])
def test_a_message_and_its_digest_are_the_same(kms: Kms, keys: Keys, algorithm: str) -> None:
    """A signature of a message verifies for its digest, and the other way round."""
    key_id, digest = keys("rsa").key_id, hashlib.new(f"sha{algorithm[-3:]}", MESSAGE).digest()
    raw = sign(kms, key_id, algorithm)
    digested = sign(kms, key_id, algorithm, digest, message_type="DIGEST")
    assert verify(kms, key_id, algorithm, raw, digest, message_type="DIGEST")
    assert verify(kms, key_id, algorithm, digested, MESSAGE, message_type="RAW")
    with pytest.raises(KMSInvalidSignatureException):
        verify(kms, key_id, algorithm, digested, digest, message_type="RAW")


@pytest.mark.parametrize(
    ("name", "algorithm", "length"),
    [("p256", "ECDSA_SHA_256", 31), ("p384", "ECDSA_SHA_384", 32), ("rsa", "RSASSA_PSS_SHA_512", 63)],
)
def test_digest_of_wrong_length(kms: Kms, keys: Keys, name: str, algorithm: str, length: int) -> None:
    """A digest has the length of the algorithm's hash."""
    for attempt in (sign, lambda *given, **more: verify(*given[:3], b"s", *given[3:], **more)):
        with pytest.raises(ValidationException) as caught:
            attempt(kms, keys(name).key_id, algorithm, bytes(length), message_type="DIGEST")
        assert str(caught.value) == f"Digest is invalid length for algorithm {algorithm}."


@pytest.mark.parametrize(
    ("name", "algorithm", "kind", "message"),
    [
        ("ed25519", "ED25519_SHA_512", "DIGEST", "MessageType DIGEST is not valid for ED25519_SHA_512: use RAW."),
        ("ed25519", "ED25519_PH_SHA_512", "RAW", "MessageType RAW is not valid for ED25519_PH_SHA_512: use DIGEST."),
        ("p256", "ECDSA_SHA_256", "EXTERNAL_MU", "use RAW or DIGEST."),
    ],
)
def test_message_types(kms: Kms, keys: Keys, name: str, algorithm: str, kind: str, message: str) -> None:
    """Each algorithm takes some types of message only."""
    with pytest.raises(ValidationException) as caught:
        sign(kms, keys(name).key_id, algorithm, bytes(64), message_type=kind)
    assert message in str(caught.value)


def test_prehashed_ed25519(kms: Kms, keys: Keys) -> None:
    """SoftHSM signs pure Ed25519 whatever flag it gets, so the pre-hashed form is refused with an alternative."""
    with pytest.raises(UnsupportedOperationException, match="Use ED25519_SHA_512 with the message itself"):
        sign(kms, keys("ed25519").key_id, "ED25519_PH_SHA_512", bytes(64), message_type="DIGEST")


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [("p256", "ECDSA_SHA_384"), ("rsa", "ECDSA_SHA_256"), ("k256", "ED25519_SHA_512"), ("p521", "ECDSA_SHA_256")],
)
def test_algorithm_of_another_spec(kms: Kms, keys: Keys, name: str, algorithm: str) -> None:
    """An algorithm that does not go with the spec is a wrong usage, in AWS's words."""
    for attempt in (sign, lambda *given: verify(*given, b"s")):
        with pytest.raises(InvalidKeyUsageException) as caught:
            attempt(kms, keys(name).key_id, algorithm)
        assert str(caught.value) == f"Algorithm {algorithm} is incompatible with key spec {KINDS[name][0]}."


# -- usage --------------------------------------------------------------------------------------------------------

USES: dict[str, tuple[str, Callable[[Kms, str], object]]] = {
    "Encrypt": ("ENCRYPT_DECRYPT", seal),
    "GenerateDataKey": (
        "ENCRYPT_DECRYPT",
        lambda kms, key_id: kms.generate_data_key(GenerateDataKeyRequest(key_id=key_id, key_spec="AES_256")),
    ),
    "GenerateDataKeyWithoutPlaintext": (
        "ENCRYPT_DECRYPT",
        lambda kms, key_id: kms.generate_data_key_without_plaintext(
            GenerateDataKeyWithoutPlaintextRequest(key_id=key_id, key_spec="AES_256")
        ),
    ),
    "Sign": ("SIGN_VERIFY", lambda kms, key_id: sign(kms, key_id, "ECDSA_SHA_256")),
    "Verify": ("SIGN_VERIFY", lambda kms, key_id: verify(kms, key_id, "ECDSA_SHA_256", b"s")),
    "GenerateMac": ("GENERATE_VERIFY_MAC", lambda kms, key_id: mac(kms, key_id, "HMAC_SHA_256")),
    "VerifyMac": (
        "GENERATE_VERIFY_MAC",
        lambda kms, key_id: kms.verify_mac(
            VerifyMacRequest(key_id=key_id, message=b"m", mac=b"m", mac_algorithm="HMAC_SHA_256")
        ),
    ),
    "DeriveSharedSecret": ("KEY_AGREEMENT", lambda kms, key_id: derive(kms, key_id, b"x")),
    "Encapsulate": (
        "ENCAPSULATE_DECAPSULATE",
        lambda kms, key_id: kms.encapsulate(EncapsulateRequest(key_id=key_id, encapsulation_algorithm="ML_KEM")),
    ),
    "Decapsulate": (
        "ENCAPSULATE_DECAPSULATE",
        lambda kms, key_id: kms.decapsulate(
            DecapsulateRequest(key_id=key_id, encapsulation_algorithm="ML_KEM", shared_secret_ciphertext_blob=b"x")
        ),
    ),
}


@pytest.mark.parametrize("operation", USES)
@pytest.mark.parametrize("name", ["symmetric", "oaep", "p256", "ecdh384", "hmac256"])
def test_usage(kms: Kms, keys: Keys, operation: str, name: str) -> None:
    """A key does what its usage allows, and refuses other operations in AWS's words."""
    wanted, act = USES[operation]
    made = keys(name)
    if made.key_usage == wanted:
        return
    with pytest.raises(InvalidKeyUsageException) as caught:
        act(kms, made.key_id)
    assert str(caught.value) == f"{made.arn} key usage is {made.key_usage} which is not valid for {operation}."


@pytest.mark.parametrize("operation", ["GenerateDataKey", "GenerateDataKeyWithoutPlaintext"])
def test_data_keys_need_a_symmetric_key(kms: Kms, keys: Keys, operation: str) -> None:
    """A data key is never encrypted under an RSA key."""
    with pytest.raises(InvalidKeyUsageException, match="incompatible with key spec RSA_2048"):
        USES[operation][1](kms, keys("oaep").key_id)


# -- Encrypt, Decrypt, ReEncrypt ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("algorithm", "most"), [(OAEP[0], 214), (OAEP[1], 190)])
def test_rsa_encryption(kms: Kms, keys: Keys, algorithm: str, most: int) -> None:
    """Up to what fits is encrypted into the bare RSA block; one byte more is refused in AWS's words."""
    key_id, arn = keys("oaep").key_id, keys("oaep").arn
    plaintext = os.urandom(most)
    sealed = kms.encrypt(EncryptRequest(key_id=key_id, plaintext=plaintext, encryption_algorithm=algorithm))
    assert (len(sealed.ciphertext_blob), sealed.key_id, sealed.encryption_algorithm) == (256, arn, algorithm)
    opened = kms.decrypt(
        DecryptRequest(key_id=key_id, ciphertext_blob=sealed.ciphertext_blob, encryption_algorithm=algorithm)
    )
    assert (opened.plaintext, opened.key_id, opened.key_material_id) == (plaintext, arn, None)
    with pytest.raises(ValidationException) as caught:
        seal(kms, key_id, plaintext + b"x", encryption_algorithm=algorithm)
    assert str(caught.value) == (
        f"Algorithm {algorithm} and key spec RSA_2048 cannot encrypt data larger than {most} bytes."
    )


def test_rsa_decryption_refusals(kms: Kms, keys: Keys) -> None:
    """Each mistake has AWS's error; whatever is wrong with the ciphertext itself is one opaque error."""
    key_id, other = keys("oaep").key_id, fresh(kms, "oaep").key_id
    sha1, sha256 = OAEP
    sealed = seal(kms, key_id, encryption_algorithm=sha256)
    right: dict[str, Any] = {"key_id": key_id, "encryption_algorithm": sha256}
    cases: list[tuple[bytes, dict[str, Any], type[HsmKmsError]]] = [
        (sealed, {"key_id": key_id}, ValidationException),
        (sealed, {"encryption_algorithm": sha256}, ValidationException),
        (sealed, {}, InvalidCiphertextException),
        (sealed, right | {"encryption_algorithm": "SYMMETRIC_DEFAULT"}, InvalidKeyUsageException),
        (sealed, right | {"encryption_context": {"a": "1"}}, ValidationException),
        (sealed, right | {"key_id": keys("rsa").key_id}, IncorrectKeyException),
        (sealed, right | {"key_id": keys("symmetric").key_id}, InvalidCiphertextException),
        (sealed, right | {"key_id": other}, InvalidCiphertextException),
        (sealed, right | {"encryption_algorithm": sha1}, InvalidCiphertextException),
        (sealed[:-1], right, InvalidCiphertextException),
        (sealed + b"x", right, InvalidCiphertextException),
        (bytes(256), right, InvalidCiphertextException),
        (b"\xff" * 256, right, InvalidCiphertextException),
        (seal(kms, keys("symmetric").key_id), right, InvalidCiphertextException),
    ]
    for ciphertext, members, error in cases:
        with pytest.raises(error) as caught:
            unseal(kms, ciphertext, **members)
        if error is InvalidCiphertextException:
            assert str(caught.value) == ""
    assert unseal(kms, sealed, **right, encryption_context={}) == b"secret"


def test_rsa_encryption_refusals(kms: Kms, keys: Keys) -> None:
    """An RSA key needs its algorithm named, and takes no encryption context."""
    key_id = keys("oaep").key_id
    with pytest.raises(ValidationException, match="EncryptionAlgorithm is required"):
        seal(kms, key_id)
    with pytest.raises(InvalidKeyUsageException, match="SYMMETRIC_DEFAULT is incompatible with key spec RSA_2048"):
        seal(kms, key_id, encryption_algorithm="SYMMETRIC_DEFAULT")
    with pytest.raises(ValidationException, match="leave EncryptionContext out"):
        seal(kms, key_id, encryption_algorithm=OAEP[0], encryption_context={"a": "1"})


def test_programs_encrypt_with_the_public_key(kms: Kms, keys: Keys) -> None:
    """What another program encrypts with the public key, Decrypt opens."""
    public = public_key(kms, keys("oaep").key_id)
    assert isinstance(public, RSAPublicKey)
    hashed = hashes.SHA256()
    sealed = public.encrypt(b"from afar", padding.OAEP(padding.MGF1(hashed), hashed, None))
    assert unseal(kms, sealed, key_id=keys("oaep").key_id, encryption_algorithm=OAEP[1]) == b"from afar"


@pytest.mark.parametrize("source", ["symmetric", "oaep"])
@pytest.mark.parametrize("target", ["symmetric", "oaep"])
def test_re_encrypt_any_mix(kms: Kms, keys: Keys, source: str, target: str) -> None:
    """ReEncrypt goes from any kind to any kind; only symmetric sides name their material."""
    first, second = keys(source), fresh(kms, target)
    algorithms = {"symmetric": "SYMMETRIC_DEFAULT", "oaep": OAEP[1]}
    sealed = seal(kms, first.key_id, encryption_algorithm=algorithms[source])
    moved = kms.re_encrypt(
        ReEncryptRequest(
            ciphertext_blob=sealed,
            source_key_id=first.key_id,
            source_encryption_algorithm=algorithms[source],
            destination_key_id=second.key_id,
            destination_encryption_algorithm=algorithms[target],
        )
    )
    assert (moved.source_key_id, moved.key_id) == (first.arn, second.arn)
    assert moved.source_key_material_id == first.current_key_material_id
    assert moved.destination_key_material_id == second.current_key_material_id
    opened = unseal(kms, moved.ciphertext_blob, key_id=second.key_id, encryption_algorithm=algorithms[target])
    assert opened == b"secret"


def test_re_encrypt_that_does_not_fit(kms: Kms, keys: Keys) -> None:
    """A plaintext that is too long for the RSA block stays where it is."""
    sealed = seal(kms, keys("symmetric").key_id, bytes(191))
    with pytest.raises(ValidationException, match="larger than 190 bytes"):
        kms.re_encrypt(
            ReEncryptRequest(
                ciphertext_blob=sealed,
                destination_key_id=keys("oaep").key_id,
                destination_encryption_algorithm=OAEP[1],
            )
        )


# -- HMAC ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [224, 256, 384, 512])
def test_macs(kms: Kms, keys: Keys, bits: int) -> None:
    """An HMAC has its full length, verifies, and a wrong one is an error without words."""
    made, algorithm = keys(f"hmac{bits}"), f"HMAC_SHA_{bits}"
    tag = mac(kms, made.key_id, algorithm)
    assert len(tag) == bits // 8
    order = {"key_id": made.key_id, "mac_algorithm": algorithm}
    answer = kms.verify_mac(VerifyMacRequest(message=MESSAGE, mac=tag, **order))
    assert (answer.mac_valid, answer.key_id, answer.mac_algorithm) == (True, made.arn, algorithm)
    for message, wrong in ((MESSAGE + b"!", tag), (MESSAGE, tag[:-1]), (MESSAGE, tag + b"x"), (MESSAGE, b"x")):
        with pytest.raises(KMSInvalidMacException) as caught:
            kms.verify_mac(VerifyMacRequest(message=message, mac=wrong, **order))
        assert str(caught.value) == ""
    other = "HMAC_SHA_256" if bits != 256 else "HMAC_SHA_224"
    with pytest.raises(InvalidKeyUsageException) as refused:
        mac(kms, made.key_id, other)
    assert str(refused.value) == f"Algorithm {other} is incompatible with key spec HMAC_{bits}."


# -- DeriveSharedSecret -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "length"), [("ecdh256", 32), ("ecdh384", 48), ("ecdh521", 66)])
def test_shared_secrets(kms: Kms, keys: Keys, name: str, length: int) -> None:
    """The raw secret is the one that the other side works out."""
    made = keys(name)
    public = public_key(kms, made.key_id)
    peer = ec.generate_private_key(public.curve)
    answer = kms.derive_shared_secret(
        DeriveSharedSecretRequest(
            key_id=made.key_id, key_agreement_algorithm="ECDH", public_key=info_of(peer.public_key())
        )
    )
    assert answer.shared_secret == peer.exchange(ec.ECDH(), public)
    assert len(answer.shared_secret or b"") == length
    assert (answer.key_id, answer.key_agreement_algorithm, answer.key_origin) == (made.arn, "ECDH", "AWS_KMS")


def test_unusable_public_keys(kms: Kms, keys: Keys) -> None:
    """A public key that is none, or not on the key's own curve, is refused; on the wire without words."""
    right = info_of(ec.generate_private_key(ec.SECP256R1()).public_key())
    for info in (
        b"x",
        right[:-1] + bytes((right[-1] ^ 1,)),
        info_of(ec.generate_private_key(ec.SECP384R1()).public_key()),
    ):
        with pytest.raises(ValidationException) as caught:
            derive(kms, keys("ecdh256").key_id, info)
        assert caught.value.silent
    with pytest.raises(UnsupportedOperationException, match="Recipient"):
        derive(kms, keys("ecdh256").key_id, right, recipient=RECIPIENT)


# -- dry runs, last use, rotation, aliases ------------------------------------------------------------------------


def test_dry_runs(kms: Kms, keys: Keys) -> None:
    """A dry run says that it would have succeeded, and otherwise has the error that there would have been."""
    p256, hmac256, ecdh, oaep = (keys(each).key_id for each in ("p256", "hmac256", "ecdh256", "oaep"))
    signature, tag = sign(kms, p256, "ECDSA_SHA_256"), mac(kms, hmac256, "HMAC_SHA_256")
    sealed = seal(kms, oaep, encryption_algorithm=OAEP[0])
    info = info_of(ec.generate_private_key(ec.SECP256R1()).public_key())
    order = {"key_id": hmac256, "message": MESSAGE, "mac_algorithm": "HMAC_SHA_256", "dry_run": True}
    for attempt in (
        lambda: sign(kms, p256, "ECDSA_SHA_256", dry_run=True),
        lambda: verify(kms, p256, "ECDSA_SHA_256", signature, dry_run=True),
        lambda: mac(kms, hmac256, "HMAC_SHA_256", dry_run=True),
        lambda: kms.verify_mac(VerifyMacRequest(mac=tag, **order)),
        lambda: derive(kms, ecdh, info, dry_run=True),
        lambda: seal(kms, oaep, encryption_algorithm=OAEP[0], dry_run=True),
        lambda: unseal(kms, sealed, key_id=oaep, encryption_algorithm=OAEP[0], dry_run=True),
    ):
        with pytest.raises(DryRunOperationException):
            attempt()
    with pytest.raises(KMSInvalidSignatureException):
        verify(kms, p256, "ECDSA_SHA_256", b"s", dry_run=True)
    with pytest.raises(KMSInvalidMacException):
        kms.verify_mac(VerifyMacRequest(mac=b"m", **order))
    with pytest.raises(ValidationException):
        derive(kms, ecdh, b"x", dry_run=True)
    with pytest.raises(UnsupportedOperationException):
        sign(kms, keys("ed25519").key_id, "ED25519_PH_SHA_512", bytes(64), message_type="DIGEST", dry_run=True)


def test_last_use(kms: Kms) -> None:
    """Sign, GenerateMac and DeriveSharedSecret are uses of a key; a failed verification and GetPublicKey are none."""
    signer, maker, agreer = (fresh(kms, each) for each in ("p256", "hmac256", "ecdh256"))

    def last(key: KeyMetadata) -> str | None:
        used = kms.get_key_last_usage(GetKeyLastUsageRequest(key_id=key.key_id)).key_last_usage
        return used.operation if used is not None else None

    public_key(kms, signer.key_id)
    with pytest.raises(KMSInvalidSignatureException):
        verify(kms, signer.key_id, "ECDSA_SHA_256", b"s")
    assert last(signer) is None
    signature = sign(kms, signer.key_id, "ECDSA_SHA_256")
    assert last(signer) == "Sign"
    verify(kms, signer.key_id, "ECDSA_SHA_256", signature)
    assert last(signer) == "Verify"
    mac(kms, maker.key_id, "HMAC_SHA_256")
    derive(kms, agreer.key_id, info_of(ec.generate_private_key(ec.SECP256R1()).public_key()))
    assert (last(maker), last(agreer)) == ("GenerateMac", "DeriveSharedSecret")


@pytest.mark.parametrize("name", ["p256", "hmac256", "ecdh256"])
def test_nothing_about_rotation(kms: Kms, keys: Keys, name: str) -> None:
    """Asymmetric and HMAC keys do not rotate: the status reads false, all else is an UnsupportedOperationException."""
    key_id = keys(name).key_id
    for attempt in (
        lambda: kms.enable_key_rotation(EnableKeyRotationRequest(key_id=key_id)),
        lambda: kms.disable_key_rotation(DisableKeyRotationRequest(key_id=key_id)),
        lambda: kms.rotate_key_on_demand(RotateKeyOnDemandRequest(key_id=key_id)),
        lambda: kms.list_key_rotations(ListKeyRotationsRequest(key_id=key_id)),
    ):
        with pytest.raises(UnsupportedOperationException):
            attempt()
    assert not kms.get_key_rotation_status(GetKeyRotationStatusRequest(key_id=key_id)).key_rotation_enabled
    assert [reported.posture for reported in kms.operator.rotation_report(REGION) if reported.key_id == key_id] == [
        "cannot rotate"
    ]


def test_aliases_stay_with_their_kind(kms: Kms, keys: Keys) -> None:
    """An alias moves between keys of one type and usage only."""
    new_alias(kms, "alias/of-a-kind", keys("p256").key_id)
    kms.update_alias(UpdateAliasRequest(alias_name="alias/of-a-kind", target_key_id=keys("p384").key_id))
    for name in ("ecdh256", "hmac256", "oaep", "symmetric"):
        with pytest.raises(ValidationException):
            kms.update_alias(UpdateAliasRequest(alias_name="alias/of-a-kind", target_key_id=keys(name).key_id))


def test_disable_and_enable(kms: Kms) -> None:
    """A disabled HMAC key makes nothing until it is enabled again, with the same secret as before."""
    made = fresh(kms, "hmac512")
    before = mac(kms, made.key_id, "HMAC_SHA_512")
    kms.disable_key(DisableKeyRequest(key_id=made.key_id))
    with pytest.raises(DisabledException):
        mac(kms, made.key_id, "HMAC_SHA_512")
    kms.enable_key(EnableKeyRequest(key_id=made.key_id))
    assert mac(kms, made.key_id, "HMAC_SHA_512") == before
