"""Encrypt, Decrypt, ReEncrypt, data keys and random bytes.

Every procedure goes the same way: the call admits the key, the rules check usage, algorithm and sizes, a DryRun stops
here, and then the device acts under the permit. Source: AWS KMS API Reference, operation by operation.
"""

import logging
from typing import Final

from hsmkms.errors import (
    IncorrectKeyException,
    InvalidCiphertextException,
    RejectedDataError,
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
from hsmkms.model.enums import Origin
from hsmkms.model.permit import Permit
from hsmkms.rules import blob, context, specs
from hsmkms.service import rotating
from hsmkms.service.cache import CachedKey
from hsmkms.service.pipeline import Call

log = logging.getLogger("hsmkms.service")

WRONG_KEY: Final = "The key ID in the request does not identify a CMK that can perform this operation."
NO_RECIPIENT: Final = "Recipient needs an AWS Nitro attestation, which hsmkms cannot verify: leave it out."
NO_CUSTOM_STORE: Final = "hsmkms has no custom key stores: leave CustomKeyStoreId out."


def encrypt(call: Call, request: EncryptRequest) -> EncryptResponse:
    """Encrypt 1 to 4,096 bytes under the current material of a key."""
    key, permit = call.key(request.key_id, aliases=True)
    specs.require_usage(key.record, call.operation)
    algorithm = specs.check_encryption_algorithm(key.record, request.encryption_algorithm)
    aad = key.current_header + context.canonical(request.encryption_context)
    call.stop_if(dry_run=request.dry_run)
    sealed = _seal(call, key, permit, request.plaintext, aad)
    return EncryptResponse(
        ciphertext_blob=sealed,
        key_id=key.record.arn,
        encryption_algorithm=algorithm,
    )


def decrypt(call: Call, request: DecryptRequest) -> DecryptResponse:
    """Decrypt a ciphertext with the material that it names."""
    if request.recipient is not None:
        raise UnsupportedOperationException(NO_RECIPIENT)
    if _ignores_ciphertext(request):
        _check_named_key(call, request.key_id, "keyId", "kms:Decrypt")
        call.stop_if(dry_run=request.dry_run)
    key, permit, parsed = _find_source(call, request.ciphertext_blob, request.key_id, "kms:Decrypt")
    algorithm = specs.check_encryption_algorithm(key.record, request.encryption_algorithm)
    plaintext = _open(call, key, permit, parsed, request.encryption_context)
    call.stop_if(dry_run=request.dry_run)
    call.used(key)
    return DecryptResponse(
        key_id=key.record.arn,
        plaintext=plaintext,
        encryption_algorithm=algorithm,
        key_material_id=parsed.material_id,
    )


def re_encrypt(call: Call, request: ReEncryptRequest) -> ReEncryptResponse:
    """Decrypt under one key and encrypt under another; the plaintext stays inside."""
    target, target_permit = call.key(request.destination_key_id, aliases=True, action="kms:ReEncryptTo")
    specs.require_usage(target.record, call.operation)
    target_algorithm = specs.check_encryption_algorithm(target.record, request.destination_encryption_algorithm)
    aad = target.current_header + context.canonical(request.destination_encryption_context)
    if _ignores_ciphertext(request):
        _check_named_key(call, request.source_key_id, "sourceKeyId", "kms:ReEncryptFrom")
        call.stop_if(dry_run=request.dry_run)
    source, permit, parsed = _find_source(call, request.ciphertext_blob, request.source_key_id, "kms:ReEncryptFrom")
    source_algorithm = specs.check_encryption_algorithm(source.record, request.source_encryption_algorithm)
    plaintext = _open(call, source, permit, parsed, request.source_encryption_context)
    call.stop_if(dry_run=request.dry_run)
    sealed = _seal(call, target, target_permit, plaintext, aad)
    call.used(source)
    return ReEncryptResponse(
        ciphertext_blob=sealed,
        source_key_id=source.record.arn,
        key_id=target.record.arn,
        source_encryption_algorithm=source_algorithm,
        destination_encryption_algorithm=target_algorithm,
        source_key_material_id=parsed.material_id,
        destination_key_material_id=target.current_material_id,
    )


def generate_data_key(call: Call, request: GenerateDataKeyRequest) -> GenerateDataKeyResponse:
    """Make 1 to 1,024 random bytes on the token; return them and their encryption under the key."""
    if request.recipient is not None:
        raise UnsupportedOperationException(NO_RECIPIENT)
    plaintext, sealed, key = _data_key(call, request)
    return GenerateDataKeyResponse(
        ciphertext_blob=sealed,
        plaintext=plaintext,
        key_id=key.record.arn,
        key_material_id=key.current_material_id,
    )


def generate_data_key_without_plaintext(
    call: Call, request: GenerateDataKeyWithoutPlaintextRequest
) -> GenerateDataKeyWithoutPlaintextResponse:
    """Make a data key and return its encryption only."""
    _, sealed, key = _data_key(call, request)
    return GenerateDataKeyWithoutPlaintextResponse(
        ciphertext_blob=sealed, key_id=key.record.arn, key_material_id=key.current_material_id
    )


def generate_random(call: Call, request: GenerateRandomRequest) -> GenerateRandomResponse:
    """Return 1 to 1,024 bytes of the token's random generator."""
    if request.recipient is not None:
        raise UnsupportedOperationException(NO_RECIPIENT)
    if request.custom_key_store_id is not None:
        raise UnsupportedOperationException(NO_CUSTOM_STORE)
    if request.number_of_bytes is None:
        raise ValidationException("NumberOfBytes is required.")
    permit = call.account()
    return GenerateRandomResponse(plaintext=call.core.device.random(permit, request.number_of_bytes))


def _data_key(
    call: Call, request: GenerateDataKeyRequest | GenerateDataKeyWithoutPlaintextRequest
) -> tuple[bytes, bytes, CachedKey]:
    key, permit = call.key(request.key_id, aliases=True)
    specs.require_usage(key.record, call.operation)
    length = specs.data_key_length(request.key_spec, request.number_of_bytes)
    aad = key.current_header + context.canonical(request.encryption_context)
    call.stop_if(dry_run=request.dry_run)
    plaintext = call.core.device.random(permit, length)
    return plaintext, _seal(call, key, permit, plaintext, aad), key


def _seal(call: Call, key: CachedKey, permit: Permit, plaintext: bytes, aad: bytes) -> bytes:
    leases, material_id = call.core.leases, key.current_material_id
    iv, body = call.core.device.encrypt(
        permit, key.current_cka_id, plaintext, aad, count=lambda: leases.spend(material_id)
    )
    call.used(key)
    if material_id in leases.nearly_spent:
        _follow_up(call, key)
    return blob.assemble(key.current_header, iv, body)


def _follow_up(call: Call, key: CachedKey) -> None:
    """Material has made so many encryptions that generated keys rotate, and of imported ones the operator is told."""
    record, material_id = key.record, key.current_material_id
    share = call.core.leases.nearly_spent.pop(material_id, None)
    if record.origin is Origin.AWS_KMS:
        rotating.rotate_early(call.core, record.key_id, record.region, material_id)
    elif share is not None and share.crossed:
        log.warning(
            "the imported material %s of key %s has used %d %% of the encryptions that AES-GCM allows: "
            "create a new key and move the alias to it",
            *(material_id, record.key_id, share.percent),
        )


def _find_source(
    call: Call, ciphertext: bytes | None, named: str | None, action: str
) -> tuple[CachedKey, Permit, blob.Blob]:
    """The key of a ciphertext, which must be the one that the caller named, if any was named."""
    if ciphertext is None:
        raise violation("ciphertextBlob", None, MUST_NOT_BE_NULL)
    if named is None:
        parsed = blob.parse(ciphertext)
        key, permit = call.key_of_ciphertext(parsed.key_id, action=action)
        specs.require_usage(key.record, call.operation)
        return key, permit, parsed
    key, permit = call.key(named, aliases=True, action=action)
    if specs.REQUIRED_USAGE[call.operation] is not key.record.usage:
        raise IncorrectKeyException(WRONG_KEY)
    parsed = blob.parse(ciphertext)
    if parsed.key_id != key.record.key_id:
        raise IncorrectKeyException(WRONG_KEY)
    return key, permit, parsed


def _open(
    call: Call, key: CachedKey, permit: Permit, parsed: blob.Blob, encryption_context: dict[str, str] | None
) -> bytes:
    material = key.record.material(parsed.material_id)
    if material is None:
        raise InvalidCiphertextException
    aad = parsed.header + context.canonical(encryption_context)
    try:
        return call.core.device.decrypt(permit, material.cka_id, parsed.iv, parsed.body, aad)
    except RejectedDataError as exc:
        raise InvalidCiphertextException from exc


def _ignores_ciphertext(request: DecryptRequest | ReEncryptRequest) -> bool:
    """True for a dry run that asks for the authorisation only (IGNORE_CIPHERTEXT is the one modifier there is)."""
    if request.dry_run_modifiers and not request.dry_run:
        raise ValidationException("DryRunModifiers needs DryRun: set DryRun to true, or leave the modifiers out.")
    return bool(request.dry_run_modifiers)


def _check_named_key(call: Call, key_id: str | None, member: str, action: str) -> None:
    if key_id is None:
        raise violation(member, None, MUST_NOT_BE_NULL)
    key, _ = call.key(key_id, aliases=True, action=action)
    specs.require_usage(key.record, call.operation)
