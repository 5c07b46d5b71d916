"""Requests and responses about aliases. Source: botocore's KMS model, shape by shape."""

from datetime import datetime

from hsmkms.model.shapes import REQUIRED, AliasName, Arn, KeyId, Limit, Marker, Shape


class CreateAliasRequest(Shape, frozen=True, kw_only=True):
    """Create an alias of a key."""

    alias_name: AliasName = REQUIRED
    target_key_id: KeyId = REQUIRED


class UpdateAliasRequest(Shape, frozen=True, kw_only=True):
    """Point an alias to another key."""

    alias_name: AliasName = REQUIRED
    target_key_id: KeyId = REQUIRED


class DeleteAliasRequest(Shape, frozen=True, kw_only=True):
    """Delete an alias."""

    alias_name: AliasName = REQUIRED


class ListAliasesRequest(Shape, frozen=True, kw_only=True):
    """Request a page of the aliases of the region, or of one key."""

    key_id: KeyId | None = None
    limit: Limit | None = None
    marker: Marker | None = None


class AliasListEntry(Shape, frozen=True, kw_only=True):
    """One alias of a list."""

    alias_name: AliasName
    alias_arn: Arn
    target_key_id: KeyId | None = None
    creation_date: datetime | None = None
    last_updated_date: datetime | None = None


class ListAliasesResponse(Shape, frozen=True, kw_only=True):
    """A page of aliases; ``next_marker`` continues where ``truncated`` is true."""

    aliases: list[AliasListEntry]
    next_marker: Marker | None = None
    truncated: bool
