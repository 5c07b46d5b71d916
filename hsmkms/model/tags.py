"""Requests and responses about tags. Source: botocore's KMS model, shape by shape."""

from hsmkms.model.shapes import REQUIRED, KeyId, Limit, Marker, Shape, Tag, TagKey


class TagResourceRequest(Shape, frozen=True, kw_only=True):
    """Add or replace tags of a key."""

    key_id: KeyId = REQUIRED
    tags: list[Tag] = REQUIRED


class UntagResourceRequest(Shape, frozen=True, kw_only=True):
    """Remove tags from a key."""

    key_id: KeyId = REQUIRED
    tag_keys: list[TagKey] = REQUIRED


class ListResourceTagsRequest(Shape, frozen=True, kw_only=True):
    """Request a page of a key's tags."""

    key_id: KeyId = REQUIRED
    limit: Limit | None = None
    marker: Marker | None = None


class ListResourceTagsResponse(Shape, frozen=True, kw_only=True):
    """A page of tags; ``next_marker`` continues where ``truncated`` is true."""

    tags: list[Tag]
    next_marker: Marker | None = None
    truncated: bool


__all__ = [
    "ListResourceTagsRequest",
    "ListResourceTagsResponse",
    "Tag",
    "TagResourceRequest",
    "UntagResourceRequest",
]
