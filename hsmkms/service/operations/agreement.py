"""DeriveSharedSecret; Encapsulate and Decapsulate, which no supported token can do. Source: AWS KMS API Reference."""

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
from hsmkms.rules import specs
from hsmkms.service.operations.crypto import NO_RECIPIENT
from hsmkms.service.pipeline import DRY_RUN, Call

NO_ML_KEM: Final = "hsmkms knows no token that has ML-KEM: it keeps no keys of KeyUsage ENCAPSULATE_DECAPSULATE."

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
    """Refuse, after the checks of every other operation, so that a key of another usage gets that error first."""
    raise _refused(call, request)


def decapsulate(call: Call, request: DecapsulateRequest) -> DecapsulateResponse:
    """Refuse as ``encapsulate`` does."""
    raise _refused(call, request)


def _refused(call: Call, request: EncapsulateRequest | DecapsulateRequest) -> Exception:
    key, _ = call.key(request.key_id, aliases=True)
    specs.require_usage(key.record, call.operation)
    specs.check_algorithm(key.record, EncapsulationAlgorithm, request.encapsulation_algorithm, "encapsulationAlgorithm")
    return UnsupportedOperationException(NO_ML_KEM)
