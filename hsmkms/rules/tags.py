"""Check the tags of a key. Source: AWS KMS API Reference, TagResource and CreateKey."""

from collections.abc import Mapping, Sequence
from typing import Final

from hsmkms.errors import TagException

MAX_TAGS: Final = 50
RESERVED_PREFIX: Final = "aws:"


def check_new(tags: Sequence[tuple[str, str]]) -> None:
    """Raise if these pairs of key and value cannot be set together; the request type checks their lengths."""
    keys = {key for key, _ in tags}
    if len(keys) != len(tags):
        raise TagException("Duplicate tag keys")
    if len(keys) > MAX_TAGS:
        raise TagException("Too many tags")
    if any(key.lower().startswith(RESERVED_PREFIX) for key in keys):
        raise TagException("Tags beginning with aws: are reserved")


def check_removed(tag_keys: Sequence[str]) -> None:
    """Raise if there are more tag keys than a key can have."""
    if len(set(tag_keys)) > MAX_TAGS:
        raise TagException("Too many tags")


def merge(existing: Mapping[str, str], new: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return all tags of a key with the new ones set; a new value replaces that of the same tag key."""
    check_new(new)
    merged = {**existing, **dict(new)}
    if len(merged) > MAX_TAGS:
        raise TagException("Too many tags")
    return merged
