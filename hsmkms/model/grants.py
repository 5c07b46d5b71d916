"""Requests and responses about grants. Source: botocore's KMS model, shape by shape."""

from datetime import datetime
from typing import Annotated

from hsmkms.model.constraints import Length, OneOf, Pattern
from hsmkms.model.enums import GrantOperation
from hsmkms.model.shapes import REQUIRED, EncryptionContext, GrantTokens, KeyId, Limit, Marker, Shape

PrincipalId = Annotated[str, Length(1, 256), Pattern(r"^[\w+=,.@:/-]+$")]  # PrincipalIdType
ServicePrincipal = Annotated[
    str, Length(1, 128), Pattern(r"^([A-Za-z0-9\-]+)\.([A-Za-z0-9\-]+)(\.[A-Za-z0-9\-]+)+$")
]  # ServicePrincipalType
GrantName = Annotated[str, Length(1, 256), Pattern(r"^[a-zA-Z0-9:/_-]+$")]  # GrantNameType
GrantId = Annotated[str, Length(1, 128)]  # GrantIdType
GrantToken = Annotated[str, Length(1, 8192)]  # GrantTokenType
SourceArn = Annotated[
    str, Length(20, 512), Pattern(r"^arn:aws[a-z0-9-]*:[a-z0-9-]+:[a-z0-9-]*:[0-9]{12}:.+$")
]  # GrantConstraintSourceArnType
GrantOperations = list[Annotated[str, OneOf(GrantOperation)]]  # GrantOperationList


class GrantConstraints(Shape, frozen=True, kw_only=True):
    """Constraints of a grant: the whole encryption context, or some pairs of it."""

    encryption_context_subset: EncryptionContext | None = None
    encryption_context_equals: EncryptionContext | None = None
    source_arn: SourceArn | None = None


class CreateGrantRequest(Shape, frozen=True, kw_only=True):
    """Allow a principal some operations with a key."""

    key_id: KeyId = REQUIRED
    grantee_principal: PrincipalId | None = None
    retiring_principal: PrincipalId | None = None
    operations: GrantOperations = REQUIRED
    constraints: GrantConstraints | None = None
    grant_tokens: GrantTokens | None = None
    name: GrantName | None = None
    dry_run: bool | None = None
    grantee_service_principal: ServicePrincipal | None = None
    retiring_service_principal: ServicePrincipal | None = None


class CreateGrantResponse(Shape, frozen=True, kw_only=True):
    """The grant's id, and its grant token."""

    grant_token: GrantToken
    grant_id: GrantId


class GrantListEntry(Shape, frozen=True, kw_only=True):
    """One grant of a list; ``name`` is empty if it has none."""

    key_id: KeyId
    grant_id: GrantId
    name: GrantName
    creation_date: datetime
    grantee_principal: PrincipalId | None = None
    retiring_principal: PrincipalId | None = None
    issuing_account: PrincipalId
    operations: GrantOperations
    constraints: GrantConstraints | None = None
    grantee_service_principal: ServicePrincipal | None = None
    retiring_service_principal: ServicePrincipal | None = None


class ListGrantsRequest(Shape, frozen=True, kw_only=True):
    """Request a page of a key's grants."""

    limit: Limit | None = None
    marker: Marker | None = None
    key_id: KeyId = REQUIRED
    grant_id: GrantId | None = None
    grantee_principal: PrincipalId | None = None
    grantee_service_principal: ServicePrincipal | None = None


class ListGrantsResponse(Shape, frozen=True, kw_only=True):
    """A page of grants; ``next_marker`` continues where ``truncated`` is true."""

    grants: list[GrantListEntry]
    next_marker: Marker | None = None
    truncated: bool


class ListRetirableGrantsRequest(Shape, frozen=True, kw_only=True):
    """Request a page of the grants that a principal may retire."""

    limit: Limit | None = None
    marker: Marker | None = None
    retiring_principal: PrincipalId | None = None
    retiring_service_principal: ServicePrincipal | None = None


class RetireGrantRequest(Shape, frozen=True, kw_only=True):
    """Retire a grant, given by a token or by key ARN and grant id."""

    grant_token: GrantToken | None = None
    key_id: KeyId | None = None
    grant_id: GrantId | None = None
    dry_run: bool | None = None


class RevokeGrantRequest(Shape, frozen=True, kw_only=True):
    """Revoke a grant."""

    key_id: KeyId = REQUIRED
    grant_id: GrantId = REQUIRED
    dry_run: bool | None = None
