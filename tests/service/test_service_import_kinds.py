"""Imported RSA, ECC and HMAC keys through the service: the way in, what they are tied to, and the way out."""

import hmac
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import wrapped
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from lifecycle import StoppedError, backing_keys, delete_material, described, new_imported_key, stop_at, sweep
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.mechanisms import KeyType
from service_sites import Site, StoppedClock, new_key

from hsmkms.errors import (
    IncorrectKeyMaterialException,
    InvalidCiphertextException,
    KMSInvalidStateException,
    RejectedDataError,
    RejectedMaterialError,
    UnsupportedOperationException,
    ValidationException,
)
from hsmkms.hsm.objects.handle_keys import create_object
from hsmkms.hsm.objects.key_specs import KEY_FACTS, der_octet_string
from hsmkms.kms import Kms
from hsmkms.model.asymmetric import (
    DeriveSharedSecretRequest,
    GenerateMacRequest,
    GetPublicKeyRequest,
    SignRequest,
    VerifyRequest,
)
from hsmkms.model.crypto import DecryptRequest, EncryptRequest
from hsmkms.model.enums import ExpirationModel, KeySpec, KeyState, WrappingAlgorithm
from hsmkms.model.importing import (
    DeleteImportedKeyMaterialRequest,
    GetParametersForImportRequest,
    GetParametersForImportResponse,
    ImportKeyMaterialRequest,
)
from hsmkms.service.operator.reconcile import Kind, Mended
from hsmkms.store import rotation

MESSAGE = b"The engine is yours."
KEY_WRAP = WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_1
OAEP = WrappingAlgorithm.RSAES_OAEP_SHA_1
WRONG = (IncorrectKeyMaterialException, RejectedMaterialError)
CURVES: dict[str, ec.EllipticCurve] = {
    "ECC_NIST_P256": ec.SECP256R1(),
    "ECC_NIST_P384": ec.SECP384R1(),
    "ECC_NIST_P521": ec.SECP521R1(),
    "ECC_SECG_P256K1": ec.SECP256K1(),
}
SIGNINGS = {"ECC_NIST_P384": "ECDSA_SHA_384", "ECC_NIST_P521": "ECDSA_SHA_512"}
MACS = {"HMAC_224": 28, "HMAC_256": 32, "HMAC_384": 48, "HMAC_512": 64}


class Pair(NamedTuple):
    """A key pair made far from the token: PKCS #8 and SubjectPublicKeyInfo."""

    private: bytes
    public: bytes
    key: Any


def pair(spec: str) -> Pair:
    """A new key pair of a spec."""
    key: Any
    if spec in CURVES:
        key = ec.generate_private_key(CURVES[spec])
    elif spec == "ECC_NIST_EDWARDS25519":
        key = Ed25519PrivateKey.generate()
    else:
        key = rsa.generate_private_key(65537, int(spec.removeprefix("RSA_")))
    return Pair(
        key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        key,
    )


@pytest.fixture(scope="module")
def kms(scratch: Path) -> Iterator[Kms]:
    """An installation that the tests of this module share."""
    with Site.make(scratch / "import-kinds").open(StoppedClock()) as opened:
        yield opened


def empty(kms: Kms, spec: str, usage: str = "SIGN_VERIFY", **members: Any) -> str:  # noqa: ANN401 - members
    """A key that waits for its material; its id."""
    if spec in MACS:
        usage = "GENERATE_VERIFY_MAC"
    return new_key(kms, key_spec=spec, key_usage=usage, origin="EXTERNAL", **members).key_id


_PARAMETERS: dict[tuple[str, str, str], GetParametersForImportResponse] = {}


def parameters_for(
    kms: Kms, key_id: str, algorithm: WrappingAlgorithm, wrapping: str = "RSA_2048"
) -> GetParametersForImportResponse:
    """GetParametersForImport, once for each key and wrapping: its answer may be used for 24 hours."""
    asked = (key_id, algorithm, wrapping)
    if asked not in _PARAMETERS:
        request = GetParametersForImportRequest(key_id=key_id, wrapping_algorithm=algorithm, wrapping_key_spec=wrapping)
        _PARAMETERS[asked] = kms.get_parameters_for_import(request)
    return _PARAMETERS[asked]


