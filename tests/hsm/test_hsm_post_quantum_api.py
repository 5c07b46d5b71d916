"""The API with ML-KEM and ML-DSA keys, on a token that has them (test_hsm_post_quantum.py says how it is found).

Source: AWS KMS API Reference: CreateKey, GetPublicKey, Encapsulate, Decapsulate, GenerateDataKeyPair, Sign, Verify.
"""

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_der_public_key
from devices import NewToken
from tokens.capabilities import Bench, Clock
from tokens.try_capabilities import configuration

from hsmkms.config import settings as config
from hsmkms.errors import (
    AccessDeniedException,
    DisabledException,
    DryRunOperationException,
    HsmKmsError,
    InvalidCiphertextException,
    InvalidKeyUsageException,
    KMSInvalidSignatureException,
    KMSInvalidStateException,
    NotFoundException,
    UnsupportedOperationException,
    ValidationException,
)
from hsmkms.kms import Kms
from hsmkms.model.asymmetric import (
    DecapsulateRequest,
    EncapsulateRequest,
    EncapsulateResponse,
    GetPublicKeyRequest,
    SignRequest,
    VerifyRequest,
)
from hsmkms.model.caller import Caller
from hsmkms.model.crypto import GenerateDataKeyPairWithoutPlaintextRequest
from hsmkms.model.deletion import GetKeyLastUsageRequest, ScheduleKeyDeletionRequest
from hsmkms.model.enums import KeySpec, KeyUsage, Origin
from hsmkms.model.grants import CreateGrantRequest
from hsmkms.model.ids import root_arn
from hsmkms.model.keys import CreateKeyRequest, DescribeKeyRequest, DisableKeyRequest, EnableKeyRequest, ListKeysRequest
from hsmkms.model.policies import PutKeyPolicyRequest
from hsmkms.model.rotation import EnableKeyRotationRequest, GetKeyRotationStatusRequest, RotateKeyOnDemandRequest
from hsmkms.wiring import core as wiring

LENGTHS = {KeySpec.ML_KEM_512: 768, KeySpec.ML_KEM_768: 1088, KeySpec.ML_KEM_1024: 1568}
SIGNATURES = (KeySpec.ML_DSA_44, KeySpec.ML_DSA_65, KeySpec.ML_DSA_87)
MESSAGE = b"a message"
kems = pytest.mark.parametrize("spec", LENGTHS)
signatures = pytest.mark.parametrize("spec", SIGNATURES)


@pytest.fixture(scope="module")
def bench(new_token: NewToken) -> Iterator[Bench]:
    """Return an installation on a token of this module's own."""
    token, clock = new_token("post-quantum-api"), Clock()
    settings = config.load(configuration(token, token.folder / "installation"))
    wiring.initialise(settings, clock)
    with Kms(wiring.core_of(settings, clock)) as kms:
        yield Bench(kms, clock)


@pytest.fixture
def kms(bench: Bench) -> Kms:
    """Return its façade."""
    return bench.kms


def new_key(bench: Bench, spec: KeySpec) -> str:
    """Create a key; return its id. Skips the test if the token has no such keys."""
    usage = KeyUsage.ENCAPSULATE_DECAPSULATE if spec in LENGTHS else KeyUsage.SIGN_VERIFY
    try:
        return bench.new_key(spec, usage)
    except UnsupportedOperationException:
        pytest.skip(f"the token under test has no keys of KeySpec {spec}")


def encapsulate(kms: Kms, key_id: str, **more: bool) -> EncapsulateResponse:
    """Encapsulate a new secret."""
    return kms.encapsulate(EncapsulateRequest(key_id=key_id, encapsulation_algorithm="ML_KEM", **more))


def decapsulate(kms: Kms, key_id: str, ciphertext: bytes, **more: bool) -> bytes:
    """Recover a secret."""
    return kms.decapsulate(
        DecapsulateRequest(
            key_id=key_id, encapsulation_algorithm="ML_KEM", shared_secret_ciphertext_blob=ciphertext, **more
        )
    ).shared_secret


