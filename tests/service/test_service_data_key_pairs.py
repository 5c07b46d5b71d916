"""GenerateDataKeyPair in both forms. Source: AWS KMS API Reference."""

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key
from service_sites import new_key

from hsmkms.errors import (
    DisabledException,
    DryRunOperationException,
    InvalidCiphertextException,
    InvalidKeyUsageException,
    UnsupportedOperationException,
    ValidationException,
)
from hsmkms.kms import Kms
from hsmkms.model.crypto import (
    DecryptRequest,
    GenerateDataKeyPairRequest,
    GenerateDataKeyPairWithoutPlaintextRequest,
)
from hsmkms.model.keys import DisableKeyRequest
from hsmkms.model.shapes import Recipient

CONTEXT = {"ship": "Argo"}
Ask = Callable[..., Any]


def with_plaintext(kms: Kms, key_id: str, spec: str = "ECC_NIST_P256", **more: Any) -> Any:  # noqa: ANN401 - members
    """GenerateDataKeyPair."""
    return kms.generate_data_key_pair(GenerateDataKeyPairRequest(key_id=key_id, key_pair_spec=spec, **more))


def without_plaintext(kms: Kms, key_id: str, spec: str = "ECC_NIST_P256", **more: Any) -> Any:  # noqa: ANN401 - members
    """GenerateDataKeyPairWithoutPlaintext."""
    request = GenerateDataKeyPairWithoutPlaintextRequest(key_id=key_id, key_pair_spec=spec, **more)
    return kms.generate_data_key_pair_without_plaintext(request)


both = pytest.mark.parametrize("ask", [with_plaintext, without_plaintext])


@both
@pytest.mark.parametrize("spec", ["RSA_2048", "ECC_NIST_P384", "ECC_SECG_P256K1", "ECC_NIST_EDWARDS25519"])
def test_the_private_key_comes_back(kms: Kms, ask: Ask, spec: str) -> None:
    """Decrypt with the same context gives the private key of the public one; without the context it gives nothing."""
    key = new_key(kms)
    made = ask(kms, key.key_id, spec, encryption_context=CONTEXT)
    sealed = made.private_key_ciphertext_blob
    opened = kms.decrypt(DecryptRequest(ciphertext_blob=sealed, encryption_context=CONTEXT))
    assert getattr(made, "private_key_plaintext", opened.plaintext) == opened.plaintext
    public = load_der_private_key(opened.plaintext or b"", None).public_key()
    assert public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == made.public_key
    assert (made.key_id, made.key_pair_spec) == (key.arn, spec)
    assert made.key_material_id == opened.key_material_id == key.current_key_material_id
    with pytest.raises(InvalidCiphertextException):
        kms.decrypt(DecryptRequest(ciphertext_blob=sealed))


@both
def test_refusals(kms: Kms, ask: Ask) -> None:
    """Keys that are not symmetric, disabled keys and specs that there are not are refused with the API's errors."""
    key_id = new_key(kms).key_id
    for spec, usage in (("RSA_2048", "ENCRYPT_DECRYPT"), ("ECC_NIST_P256", "SIGN_VERIFY")):
        other = new_key(kms, key_spec=spec, key_usage=usage).key_id
        with pytest.raises(InvalidKeyUsageException):
            ask(kms, other)
    with pytest.raises(UnsupportedOperationException, match="no data key pairs of KeyPairSpec ML_KEM_512"):
        ask(kms, key_id, "ML_KEM_512")
    for wrong in ("SM2", "AES_256", None):
        with pytest.raises(ValidationException, match="keyPairSpec"):
            ask(kms, key_id, wrong)
    kms.disable_key(DisableKeyRequest(key_id=key_id))
    with pytest.raises(DisabledException):
        ask(kms, key_id)


@both
def test_dry_run(kms: Kms, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run makes no pair and says that it would have been made."""
    key_id = new_key(kms).key_id
    made: list[object] = []
    monkeypatch.setattr(kms._core.device.pairs, "data_key_pair", lambda *order: made.append(order))
    with pytest.raises(DryRunOperationException):
        ask(kms, key_id, "RSA_4096", dry_run=True)
    assert made == []


def test_recipient_is_refused(kms: Kms) -> None:
    """There are no attested enclaves here."""
    with pytest.raises(UnsupportedOperationException, match="Nitro"):
        with_plaintext(kms, new_key(kms).key_id, recipient=Recipient())


@both
def test_encryptions_are_counted(kms: Kms, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pair spends one of the encryptions that the key's material may make."""
    key = new_key(kms)
    spent: list[str] = []
    real = kms._core.leases.counter

    def counter(material: str) -> Callable[[], None]:
        count = real(material)
        return lambda: (spent.append(material), count())[1]

    monkeypatch.setattr(kms._core.leases, "counter", counter)
    ask(kms, key.key_id)
    assert spent == [key.current_key_material_id]


def test_answers_show_no_private_key(kms: Kms) -> None:
    """What a log or a traceback shows of the answer has no private key in it."""
    made = with_plaintext(kms, new_key(kms).key_id)
    assert repr(made.private_key_plaintext) not in repr(made)
    assert made.private_key_plaintext.hex() not in repr(made)
