"""DeriveSharedSecret, Encapsulate and Decapsulate. Source: AWS KMS API Reference."""

from typing import Final

from hsmkms.errors import (
    DryRunOperationException,
    RejectedDataError,
    UnsupportedOperationException,
    ValidationException,
    silently,
)
from hsmkms.model.asymmetric import (
    DecapsulateRequest,
    DecapsulateResponse,
    DeriveSharedSecretRequest,
    DeriveSharedSecretResponse,
    EncapsulateRequest,
    EncapsulateResponse,
)
from hsmkms.model.enums import EncapsulationAlgorithm, KeyAgreementAlgorithm
from hsmkms.rules import messages, specs
from hsmkms.service.operations.crypto import NO_RECIPIENT
from hsmkms.service.pipeline import DRY_RUN, Call
from hsmkms.service.runtime.record_cache import CachedKey

NO_PEER: Final = "PublicKey must be the DER SubjectPublicKeyInfo of a key on the curve of {spec}."


def derive_shared_secret(call: Call, request: DeriveSharedSecretRequest) -> DeriveSharedSecretResponse:
    """Derive the secret shared with the owner of a public key, on the token. It is raw: apply a KDF to derive keys."""
    if request.recipient is not None:
        raise UnsupportedOperationException(NO_RECIPIENT)
    key, permit = call.key(request.key_id, aliases=True)
    record = key.record
    specs.require_usage(record, call.operation)
    algorithm = specs.check_algorithm(
        record, KeyAgreementAlgorithm, request.key_agreement_algorithm, "keyAgreementAlgorithm"
    )
    device = call.device(key)
    try:
        peer = device.pairs.peer_key(record.spec, request.public_key)
    except RejectedDataError as exc:
        raise silently(ValidationException(NO_PEER.format(spec=record.spec))) from exc
    if request.dry_run:
        raise DryRunOperationException(DRY_RUN)
    secret = device.pairs.agree(permit, key.current_cka_id, record.spec, peer)
    call.core.uses.note(call, key)
    return DeriveSharedSecretResponse(
        key_id=record.arn, shared_secret=secret, key_agreement_algorithm=algorithm, key_origin=record.origin
    )


def encapsulate(call: Call, request: EncapsulateRequest) -> EncapsulateResponse:
    """Generate a secret, and its ciphertext that only the private key on the token opens."""
    key, permit = call.key(request.key_id, aliases=True)
    algorithm = _encapsulation(call, key, request)
    device = call.device(key)
    if request.dry_run:
        raise DryRunOperationException(DRY_RUN)
    made = device.pairs.encapsulate(permit, key.current_cka_id, key.record.kind)
    call.core.uses.note(call, key)
    return EncapsulateResponse(
        key_id=key.record.arn,
        shared_secret=made.secret,
        shared_secret_ciphertext_blob=made.ciphertext,
        encapsulation_algorithm=algorithm,
    )


def decapsulate(call: Call, request: DecapsulateRequest) -> DecapsulateResponse:
    """Recover an encapsulated secret, on the token. An altered ciphertext of the right length gives another secret."""
    key, permit = call.key(request.key_id, aliases=True)
    algorithm = _encapsulation(call, key, request)
    device = call.device(key)
    messages.check_encapsulated(key.record.spec, len(request.shared_secret_ciphertext_blob))
    if request.dry_run:
        raise DryRunOperationException(DRY_RUN)
    secret = device.pairs.decapsulate(permit, key.current_cka_id, request.shared_secret_ciphertext_blob)
    call.core.uses.note(call, key)
    return DecapsulateResponse(key_id=key.record.arn, shared_secret=secret, encapsulation_algorithm=algorithm)


def _encapsulation(
    call: Call, key: CachedKey, request: EncapsulateRequest | DecapsulateRequest
) -> EncapsulationAlgorithm:
    specs.require_usage(key.record, call.operation)
    return specs.check_algorithm(
        key.record, EncapsulationAlgorithm, request.encapsulation_algorithm, "encapsulationAlgorithm"
    )
