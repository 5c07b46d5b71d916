"""Tags of a key."""

import pytest

from hsmkms.errors import TagException
from hsmkms.rules.tags import check_new, merge

FIFTY = [(f"key{number}", "") for number in range(50)]


@pytest.mark.parametrize("tags", [[], [("k", "")], [("k" * 128, "v" * 256)], FIFTY, [("awsome", "aws:")]])
def test_good_tags(tags: list[tuple[str, str]]) -> None:
    """Up to 50 different tags are accepted; the same tags and a repeated one are refused."""
    check_new(tags)
    with pytest.raises(TagException):
        check_new([*tags, ("repeated", ""), ("repeated", "")])


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ([("a", "1"), ("a", "2")], "Duplicate tag keys"),
        ([*FIFTY, ("one more", "")], "Too many tags"),
        ([("aws:x", "")], "Tags beginning with aws: are reserved"),
        ([("ok", ""), ("AwS:x", "")], "Tags beginning with aws: are reserved"),
    ],
)
def test_refused_tags(tags: list[tuple[str, str]], message: str) -> None:
    """Repeated, too many and reserved tag keys are refused in AWS's words."""
    with pytest.raises(TagException) as caught:
        check_new(tags)
    assert str(caught.value) == message


def test_merge_replaces_by_key() -> None:
    """A new value replaces the old one of its tag key, others stay, and the given mapping is not changed."""
    existing = {"a": "1", "b": "2"}
    assert merge(existing, [("b", "3"), ("c", "4")]) == {"a": "1", "b": "3", "c": "4"}
    assert existing == {"a": "1", "b": "2"}


def test_merge_counts_all_tags() -> None:
    """A key keeps at most 50 tags; one of them can still get a new value."""
    existing = dict(FIFTY)
    assert len(merge(existing, [("key7", "new")])) == 50
    with pytest.raises(TagException) as caught:
        merge(existing, [("one more", "")])
    assert str(caught.value) == "Too many tags"
    assert existing == dict(FIFTY)


def test_merge_checks_the_new_tags() -> None:
    """The rules for new tags hold in a merge as well."""
    with pytest.raises(TagException) as caught:
        merge({}, [("aws:x", "")])
    assert str(caught.value) == "Tags beginning with aws: are reserved"