def listed(bench: Bench) -> set[str]:
    """Return the ids of all keys."""
    return {key.key_id for key in bench.kms.list_keys(ListKeysRequest()).keys}


# -- CreateKey -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [*LENGTHS, *SIGNATURES])
def test_refusals_leave_nothing(bench: Bench, spec: KeySpec) -> None:
    """If the token lacks a spec, CreateKey is refused with its name, and neither a key nor an intent is left."""
    usage = KeyUsage.ENCAPSULATE_DECAPSULATE if spec in LENGTHS else KeyUsage.SIGN_VERIFY
    before, made, sentence = listed(bench), set[str](), ""
    try:
        made = {bench.new_key(spec, usage)}
    except UnsupportedOperationException as exc:
        sentence = str(exc)
    assert made or sentence.startswith(f"This token has no keys of KeySpec {spec} for {usage}")
    assert listed(bench) == before | made
    assert bench.kms.operator.find_differences() == []


@pytest.mark.parametrize("spec", [*LENGTHS, *SIGNATURES])
def test_imports_are_refused(bench: Bench, spec: KeySpec) -> None:
    """No such key has imported key material."""
    usage = KeyUsage.ENCAPSULATE_DECAPSULATE if spec in LENGTHS else KeyUsage.SIGN_VERIFY
    with pytest.raises(UnsupportedOperationException, match=str(spec)):
        bench.new_key(spec, usage, origin=Origin.EXTERNAL)


@kems
def test_usage_is_needed(kms: Kms, spec: KeySpec) -> None:
    """The usage must be named, and is the only one of such keys."""
    with pytest.raises(ValidationException, match="KeyUsage"):
        kms.create_key(CreateKeyRequest(key_spec=spec))
    with pytest.raises(ValidationException, match=f"SIGN_VERIFY is not compatible with KeySpec {spec}"):
        kms.create_key(CreateKeyRequest(key_spec=spec, key_usage="SIGN_VERIFY"))


@kems
def test_life(bench: Bench, spec: KeySpec) -> None:
    """A key is described, attested, disabled, enabled and deleted like other key pairs, and never rotates."""
    kms, key_id = bench.kms, new_key(bench, spec)
    metadata = kms.describe_key(DescribeKeyRequest(key_id=key_id)).key_metadata
    assert (metadata.key_spec, metadata.key_usage) == (spec, "ENCAPSULATE_DECAPSULATE")
    assert metadata.encapsulation_algorithms == ["ML_KEM"]
    assert (metadata.signing_algorithms, metadata.encryption_algorithms, metadata.customer_master_key_spec) == (
        None,
        None,
        spec,
    )
    (attested,) = kms.operator.attest(key_id)
    assert attested.as_made, attested.deviations

    secret = encapsulate(kms, key_id)
    kms.disable_key(DisableKeyRequest(key_id=key_id))
    for act in (lambda: encapsulate(kms, key_id), lambda: decapsulate(kms, key_id, b"short")):
        with pytest.raises(DisabledException):
            act()
    kms.enable_key(EnableKeyRequest(key_id=key_id))
    with pytest.raises(UnsupportedOperationException):
        kms.enable_key_rotation(EnableKeyRotationRequest(key_id=key_id))
    with pytest.raises(UnsupportedOperationException):
        kms.rotate_key_on_demand(RotateKeyOnDemandRequest(key_id=key_id))
    assert not kms.get_key_rotation_status(GetKeyRotationStatusRequest(key_id=key_id)).key_rotation_enabled

    kms.schedule_key_deletion(ScheduleKeyDeletionRequest(key_id=key_id, pending_window_in_days=7))
    with pytest.raises(KMSInvalidStateException):
        decapsulate(kms, key_id, secret.shared_secret_ciphertext_blob)
    bench.clock.advance(days=8)
    kms.operator.maintain()
    with pytest.raises(NotFoundException):
        encapsulate(kms, key_id)


