"""Encrypt, Decrypt, ReEncrypt, data keys and random bytes. Source: AWS KMS API Reference, operation by operation."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from service_sites import ACCOUNT, OTHER_REGION, REGION, new_alias, new_key, seal, unseal

from hsmkms.errors import (
    AccessDeniedException,
    DisabledException,
    DryRunOperationException,
    HsmKmsError,
    IncorrectKeyException,
    InvalidCiphertextException,
    InvalidKeyUsageException,
    NotFoundException,
    UnsupportedOperationException,
    ValidationException,
)
from hsmkms.kms import Kms
from hsmkms.model.crypto import (
    DecryptRequest,
    EncryptRequest,
    GenerateDataKeyRequest,
    GenerateDataKeyResponse,
    GenerateDataKeyWithoutPlaintextRequest,
    GenerateDataKeyWithoutPlaintextResponse,
    GenerateRandomRequest,
    ReEncryptRequest,
    ReEncryptResponse,
)
from hsmkms.model.keys import DisableKeyRequest, EnableKeyRequest
from hsmkms.model.shapes import Recipient
from hsmkms.rules import blob
from hsmkms.store import leases

UNKNOWN = "12345678-1234-4123-8123-123456789012"
UNKNOWN_CIPHERTEXT_KEY = (
    "The ciphertext refers to a customer master key that does not exist, does not exist in this region, "
    "or you are not allowed to access."
)
WRONG_KEY = "The key ID in the request does not identify a CMK that can perform this operation."
RECIPIENT = Recipient(key_encryption_algorithm="RSAES_OAEP_SHA_256", attestation_document=b"document")
Use = Callable[..., Any]


def re_encrypt(kms: Kms, ciphertext: bytes | None, key_id: str, **members: object) -> ReEncryptResponse:
    """ReEncrypt to a key."""
    return kms.re_encrypt(ReEncryptRequest(ciphertext_blob=ciphertext, destination_key_id=key_id, **members))


def data_key(kms: Kms, key_id: str, **members: object) -> GenerateDataKeyResponse:
    """GenerateDataKey."""
    return kms.generate_data_key(GenerateDataKeyRequest(key_id=key_id, **members))


def sealed_data_key(kms: Kms, key_id: str, **members: object) -> GenerateDataKeyWithoutPlaintextResponse:
    """GenerateDataKeyWithoutPlaintext."""
    return kms.generate_data_key_without_plaintext(GenerateDataKeyWithoutPlaintextRequest(key_id=key_id, **members))


# -- Encrypt and Decrypt ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 16, 4095, 4096])
def test_round_trip(kms: Kms, size: int) -> None:
    """A plaintext of any size up to 4,096 bytes decrypts, and the response names key and material."""
    made = new_key(kms)
    sealed = kms.encrypt(EncryptRequest(key_id=made.key_id, plaintext=b"p" * size))
    assert (sealed.key_id, sealed.encryption_algorithm) == (made.arn, "SYMMETRIC_DEFAULT")
    opened = kms.decrypt(DecryptRequest(ciphertext_blob=sealed.ciphertext_blob))
    assert (opened.plaintext, opened.key_id) == (b"p" * size, made.arn)
    assert opened.encryption_algorithm == "SYMMETRIC_DEFAULT"
    assert opened.key_material_id == made.current_key_material_id
    assert len(sealed.ciphertext_blob) <= 6144
    assert b"pppp" not in sealed.ciphertext_blob


def test_all_forms_of_a_key_id(kms: Kms) -> None:
    """Encrypt and Decrypt take key id, key ARN, alias name and alias ARN."""
    made = new_key(kms)
    name = f"alias/c-{made.key_id}"
    new_alias(kms, name, made.key_id)
    forms = (made.key_id, made.arn, name, f"arn:aws:kms:{REGION}:{ACCOUNT}:{name}")
    for encrypts in forms:
        for decrypts in forms:
            assert unseal(kms, seal(kms, encrypts), key_id=decrypts) == b"secret"


def test_ciphertexts_differ(kms: Kms) -> None:
    """The same plaintext is never encrypted to the same ciphertext."""
    made = new_key(kms)
    assert len({seal(kms, made.key_id) for _ in range(100)}) == 100


def test_too_long_plaintext(kms: Kms) -> None:
    """4,097 bytes are refused in AWS's words, which do not repeat the plaintext."""
    made = new_key(kms)
    with pytest.raises(ValidationException) as caught:
        seal(kms, made.key_id, b"TOPSECRET".ljust(4097, b"s"))
    assert str(caught.value) == (
        "1 validation error detected: Value at 'plaintext' failed to satisfy constraint: "
        "Member must have length less than or equal to 4096"
    )


