"""Hostile data through the façade: whatever a module answers to it, the client gets an error that is about its data."""

import os
from collections.abc import Callable, Iterator
from typing import Final

import pytest
import wrapped
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from devices import NewToken
from tokens.capabilities import MESSAGE, Bench, Clock
from tokens.try_capabilities import configuration

from hsmkms.config import settings as config
from hsmkms.errors import HsmKmsError, UnsupportedOperationException
from hsmkms.kms import Kms
from hsmkms.model import asymmetric, crypto, importing
from hsmkms.model.enums import KeySpec, KeyUsage, Origin, SigningAlgorithm, WrappingAlgorithm, WrappingKeySpec
from hsmkms.wiring import core as wiring

LONGEST: Final = 6144
KEMS: Final = {KeySpec.ML_KEM_512: 768, KeySpec.ML_KEM_768: 1088, KeySpec.ML_KEM_1024: 1568}
SIGNING: Final = {
    KeySpec.RSA_2048: (SigningAlgorithm.RSASSA_PSS_SHA_256, SigningAlgorithm.RSASSA_PKCS1_V1_5_SHA_512),
    KeySpec.ECC_NIST_P256: (SigningAlgorithm.ECDSA_SHA_256,),
    KeySpec.ECC_NIST_P521: (SigningAlgorithm.ECDSA_SHA_512,),
    KeySpec.ECC_SECG_P256K1: (SigningAlgorithm.ECDSA_SHA_256,),
    KeySpec.ECC_NIST_EDWARDS25519: (SigningAlgorithm.ED25519_SHA_512,),
    KeySpec.ML_DSA_44: (SigningAlgorithm.ML_DSA_SHAKE_256,),
    KeySpec.ML_DSA_65: (SigningAlgorithm.ML_DSA_SHAKE_256,),
    KeySpec.ML_DSA_87: (SigningAlgorithm.ML_DSA_SHAKE_256,),
}


@pytest.fixture(scope="module")
def bench(new_token: NewToken) -> Iterator[Bench]:
    """Return an installation on a token of this module's own."""
    token, clock = new_token("hostile"), Clock()
    settings = config.load(configuration(token, token.folder / "installation"))
    wiring.initialise(settings, clock)
    with Kms(wiring.core_of(settings, clock)) as kms:
        yield Bench(kms, clock)


def new_key(bench: Bench, spec: KeySpec, usage: KeyUsage, **more: object) -> str:
    """Create a key; return its id. Skips the test if the token has no such keys."""
    try:
        return bench.new_key(spec, usage, **more)
    except UnsupportedOperationException:
        pytest.skip(f"the token under test has no keys of KeySpec {spec}")


def codes(act: Callable[[bytes], object], samples: list[bytes]) -> dict[str, list[int]]:
    """Return the codes of the errors, each with the lengths of the samples that it answers; an answer is no error."""
    found: dict[str, list[int]] = {}
    for each in samples:
        try:
            act(each)
        except HsmKmsError as exc:
            found.setdefault(exc.code, []).append(len(each))
        else:
            found.setdefault("none", []).append(len(each))
    return found


