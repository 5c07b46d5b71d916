"""One installation as it is seen from one region: every operation by its name, with the members of its request."""

from collections.abc import Callable
from typing import Any

import wrapped
from lifecycle import ALGORITHM, MATERIAL

from hsmkms.kms import Kms
from hsmkms.model.enums import ExpirationModel, WrappingKeySpec
from hsmkms.model.importing import GetParametersForImportResponse, ImportKeyMaterialRequest
from hsmkms.model.keys import KeyMetadata, MultiRegionConfiguration
from hsmkms.model.operations import OPERATIONS

_parameters: dict[tuple[str, str], GetParametersForImportResponse] = {}
"""By region and key id: RSA key pairs take their time, and one is good for 24 hours."""

_REQUESTS = {operation.name.lower(): shape.request for operation, shape in OPERATIONS.items()}


class Side:
    """The account's root in a region: ``side.encrypt(key_id=..., plaintext=...)``."""

    def __init__(self, kms: Kms, region: str) -> None:
        self.kms = kms
        self.region = region

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """The operation of that name."""
        return lambda **members: getattr(self.kms, name)(_REQUESTS[name](**members), self.kms.caller(self.region))

    # -- what the tests ask again and again -------------------------------------------------------------------------

    def new_primary(self, **members: object) -> str:
        """Make a multi-Region key here; its id."""
        key_id: str = self.create_key(multi_region=True, **members).key_metadata.key_id
        return key_id

    def described(self, key_id: str) -> KeyMetadata:
        """The metadata of a key."""
        metadata: KeyMetadata = self.describe_key(key_id=key_id).key_metadata
        return metadata

    def state(self, key_id: str) -> str:
        """The state of a key."""
        return self.described(key_id).key_state

    def family(self, key_id: str) -> tuple[str, str, list[str]]:
        """The multi-Region members of DescribeKey: the key's role, the primary key's region, the replicas' regions."""
        metadata = self.described(key_id).multi_region_configuration
        assert isinstance(metadata, MultiRegionConfiguration)
        for each in (metadata.primary_key, *metadata.replica_keys):
            assert each.arn.split(":")[3] == each.region
            assert each.arn.endswith(f":key/{key_id}")
        return (
            metadata.multi_region_key_type,
            metadata.primary_key.region,
            [replica.region for replica in metadata.replica_keys],
        )

    def seal(self, key_id: str, plaintext: bytes = b"secret") -> bytes:
        """Encrypt."""
        ciphertext: bytes = self.encrypt(key_id=key_id, plaintext=plaintext).ciphertext_blob
        return ciphertext

    def unseal(self, ciphertext: bytes, key_id: str | None = None) -> bytes:
        """Decrypt."""
        plaintext: bytes = self.decrypt(ciphertext_blob=ciphertext, key_id=key_id).plaintext
        return plaintext

    def material(self, key_id: str) -> str | None:
        """The id of the material that encrypts now."""
        return self.described(key_id).current_key_material_id

    def materials(self, key_id: str) -> list[tuple[str, str | None]]:
        """State and import state of all materials, oldest first."""
        listed = self.list_key_rotations(key_id=key_id, include_key_material="ALL_KEY_MATERIAL").rotations
        return [(each.key_material_state, each.import_state) for each in listed]

    def request_to_import(self, key_id: str, material: bytes = MATERIAL, **members: Any) -> ImportKeyMaterialRequest:  # noqa: ANN401 - members of a request
        """The request that brings some material."""
        parameters = _parameters.get((self.region, key_id))
        if parameters is None or parameters.parameters_valid_to <= self.kms._core.clock():
            parameters = _parameters[self.region, key_id] = self.get_parameters_for_import(
                key_id=key_id, wrapping_algorithm=ALGORITHM, wrapping_key_spec=WrappingKeySpec.RSA_2048
            )
        does_not = ExpirationModel.KEY_MATERIAL_DOES_NOT_EXPIRE
        expires = ExpirationModel.KEY_MATERIAL_EXPIRES
        return ImportKeyMaterialRequest(
            key_id=key_id,
            import_token=parameters.import_token,
            encrypted_key_material=wrapped.wrap(parameters.public_key, ALGORITHM, material),
            expiration_model=expires if "valid_to" in members else does_not,
            **members,
        )

    def bring(self, key_id: str, material: bytes = MATERIAL, **members: object) -> str:
        """Import material; its id."""
        request = self.request_to_import(key_id, material, **members)
        answer = self.kms.import_key_material(request, self.kms.caller(self.region))
        assert answer.key_material_id is not None
        return answer.key_material_id
