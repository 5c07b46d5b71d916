"""Sign, Verify and GetPublicKey. Source: AWS KMS API Reference, operation by operation."""

from typing import Final

from hsmkms.errors import (
    DryRunOperationException,
    KMSInvalidSignatureException,
    KMSInvalidStateException,
)
from hsmkms.model.asymmetric import (
    GetPublicKeyRequest,
    GetPublicKeyResponse,
    SignRequest,
    SignResponse,
    VerifyRequest,
    VerifyResponse,
)
from hsmkms.model.enums import MessageType, SigningAlgorithm
from hsmkms.model.shapes import CustomerMasterKeySpec
from hsmkms.rules import messages, specs
from hsmkms.service.pipeline import DRY_RUN, Call
from hsmkms.service.runtime.record_cache import CachedKey

_OLDER_SPECS: Final = frozenset(each.value for each in CustomerMasterKeySpec)


def sign(call: Call, request: SignRequest) -> SignResponse:
    """Sign a message or a digest with the private key, on the token."""
    key, permit = call.key(request.key_id, aliases=True)
    algorithm = _algorithm(call, key, request)
    data = messages.to_sign(algorithm, request.message, request.message_type)
    device = call.device(key)
    device.pairs.check_signing(algorithm)
    if request.dry_run:
        raise DryRunOperationException(DRY_RUN)
    signature = device.pairs.sign(permit, key.current_cka_id, algorithm, data)
    call.core.uses.note(call, key)
    return SignResponse(key_id=key.record.arn, signature=signature, signing_algorithm=algorithm)


def verify(call: Call, request: VerifyRequest) -> VerifyResponse:
    """Verify a signature; KMSInvalidSignatureException if it is invalid in any way."""
    key, permit = call.key(request.key_id, aliases=True)
    algorithm = _algorithm(call, key, request)
    data = messages.to_verify(algorithm, request.message, request.message_type)
    device, record = call.device(key), key.record
    device.pairs.check_signing(algorithm)
    external_mu = request.message_type == MessageType.EXTERNAL_MU
    if not device.pairs.verify(
        permit, key.current_cka_id, record.kind, algorithm, data, request.signature, external_mu=external_mu
    ):
        raise KMSInvalidSignatureException
    if request.dry_run:
        raise DryRunOperationException(DRY_RUN)
    call.core.uses.note(call, key)
    return VerifyResponse(key_id=record.arn, signature_valid=True, signing_algorithm=algorithm)


def get_public_key(call: Call, request: GetPublicKeyRequest) -> GetPublicKeyResponse:
    """Return the public key of a key pair as DER SubjectPublicKeyInfo."""
    key, permit = call.key(request.key_id, aliases=True)
    record = key.record
    specs.require_pair(record)
    if record.current is None or not record.current.present:
        # The state table admits this, but without its material the key has no public half.
        raise KMSInvalidStateException(f"{record.arn} is pending import.")
    public = call.device(key).pairs.public_key(permit, key.current_cka_id, record.kind)
    return GetPublicKeyResponse(
        key_id=record.arn,
        public_key=public,
        customer_master_key_spec=record.spec if record.spec in _OLDER_SPECS else None,
        key_spec=record.spec,
        key_usage=record.usage,
        **specs.reported_algorithms(record),
    )


def _algorithm(call: Call, key: CachedKey, request: SignRequest | VerifyRequest) -> SigningAlgorithm:
    specs.require_usage(key.record, call.operation)
    return specs.check_algorithm(key.record, SigningAlgorithm, request.signing_algorithm, "signingAlgorithm")