def test_empty_plaintext(kms: Kms) -> None:
    """An empty plaintext is refused, and so is an absent one."""
    made = new_key(kms)
    for plaintext in (b"", None):
        with pytest.raises(ValidationException, match="'plaintext'"):
            kms.encrypt(EncryptRequest(key_id=made.key_id, plaintext=plaintext))


def test_violations_are_reported_together(kms: Kms) -> None:
    """One error names everything that is wrong with a request, and shows no plaintext."""
    with pytest.raises(ValidationException) as caught:
        kms.encrypt(EncryptRequest(key_id="", plaintext=b"TOPSECRET" * 1000, encryption_algorithm="ROT13"))
    message = str(caught.value)
    assert message.startswith("3 validation errors detected: ")
    assert all(path in message for path in ("'keyId'", "'plaintext'", "'encryptionAlgorithm'"))
    assert "TOPSECRET" not in message


@pytest.mark.parametrize("context", [None, {}, {"a": "1"}, {"a": "1", "b": ""}, {"ä": "ö", "": "x"}])
@pytest.mark.parametrize("wrong", [{"a": "2"}, {"A": "1"}, {"a": "1", "b": "", "c": ""}, {"b": "1", "a": ""}])
def test_encryption_context(kms: Kms, context: dict[str, str] | None, wrong: dict[str, str]) -> None:
    """A ciphertext opens with exactly its context, whatever the order; another one is the one opaque error."""
    made = new_key(kms)
    sealed = seal(kms, made.key_id, encryption_context=context)
    turned = dict(reversed((context or {}).items()))
    assert unseal(kms, sealed, encryption_context=turned) == b"secret"
    with pytest.raises(InvalidCiphertextException) as caught:
        unseal(kms, sealed, encryption_context=wrong)
    assert str(caught.value) == ""
    if context:
        with pytest.raises(InvalidCiphertextException):
            unseal(kms, sealed)


def test_absent_context_equals_empty(kms: Kms) -> None:
    """No encryption context and an empty one are the same."""
    made = new_key(kms)
    assert unseal(kms, seal(kms, made.key_id), encryption_context={}) == b"secret"
    assert unseal(kms, seal(kms, made.key_id, encryption_context={})) == b"secret"


def test_context_limit(kms: Kms) -> None:
    """An encryption context of more than 8,192 bytes is refused before anything is encrypted."""
    made = new_key(kms)
    with pytest.raises(ValidationException, match="8192"):
        seal(kms, made.key_id, encryption_context={"a": "x" * 8192})


def test_every_changed_byte_is_noticed(kms: Kms) -> None:
    """A ciphertext that differs in any one byte, header included, does not open."""
    made = new_key(kms)
    sealed = seal(kms, made.key_id)
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises((InvalidCiphertextException, AccessDeniedException)):
            unseal(kms, bytes(changed))
        with pytest.raises((InvalidCiphertextException, IncorrectKeyException)):
            unseal(kms, bytes(changed), key_id=made.key_id)


def test_truncated_ciphertexts(kms: Kms) -> None:
    """A ciphertext that was cut or lengthened is the one opaque error, without a word."""
    made = new_key(kms)
    sealed = seal(kms, made.key_id)
    for wrong in (*(sealed[:length] for length in range(1, len(sealed))), sealed + b"\0", b"\0" * len(sealed)):
        with pytest.raises(InvalidCiphertextException) as caught:
            unseal(kms, wrong)
        assert str(caught.value) == ""


@pytest.mark.parametrize("ciphertext", [b"", b"c" * 6145, None])
def test_ciphertext_constraints(kms: Kms, ciphertext: bytes | None) -> None:
    """A ciphertext has 1 to 6,144 bytes, and must be there."""
    with pytest.raises(ValidationException, match="'ciphertextBlob'"):
        kms.decrypt(DecryptRequest(ciphertext_blob=ciphertext))


