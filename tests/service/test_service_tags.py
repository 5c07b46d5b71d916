"""TagResource, UntagResource, ListResourceTags. Source: AWS KMS API Reference."""

from typing import Any

import pytest
from service_sites import OTHER_REGION, new_key

from hsmkms.errors import HsmKmsError, InvalidMarkerException, NotFoundException, TagException, ValidationException
from hsmkms.kms import Kms
from hsmkms.model.enums import Operation
from hsmkms.model.keys import DisableKeyRequest
from hsmkms.model.tags import ListResourceTagsRequest, Tag, TagResourceRequest, UntagResourceRequest
from hsmkms.rules import paging

UNKNOWN = "12345678-1234-4123-8123-123456789012"


def put(kms: Kms, key_id: str, **tags: str) -> None:
    """Set tags."""
    wanted = [Tag(tag_key=name, tag_value=value) for name, value in tags.items()]
    kms.tag_resource(TagResourceRequest(key_id=key_id, tags=wanted))


def tags_of(kms: Kms, key_id: str) -> dict[str, str]:
    """The tags of a key."""
    listed = kms.list_resource_tags(ListResourceTagsRequest(key_id=key_id, limit=50)).tags
    return {each.tag_key: each.tag_value for each in listed}


def test_tags_are_added_and_replaced(kms: Kms) -> None:
    """A new tag is added, and an existing one gets the new value; also on a disabled key, by its ARN."""
    made = new_key(kms)
    kms.disable_key(DisableKeyRequest(key_id=made.key_id))
    put(kms, made.key_id, team="red", stage="")
    put(kms, made.arn, team="blue", owner="ä" * 256)
    assert tags_of(kms, made.key_id) == {"team": "blue", "stage": "", "owner": "ä" * 256}


def test_tags_are_removed(kms: Kms) -> None:
    """The named tags are removed, the others stay, and an unknown one is no error."""
    made = new_key(kms)
    put(kms, made.key_id, a="1", b="2", c="3")
    kms.untag_resource(UntagResourceRequest(key_id=made.key_id, tag_keys=["a", "c", "never"]))
    assert tags_of(kms, made.key_id) == {"b": "2"}
    kms.untag_resource(UntagResourceRequest(key_id=made.key_id, tag_keys=["B"]))
    assert tags_of(kms, made.key_id) == {"b": "2"}


def test_tag_quota(kms: Kms) -> None:
    """A key has at most 50 tags, however they come; a refused call adds none, and values can still be replaced."""
    made = new_key(kms)
    put(kms, made.key_id, **{f"t{number}": "" for number in range(49)})
    with pytest.raises(TagException, match="Too many tags"):
        put(kms, made.key_id, one="", more="")
    assert len(tags_of(kms, made.key_id)) == 49
    put(kms, made.key_id, one="")
    put(kms, made.key_id, one="new", t0="new")
    assert tags_of(kms, made.key_id)["t0"] == "new"


@pytest.mark.parametrize(
    ("tags", "error", "message"),
    [
        ([Tag(tag_key="a", tag_value="1"), Tag(tag_key="a", tag_value="1")], TagException, "Duplicate tag keys"),
        ([Tag(tag_key="aws:a", tag_value="1")], TagException, "Tags beginning with aws: are reserved"),
        ([Tag(tag_key="Aws:a", tag_value="1")], TagException, "Tags beginning with aws: are reserved"),
        ([Tag(tag_key="", tag_value="1")], ValidationException, "'tags.1.member.tagKey'"),
        ([Tag(tag_key="k" * 129, tag_value="1")], ValidationException, "'tags.1.member.tagKey'"),
        (
            [Tag(tag_key="a", tag_value=""), Tag(tag_key="b", tag_value="v" * 257)],
            ValidationException,
            "'tags.2.member.tagValue'",
        ),
        ([Tag(tag_key="a")], ValidationException, "'tags.1.member.tagValue'"),
        (None, ValidationException, "'tags'"),
    ],
)
def test_bad_tags(kms: Kms, tags: list[Tag] | None, error: type[HsmKmsError], message: str) -> None:
    """Tags outside the rules are refused in AWS's words, all of them."""
    made = new_key(kms)
    with pytest.raises(error) as caught:
        kms.tag_resource(TagResourceRequest(key_id=made.key_id, tags=tags))
    assert message in str(caught.value)
    assert tags_of(kms, made.key_id) == {}


@pytest.mark.parametrize("limit", [1, 2, 50])
def test_tags_pages(kms: Kms, limit: int) -> None:
    """Following the markers shows every tag exactly once, in the order of the tag keys."""
    made = new_key(kms)
    put(kms, made.key_id, **{name: name.upper() for name in "gfbacde"})
    seen: list[str] = []
    marker = None
    while True:
        page = kms.list_resource_tags(ListResourceTagsRequest(key_id=made.key_id, limit=limit, marker=marker))
        assert len(page.tags) <= limit
        seen += [tag.tag_key for tag in page.tags]
        marker = page.next_marker
        assert page.truncated == (marker is not None)
        if marker is None:
            break
    assert seen == list("abcdefg")


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"limit": 0}, ValidationException),
        ({"limit": 51}, ValidationException),
        ({"marker": "nonsense"}, InvalidMarkerException),
        ({"marker": paging.encode_marker(Operation.LIST_KEYS, "a")}, InvalidMarkerException),
    ],
)
def test_tags_page_refusals(kms: Kms, members: dict[str, Any], error: type[HsmKmsError]) -> None:
    """Pages of 1 to 50, with a marker of this operation."""
    made = new_key(kms)
    with pytest.raises(error):
        kms.list_resource_tags(ListResourceTagsRequest(key_id=made.key_id, **members))


def test_tags_of_unknown_keys(kms: Kms) -> None:
    """Tags need a key of this region."""
    elsewhere = new_key(kms, kms.caller(OTHER_REGION)).key_id
    for key_id in (UNKNOWN, elsewhere):
        with pytest.raises(NotFoundException, match="does not exist"):
            put(kms, key_id, a="1")
        with pytest.raises(NotFoundException, match="does not exist"):
            kms.untag_resource(UntagResourceRequest(key_id=key_id, tag_keys=["a"]))
        with pytest.raises(NotFoundException, match="does not exist"):
            tags_of(kms, key_id)
