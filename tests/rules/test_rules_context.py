"""The canonical encryption context."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmkms.errors import ValidationException
from hsmkms.rules.context import canonical

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
CONTEXTS = st.dictionaries(TEXT, TEXT, max_size=5)
# Few letters, so that equal concatenations of different contexts come up.
CLOSE = st.dictionaries(st.text("ab", max_size=3), st.text("ab", max_size=3), max_size=3)


def read(form: bytes) -> dict[str, str]:
    """An independent reader of the canonical form."""
    fields = []
    count, rest = int.from_bytes(form[:4], "big"), form[4:]
    while rest:
        length = int.from_bytes(rest[:4], "big")
        fields.append(rest[4 : 4 + length].decode())
        rest = rest[4 + length :]
    assert len(fields) == 2 * count
    return dict(zip(fields[::2], fields[1::2], strict=True))


def test_frozen_form() -> None:
    """Two pairs have exactly these bytes: sorted, counted, each with its length."""
    expected = "00000002000000016100000002c3a900000002626200000000"
    assert canonical({"bb": "", "a": "\u00e9"}).hex() == expected


def test_absent_equals_empty() -> None:
    """No context and an empty one have the same bytes: a count of zero."""
    assert canonical(None) == canonical({}) == bytes(4)


def test_sorted_by_utf8_bytes() -> None:
    """Keys come in the order of their UTF-8 bytes, also beyond the basic plane."""
    form = canonical({"\U0001f600": "", "\uffee": "", "z": ""})
    assert list(read(form)) == ["z", "\uffee", "\U0001f600"]


@given(CONTEXTS)
def test_can_be_read_back(context: dict[str, str]) -> None:
    """An independent reader gets the context back, so no two contexts share a form."""
    assert read(canonical(context)) == context


@given(CLOSE, CLOSE)
def test_injective(one: dict[str, str], other: dict[str, str]) -> None:
    """Two contexts have the same bytes exactly when they are equal."""
    assert (canonical(one) == canonical(other)) == (one == other)


@given(CONTEXTS)
def test_order_does_not_matter(context: dict[str, str]) -> None:
    """The order in which the pairs were given has no influence."""
    assert canonical(dict(reversed(context.items()))) == canonical(context)


def test_limit() -> None:
    """8192 bytes in all are accepted, one more is not."""
    room = 8192 - 4 - 4 - 1 - 4
    assert len(canonical({"k": "v" * room})) == 8192
    with pytest.raises(ValidationException) as caught:
        canonical({"k": "v" * (room + 1)})
    assert str(caught.value) == "EncryptionContext is 8193 bytes long; at most 8192 are possible."


@pytest.mark.parametrize("context", [{"\ud800": "v"}, {"k": "\udfff"}], ids=["key", "value"])
def test_lone_surrogate(context: dict[str, str]) -> None:
    """A lone surrogate is refused with a sentence."""
    with pytest.raises(ValidationException) as caught:
        canonical(context)
    assert str(caught.value) == "EncryptionContext holds a lone surrogate, which is no Unicode character."
