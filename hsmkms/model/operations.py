"""The implemented operations, with the types of their requests and responses."""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from hsmkms.model import (
    aliases,
    asymmetric,
    crypto,
    custom_key_stores,
    deletion,
    grants,
    importing,
    keys,
    policies,
    rotation,
    tags,
)
from hsmkms.model.enums import Operation


class OperationShape(Struct, frozen=True):
    """Types of an operation; ``response`` is None if the API returns no response."""

    request: type[Struct]
    response: type[Struct] | None


OPERATIONS: Final[Mapping[Operation, OperationShape]] = {
    Operation.CANCEL_KEY_DELETION: OperationShape(
        deletion.CancelKeyDeletionRequest, deletion.CancelKeyDeletionResponse
    ),
    Operation.CREATE_ALIAS: OperationShape(aliases.CreateAliasRequest, None),
    Operation.CREATE_GRANT: OperationShape(grants.CreateGrantRequest, grants.CreateGrantResponse),
    Operation.CREATE_KEY: OperationShape(keys.CreateKeyRequest, keys.CreateKeyResponse),
    Operation.DECAPSULATE: OperationShape(asymmetric.DecapsulateRequest, asymmetric.DecapsulateResponse),
    Operation.DECRYPT: OperationShape(crypto.DecryptRequest, crypto.DecryptResponse),
    Operation.DELETE_ALIAS: OperationShape(aliases.DeleteAliasRequest, None),
    Operation.DELETE_IMPORTED_KEY_MATERIAL: OperationShape(
        importing.DeleteImportedKeyMaterialRequest, importing.DeleteImportedKeyMaterialResponse
    ),
    Operation.DERIVE_SHARED_SECRET: OperationShape(
        asymmetric.DeriveSharedSecretRequest, asymmetric.DeriveSharedSecretResponse
    ),
    Operation.DESCRIBE_CUSTOM_KEY_STORES: OperationShape(
        custom_key_stores.DescribeCustomKeyStoresRequest, custom_key_stores.DescribeCustomKeyStoresResponse
    ),
    Operation.DESCRIBE_KEY: OperationShape(keys.DescribeKeyRequest, keys.DescribeKeyResponse),
    Operation.DISABLE_KEY: OperationShape(keys.DisableKeyRequest, None),
    Operation.DISABLE_KEY_ROTATION: OperationShape(rotation.DisableKeyRotationRequest, None),
    Operation.ENABLE_KEY: OperationShape(keys.EnableKeyRequest, None),
    Operation.ENABLE_KEY_ROTATION: OperationShape(rotation.EnableKeyRotationRequest, None),
    Operation.ENCAPSULATE: OperationShape(asymmetric.EncapsulateRequest, asymmetric.EncapsulateResponse),
    Operation.ENCRYPT: OperationShape(crypto.EncryptRequest, crypto.EncryptResponse),
    Operation.GENERATE_DATA_KEY: OperationShape(crypto.GenerateDataKeyRequest, crypto.GenerateDataKeyResponse),
    Operation.GENERATE_DATA_KEY_PAIR: OperationShape(
        crypto.GenerateDataKeyPairRequest, crypto.GenerateDataKeyPairResponse
    ),
    Operation.GENERATE_DATA_KEY_PAIR_WITHOUT_PLAINTEXT: OperationShape(
        crypto.GenerateDataKeyPairWithoutPlaintextRequest, crypto.GenerateDataKeyPairWithoutPlaintextResponse
    ),
    Operation.GENERATE_DATA_KEY_WITHOUT_PLAINTEXT: OperationShape(
        crypto.GenerateDataKeyWithoutPlaintextRequest, crypto.GenerateDataKeyWithoutPlaintextResponse
    ),
    Operation.GENERATE_MAC: OperationShape(asymmetric.GenerateMacRequest, asymmetric.GenerateMacResponse),
    Operation.GENERATE_RANDOM: OperationShape(crypto.GenerateRandomRequest, crypto.GenerateRandomResponse),
    Operation.GET_KEY_LAST_USAGE: OperationShape(deletion.GetKeyLastUsageRequest, deletion.GetKeyLastUsageResponse),
    Operation.GET_KEY_POLICY: OperationShape(policies.GetKeyPolicyRequest, policies.GetKeyPolicyResponse),
    Operation.GET_KEY_ROTATION_STATUS: OperationShape(
        rotation.GetKeyRotationStatusRequest, rotation.GetKeyRotationStatusResponse
    ),
    Operation.GET_PARAMETERS_FOR_IMPORT: OperationShape(
        importing.GetParametersForImportRequest, importing.GetParametersForImportResponse
    ),
    Operation.GET_PUBLIC_KEY: OperationShape(asymmetric.GetPublicKeyRequest, asymmetric.GetPublicKeyResponse),
    Operation.IMPORT_KEY_MATERIAL: OperationShape(
        importing.ImportKeyMaterialRequest, importing.ImportKeyMaterialResponse
    ),
    Operation.LIST_ALIASES: OperationShape(aliases.ListAliasesRequest, aliases.ListAliasesResponse),
    Operation.LIST_GRANTS: OperationShape(grants.ListGrantsRequest, grants.ListGrantsResponse),
    Operation.LIST_KEYS: OperationShape(keys.ListKeysRequest, keys.ListKeysResponse),
    Operation.LIST_KEY_POLICIES: OperationShape(policies.ListKeyPoliciesRequest, policies.ListKeyPoliciesResponse),
    Operation.LIST_KEY_ROTATIONS: OperationShape(rotation.ListKeyRotationsRequest, rotation.ListKeyRotationsResponse),
    Operation.LIST_RESOURCE_TAGS: OperationShape(tags.ListResourceTagsRequest, tags.ListResourceTagsResponse),
    Operation.LIST_RETIRABLE_GRANTS: OperationShape(grants.ListRetirableGrantsRequest, grants.ListGrantsResponse),
    Operation.PUT_KEY_POLICY: OperationShape(policies.PutKeyPolicyRequest, None),
    Operation.REPLICATE_KEY: OperationShape(keys.ReplicateKeyRequest, keys.ReplicateKeyResponse),
    Operation.RE_ENCRYPT: OperationShape(crypto.ReEncryptRequest, crypto.ReEncryptResponse),
    Operation.RETIRE_GRANT: OperationShape(grants.RetireGrantRequest, None),
    Operation.REVOKE_GRANT: OperationShape(grants.RevokeGrantRequest, None),
    Operation.ROTATE_KEY_ON_DEMAND: OperationShape(
        rotation.RotateKeyOnDemandRequest, rotation.RotateKeyOnDemandResponse
    ),
    Operation.SCHEDULE_KEY_DELETION: OperationShape(
        deletion.ScheduleKeyDeletionRequest, deletion.ScheduleKeyDeletionResponse
    ),
    Operation.SIGN: OperationShape(asymmetric.SignRequest, asymmetric.SignResponse),
    Operation.TAG_RESOURCE: OperationShape(tags.TagResourceRequest, None),
    Operation.UNTAG_RESOURCE: OperationShape(tags.UntagResourceRequest, None),
    Operation.UPDATE_ALIAS: OperationShape(aliases.UpdateAliasRequest, None),
    Operation.UPDATE_KEY_DESCRIPTION: OperationShape(keys.UpdateKeyDescriptionRequest, None),
    Operation.UPDATE_PRIMARY_REGION: OperationShape(keys.UpdatePrimaryRegionRequest, None),
    Operation.VERIFY: OperationShape(asymmetric.VerifyRequest, asymmetric.VerifyResponse),
    Operation.VERIFY_MAC: OperationShape(asymmetric.VerifyMacRequest, asymmetric.VerifyMacResponse),
}
