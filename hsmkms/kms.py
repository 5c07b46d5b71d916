"""`Kms`: one short method for each operation of the API."""

import threading
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import msgspec
from msgspec import Struct

from hsmkms.errors import ClosedError
from hsmkms.kms_permissions import PermissionOperations
from hsmkms.model.aliases import (
    CreateAliasRequest,
    DeleteAliasRequest,
    ListAliasesRequest,
    ListAliasesResponse,
    UpdateAliasRequest,
)
from hsmkms.model.asymmetric import (
    DecapsulateRequest,
    DecapsulateResponse,
    DeriveSharedSecretRequest,
    DeriveSharedSecretResponse,
    EncapsulateRequest,
    EncapsulateResponse,
    GenerateMacRequest,
    GenerateMacResponse,
    GetPublicKeyRequest,
    GetPublicKeyResponse,
    SignRequest,
    SignResponse,
    VerifyMacRequest,
    VerifyMacResponse,
    VerifyRequest,
    VerifyResponse,
)
from hsmkms.model.caller import Caller, local_root
from hsmkms.model.crypto import (
    DecryptRequest,
    DecryptResponse,
    EncryptRequest,
    EncryptResponse,
    GenerateDataKeyPairRequest,
    GenerateDataKeyPairResponse,
    GenerateDataKeyPairWithoutPlaintextRequest,
    GenerateDataKeyPairWithoutPlaintextResponse,
    GenerateDataKeyRequest,
    GenerateDataKeyResponse,
    GenerateDataKeyWithoutPlaintextRequest,
    GenerateDataKeyWithoutPlaintextResponse,
    GenerateRandomRequest,
    GenerateRandomResponse,
    ReEncryptRequest,
    ReEncryptResponse,
)
from hsmkms.model.custom_key_stores import DescribeCustomKeyStoresRequest, DescribeCustomKeyStoresResponse
from hsmkms.model.deletion import (
    CancelKeyDeletionRequest,
    CancelKeyDeletionResponse,
    GetKeyLastUsageRequest,
    GetKeyLastUsageResponse,
    ScheduleKeyDeletionRequest,
    ScheduleKeyDeletionResponse,
)
from hsmkms.model.enums import Operation
from hsmkms.model.importing import (
    DeleteImportedKeyMaterialRequest,
    DeleteImportedKeyMaterialResponse,
    GetParametersForImportRequest,
    GetParametersForImportResponse,
    ImportKeyMaterialRequest,
    ImportKeyMaterialResponse,
)
from hsmkms.model.keys import (
    CreateKeyRequest,
    CreateKeyResponse,
    DescribeKeyRequest,
    DescribeKeyResponse,
    DisableKeyRequest,
    EnableKeyRequest,
    ListKeysRequest,
    ListKeysResponse,
    ReplicateKeyRequest,
    ReplicateKeyResponse,
    UpdateKeyDescriptionRequest,
    UpdatePrimaryRegionRequest,
)
from hsmkms.model.rotation import (
    DisableKeyRotationRequest,
    EnableKeyRotationRequest,
    GetKeyRotationStatusRequest,
    GetKeyRotationStatusResponse,
    ListKeyRotationsRequest,
    ListKeyRotationsResponse,
    RotateKeyOnDemandRequest,
    RotateKeyOnDemandResponse,
)
from hsmkms.model.tags import (
    ListResourceTagsRequest,
    ListResourceTagsResponse,
    TagResourceRequest,
    UntagResourceRequest,
)
from hsmkms.service.audit.sealing import seal_quietly
from hsmkms.service.operations import (
    agreement,
    aliases,
    crypto,
    custom_key_stores,
    data_key_pairs,
    deletion,
    imports,
    keys,
    macs,
    multi_region,
    rotation,
    signing,
    tags,
)
from hsmkms.service.pipeline import Procedure, run_audited
from hsmkms.service.runtime.core import Core

if TYPE_CHECKING:
    from hsmkms.service.operator.operator import Operator

