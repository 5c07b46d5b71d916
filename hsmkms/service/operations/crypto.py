"""Encrypt, Decrypt, ReEncrypt, data keys and random bytes.

Every operation has the same steps: the call authorises and admits the key, the rules check usage, algorithm and sizes,
a DryRun stops, and then the device acts under the permit. A DryRun with a ciphertext stops only after decrypting it.
Source: AWS KMS API Reference, operation by operation.
"""

from typing import Final

from msgspec import Struct

from hsmkms.errors import (
    DryRunOperationException,
    IncorrectKeyException,
    InvalidCiphertextException,
    UnsupportedOperationException,
    ValidationException,
)
from hsmkms.model.constraints import MUST_NOT_BE_NULL, violation
from hsmkms.model.crypto import (
    DecryptRequest,
    DecryptResponse,
    EncryptRequest,
    EncryptResponse,
    GenerateDataKeyRequest,
    GenerateDataKeyResponse,
    GenerateDataKeyWithoutPlaintextRequest,
    GenerateDataKeyWithoutPlaintextResponse,
    GenerateRandomRequest,
    GenerateRandomResponse,
    ReEncryptRequest,
    ReEncryptResponse,
)
from hsmkms.model.enums import EncryptionAlgorithm, KeySpec
from hsmkms.model.permit import Permit
from hsmkms.rules import blob, specs
from hsmkms.service.operations.ciphers import CIPHERS, Keyed, Opened, Sealed
from hsmkms.service.pipeline import DRY_RUN, Call
from hsmkms.service.runtime.record_cache import CachedKey

WRONG_KEY: Final = "The key ID in the request does not identify a CMK that can perform this operation."
NO_RECIPIENT: Final = "Recipient needs an AWS Nitro attestation, which hsmkms cannot verify: leave it out."
NO_CUSTOM_STORE: Final = "hsmkms has no custom key stores: leave CustomKeyStoreId out."


def encrypt(call: Call, request: EncryptRequest) -> EncryptResponse:
    """Encrypt under a key's current material: up to 4,096 bytes, or as much as fits into an RSA block.

    No row is written, so nothing is sealed: ``seal`` counts the encryption and notes the last use, and
    ``pipeline.run_audited`` writes the audit record.
    """
    key, permit = call.key(request.key_id, aliases=True)
    specs.require_usage(key.record, call.operation)
    algorithm = specs.check_encryption_algorithm(key.record, request.encryption_algorithm)
    cipher = CIPHERS[algorithm]
    bound = cipher.bind(request.encryption_context)
    if cipher.fits is not None:
        cipher.fits(key.record.spec, algorithm, len(request.plaintext))
    if request.dry_run:
        raise DryRunOperationException(DRY_RUN)
    sealed = cipher.seal(call, Keyed(key, permit, algorithm), request.plaintext, bound)
    return EncryptResponse(
        ciphertext_blob=sealed.ciphertext,
        key_id=key.record.arn,
        encryption_algorithm=algorithm,
    )


def decrypt(call: Call, request: DecryptRequest) -> DecryptResponse:
    """Decrypt a ciphertext: a symmetric one with the material that it names, an RSA one with the request's key."""
    if request.recipient is not None:
        raise UnsupportedOperationException(NO_RECIPIENT)
    if _ignores_ciphertext(request):
        _check_named_key(call, request.key_id, "keyId", "kms:Decrypt")
        if request.dry_run:
            raise DryRunOperationException(DRY_RUN)
    source = _Source(
        request.ciphertext_blob,
        request.key_id,
        request.encryption_algorithm,
        request.encryption_context,
        "kms:Decrypt",
    )
    by, opened = _open(call, source, _find_key(call, source))
    if request.dry_run:
        raise DryRunOperationException(DRY_RUN)
    call.core.uses.note(call, by.key)
    return DecryptResponse(
        key_id=by.key.record.arn,
        plaintext=opened.plaintext,
        encryption_algorithm=by.algorithm,
        key_material_id=opened.material_id,
    )