def test_body_of_another_key(kms: Kms) -> None:
    """The body of one key's ciphertext under another key's header does not open."""
    first, second = (blob.parse(seal(kms, new_key(kms).key_id)) for _ in range(2))
    with pytest.raises(InvalidCiphertextException):
        unseal(kms, blob.assemble(second.header, first.iv, first.body))


def test_blob_of_unknown_key(kms: Kms) -> None:
    """A well-formed ciphertext of a key that is not here is refused like a forbidden one."""
    parsed = blob.parse(seal(kms, new_key(kms).key_id))
    foreign = blob.assemble(blob.header(UNKNOWN, parsed.material_id), parsed.iv, parsed.body)
    with pytest.raises(AccessDeniedException) as caught:
        unseal(kms, foreign)
    assert str(caught.value) == UNKNOWN_CIPHERTEXT_KEY


def test_blob_of_another_region(kms: Kms) -> None:
    """A ciphertext is unknown in every region but its key's."""
    there = kms.caller(OTHER_REGION)
    made = new_key(kms, there)
    sealed = seal(kms, made.key_id, caller=there)
    with pytest.raises(AccessDeniedException) as caught:
        unseal(kms, sealed)
    assert str(caught.value) == UNKNOWN_CIPHERTEXT_KEY
    assert unseal(kms, sealed, there) == b"secret"


def test_blob_of_unknown_material(kms: Kms) -> None:
    """A ciphertext that names a material which its key never had is the one opaque error."""
    made = new_key(kms)
    parsed = blob.parse(seal(kms, made.key_id))
    with pytest.raises(InvalidCiphertextException):
        unseal(kms, blob.assemble(blob.header(made.key_id, "ab" * 32), parsed.iv, parsed.body))


def test_decrypt_names_another_key(kms: Kms) -> None:
    """A KeyId that is not the ciphertext's is refused in AWS's words; one that is not there is not found."""
    first, second = new_key(kms), new_key(kms)
    sealed = seal(kms, first.key_id)
    with pytest.raises(IncorrectKeyException) as caught:
        unseal(kms, sealed, key_id=second.key_id)
    assert str(caught.value) == WRONG_KEY
    with pytest.raises(NotFoundException, match=UNKNOWN):
        unseal(kms, sealed, key_id=UNKNOWN)


@pytest.mark.parametrize("algorithm", ["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"])
def test_algorithm_of_another_spec(kms: Kms, algorithm: str) -> None:
    """An algorithm that the key cannot do is refused at both ends."""
    made = new_key(kms)
    sealed = seal(kms, made.key_id, encryption_algorithm="SYMMETRIC_DEFAULT")
    with pytest.raises(InvalidKeyUsageException, match=f"{algorithm} is incompatible"):
        seal(kms, made.key_id, encryption_algorithm=algorithm)
    with pytest.raises(InvalidKeyUsageException, match=f"{algorithm} is incompatible"):
        unseal(kms, sealed, encryption_algorithm=algorithm)


# -- ReEncrypt ----------------------------------------------------------------------------------------------------


def test_re_encrypt_same_key_new_context(kms: Kms) -> None:
    """A ciphertext moves to a new context of its own key; the old context no longer opens the new ciphertext."""
    made = new_key(kms)
    sealed = seal(kms, made.key_id, encryption_context={"a": "1"})
    moved = re_encrypt(
        kms,
        sealed,
        made.key_id,
        source_encryption_context={"a": "1"},
        destination_encryption_context={"b": "2"},
    )
    assert (moved.source_key_id, moved.key_id) == (made.arn, made.arn)
    assert unseal(kms, moved.ciphertext_blob, encryption_context={"b": "2"}) == b"secret"
    with pytest.raises(InvalidCiphertextException):
        unseal(kms, moved.ciphertext_blob, encryption_context={"a": "1"})


def test_re_encrypt_other_key(kms: Kms) -> None:
    """A ciphertext moves to another key, and the response has keys, materials and algorithms of both sides."""
    first, second = new_key(kms), new_key(kms)
    name = f"alias/r-{second.key_id}"
    new_alias(kms, name, second.key_id)
    moved = re_encrypt(kms, seal(kms, first.key_id, b"p" * 4096), name, source_key_id=first.arn)
    assert (moved.source_key_id, moved.key_id) == (first.arn, second.arn)
    assert moved.source_key_material_id == first.current_key_material_id
    assert moved.destination_key_material_id == second.current_key_material_id
    assert moved.source_encryption_algorithm == moved.destination_encryption_algorithm == "SYMMETRIC_DEFAULT"
    assert unseal(kms, moved.ciphertext_blob, key_id=second.key_id) == b"p" * 4096