def damaged(good: bytes) -> list[bytes]:
    """Return what is nearly right, of the right length and wrong, and of the shortest and longest lengths."""
    flipped = [good[:at] + bytes((good[at] ^ 0x80,)) + good[at + 1 :] for at in (0, len(good) // 2, len(good) - 1)]
    lengths = [good[:-1], good[:1], good + b"\0", b"\0" + good, (good * 2)[:LONGEST]]
    filled = [bytes(len(good)), b"\xff" * len(good), os.urandom(len(good)), b"\0", b"\xff" * LONGEST]
    return [*flipped, *lengths, *filled]


def test_ciphertexts(bench: Bench) -> None:
    """Every damaged ciphertext of a symmetric key is an invalid ciphertext."""
    key = new_key(bench, KeySpec.SYMMETRIC_DEFAULT, KeyUsage.ENCRYPT_DECRYPT)
    assert codes(bench.decrypt, damaged(bench.encrypt(key))).keys() <= {
        "InvalidCiphertextException",
        "NotFoundException",
    }
    assert bench.decrypt(bench.encrypt(key, b"x" * 4096)) == b"x" * 4096


@pytest.mark.parametrize("spec", SIGNING)
def test_signatures(bench: Bench, spec: KeySpec) -> None:
    """Every damaged signature is an invalid one; the key goes on signing, the shortest and longest messages too."""
    key = new_key(bench, spec, KeyUsage.SIGN_VERIFY)
    for algorithm in SIGNING[spec]:

        def signature(message: bytes) -> bytes:
            request = asymmetric.SignRequest(key_id=key, message=message, signing_algorithm=algorithm)  # noqa: B023
            return bench.kms.sign(request).signature

        def verify(signature: bytes) -> object:
            request = asymmetric.VerifyRequest(
                key_id=key,
                message=MESSAGE,
                signature=signature,
                signing_algorithm=algorithm,  # noqa: B023
            )
            return bench.kms.verify(request)

        samples = damaged(signature(MESSAGE))
        samples += [
            encode_dss_signature(r, s) for r, s in ((0, 0), (0, 1), (1, 0), (1, 1), (2**521, 2**521), (1, 2**800))
        ]
        assert codes(verify, samples).keys() == {"KMSInvalidSignatureException"}
        assert codes(signature, [b"x", b"x" * 4096]).keys() == {"none"}


def test_digests(bench: Bench) -> None:
    """A digest of another length is refused as the request's fault."""
    for spec, algorithms in SIGNING.items():
        if not spec.startswith(("RSA", "ECC_NIST_P")):
            continue
        key = new_key(bench, spec, KeyUsage.SIGN_VERIFY)

        def sign(digest: bytes) -> object:
            request = asymmetric.SignRequest(
                key_id=key,  # noqa: B023
                message=digest,
                message_type="DIGEST",
                signing_algorithm=algorithms[0],  # noqa: B023
            )
            return bench.kms.sign(request)

        assert codes(sign, [bytes(each) for each in (1, 20, 31, 33, 65, 128)]).keys() == {"ValidationException"}


def test_oaep(bench: Bench) -> None:
    """Every RSA block that cannot be decrypted is an invalid ciphertext."""
    key = new_key(bench, KeySpec.RSA_2048, KeyUsage.ENCRYPT_DECRYPT)
    for algorithm in ("RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"):

        def decrypt(block: bytes) -> object:
            request = crypto.DecryptRequest(key_id=key, ciphertext_blob=block, encryption_algorithm=algorithm)  # noqa: B023
            return bench.kms.decrypt(request)

        request = crypto.EncryptRequest(key_id=key, plaintext=MESSAGE, encryption_algorithm=algorithm)
        good = bench.kms.encrypt(request).ciphertext_blob
        assert codes(decrypt, damaged(good)).keys() == {"InvalidCiphertextException"}
        assert codes(decrypt, [good]).keys() == {"none"}


def test_macs(bench: Bench) -> None:
    """Every damaged HMAC is an invalid HMAC, whatever its length."""
    key = new_key(bench, KeySpec.HMAC_256, KeyUsage.GENERATE_VERIFY_MAC)
    made = asymmetric.GenerateMacRequest(key_id=key, message=MESSAGE, mac_algorithm="HMAC_SHA_256")

    def verify(mac: bytes) -> object:
        request = asymmetric.VerifyMacRequest(key_id=key, message=MESSAGE, mac=mac, mac_algorithm="HMAC_SHA_256")
        return bench.kms.verify_mac(request)

    assert codes(verify, damaged(bench.kms.generate_mac(made).mac)).keys() == {"KMSInvalidMacException"}


def test_public_keys(bench: Bench) -> None:
    """A public key of another curve, a point that is on no curve, and what is no key, are the request's fault."""
    key = new_key(bench, KeySpec.ECC_NIST_P256, KeyUsage.KEY_AGREEMENT)

    def derive(public: bytes) -> object:
        request = asymmetric.DeriveSharedSecretRequest(key_id=key, key_agreement_algorithm="ECDH", public_key=public)
        return bench.kms.derive_shared_secret(request)

    def encoded(curve: ec.EllipticCurve) -> bytes:
        public = ec.generate_private_key(curve).public_key()
        return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    good = encoded(ec.SECP256R1())
    others = [encoded(each) for each in (ec.SECP384R1(), ec.SECP256K1(), ec.SECP224R1())]
    assert codes(derive, [good]).keys() == {"none"}
    assert codes(derive, [*others, *damaged(good)]).keys() == {"ValidationException"}


@pytest.mark.parametrize("spec", KEMS)
def test_encapsulated_secrets(bench: Bench, spec: KeySpec) -> None:
    """Of the right length every ciphertext has a secret (implicit rejection); of another it is the request's fault."""
    key = new_key(bench, spec, KeyUsage.ENCAPSULATE_DECAPSULATE)

    def decapsulate(ciphertext: bytes) -> object:
        request = asymmetric.DecapsulateRequest(
            key_id=key, encapsulation_algorithm="ML_KEM", shared_secret_ciphertext_blob=ciphertext
        )
        return bench.kms.decapsulate(request)

    found = codes(decapsulate, damaged(os.urandom(KEMS[spec])))
    assert {*found.pop("none")} == {KEMS[spec]}
    assert found.keys() == {"InvalidCiphertextException"}


def test_material(bench: Bench) -> None:
    """Key material that cannot be unwrapped or has a wrong length is refused as such, and the right one imported."""
    key = new_key(bench, KeySpec.SYMMETRIC_DEFAULT, KeyUsage.ENCRYPT_DECRYPT, origin=Origin.EXTERNAL)
    wanted = bench.kms.get_parameters_for_import(
        importing.GetParametersForImportRequest(
            key_id=key,
            wrapping_algorithm=WrappingAlgorithm.RSAES_OAEP_SHA_1,
            wrapping_key_spec=WrappingKeySpec.RSA_2048,
        )
    )

    def bring(ciphertext: bytes) -> object:
        request = importing.ImportKeyMaterialRequest(
            key_id=key,
            import_token=wanted.import_token,
            encrypted_key_material=ciphertext,
            expiration_model="KEY_MATERIAL_DOES_NOT_EXPIRE",
        )
        return bench.kms.import_key_material(request)

    def wrap(length: int) -> bytes:
        return wrapped.wrap(wanted.public_key, WrappingAlgorithm.RSAES_OAEP_SHA_1, os.urandom(length))

    wrong_lengths = [wrap(each) for each in (1, 16, 24, 31, 33, 64)]
    found = codes(bring, [*damaged(wrap(32)), *wrong_lengths])
    assert found.keys() == {"InvalidCiphertextException", "IncorrectKeyMaterialException"}
    assert codes(bring, [wrap(32)]).keys() == {"none"}
    assert bench.decrypt(bench.encrypt(key)) == MESSAGE