def re_encrypt(call: Call, request: ReEncryptRequest) -> ReEncryptResponse:
    """Decrypt under one key and encrypt under another; the plaintext is not returned."""
    key, permit = call.key(request.destination_key_id, aliases=True, action="kms:ReEncryptTo")
    source = _Source(
        request.ciphertext_blob,
        request.source_key_id,
        request.source_encryption_algorithm,
        request.source_encryption_context,
        "kms:ReEncryptFrom",
    )
    # Before the usage checks: a wrong SourceKeyId is IncorrectKeyException whatever kind the destination is.
    ignored = _ignores_ciphertext(request)
    if ignored:
        _check_named_key(call, request.source_key_id, "sourceKeyId", "kms:ReEncryptFrom")
    source_key = None if ignored else _find_key(call, source)
    specs.require_usage(key.record, call.operation)
    algorithm = specs.check_encryption_algorithm(key.record, request.destination_encryption_algorithm)
    cipher = CIPHERS[algorithm]
    bound = cipher.bind(request.destination_encryption_context)
    if source_key is None:
        raise DryRunOperationException(DRY_RUN)
    by, opened = _open(call, source, source_key)
    if cipher.fits is not None:
        cipher.fits(key.record.spec, algorithm, len(opened.plaintext))
    if request.dry_run:
        raise DryRunOperationException(DRY_RUN)
    sealed = cipher.seal(call, Keyed(key, permit, algorithm), opened.plaintext, bound)
    call.core.uses.note(call, by.key)
    return ReEncryptResponse(
        ciphertext_blob=sealed.ciphertext,
        source_key_id=by.key.record.arn,
        key_id=key.record.arn,
        source_encryption_algorithm=by.algorithm,
        destination_encryption_algorithm=algorithm,
        source_key_material_id=opened.material_id,
        destination_key_material_id=specs.shown_material(sealed.key.record),
    )


def generate_data_key(call: Call, request: GenerateDataKeyRequest) -> GenerateDataKeyResponse:
    """Generate 1 to 1,024 random bytes on the token; return them and their encryption under the key."""
    if request.recipient is not None:
        raise UnsupportedOperationException(NO_RECIPIENT)
    plaintext, sealed = _data_key(call, request)
    return GenerateDataKeyResponse(
        ciphertext_blob=sealed.ciphertext,
        plaintext=plaintext,
        key_id=sealed.key.record.arn,
        key_material_id=sealed.key.current_material_id,
    )


def generate_data_key_without_plaintext(
    call: Call, request: GenerateDataKeyWithoutPlaintextRequest
) -> GenerateDataKeyWithoutPlaintextResponse:
    """Generate a data key and return only its encryption."""
    _, sealed = _data_key(call, request)
    return GenerateDataKeyWithoutPlaintextResponse(
        ciphertext_blob=sealed.ciphertext,
        key_id=sealed.key.record.arn,
        key_material_id=sealed.key.current_material_id,
    )


def generate_random(call: Call, request: GenerateRandomRequest) -> GenerateRandomResponse:
    """Return 1 to 1,024 bytes of the token's random generator."""
    if request.recipient is not None:
        raise UnsupportedOperationException(NO_RECIPIENT)
    if request.custom_key_store_id is not None:
        raise UnsupportedOperationException(NO_CUSTOM_STORE)
    if request.number_of_bytes is None:
        raise ValidationException("NumberOfBytes is required.")
    permit = call.permit_without_key()
    return GenerateRandomResponse(plaintext=call.core.device.ciphers.random(permit, request.number_of_bytes))