def test_re_encrypt_refusals(kms: Kms) -> None:
    """Every fault of the source is reported as by Decrypt, and of the destination as by Encrypt."""
    first, second = new_key(kms), new_key(kms)
    sealed = seal(kms, first.key_id, encryption_context={"a": "1"})
    right: dict[str, Any] = {"source_encryption_context": {"a": "1"}}
    parsed = blob.parse(sealed)
    foreign = blob.assemble(blob.header(UNKNOWN, parsed.material_id), parsed.iv, parsed.body)
    cases: list[tuple[bytes | None, str, dict[str, Any], type[HsmKmsError]]] = [
        (sealed, second.key_id, {}, InvalidCiphertextException),
        (sealed[:-1], second.key_id, right, InvalidCiphertextException),
        (foreign, second.key_id, right, AccessDeniedException),
        (None, second.key_id, right, ValidationException),
        (sealed, second.key_id, right | {"source_key_id": second.key_id}, IncorrectKeyException),
        (sealed, second.key_id, right | {"source_key_id": UNKNOWN}, NotFoundException),
        (sealed, UNKNOWN, right, NotFoundException),
        (sealed, second.key_id, right | {"destination_encryption_context": {"a": "x" * 8192}}, ValidationException),
        (
            sealed,
            second.key_id,
            right | {"destination_encryption_algorithm": "RSAES_OAEP_SHA_1"},
            InvalidKeyUsageException,
        ),
        (sealed, second.key_id, right | {"source_encryption_algorithm": "RSAES_OAEP_SHA_1"}, InvalidKeyUsageException),
    ]
    for ciphertext, key_id, members, error in cases:
        with pytest.raises(error):
            re_encrypt(kms, ciphertext, key_id, **members)
    assert re_encrypt(kms, sealed, second.key_id, **right).key_id == second.arn


@pytest.mark.parametrize("disabled", [0, 1])
def test_re_encrypt_needs_both_keys_enabled(kms: Kms, disabled: int) -> None:
    """A disabled key neither gives nor takes a ciphertext."""
    pair = new_key(kms), new_key(kms)
    sealed = seal(kms, pair[0].key_id)
    kms.disable_key(DisableKeyRequest(key_id=pair[disabled].key_id))
    with pytest.raises(DisabledException, match=f"{pair[disabled].arn} is disabled."):
        re_encrypt(kms, sealed, pair[1].key_id)


# -- data keys and random bytes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "length"),
    [
        ({"key_spec": "AES_128"}, 16),
        ({"key_spec": "AES_256"}, 32),
        ({"number_of_bytes": 1}, 1),
        ({"number_of_bytes": 1024}, 1024),
    ],
)
def test_data_keys(kms: Kms, members: dict[str, Any], length: int) -> None:
    """A data key has the length that was asked for, and its ciphertext opens with Decrypt and the same context."""
    made = new_key(kms)
    context = {"file": "a"}
    shown = data_key(kms, made.key_id, encryption_context=context, **members)
    hidden = sealed_data_key(kms, made.key_id, encryption_context=context, **members)
    assert len(shown.plaintext) == length
    assert unseal(kms, shown.ciphertext_blob, encryption_context=context) == shown.plaintext
    assert len(unseal(kms, hidden.ciphertext_blob, encryption_context=context) or b"") == length
    assert shown.key_id == hidden.key_id == made.arn
    assert shown.key_material_id == hidden.key_material_id == made.current_key_material_id
    with pytest.raises(InvalidCiphertextException):
        unseal(kms, shown.ciphertext_blob)


def test_data_keys_differ(kms: Kms) -> None:
    """No data key comes twice."""
    made = new_key(kms)
    assert len({data_key(kms, made.key_id, key_spec="AES_256").plaintext for _ in range(50)}) == 50


