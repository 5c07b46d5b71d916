"""Tag operations of KMS keys."""

from hsmkms.model.enums import Operation
from hsmkms.model.tags import (
    ListResourceTagsRequest,
    ListResourceTagsResponse,
    Tag,
    TagResourceRequest,
    UntagResourceRequest,
)
from hsmkms.rules import paging
from hsmkms.rules import tags as rules
from hsmkms.service.pipeline import Call, repeated
from hsmkms.store import tags


@repeated
def tag_resource(call: Call, request: TagResourceRequest) -> None:
    """Add tags, replacing the values of existing ones."""
    new = [(each.tag_key, each.tag_value) for each in request.tags]
    rules.check_new(new)  # first, since policies may have conditions on each of them
    with call.audited_and_sealed(request.key_id) as (tx, record):
        rules.merge(tags.fetch(tx, record.key_id, record.region), new)
        tags.put(tx, record.key_id, record.region, dict(new))


@repeated
def untag_resource(call: Call, request: UntagResourceRequest) -> None:
    """Remove tags; a missing one is not an error."""
    rules.check_removed(request.tag_keys)
    with call.audited_and_sealed(request.key_id) as (tx, record):
        existing = tags.fetch(tx, record.key_id, record.region)
        tags.remove(tx, record.key_id, record.region, existing.keys() & set(request.tag_keys))


def list_resource_tags(call: Call, request: ListResourceTagsRequest) -> ListResourceTagsResponse:
    """List the tags of a key, ordered by tag key."""
    key, _ = call.key(request.key_id)
    size = paging.page_size(Operation.LIST_RESOURCE_TAGS, request.limit)
    after = paging.after(Operation.LIST_RESOURCE_TAGS, request.marker) or ""
    with call.core.store.reading() as conn:
        by_name = tags.fetch(conn, key.record.key_id, key.record.region)
    names = sorted(name for name in by_name if name > after)
    page, marker = paging.cut(Operation.LIST_RESOURCE_TAGS, names, size, str)
    return ListResourceTagsResponse(
        tags=[Tag(tag_key=name, tag_value=by_name[name]) for name in page],
        truncated=marker is not None,
        next_marker=marker,
    )