def _data_key(
    call: Call, request: GenerateDataKeyRequest | GenerateDataKeyWithoutPlaintextRequest
) -> tuple[bytes, Sealed]:
    key, permit = call.key(request.key_id, aliases=True)
    specs.require_usage(key.record, call.operation)
    length = specs.data_key_length(request.key_spec, request.number_of_bytes)
    cipher = CIPHERS[EncryptionAlgorithm.SYMMETRIC_DEFAULT]
    bound = cipher.bind(request.encryption_context)
    if request.dry_run:
        raise DryRunOperationException(DRY_RUN)
    plaintext = call.core.device.ciphers.random(permit, length)
    by = Keyed(key, permit, EncryptionAlgorithm.SYMMETRIC_DEFAULT)
    return plaintext, cipher.seal(call, by, plaintext, bound)


class _Source(Struct, frozen=True):
    """A ciphertext with the request's key, algorithm and context, and the action to authorise on its key."""

    ciphertext: bytes | None
    key_id: str | None
    algorithm: str | None
    context: dict[str, str] | None
    action: str


class _SourceKey(Struct, frozen=True):
    """The key of a ciphertext, the permit to use it, and the ciphertext, raw and parsed (None for RSA)."""

    key: CachedKey
    permit: Permit
    ciphertext: bytes
    parsed: blob.Blob | None


def _open(call: Call, source: _Source, known: _SourceKey) -> tuple[Keyed, Opened]:
    """Decrypt a ciphertext with its key."""
    by = Keyed(known.key, known.permit, specs.check_encryption_algorithm(known.key.record, source.algorithm))
    cipher = CIPHERS[by.algorithm]
    return by, cipher.open(call, by, known.ciphertext, known.parsed, cipher.bind(source.context))


def _find_key(call: Call, source: _Source) -> _SourceKey:
    """Find the key of a ciphertext. It must be the request's key, if the request names one."""
    ciphertext = source.ciphertext
    if ciphertext is None:
        raise violation("ciphertextBlob", None, MUST_NOT_BE_NULL)
    if source.key_id is None:
        parsed = _parse_unnamed(ciphertext, source.algorithm)
        key, permit = call.key_of_ciphertext(parsed.key_id, action=source.action)
        specs.require_usage(key.record, call.operation)
        return _SourceKey(key, permit, ciphertext, parsed)
    key, permit = call.key(source.key_id, aliases=True, action=source.action)
    _require_usage(call, key)
    if key.record.spec is not KeySpec.SYMMETRIC_DEFAULT:
        return _SourceKey(key, permit, ciphertext, None)
    parsed = blob.parse(ciphertext)
    if parsed.key_id != key.record.key_id:
        raise IncorrectKeyException(WRONG_KEY)
    return _SourceKey(key, permit, ciphertext, parsed)


def _require_usage(call: Call, key: CachedKey) -> None:
    """Raise IncorrectKeyException for a named key whose usage is not to decrypt."""
    if specs.REQUIRED_USAGE[call.operation] is not key.record.usage:
        raise IncorrectKeyException(WRONG_KEY)


def _parse_unnamed(ciphertext: bytes, algorithm: str | None) -> blob.Blob:
    """Parse a ciphertext of a request without a key, which must name its key itself."""
    try:
        return blob.parse(ciphertext)
    except InvalidCiphertextException:
        specs.check_names_its_key(algorithm)
        raise


def _ignores_ciphertext(request: DecryptRequest | ReEncryptRequest) -> bool:
    """Return True for a dry run that only checks the authorisation (IGNORE_CIPHERTEXT is the only modifier)."""
    if request.dry_run_modifiers and not request.dry_run:
        raise ValidationException("DryRunModifiers needs DryRun: set DryRun to true, or leave the modifiers out.")
    return bool(request.dry_run_modifiers)


def _check_named_key(call: Call, key_id: str | None, member: str, action: str) -> None:
    if key_id is None:
        raise violation(member, None, MUST_NOT_BE_NULL)
    key, _ = call.key(key_id, aliases=True, action=action)
    _require_usage(call, key)