@pytest.mark.parametrize("generate", [data_key, sealed_data_key])
@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "Please specify either number of bytes or key spec."),
        ({"key_spec": "AES_256", "number_of_bytes": 32}, "Please specify either number of bytes or key spec."),
        ({"key_spec": "AES_512"}, "'keySpec'"),
        ({"number_of_bytes": 0}, "Value '0' at 'numberOfBytes'"),
        ({"number_of_bytes": 1025}, "Value '1025' at 'numberOfBytes'"),
    ],
)
def test_data_key_refusals(kms: Kms, generate: Use, members: dict[str, Any], message: str) -> None:
    """Exactly one of key spec and number of bytes (1 to 1,024) says the length."""
    made = new_key(kms)
    with pytest.raises(ValidationException) as caught:
        generate(kms, made.key_id, **members)
    assert message in str(caught.value)


@pytest.mark.parametrize("count", [1, 32, 1024])
def test_generate_random(kms: Kms, count: int) -> None:
    """GenerateRandom gives as many bytes as were asked for."""
    given = kms.generate_random(GenerateRandomRequest(number_of_bytes=count)).plaintext
    assert given is not None
    assert len(given) == count


BROKEN = (
    "1 validation error detected: Value '{}' at 'numberOfBytes' failed to satisfy constraint: Member must have value {}"
)


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (None, "NumberOfBytes is required."),
        (0, BROKEN.format(0, "greater than or equal to 1")),
        (1025, BROKEN.format(1025, "less than or equal to 1024")),
    ],
)
def test_generate_random_limits(kms: Kms, count: int | None, message: str) -> None:
    """GenerateRandom refuses other amounts in AWS's words."""
    with pytest.raises(ValidationException) as caught:
        kms.generate_random(GenerateRandomRequest(number_of_bytes=count))
    assert str(caught.value) == message


# -- what is not offered ------------------------------------------------------------------------------------------


def test_recipient_is_refused(kms: Kms) -> None:
    """An answer for an attested enclave is refused, never given in the clear instead."""
    made = new_key(kms)
    sealed = seal(kms, made.key_id)
    calls: list[Callable[[], Any]] = [
        lambda: unseal(kms, sealed, recipient=RECIPIENT),
        lambda: data_key(kms, made.key_id, key_spec="AES_256", recipient=RECIPIENT),
        lambda: kms.generate_random(GenerateRandomRequest(number_of_bytes=1, recipient=RECIPIENT)),
    ]
    for call in calls:
        with pytest.raises(UnsupportedOperationException, match="Recipient"):
            call()


def test_custom_key_store_is_refused(kms: Kms) -> None:
    """Random bytes of a custom key store are refused."""
    with pytest.raises(UnsupportedOperationException, match="CustomKeyStoreId"):
        kms.generate_random(GenerateRandomRequest(number_of_bytes=1, custom_key_store_id="cks-1234567890"))


# -- state and DryRun, operation by operation ---------------------------------------------------------------------