def bring(
    kms: Kms,
    key_id: str,
    material: bytes,
    algorithm: WrappingAlgorithm = KEY_WRAP,
    wrapping: str = "RSA_2048",
    **more: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401 - the response
    """Import some material."""
    parameters = parameters_for(kms, key_id, algorithm, wrapping)
    model = ExpirationModel.KEY_MATERIAL_EXPIRES if "valid_to" in more else ExpirationModel.KEY_MATERIAL_DOES_NOT_EXPIRE
    return kms.import_key_material(
        ImportKeyMaterialRequest(
            key_id=key_id,
            import_token=parameters.import_token,
            encrypted_key_material=wrapped.wrap(parameters.public_key, algorithm, material),
            expiration_model=model,
            **more,
        )
    )


def public_key(kms: Kms, key_id: str) -> bytes:
    """GetPublicKey."""
    return kms.get_public_key(GetPublicKeyRequest(key_id=key_id)).public_key


def signs(kms: Kms, key_id: str, spec: str) -> bool:
    """Sign, and Verify what came of it."""
    order = {
        "key_id": key_id,
        "message": MESSAGE,
        "signing_algorithm": SIGNINGS.get(spec, "RSASSA_PSS_SHA_256" if "RSA" in spec else "ECDSA_SHA_256"),
    }
    signature = kms.sign(SignRequest(**order)).signature
    return bool(kms.verify(VerifyRequest(signature=signature, **order)).signature_valid)


@pytest.mark.parametrize("spec", [*CURVES, "RSA_2048", "RSA_3072"])
def test_private_keys_come_in(kms: Kms, spec: str) -> None:
    """An imported private key signs and returns its own public key, and the token proves that the halves fit."""
    own_pair, key_id = pair(spec), empty(kms, spec)
    answer = bring(kms, key_id, own_pair.private)
    assert answer.key_material_id is None  # only symmetric encryption keys show one
    assert described(kms, key_id).key_state is KeyState.ENABLED
    assert public_key(kms, key_id) == own_pair.public
    assert signs(kms, key_id, spec)
    (attributes,) = kms.operator.attest(key_id)
    assert (attributes.imported, attributes.host_unwrapped, attributes.deviations) == (True, False, [])


@pytest.mark.parametrize("spec", ["ECC_NIST_P256", "ECC_NIST_P384", "ECC_SECG_P256K1"])
def test_oaep_alone_takes_curves(kms: Kms, spec: str) -> None:
    """A private key of a curve fits into an RSA block by itself."""
    own_pair, key_id = pair(spec), empty(kms, spec)
    bring(kms, key_id, own_pair.private, OAEP)
    assert public_key(kms, key_id) == own_pair.public


def test_wrappings_that_have_no_room(kms: Kms) -> None:
    """RSA keys never, and P-521 not under RSA_2048: RSAES_OAEP has no room, and says what has."""
    for spec, wrapping in (("RSA_2048", "RSA_4096"), ("ECC_NIST_P521", "RSA_2048")):
        with pytest.raises(UnsupportedOperationException, match="use RSA_AES_KEY_WRAP"):
            bring(kms, empty(kms, spec), b"", OAEP, wrapping)
    own_pair, key_id = pair("ECC_NIST_P521"), empty(kms, "ECC_NIST_P521")
    bring(kms, key_id, own_pair.private, OAEP, "RSA_3072")
    assert public_key(kms, key_id) == own_pair.public


def test_other_usages(kms: Kms) -> None:
    """Imported keys agree on secrets and decrypt as generated ones do, each by its own usage alone."""
    own_pair, peer, key_id = pair("ECC_NIST_P256"), pair("ECC_NIST_P256"), empty(kms, "ECC_NIST_P256", "KEY_AGREEMENT")
    bring(kms, key_id, own_pair.private)
    order = DeriveSharedSecretRequest(key_id=key_id, key_agreement_algorithm="ECDH", public_key=peer.public)
    assert kms.derive_shared_secret(order).shared_secret == peer.key.exchange(ec.ECDH(), own_pair.key.public_key())
    own_pair, key_id = pair("RSA_2048"), empty(kms, "RSA_2048", "ENCRYPT_DECRYPT")
    bring(kms, key_id, own_pair.private)
    by = {"key_id": key_id, "encryption_algorithm": "RSAES_OAEP_SHA_256"}
    sealed = kms.encrypt(EncryptRequest(plaintext=MESSAGE, **by)).ciphertext_blob
    assert kms.decrypt(DecryptRequest(ciphertext_blob=sealed, **by)).plaintext == MESSAGE


@pytest.mark.parametrize("algorithm", [KEY_WRAP, OAEP])
@pytest.mark.parametrize("spec", MACS)
def test_hmac_keys_come_in(kms: Kms, spec: str, algorithm: WrappingAlgorithm) -> None:
    """An imported HMAC key computes what its owner computes; a byte less is refused, and so is a whole block more."""
    secret, key_id = os.urandom(MACS[spec]), empty(kms, spec)
    for wrong in (secret[:-1], secret + bytes(8)):
        if algorithm is OAEP and len(wrong) > len(secret) and spec != "HMAC_256":
            continue  # nothing shows that
        with pytest.raises(WRONG, match=f"exactly {len(secret)} bytes"):
            bring(kms, key_id, wrong, algorithm)
    assert bring(kms, key_id, secret, algorithm).key_material_id is None
    name = f"HMAC_SHA_{spec.removeprefix('HMAC_')}"
    made = kms.generate_mac(GenerateMacRequest(key_id=key_id, message=MESSAGE, mac_algorithm=name)).mac
    assert made == hmac.digest(secret, MESSAGE, f"sha{spec.removeprefix('HMAC_')}")
    assert kms.operator.attest(key_id)[0].deviations == []


def test_wrong_material(kms: Kms) -> None:
    """What is no private key of the spec is IncorrectKeyMaterial, what cannot be opened is InvalidCiphertext."""
    ecc, rsa_key = empty(kms, "ECC_NIST_P256"), empty(kms, "RSA_2048")
    before = backing_keys(kms)
    right = pair("ECC_NIST_P256").private
    for key_id, material in (
        (ecc, pair("ECC_NIST_P384").private),
        (ecc, pair("ECC_SECG_P256K1").private),
        (ecc, pair("RSA_2048").private),
        (ecc, os.urandom(32)),
        (ecc, right[:-5]),
        (ecc, pair("ECC_NIST_P256").public),
        (rsa_key, right),
        (rsa_key, pair("RSA_3072").private),
        (rsa_key, b"\x30\x00"),
    ):
        with pytest.raises(WRONG):
            bring(kms, key_id, material)
    parameters = parameters_for(kms, ecc, KEY_WRAP)
    damaged = bytearray(wrapped.wrap(parameters.public_key, KEY_WRAP, right))
    damaged[-1] ^= 1
    with pytest.raises((InvalidCiphertextException, RejectedDataError)):
        kms.import_key_material(
            ImportKeyMaterialRequest(
                key_id=ecc,
                import_token=parameters.import_token,
                encrypted_key_material=bytes(damaged),
                expiration_model="KEY_MATERIAL_DOES_NOT_EXPIRE",
            )
        )
    assert backing_keys(kms) == before
    with pytest.raises(KMSInvalidStateException, match="pending import"):
        public_key(kms, ecc)


@pytest.mark.parametrize("spec", ["ECC_NIST_P256", "RSA_2048", "HMAC_384"])
def test_tied_to_its_key(kms: Kms, spec: str) -> None:
    """After a deletion the same material brings the key back, and no other ever does."""
    if spec in MACS:
        material, other = os.urandom(48), os.urandom(48)
    else:
        material, other = pair(spec).private, pair(spec).private
    key_id = empty(kms, spec)
    bring(kms, key_id, material)
    with pytest.raises(IncorrectKeyMaterialException, match="no other may replace it"):
        bring(kms, key_id, other)
    delete_material(kms, key_id)
    assert described(kms, key_id).key_state is KeyState.PENDING_IMPORT
    assert backing_keys(kms)[key_id] == 0
    with pytest.raises(IncorrectKeyMaterialException, match="no other may replace it"):
        bring(kms, key_id, other)
    bring(kms, key_id, material)
    assert described(kms, key_id).key_state is KeyState.ENABLED
    if spec not in MACS:
        assert signs(kms, key_id, spec)


def test_interrupted_between_the_halves(kms: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    """A public half that an interrupted import has left is of an unfinished key, and is removed with its intent."""
    own_pair, key_id = pair("ECC_NIST_P256"), empty(kms, "ECC_NIST_P256")
    core = kms._core
    monkeypatch.setattr(core, "reached", stop_at("import 1"))
    with pytest.raises(StoppedError):
        bring(kms, key_id, own_pair.private)
    monkeypatch.undo()
    with core.store.reading() as conn:
        (begun,) = rotation.unfinished(conn, key_id)
    with core.device.connection.pool.session() as session:
        half = {
            Attribute.CLASS: ObjectClass.PUBLIC_KEY,
            Attribute.KEY_TYPE: KeyType.EC,
            Attribute.TOKEN: True,
            Attribute.ID: begun.cka_id,
            Attribute.LABEL: begun.label,
            Attribute.EC_PARAMS: KEY_FACTS[KeySpec.ECC_NIST_P256].encodings[0],
            Attribute.EC_POINT: der_octet_string(own_pair.public[-65:]),
        }
        create_object(session, half)
    (finding,) = kms.operator.find_differences()
    assert (finding.kind, finding.cka_id) == (Kind.UNFINISHED, begun.cka_id.hex())
    assert kms.operator.mend(finding) is Mended.DOOMED
    sweep(kms)
    assert kms.operator.find_differences() == []
    bring(kms, key_id, own_pair.private)
    assert public_key(kms, key_id) == own_pair.public


def test_expiry(kms: Kms) -> None:
    """An imported private key expires, with both halves, and comes back by the same import."""
    own_pair, key_id = pair("ECC_NIST_P256"), empty(kms, "ECC_NIST_P256")
    clock: Any = kms._core.clock
    now = clock()
    bring(kms, key_id, own_pair.private, valid_to=now + timedelta(hours=1))
    assert signs(kms, key_id, "ECC_NIST_P256")
    clock.advance(hours=2)
    with pytest.raises(KMSInvalidStateException, match="pending import"):
        signs(kms, key_id, "ECC_NIST_P256")
    sweep(kms)
    assert backing_keys(kms)[key_id] == 0
    bring(kms, key_id, own_pair.private)
    assert public_key(kms, key_id) == own_pair.public


def test_members_of_symmetric_keys(kms: Kms) -> None:
    """ImportType, KeyMaterialId and KeyMaterialDescription are refused for keys that are not symmetric."""
    key_id, material = empty(kms, "HMAC_256"), os.urandom(32)
    for name, value in (
        ("import_type", "NEW_KEY_MATERIAL"),
        ("key_material_id", "a" * 64),
        ("key_material_description", "words"),
    ):
        with pytest.raises(ValidationException, match="symmetric encryption keys only"):
            bring(kms, key_id, material, **{name: value})
    bring(kms, key_id, material)
    with pytest.raises(ValidationException, match="symmetric encryption keys only"):
        kms.delete_imported_key_material(DeleteImportedKeyMaterialRequest(key_id=key_id, key_material_id="a" * 64))


def test_what_the_token_cannot_import(kms: Kms) -> None:
    """SoftHSM unwraps no Ed25519 keys, and has no ML-DSA: such keys are not even created."""
    for spec in ("ECC_NIST_EDWARDS25519", "ML_DSA_44"):
        with pytest.raises(UnsupportedOperationException, match=spec):
            empty(kms, spec)
    assert new_imported_key(kms)
