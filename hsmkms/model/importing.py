"""Requests and responses about imported key material. Source: botocore's KMS model, shape by shape."""

from datetime import datetime
from typing import Annotated

from hsmkms.model.constraints import Length, Pattern
from hsmkms.model.shapes import (
    REQUIRED,
    Ciphertext,
    ExpirationModelWord,
    ImportTypeWord,
    KeyId,
    KeyMaterialDescription,
    KeyMaterialId,
    Plaintext,
    Shape,
    WrappingAlgorithmWord,
    WrappingKeySpecWord,
)

KeyMaterialIdAnswer = Annotated[str, Length(0, 64), Pattern(r"^[a-f0-9]+$")]  # BackingKeyIdResponseType


class GetParametersForImportRequest(Shape, frozen=True, kw_only=True):
    """Request a wrapping key and its import token."""

    key_id: KeyId = REQUIRED
    wrapping_algorithm: WrappingAlgorithmWord = REQUIRED
    wrapping_key_spec: WrappingKeySpecWord = REQUIRED


class GetParametersForImportResponse(Shape, frozen=True, kw_only=True):
    """Public wrapping key (DER SubjectPublicKeyInfo) and import token, both valid until ``parameters_valid_to``."""

    key_id: KeyId
    import_token: Ciphertext
    public_key: Plaintext
    parameters_valid_to: datetime


class ImportKeyMaterialRequest(Shape, frozen=True, kw_only=True):
    """Import wrapped key material."""

    key_id: KeyId = REQUIRED
    import_token: Ciphertext = REQUIRED
    encrypted_key_material: Ciphertext = REQUIRED
    valid_to: datetime | None = None
    expiration_model: ExpirationModelWord | None = None
    import_type: ImportTypeWord | None = None
    key_material_description: KeyMaterialDescription | None = None
    key_material_id: KeyMaterialId | None = None


class ImportKeyMaterialResponse(Shape, frozen=True, kw_only=True):
    """The key by its ARN, and the material's id."""

    key_id: KeyId
    key_material_id: KeyMaterialId | None = None


class DeleteImportedKeyMaterialRequest(Shape, frozen=True, kw_only=True):
    """Delete imported key material at once: the current one if no material id is given."""

    key_id: KeyId = REQUIRED
    key_material_id: KeyMaterialId | None = None


class DeleteImportedKeyMaterialResponse(Shape, frozen=True, kw_only=True):
    """The key by its ARN, and the id of the material if there was one."""

    key_id: KeyId
    key_material_id: KeyMaterialIdAnswer | None = None
