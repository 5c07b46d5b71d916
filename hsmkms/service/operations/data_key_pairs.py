"""GenerateDataKeyPair in both forms. Source: AWS KMS API Reference."""

from hsmkms.errors import DryRunOperationException, UnsupportedOperationException
from hsmkms.model.crypto import (
    GenerateDataKeyPairRequest,
    GenerateDataKeyPairResponse,
    GenerateDataKeyPairWithoutPlaintextRequest,
    GenerateDataKeyPairWithoutPlaintextResponse,
)
from hsmkms.model.enums import EncryptionAlgorithm, KeySpec
from hsmkms.rules import specs
from hsmkms.service.operations.ciphers import CIPHERS, Keyed
from hsmkms.service.operations.crypto import NO_RECIPIENT
from hsmkms.service.pipeline import DRY_RUN, Call


def generate_data_key_pair(call: Call, request: GenerateDataKeyPairRequest) -> GenerateDataKeyPairResponse:
    """Generate a key pair on the token; return its private key in the clear and encrypted under the key."""
    if request.recipient is not None:
        raise UnsupportedOperationException(NO_RECIPIENT)
    private, made = _data_key_pair(call, request)
    return GenerateDataKeyPairResponse(
        private_key_ciphertext_blob=made.private_key_ciphertext_blob,
        private_key_plaintext=private,
        public_key=made.public_key,
        key_id=made.key_id,
        key_pair_spec=made.key_pair_spec,
        key_material_id=made.key_material_id,
    )


def generate_data_key_pair_without_plaintext(
    call: Call, request: GenerateDataKeyPairWithoutPlaintextRequest
) -> GenerateDataKeyPairWithoutPlaintextResponse:
    """Generate a key pair and return its private key only encrypted."""
    _, made = _data_key_pair(call, request)
    return made


def _data_key_pair(
    call: Call, request: GenerateDataKeyPairRequest | GenerateDataKeyPairWithoutPlaintextRequest
) -> tuple[bytes, GenerateDataKeyPairWithoutPlaintextResponse]:
    """Return the private key in the clear, and the response without it."""
    key, permit = call.key(request.key_id, aliases=True)
    specs.require_usage(key.record, call.operation)
    spec, device = KeySpec(request.key_pair_spec), call.core.device
    device.pairs.check_data_key_pair(spec)
    cipher = CIPHERS[EncryptionAlgorithm.SYMMETRIC_DEFAULT]
    bound = cipher.bind(request.encryption_context)
    if request.dry_run:
        raise DryRunOperationException(DRY_RUN)
    pair = device.pairs.data_key_pair(permit, spec)
    by = Keyed(key, permit, EncryptionAlgorithm.SYMMETRIC_DEFAULT)
    sealed = cipher.seal(call, by, pair.private, bound)
    return pair.private, GenerateDataKeyPairWithoutPlaintextResponse(
        private_key_ciphertext_blob=sealed.ciphertext,
        public_key=pair.public,
        key_id=key.record.arn,
        key_pair_spec=spec,
        key_material_id=sealed.key.current_material_id,
    )
