"""Page sizes and markers."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmkms.errors import InvalidMarkerException, ValidationException
from hsmkms.model.enums import Operation
from hsmkms.rules.paging import LIMITS, after, after_number, cut, decode_marker, encode_marker, page_size

# AWS KMS API Reference, member Limit of each operation: default, maximum.
SIZES = {
    "ListKeys": (100, 1000),
    "ListAliases": (50, 100),
    "ListResourceTags": (50, 50),
    "ListKeyRotations": (100, 1000),
    "ListGrants": (50, 100),
    "ListRetirableGrants": (50, 100),
    "ListKeyPolicies": (100, 1000),
}
PAGED = st.sampled_from([Operation(name) for name in SIZES])
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=256)


def refused(operation: Operation, marker: str) -> bool:
    """True if the marker is refused; any other error passes through."""
    try:
        decode_marker(operation, marker)
    except InvalidMarkerException:
        return True
    return False


def test_the_table_is_complete() -> None:
    """Every paged operation has its sizes, and no other."""
    assert set(LIMITS) == set(SIZES)


@pytest.mark.parametrize(("name", "sizes"), SIZES.items())
def test_sizes(name: str, sizes: tuple[int, int]) -> None:
    """Each operation has its default, accepts 1 up to its maximum, and refuses what lies beyond in AWS's form."""
    default, maximum = sizes
    operation = Operation(name)
    assert [page_size(operation, limit) for limit in (None, 1, maximum)] == [default, 1, maximum]
    for limit, constraint in ((0, "greater than or equal to 1"), (maximum + 1, f"less than or equal to {maximum}")):
        with pytest.raises(ValidationException) as caught:
            page_size(operation, limit)
        assert str(caught.value) == (
            f"1 validation error detected: Value '{limit}' at 'limit' failed to satisfy constraint: "
            f"Member must have value {constraint}"
        )


@given(PAGED, KEYS)
def test_round_trip(operation: Operation, key: str) -> None:
    """A marker gives its key back, and is text that needs no escaping anywhere."""
    marker = encode_marker(operation, key)
    assert decode_marker(operation, marker) == key
    assert re.fullmatch(r"[A-Za-z0-9_=-]+", marker)


@pytest.mark.parametrize("marker", ["", "x", "AAAA", "\u00e9", encode_marker(Operation.LIST_ALIASES, "alias/a")])
def test_refusal_says_what_to_do(marker: str) -> None:
    """The error for a damaged or foreign marker says where the right one comes from."""
    with pytest.raises(InvalidMarkerException) as caught:
        decode_marker(Operation.LIST_KEYS, marker)
    assert str(caught.value) == (
        "The marker is damaged or belongs to another operation: pass NextMarker of the last ListKeys unchanged."
    )


def test_longest_marker_is_within_the_model() -> None:
    """The marker after the longest alias name has at most 1024 characters."""
    assert len(encode_marker(Operation.LIST_RETIRABLE_GRANTS, "x" * 256)) <= 1024


@given(PAGED, PAGED, KEYS)
def test_belongs_to_its_operation(operation: Operation, other: Operation, key: str) -> None:
    """A marker is good for its own operation only."""
    assert refused(other, encode_marker(operation, key)) == (operation is not other)


@given(st.text(max_size=100))
def test_random_text_is_refused(text: str) -> None:
    """Text that is no marker raises InvalidMarkerException and nothing else."""
    assert refused(Operation.LIST_KEYS, text)


@given(KEYS, st.integers(0, 10_000), st.characters())
def test_damage_is_refused(key: str, at: int, character: str) -> None:
    """A marker with one character changed, or cut off, is refused."""
    marker = encode_marker(Operation.LIST_KEYS, key)
    at %= len(marker)
    changed = marker[:at] + character + marker[at + 1 :]
    assert refused(Operation.LIST_KEYS, changed) == (changed != marker)
    assert refused(Operation.LIST_KEYS, marker[:at])
    assert refused(Operation.LIST_KEYS, marker + "A")


def test_pages_follow_each_other() -> None:
    """Following each marker lists every item once, and the last page has no marker, also if it is full."""
    items = list(range(1, 7))
    for size, pages in ((2, [[1, 2], [3, 4], [5, 6]]), (4, [[1, 2, 3, 4], [5, 6]]), (6, [items]), (7, [items])):
        listed, marker = [], None
        for number in range(len(pages)):
            last = after_number(Operation.LIST_KEY_ROTATIONS, marker) or 0
            page, marker = cut(Operation.LIST_KEY_ROTATIONS, items[last:], size, str)
            listed.append(list(page))
            assert (marker is None) is (number == len(pages) - 1)
        assert listed == pages


def test_first_page_has_no_marker() -> None:
    """Without a marker nothing comes before the page; an empty list is one page."""
    assert after(Operation.LIST_KEYS, None) is None
    assert after_number(Operation.LIST_KEY_ROTATIONS, None) is None
    assert cut(Operation.LIST_KEYS, [], 5, str) == ([], None)