# -- Encapsulate and Decapsulate -------------------------------------------------------------------------------------


@kems
def test_both_sides_have_one_secret(bench: Bench, spec: KeySpec) -> None:
    """Decapsulate returns the secret of Encapsulate, in the API's lengths; both name the key and count as its use."""
    kms, key_id = bench.kms, new_key(bench, spec)
    made = encapsulate(kms, key_id)
    arn = kms.describe_key(DescribeKeyRequest(key_id=key_id)).key_metadata.arn
    assert (made.key_id, made.encapsulation_algorithm) == (arn, "ML_KEM")
    assert (len(made.shared_secret), len(made.shared_secret_ciphertext_blob)) == (32, LENGTHS[spec])
    assert decapsulate(kms, key_id, made.shared_secret_ciphertext_blob) == made.shared_secret
    assert kms.get_key_last_usage(GetKeyLastUsageRequest(key_id=key_id)).key_last_usage.operation == "Decapsulate"


@kems
def test_another_keys_ciphertext(bench: Bench, spec: KeySpec) -> None:
    """A secret that was encapsulated for another key of the spec gives 32 other bytes, and no error."""
    kms, key_id, other = bench.kms, new_key(bench, spec), new_key(bench, spec)
    made = encapsulate(kms, other)
    secret = decapsulate(kms, key_id, made.shared_secret_ciphertext_blob)
    assert len(secret) == 32
    assert secret != made.shared_secret
    assert secret == decapsulate(kms, key_id, made.shared_secret_ciphertext_blob)


@pytest.fixture(scope="module")
def user(bench: Bench) -> Caller:
    """Return a user without any policy."""
    bench.kms.operator.credentials.create_user("paul")
    return bench.kms.caller("us-east-1", "paul")


@kems
def test_grants(bench: Bench, user: Caller, spec: KeySpec) -> None:
    """A grant of Encapsulate allows that and nothing else; one of operations of other key types is refused."""
    kms, key_id = bench.kms, new_key(bench, spec)
    by: dict[str, Any] = {"key_id": key_id, "encapsulation_algorithm": "ML_KEM"}
    grant: dict[str, Any] = {"key_id": key_id, "grantee_principal": user.principal}
    for operation in ("Sign", "Encrypt", "DeriveSharedSecret", "GenerateMac"):
        with pytest.raises(ValidationException, match=f"cannot contain {operation}"):
            kms.create_grant(CreateGrantRequest(operations=[operation], **grant))
    with pytest.raises(AccessDeniedException):
        kms.encapsulate(EncapsulateRequest(**by), user)
    kms.create_grant(CreateGrantRequest(operations=["Encapsulate"], **grant))
    made = kms.encapsulate(EncapsulateRequest(**by), user)
    opening = DecapsulateRequest(shared_secret_ciphertext_blob=made.shared_secret_ciphertext_blob, **by)
    for act in (
        lambda: kms.decapsulate(opening, user),
        lambda: kms.get_public_key(GetPublicKeyRequest(key_id=key_id), user),
    ):
        with pytest.raises(AccessDeniedException):
            act()
    kms.create_grant(CreateGrantRequest(operations=["Decapsulate", "GetPublicKey", "DescribeKey"], **grant))
    assert kms.decapsulate(opening, user).shared_secret == made.shared_secret
    assert kms.get_public_key(GetPublicKeyRequest(key_id=key_id), user).key_spec == spec


