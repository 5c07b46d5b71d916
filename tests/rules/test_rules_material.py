"""Names of backing keys."""

import hashlib
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmkms.errors import MisuseError
from hsmkms.rules.material import MAX_SEQUENCE, LabelParts, material_id, object_label, parse_label, short_label

KEY_ID = "1234abcd-12ab-34cd-56ef-1234567890ab"
MRK_ID = "mrk-1234abcd12ab34cd56ef1234567890ab"

INSTALLATIONS = st.binary(min_size=4, max_size=4).map(bytes.hex)
KEY_IDS = st.one_of(st.uuids().map(str), st.uuids().map(lambda value: f"mrk-{value.hex}"))
SEQUENCES = st.integers(1, MAX_SEQUENCE)
REGIONS = st.from_regex(r"[a-z]{2}-[a-z]{4,9}-[1-9]", fullmatch=True)


def test_material_id_is_frozen() -> None:
    """The material id is the SHA-256 of these bytes; a change would orphan every ciphertext."""
    cka_id = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff").bytes
    data = b"hsmkms generated material v1\x00" + KEY_ID.encode() + b"\x00" + cka_id
    assert material_id(KEY_ID, cka_id) == hashlib.sha256(data).hexdigest()
    assert material_id(KEY_ID, cka_id) == "ef4d541477cbe6b8e4b21efa63b476b472498d51facd42f57fa4935ad9922b2b"


def test_material_id_depends_on_both() -> None:
    """Another key or another object has another material id."""
    assert len({material_id(key, cka) for key in (KEY_ID, MRK_ID) for cka in (bytes(16), b"\x01" * 16)}) == 4


def test_labels_are_frozen() -> None:
    """Both forms of the label have exactly this text: objects on tokens keep it for ever."""
    assert object_label("0badcafe", "eu-central-1", KEY_ID, 7) == f"hsmkms/0badcafe/eu-central-1/{KEY_ID}/7"
    assert short_label("0badcafe", KEY_ID, 7) == "hQutyv4SNKvNEqs0zVbvEjRWeJCrAAAH"
    assert short_label("0badcafe", MRK_ID, 7) == "hQutyv4SNKvNEqs0zVbvEjRWeJCrgAAH"


@given(INSTALLATIONS, REGIONS, KEY_IDS, SEQUENCES)
def test_long_label_round_trip(installation: str, region: str, key_id: str, sequence: int) -> None:
    """The long label gives all its parts back."""
    label = object_label(installation, region, key_id, sequence)
    assert parse_label(label) == LabelParts(installation, region, key_id, sequence)


@given(INSTALLATIONS, KEY_IDS, SEQUENCES)
def test_short_label_round_trip(installation: str, key_id: str, sequence: int) -> None:
    """The short label is 32 ASCII characters and gives all its parts back but the region."""
    label = short_label(installation, key_id, sequence)
    assert len(label.encode("ascii")) == 32
    assert parse_label(label) == LabelParts(installation, None, key_id, sequence)


@pytest.mark.parametrize(
    "label",
    [
        "",
        "hsmkms",
        "some key of another program",
        "A" * 32,
        "h" * 31,
        f"hsmkms/0badcafe/eu-central-1/{KEY_ID}",
        f"hsmkms/0badcafe/eu-central-1/{KEY_ID}/0",
        f"hsmkms/0badcafe/eu-central-1/{KEY_ID}/07",
        f"hsmkms/0badcafe/eu-central-1/{KEY_ID}/8388608",
        f"hsmkms/0badcafe/eu-central-1/{KEY_ID}/1\n",
        f"hsmkms/0BADCAFE/eu-central-1/{KEY_ID}/1",
        f"hsmkms/0badcafe/eu-central-1/{KEY_ID.upper()}/1",
        f"hsmkms/0badcafe/eu-central-1/{'-' * 36}/1",
        f"hsmkms/0badcafe//{KEY_ID}/1",
        f"other/0badcafe/eu-central-1/{KEY_ID}/1",
    ],
)
def test_foreign_labels(label: str) -> None:
    """A label of another program is not an error: tokens have objects of others."""
    assert parse_label(label) is None


def test_damaged_short_labels() -> None:
    """A short label with another marker byte, or with sequence 0, was not made here."""
    label = short_label("0badcafe", KEY_ID, 1)
    assert parse_label("i" + label[1:]) is None
    assert parse_label(label[:-4] + "AAAA") is None


@given(st.text(max_size=80))
def test_any_text_is_parsed_without_error(text: str) -> None:
    """Any label of a token is parsed or skipped; a parsed one gives the same label again."""
    parts = parse_label(text)
    if parts is not None:
        assert parts.region is None
        assert short_label(parts.installation, parts.key_id, parts.sequence) == text


@pytest.mark.parametrize(
    ("installation", "key_id", "sequence"),
    [
        ("0badcaf", KEY_ID, 1),
        ("0BADCAFE", KEY_ID, 1),
        ("0badcafe", "alias/x", 1),
        ("0badcafe", KEY_ID, 0),
        ("0badcafe", MRK_ID, MAX_SEQUENCE + 1),
    ],
)
def test_no_label_of_nonsense(installation: str, key_id: str, sequence: int) -> None:
    """A label that could not be parsed again is never made."""
    message = f"no label can be made of {installation!r}, {key_id!r} and {sequence!r}"
    with pytest.raises(MisuseError) as long:
        object_label(installation, "eu-central-1", key_id, sequence)
    with pytest.raises(MisuseError) as short:
        short_label(installation, key_id, sequence)
    assert str(long.value) == str(short.value) == message
