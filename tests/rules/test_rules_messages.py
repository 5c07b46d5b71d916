"""What is signed of a message, and lengths of ciphertexts. Source: AWS KMS API Reference; FIPS 203 and 204."""

import pytest

from hsmkms.errors import InvalidCiphertextException, UnsupportedOperationException, ValidationException
from hsmkms.hsm.objects.key_specs import KEY_FACTS
from hsmkms.model.enums import KeySpec, MessageType, SigningAlgorithm
from hsmkms.rules import messages, specs

ML_DSA = SigningAlgorithm.ML_DSA_SHAKE_256
LENGTHS = {KeySpec.ML_KEM_512: 768, KeySpec.ML_KEM_768: 1088, KeySpec.ML_KEM_1024: 1568}


def test_ml_dsa_signs_messages_as_they_are() -> None:
    """ML-DSA hashes by itself: the message goes to the token unchanged, and a mu of 64 bytes is verified as it is."""
    mu = bytes(range(64))
    assert messages.to_sign(ML_DSA, b"message", None) == b"message"
    assert messages.to_sign(ML_DSA, b"message", MessageType.RAW) == b"message"
    assert messages.to_verify(ML_DSA, mu, MessageType.EXTERNAL_MU) == mu


@pytest.mark.parametrize("length", [0, 32, 63, 65])
def test_a_mu_has_64_bytes(length: int) -> None:
    """A representative of another length is refused with the length that it must have."""
    with pytest.raises(ValidationException, match=f"has 64 bytes, not {length}"):
        messages.to_verify(ML_DSA, bytes(length), MessageType.EXTERNAL_MU)


@pytest.mark.parametrize("length", [0, 64])
def test_a_mu_is_not_signed(length: int) -> None:
    """No token signs a mu, whatever its length; no sentence of Sign suggests one."""
    with pytest.raises(UnsupportedOperationException, match="MessageType RAW instead of EXTERNAL_MU"):
        messages.to_sign(ML_DSA, bytes(length), MessageType.EXTERNAL_MU)
    with pytest.raises(ValidationException, match=r"DIGEST is not valid for ML_DSA_SHAKE_256: use RAW\."):
        messages.to_sign(ML_DSA, bytes(64), MessageType.DIGEST)
    with pytest.raises(ValidationException, match=r"DIGEST is not valid for .*: use RAW or EXTERNAL_MU\."):
        messages.to_verify(ML_DSA, bytes(64), MessageType.DIGEST)


@pytest.mark.parametrize("algorithm", [each for each in SigningAlgorithm if "DSA" in each or "RSA" in each])
def test_message_types_of_algorithms(algorithm: SigningAlgorithm) -> None:
    """ML-DSA takes no digest, and no other algorithm an external mu."""
    kind = MessageType.DIGEST if algorithm is ML_DSA else MessageType.EXTERNAL_MU
    for prepare in (messages.to_sign, messages.to_verify):
        with pytest.raises(ValidationException, match=f"{kind} is not valid for {algorithm}"):
            prepare(algorithm, bytes(64), kind)


def test_every_kem_has_its_length() -> None:
    """The rule has a length for each spec that encapsulates, and the device has the same."""
    kems = {spec for spec in KeySpec if spec.startswith("ML_KEM")}
    assert dict(messages.ENCAPSULATED_BYTES) == LENGTHS
    assert {*LENGTHS} == kems
    assert {spec: KEY_FACTS[spec].ciphertext_bytes for spec in kems} == LENGTHS
    assert all(specs.SPECS[spec].default_usage is None for spec in kems)


@pytest.mark.parametrize("spec", LENGTHS)
def test_only_the_length_is_wrong(spec: KeySpec) -> None:
    """A ciphertext of the spec's length passes; one byte less or more, or the length of another spec, does not."""
    right = LENGTHS[spec]
    messages.check_encapsulated(spec, right)
    for wrong in {0, right - 1, right + 1, *LENGTHS.values()} - {right}:
        with pytest.raises(InvalidCiphertextException):
            messages.check_encapsulated(spec, wrong)