@kems
def test_key_policy(bench: Bench, user: Caller, spec: KeySpec) -> None:
    """A key policy allows kms:Encapsulate and denies kms:Decapsulate, by name."""
    kms, key_id = bench.kms, new_key(bench, spec)
    paul = {"AWS": user.principal}
    root = {"Effect": "Allow", "Principal": {"AWS": root_arn("111122223333")}, "Action": "kms:*", "Resource": "*"}
    allowed = {"Effect": "Allow", "Principal": paul, "Action": "kms:*capsulate", "Resource": "*"}
    denied = {"Effect": "Deny", "Principal": paul, "Action": "kms:Decapsulate", "Resource": "*"}
    by: dict[str, Any] = {"key_id": key_id, "encapsulation_algorithm": "ML_KEM"}

    def put(*statements: object) -> None:
        policy = json.dumps({"Version": "2012-10-17", "Statement": [root, *statements]})
        kms.put_key_policy(PutKeyPolicyRequest(key_id=key_id, policy=policy))

    put(allowed, denied)
    made = kms.encapsulate(EncapsulateRequest(**by), user)
    opening = DecapsulateRequest(shared_secret_ciphertext_blob=made.shared_secret_ciphertext_blob, **by)
    with pytest.raises(AccessDeniedException):
        kms.decapsulate(opening, user)
    put(allowed)
    assert kms.decapsulate(opening, user).shared_secret == made.shared_secret


@kems
def test_nothing_secret_is_recorded(bench: Bench, spec: KeySpec) -> None:
    """The audit log records both operations with their key and algorithm, and neither secret nor ciphertext."""
    kms, key_id = bench.kms, new_key(bench, spec)
    made = encapsulate(kms, key_id)
    decapsulate(kms, key_id, made.shared_secret_ciphertext_blob)
    lines = [
        line
        for file in sorted(kms._core.audit.folder.glob("*.jsonl"))
        for line in file.read_text().splitlines()
        if key_id in line and "apsulate" in line
    ]
    assert len(lines) >= 2
    assert all('"ML_KEM"' in line for line in lines)
    text = "\n".join(lines)
    for each in (made.shared_secret, made.shared_secret_ciphertext_blob):
        for shown in (each.hex(), base64.b64encode(each).decode(), base64.b64encode(each).decode()[:24]):
            assert shown not in text
    assert "sharedSecret" not in text


@pytest.mark.parametrize("spec", [KeySpec.ML_KEM_768, KeySpec.ML_KEM_1024])
def test_public_key_is_for_others(bench: Bench, spec: KeySpec) -> None:
    """Another library encapsulates with what GetPublicKey returns."""
    kms, key_id = bench.kms, new_key(bench, spec)
    public_key = kms.get_public_key(GetPublicKeyRequest(key_id=key_id))
    assert (public_key.key_spec, public_key.encapsulation_algorithms, public_key.signing_algorithms) == (
        spec,
        ["ML_KEM"],
        None,
    )
    peer: Any = load_der_public_key(public_key.public_key)
    secret, ciphertext = peer.encapsulate()
    assert decapsulate(kms, key_id, ciphertext) == secret


@kems
def test_only_a_wrong_length_is_an_error(bench: Bench, spec: KeySpec) -> None:
    """A ciphertext of another length is refused, also in a dry run; any of the right length gives 32 bytes."""
    kms, key_id = bench.kms, new_key(bench, spec)
    right = encapsulate(kms, key_id).shared_secret_ciphertext_blob
    wrong = {right[:-1], right + b"\0", b"\0", *(bytes(length) for length in LENGTHS.values() if length != len(right))}
    for each in wrong:
        for dry_run in (False, True):
            with pytest.raises(InvalidCiphertextException, match=f"has {len(right)} bytes, not {len(each)}"):
                decapsulate(kms, key_id, each, dry_run=dry_run)
    for each in (bytes(len(right)), b"\xff" * len(right), right[:-1] + bytes((right[-1] ^ 1,))):
        assert len(decapsulate(kms, key_id, each)) == 32