USES: dict[str, Use] = {
    "Encrypt": lambda kms, key_id, _sealed, **m: seal(kms, key_id, **m),
    "Decrypt": lambda kms, _key_id, sealed, **m: unseal(kms, sealed, **m),
    "Decrypt with KeyId": lambda kms, key_id, sealed, **m: unseal(kms, sealed, key_id=key_id, **m),
    "ReEncrypt": lambda kms, key_id, sealed, **m: re_encrypt(kms, sealed, key_id, **m),
    "GenerateDataKey": lambda kms, key_id, _sealed, **m: data_key(kms, key_id, key_spec="AES_256", **m),
    "GenerateDataKeyWithoutPlaintext": lambda kms, key_id, _sealed, **m: sealed_data_key(
        kms, key_id, key_spec="AES_256", **m
    ),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_disabled_key_refuses(kms: Kms, use: Use) -> None:
    """A disabled key refuses every use, DryRun included, and works again when it is enabled."""
    made = new_key(kms)
    sealed = seal(kms, made.key_id)
    kms.disable_key(DisableKeyRequest(key_id=made.key_id))
    for members in ({}, {"dry_run": True}):
        with pytest.raises(DisabledException) as caught:
            use(kms, made.key_id, sealed, **members)
        assert str(caught.value) == f"{made.arn} is disabled."
    kms.enable_key(EnableKeyRequest(key_id=made.key_id))
    use(kms, made.key_id, sealed)


@pytest.mark.parametrize("use", [use for name, use in USES.items() if name != "Decrypt"])
def test_unknown_key_refuses(kms: Kms, use: Use) -> None:
    """Every use of a key that is not here is refused with the ARN that was meant."""
    sealed = seal(kms, new_key(kms).key_id)
    with pytest.raises(NotFoundException, match=f"Key 'arn:aws:kms:{REGION}:{ACCOUNT}:key/{UNKNOWN}' does not exist"):
        use(kms, UNKNOWN, sealed)
    with pytest.raises(NotFoundException, match="is not found"):
        use(kms, f"alias/{uuid.uuid4()}", sealed)


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_dry_run(kms: Kms, use: Use) -> None:
    """A dry run never succeeds, says that the request would have, and spends no encryption."""
    made = new_key(kms)
    sealed = seal(kms, made.key_id)
    before = kms._core.leases._leases[made.current_key_material_id or ""].remaining
    counted = leases.total(kms._core.store, made.current_key_material_id or "")
    for _ in range(3):
        with pytest.raises(DryRunOperationException) as caught:
            use(kms, made.key_id, sealed, dry_run=True)
    assert str(caught.value) == "The request would have succeeded, but the DryRun option is set."
    assert kms._core.leases._leases[made.current_key_material_id or ""].remaining == before
    assert leases.total(kms._core.store, made.current_key_material_id or "") == counted
    use(kms, made.key_id, sealed, dry_run=False)


def test_dry_run_has_the_real_error(kms: Kms) -> None:
    """A dry run that would have failed fails in the same way."""
    made = new_key(kms)
    sealed = seal(kms, made.key_id)
    cases: list[tuple[Callable[[], Any], type[HsmKmsError]]] = [
        (lambda: unseal(kms, sealed[:-1], dry_run=True), InvalidCiphertextException),
        (lambda: unseal(kms, sealed, encryption_context={"a": ""}, dry_run=True), InvalidCiphertextException),
        (lambda: seal(kms, made.key_id, b"", dry_run=True), ValidationException),
        (lambda: re_encrypt(kms, sealed[:-1], made.key_id, dry_run=True), InvalidCiphertextException),
        (lambda: data_key(kms, made.key_id, dry_run=True), ValidationException),
    ]
    for call, error in cases:
        with pytest.raises(error):
            call()


def test_ignore_ciphertext(kms: Kms) -> None:
    """With IGNORE_CIPHERTEXT a dry run judges the caller alone: no ciphertext is needed, or a broken one does."""
    made = new_key(kms)
    ignore: dict[str, Any] = {"dry_run": True, "dry_run_modifiers": ["IGNORE_CIPHERTEXT"]}
    for ciphertext in (None, b"broken"):
        with pytest.raises(DryRunOperationException):
            kms.decrypt(DecryptRequest(ciphertext_blob=ciphertext, key_id=made.key_id, **ignore))
        with pytest.raises(DryRunOperationException):
            re_encrypt(kms, ciphertext, made.key_id, source_key_id=made.key_id, **ignore)


def test_ignore_ciphertext_refusals(kms: Kms) -> None:
    """IGNORE_CIPHERTEXT needs DryRun and a named key, which must be there and enabled."""
    made = new_key(kms)
    modifiers: dict[str, Any] = {"dry_run_modifiers": ["IGNORE_CIPHERTEXT"]}
    with pytest.raises(ValidationException, match="DryRunModifiers"):
        unseal(kms, seal(kms, made.key_id), key_id=made.key_id, **modifiers)
    with pytest.raises(ValidationException, match="'keyId'"):
        kms.decrypt(DecryptRequest(dry_run=True, **modifiers))
    with pytest.raises(ValidationException, match="'sourceKeyId'"):
        re_encrypt(kms, None, made.key_id, dry_run=True, **modifiers)
    with pytest.raises(NotFoundException):
        kms.decrypt(DecryptRequest(key_id=UNKNOWN, dry_run=True, **modifiers))
    kms.disable_key(DisableKeyRequest(key_id=made.key_id))
    with pytest.raises(DisabledException):
        kms.decrypt(DecryptRequest(key_id=made.key_id, dry_run=True, **modifiers))


def test_unknown_modifier(kms: Kms) -> None:
    """A modifier that the API does not have is a validation error."""
    with pytest.raises(ValidationException, match="'dryRunModifiers"):
        kms.decrypt(DecryptRequest(key_id=UNKNOWN, dry_run=True, dry_run_modifiers=["IGNORE_KEY"]))
