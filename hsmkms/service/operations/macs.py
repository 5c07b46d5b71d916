"""GenerateMac and VerifyMac. Source: AWS KMS API Reference; RFC 2104."""

import hmac

from hsmkms.errors import DryRunOperationException, KMSInvalidMacException
from hsmkms.model.asymmetric import GenerateMacRequest, GenerateMacResponse, VerifyMacRequest, VerifyMacResponse
from hsmkms.model.enums import MacAlgorithm
from hsmkms.model.permit import Permit
from hsmkms.rules import specs
from hsmkms.service.pipeline import DRY_RUN, Call
from hsmkms.service.runtime.record_cache import CachedKey


def generate_mac(call: Call, request: GenerateMacRequest) -> GenerateMacResponse:
    """Compute the full-length HMAC of a message on the token."""
    key, permit, algorithm = _admitted(call, request)
    if request.dry_run:
        raise DryRunOperationException(DRY_RUN)
    mac = call.device(key).pairs.generate_mac(permit, key.current_cka_id, algorithm, request.message)
    call.core.uses.note(call, key)
    return GenerateMacResponse(mac=mac, mac_algorithm=algorithm, key_id=key.record.arn)


def verify_mac(call: Call, request: VerifyMacRequest) -> VerifyMacResponse:
    """Verify an HMAC: the token computes it again, and the two are compared in constant time."""
    key, permit, algorithm = _admitted(call, request)
    right = call.device(key).pairs.generate_mac(permit, key.current_cka_id, algorithm, request.message)
    if not hmac.compare_digest(right, request.mac):
        raise KMSInvalidMacException
    if request.dry_run:
        raise DryRunOperationException(DRY_RUN)
    call.core.uses.note(call, key)
    return VerifyMacResponse(key_id=key.record.arn, mac_valid=True, mac_algorithm=algorithm)


def _admitted(call: Call, request: GenerateMacRequest | VerifyMacRequest) -> tuple[CachedKey, Permit, MacAlgorithm]:
    key, permit = call.key(request.key_id, aliases=True)
    specs.require_usage(key.record, call.operation)
    return key, permit, specs.check_algorithm(key.record, MacAlgorithm, request.mac_algorithm, "macAlgorithm")