@kems
def test_dry_runs(bench: Bench, spec: KeySpec) -> None:
    """A dry run of either ends with DryRunOperationException."""
    kms, key_id = bench.kms, new_key(bench, spec)
    for act in (
        lambda: encapsulate(kms, key_id, dry_run=True),
        lambda: decapsulate(kms, key_id, bytes(LENGTHS[spec]), dry_run=True),
    ):
        with pytest.raises(DryRunOperationException):
            act()


@kems
def test_other_operations_refuse_the_key(bench: Bench, spec: KeySpec) -> None:
    """A key that encapsulates signs nothing, and keys of other usages encapsulate nothing."""
    kms, key_id = bench.kms, new_key(bench, spec)
    with pytest.raises(InvalidKeyUsageException, match="not valid for Sign"):
        kms.sign(SignRequest(key_id=key_id, message=MESSAGE, signing_algorithm="ML_DSA_SHAKE_256"))
    symmetric = bench.new_key()
    acts: list[Callable[[], object]] = [lambda: encapsulate(kms, symmetric), lambda: decapsulate(kms, symmetric, b"x")]
    for act in acts:
        with pytest.raises(InvalidKeyUsageException, match="key usage is ENCRYPT_DECRYPT"):
            act()


@kems
def test_data_key_pairs(bench: Bench, spec: KeySpec) -> None:
    """The encrypted private key decrypts to a seed that another library reads; only symmetric keys encrypt it."""
    kms, key_id = bench.kms, new_key(bench, spec)
    request = GenerateDataKeyPairWithoutPlaintextRequest
    with pytest.raises(HsmKmsError, match="not valid for GenerateDataKeyPair"):
        kms.generate_data_key_pair_without_plaintext(request(key_id=key_id, key_pair_spec=spec))
    by = bench.new_key()
    made = kms.generate_data_key_pair_without_plaintext(
        request(key_id=by, key_pair_spec=spec, encryption_context={"purpose": "matrix"})
    )
    opened = bench.decrypt(made.private_key_ciphertext_blob) or b""
    assert (made.key_pair_spec, len(opened)) == (spec, 86)
    if spec is KeySpec.ML_KEM_512:  # cryptography has none: tests/hsm/test_hsm_post_quantum.py opens it on the token
        return
    private: Any = load_der_private_key(opened, None)
    peer: Any = load_der_public_key(made.public_key)
    secret, ciphertext = peer.encapsulate()
    assert private.decapsulate(ciphertext) == secret


# -- Sign and Verify -------------------------------------------------------------------------------------------------


@signatures
def test_sign_and_verify(bench: Bench, spec: KeySpec) -> None:
    """Sign takes messages, Verify takes mu as well; what was changed is KMSInvalidSignatureException."""
    kms, key_id = bench.kms, new_key(bench, spec)
    by: dict[str, Any] = {"key_id": key_id, "signing_algorithm": "ML_DSA_SHAKE_256"}
    signature = kms.sign(SignRequest(message=MESSAGE, **by)).signature
    peer: Any = load_der_public_key(kms.get_public_key(GetPublicKeyRequest(key_id=key_id)).public_key)
    peer.verify(signature, MESSAGE)
    assert kms.verify(VerifyRequest(message=MESSAGE, signature=signature, **by)).signature_valid
    with pytest.raises(KMSInvalidSignatureException):
        kms.verify(VerifyRequest(message=b"another", signature=signature, **by))
    with pytest.raises(KMSInvalidSignatureException):
        kms.verify(VerifyRequest(message=bytes(64), message_type="EXTERNAL_MU", signature=signature, **by))
    for length in (63, 64):
        with pytest.raises(UnsupportedOperationException, match="MessageType RAW instead of EXTERNAL_MU"):
            kms.sign(SignRequest(message=bytes(length), message_type="EXTERNAL_MU", **by))
    with pytest.raises(ValidationException, match=r"use RAW\."):
        kms.sign(SignRequest(message=bytes(64), message_type="DIGEST", **by))