Request = TypeVar("Request", bound=Struct)
Response = TypeVar("Response")


class Kms(PermissionOperations):
    """A key management service on a token, or on several.

    Open one for each process and share it among threads::

        from hsmkms import Kms
        from hsmkms.model.crypto import EncryptRequest

        with Kms.open("hsmkms.toml") as kms:
            sealed = kms.encrypt(EncryptRequest(key_id="alias/photos", plaintext=b"...")).ciphertext_blob

    Methods carry the names of the API's operations, take its request and return its response (None where the API
    answers nothing); their rules are those of the AWS KMS API Reference. ``caller`` says for whom and for which
    region; without one the account's root calls in the default region. Every error that a request can cause is an
    ``hsmkms.errors.HsmKmsError`` with the AWS error code. A forked child must open its own ``Kms``.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._root = local_root(core.installation.account, core.installation.default_region)
        self._closed = False
        self._closing = threading.Lock()

    @cached_property
    def operator(self) -> "Operator":
        """What the operator may do besides the API: attest, reconcile, look at the token."""
        from hsmkms.service.operator.operator import Operator  # noqa: PLC0415 - most commands of the API do without

        return Operator(self._core)

    @classmethod
    def open(cls, config: Path | str | None = None) -> Self:
        """Open the installation that a configuration file describes.

        Without a path the file is looked for as the command line does: ``$HSMKMS_CONFIG``, ``./hsmkms.toml``, the
        user's and the system's place. Raises SetupError (configuration, token, PIN, database) or TokenError.
        """
        from hsmkms.wiring.core import open_core  # noqa: PLC0415 - wiring loads every layer below; only this needs it

        return cls(open_core(Path(config) if config is not None else None))

    def close(self) -> None:
        """Return unused leases, log out, and let database and token go. A second call does nothing."""
        with self._closing:
            closed_before, self._closed = self._closed, True
        if not closed_before:
            with ExitStack() as rest:  # whatever fails on the way, the token is logged out of
                rest.callback(self._core.tokens.close)
                rest.callback(self._core.store.close)
                rest.callback(self._core.cache.close)
                rest.callback(self._end_log)
                rest.callback(self._core.uses.write)
                self._core.leases.give_back()

    def _end_log(self) -> None:
        """Bring the audit log to the disk and seal it, if this process has written to it."""
        audit = self._core.audit
        if audit.used:
            audit.close()
            seal_quietly(self._core)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def caller(self, region: str | None = None, user: str | None = None) -> Caller:
        """Return the root, or a user by name, as a caller in ``region``. NotFoundException for an unknown user."""
        installation = self._core.installation
        root = local_root(installation.account, region or installation.default_region)
        if user is None:
            return root
        return msgspec.structs.replace(root, principal=self.operator.identities.user(user).arn)

    # -- keys ---------------------------------------------------------------------------------------------------

    def create_key(self, request: CreateKeyRequest, caller: Caller | None = None) -> CreateKeyResponse:
        """Make a KMS key with a backing key on the token."""
        return self._audited(Operation.CREATE_KEY, keys.create_key, request, caller)

    def describe_key(self, request: DescribeKeyRequest, caller: Caller | None = None) -> DescribeKeyResponse:
        """Tell the metadata of a key."""
        return self._audited(Operation.DESCRIBE_KEY, keys.describe_key, request, caller)

    def list_keys(self, request: ListKeysRequest, caller: Caller | None = None) -> ListKeysResponse:
        """List the keys of the region."""
        return self._audited(Operation.LIST_KEYS, keys.list_keys, request, caller)

    def update_key_description(self, request: UpdateKeyDescriptionRequest, caller: Caller | None = None) -> None:
        """Replace a key's description."""
        return self._audited(Operation.UPDATE_KEY_DESCRIPTION, keys.update_key_description, request, caller)

    def enable_key(self, request: EnableKeyRequest, caller: Caller | None = None) -> None:
        """Make a disabled key usable again."""
        return self._audited(Operation.ENABLE_KEY, keys.enable_key, request, caller)

    def disable_key(self, request: DisableKeyRequest, caller: Caller | None = None) -> None:
        """Make a key unusable at the next call of every process."""
        return self._audited(Operation.DISABLE_KEY, keys.disable_key, request, caller)

    def describe_custom_key_stores(
        self, request: DescribeCustomKeyStoresRequest, caller: Caller | None = None
    ) -> DescribeCustomKeyStoresResponse:
        """List the custom key stores: there are none."""
        return self._audited(
            Operation.DESCRIBE_CUSTOM_KEY_STORES, custom_key_stores.describe_custom_key_stores, request, caller
        )

    # -- multi-Region keys --------------------------------------------------------------------------------------

    def replicate_key(self, request: ReplicateKeyRequest, caller: Caller | None = None) -> ReplicateKeyResponse:
        """Make a replica of a multi-Region primary key in another region."""
        return self._audited(Operation.REPLICATE_KEY, multi_region.replicate_key, request, caller)

    def update_primary_region(self, request: UpdatePrimaryRegionRequest, caller: Caller | None = None) -> None:
        """Make a replica the primary key of its set."""
        return self._audited(Operation.UPDATE_PRIMARY_REGION, multi_region.update_primary_region, request, caller)

    # -- rotation -----------------------------------------------------------------------------------------------

    def enable_key_rotation(self, request: EnableKeyRotationRequest, caller: Caller | None = None) -> None:
        """Switch automatic rotation on."""
        return self._audited(Operation.ENABLE_KEY_ROTATION, rotation.enable_key_rotation, request, caller)

    def disable_key_rotation(self, request: DisableKeyRotationRequest, caller: Caller | None = None) -> None:
        """Switch automatic rotation off."""
        return self._audited(Operation.DISABLE_KEY_ROTATION, rotation.disable_key_rotation, request, caller)

    def get_key_rotation_status(
        self, request: GetKeyRotationStatusRequest, caller: Caller | None = None
    ) -> GetKeyRotationStatusResponse:
        """Tell whether, and when, a key rotates."""
        return self._audited(Operation.GET_KEY_ROTATION_STATUS, rotation.get_key_rotation_status, request, caller)

    def rotate_key_on_demand(
        self, request: RotateKeyOnDemandRequest, caller: Caller | None = None
    ) -> RotateKeyOnDemandResponse:
        """Rotate a key now."""
        return self._audited(Operation.ROTATE_KEY_ON_DEMAND, rotation.rotate_key_on_demand, request, caller)

    def list_key_rotations(
        self, request: ListKeyRotationsRequest, caller: Caller | None = None
    ) -> ListKeyRotationsResponse:
        """List the rotations of a key, or all its key materials."""
        return self._audited(Operation.LIST_KEY_ROTATIONS, rotation.list_key_rotations, request, caller)

    # -- imported key material ----------------------------------------------------------------------------------

    def get_parameters_for_import(
        self, request: GetParametersForImportRequest, caller: Caller | None = None
    ) -> GetParametersForImportResponse:
        """Get a wrapping key and an import token, good for 24 hours."""
        return self._audited(Operation.GET_PARAMETERS_FOR_IMPORT, imports.get_parameters_for_import, request, caller)

    def import_key_material(
        self, request: ImportKeyMaterialRequest, caller: Caller | None = None
    ) -> ImportKeyMaterialResponse:
        """Bring wrapped key material in."""
        return self._audited(Operation.IMPORT_KEY_MATERIAL, imports.import_key_material, request, caller)

    def delete_imported_key_material(
        self, request: DeleteImportedKeyMaterialRequest, caller: Caller | None = None
    ) -> DeleteImportedKeyMaterialResponse:
        """Destroy imported key material at once."""
        return self._audited(
            Operation.DELETE_IMPORTED_KEY_MATERIAL, imports.delete_imported_key_material, request, caller
        )

    # -- deletion -----------------------------------------------------------------------------------------------

    def schedule_key_deletion(
        self, request: ScheduleKeyDeletionRequest, caller: Caller | None = None
    ) -> ScheduleKeyDeletionResponse:
        """Delete a key after a waiting period."""
        return self._audited(Operation.SCHEDULE_KEY_DELETION, deletion.schedule_key_deletion, request, caller)

    def cancel_key_deletion(
        self, request: CancelKeyDeletionRequest, caller: Caller | None = None
    ) -> CancelKeyDeletionResponse:
        """Keep a key whose deletion is scheduled."""
        return self._audited(Operation.CANCEL_KEY_DELETION, deletion.cancel_key_deletion, request, caller)

    def get_key_last_usage(
        self, request: GetKeyLastUsageRequest, caller: Caller | None = None
    ) -> GetKeyLastUsageResponse:
        """Tell when a key was last used."""
        return self._audited(Operation.GET_KEY_LAST_USAGE, deletion.get_key_last_usage, request, caller)

    # -- aliases ------------------------------------------------------------------------------------------------

    def create_alias(self, request: CreateAliasRequest, caller: Caller | None = None) -> None:
        """Give a key a name."""
        return self._audited(Operation.CREATE_ALIAS, aliases.create_alias, request, caller)

    def update_alias(self, request: UpdateAliasRequest, caller: Caller | None = None) -> None:
        """Move a name to another key."""
        return self._audited(Operation.UPDATE_ALIAS, aliases.update_alias, request, caller)

    def delete_alias(self, request: DeleteAliasRequest, caller: Caller | None = None) -> None:
        """Take a name away."""
        return self._audited(Operation.DELETE_ALIAS, aliases.delete_alias, request, caller)

    def list_aliases(self, request: ListAliasesRequest, caller: Caller | None = None) -> ListAliasesResponse:
        """List the aliases of the region or of one key."""
        return self._audited(Operation.LIST_ALIASES, aliases.list_aliases, request, caller)

    # -- tags ---------------------------------------------------------------------------------------------------

    def tag_resource(self, request: TagResourceRequest, caller: Caller | None = None) -> None:
        """Add or replace tags of a key."""
        return self._audited(Operation.TAG_RESOURCE, tags.tag_resource, request, caller)

    def untag_resource(self, request: UntagResourceRequest, caller: Caller | None = None) -> None:
        """Remove tags of a key."""
        return self._audited(Operation.UNTAG_RESOURCE, tags.untag_resource, request, caller)

    def list_resource_tags(
        self, request: ListResourceTagsRequest, caller: Caller | None = None
    ) -> ListResourceTagsResponse:
        """List the tags of a key."""
        return self._audited(Operation.LIST_RESOURCE_TAGS, tags.list_resource_tags, request, caller)

    # -- cryptography -------------------------------------------------------------------------------------------

    def encrypt(self, request: EncryptRequest, caller: Caller | None = None) -> EncryptResponse:
        """Encrypt 1 to 4,096 bytes."""
        return self._audited(Operation.ENCRYPT, crypto.encrypt, request, caller)

    def decrypt(self, request: DecryptRequest, caller: Caller | None = None) -> DecryptResponse:
        """Decrypt what Encrypt, ReEncrypt or GenerateDataKey returned."""
        return self._audited(Operation.DECRYPT, crypto.decrypt, request, caller)

    def re_encrypt(self, request: ReEncryptRequest, caller: Caller | None = None) -> ReEncryptResponse:
        """Move a ciphertext to another key, to the newest material, or to another encryption context."""
        return self._audited(Operation.RE_ENCRYPT, crypto.re_encrypt, request, caller)

    def generate_data_key(
        self, request: GenerateDataKeyRequest, caller: Caller | None = None
    ) -> GenerateDataKeyResponse:
        """Make a data key: in the clear, and encrypted under a KMS key."""
        return self._audited(Operation.GENERATE_DATA_KEY, crypto.generate_data_key, request, caller)

    def generate_data_key_without_plaintext(
        self, request: GenerateDataKeyWithoutPlaintextRequest, caller: Caller | None = None
    ) -> GenerateDataKeyWithoutPlaintextResponse:
        """Make a data key, encrypted only."""
        return self._audited(
            Operation.GENERATE_DATA_KEY_WITHOUT_PLAINTEXT, crypto.generate_data_key_without_plaintext, request, caller
        )

    def generate_data_key_pair(
        self, request: GenerateDataKeyPairRequest, caller: Caller | None = None
    ) -> GenerateDataKeyPairResponse:
        """Make a key pair: its private key in the clear, and encrypted under a KMS key."""
        return self._audited(Operation.GENERATE_DATA_KEY_PAIR, data_key_pairs.generate_data_key_pair, request, caller)

    def generate_data_key_pair_without_plaintext(
        self, request: GenerateDataKeyPairWithoutPlaintextRequest, caller: Caller | None = None
    ) -> GenerateDataKeyPairWithoutPlaintextResponse:
        """Make a key pair, its private key encrypted only."""
        return self._audited(
            Operation.GENERATE_DATA_KEY_PAIR_WITHOUT_PLAINTEXT,
            data_key_pairs.generate_data_key_pair_without_plaintext,
            request,
            caller,
        )

    def generate_random(self, request: GenerateRandomRequest, caller: Caller | None = None) -> GenerateRandomResponse:
        """Draw 1 to 1,024 bytes from the token's random generator."""
        return self._audited(Operation.GENERATE_RANDOM, crypto.generate_random, request, caller)

    # -- key pairs and HMAC keys ----------------------------------------------------------------------------------

    def sign(self, request: SignRequest, caller: Caller | None = None) -> SignResponse:
        """Sign a message, or a digest."""
        return self._audited(Operation.SIGN, signing.sign, request, caller)

    def verify(self, request: VerifyRequest, caller: Caller | None = None) -> VerifyResponse:
        """Verify a signature; KMSInvalidSignatureException for a wrong one."""
        return self._audited(Operation.VERIFY, signing.verify, request, caller)

    def get_public_key(self, request: GetPublicKeyRequest, caller: Caller | None = None) -> GetPublicKeyResponse:
        """Tell the public half of a key pair."""
        return self._audited(Operation.GET_PUBLIC_KEY, signing.get_public_key, request, caller)

    def generate_mac(self, request: GenerateMacRequest, caller: Caller | None = None) -> GenerateMacResponse:
        """Make an HMAC."""
        return self._audited(Operation.GENERATE_MAC, macs.generate_mac, request, caller)

    def verify_mac(self, request: VerifyMacRequest, caller: Caller | None = None) -> VerifyMacResponse:
        """Verify an HMAC; KMSInvalidMacException for a wrong one."""
        return self._audited(Operation.VERIFY_MAC, macs.verify_mac, request, caller)

    def derive_shared_secret(
        self, request: DeriveSharedSecretRequest, caller: Caller | None = None
    ) -> DeriveSharedSecretResponse:
        """Agree on a secret with the holder of another key."""
        return self._audited(Operation.DERIVE_SHARED_SECRET, agreement.derive_shared_secret, request, caller)

    def encapsulate(self, request: EncapsulateRequest, caller: Caller | None = None) -> EncapsulateResponse:
        """Generate a secret, encapsulated for an ML-KEM key."""
        return self._audited(Operation.ENCAPSULATE, agreement.encapsulate, request, caller)

    def decapsulate(self, request: DecapsulateRequest, caller: Caller | None = None) -> DecapsulateResponse:
        """Recover a secret that was encapsulated for an ML-KEM key."""
        return self._audited(Operation.DECAPSULATE, agreement.decapsulate, request, caller)

    def _audited(
        self, operation: Operation, procedure: Procedure[Request, Response], request: Request, caller: Caller | None
    ) -> Response:
        if self._closed:
            raise ClosedError("this Kms has been closed: open a new one")
        return run_audited(self._core, operation, procedure, request, caller or self._root)
