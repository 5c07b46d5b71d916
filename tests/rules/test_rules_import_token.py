"""The import token: what is signed, and what is made of foreign bytes."""

from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmkms.errors import InvalidImportTokenException
from hsmkms.model.enums import WrappingAlgorithm
from hsmkms.rules.import_token import DAMAGED, Claims, read, signed_part, split

MAC = bytes(range(32))
CLAIMS = Claims(
    key_id="1234abcd-12ab-34cd-56ef-1234567890ab",
    region="eu-central-1",
    wrapping_key=bytes(range(16)),
    algorithm=WrappingAlgorithm.RSAES_OAEP_SHA_256,
    valid_to=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
)
MAGIC = b"hsmkms import token v1\0"
LONGEST = 6144
"""What the API takes as ImportToken."""

any_claims = st.builds(
    Claims,
    key_id=st.text(min_size=1, max_size=36),
    region=st.text(min_size=1, max_size=20),
    wrapping_key=st.binary(min_size=16, max_size=16),
    algorithm=st.sampled_from(WrappingAlgorithm),
    valid_to=st.datetimes(timezones=st.just(UTC)),
)


@given(any_claims, st.binary(min_size=32, max_size=32))
def test_there_and_back(claims: Claims, mac: bytes) -> None:
    """Signed claims are read back unchanged, to the microsecond, with their MAC beside them."""
    signed, claimed = split(signed_part(claims) + mac)
    assert (read(signed), claimed) == (claims, mac)
    assert len(signed) + len(mac) <= LONGEST


@pytest.mark.parametrize("name", [field.name for field in msgspec.structs.fields(Claims)])
def test_everything_is_signed(name: str) -> None:
    """A change of any claim changes what the MAC is made over."""
    others = {
        "key_id": "0" * 36,
        "region": "eu-central-2",
        "wrapping_key": bytes(16),
        "algorithm": WrappingAlgorithm.RSAES_OAEP_SHA_1,
        "valid_to": CLAIMS.valid_to + timedelta(microseconds=1),
    }
    assert signed_part(msgspec.structs.replace(CLAIMS, **{name: others[name]})) != signed_part(CLAIMS)


def test_instants_are_the_same_in_every_zone() -> None:
    """A token that a server elsewhere made is read as the same instant."""
    there = msgspec.structs.replace(CLAIMS, valid_to=CLAIMS.valid_to.astimezone(timezone(timedelta(hours=-9))))
    assert read(signed_part(there)).valid_to == CLAIMS.valid_to


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b"?",
        MAC,
        MAGIC[:-1] + b"\1" + MAC,
        MAGIC[:-1] + MAC,
        b"hsmkms import token v2\0" + MAC,
        b" " + signed_part(CLAIMS) + MAC,
        bytes(LONGEST),
    ],
)
def test_foreign_bytes(token: bytes) -> None:
    """What does not begin as our tokens do is refused before any MAC is made of it."""
    with pytest.raises(InvalidImportTokenException, match=DAMAGED):
        split(token)


@pytest.mark.parametrize(
    "claims",
    [
        b"",
        b"\xc1",
        b"\x00",
        b"{}",
        msgspec.msgpack.encode([]),
        msgspec.msgpack.encode({"key_id": "x"}),
        msgspec.msgpack.encode(["id", "region", b"object", "RSAES_PKCS1", CLAIMS.valid_to]),
        msgspec.msgpack.encode(["id", "region", "no bytes", "RSAES_OAEP_SHA_1", CLAIMS.valid_to]),
        msgspec.msgpack.encode(["id", "region", b"object", "RSAES_OAEP_SHA_1", "tomorrow"]),
        msgspec.msgpack.encode([b"\xff", "region", b"object", "RSAES_OAEP_SHA_1", CLAIMS.valid_to]),
        b"\x95\xa2\xff\xff",
        signed_part(CLAIMS)[len(MAGIC) : -1],
    ],
)
def test_claims_of_another_shape(claims: bytes) -> None:
    """Signed bytes that are no claims (of another version, say) are the same refusal and no crash."""
    with pytest.raises(InvalidImportTokenException, match=DAMAGED):
        read(MAGIC + claims)


@given(st.binary(max_size=200))
def test_any_bytes(token: bytes) -> None:
    """Whatever is sent, the answer is claims or that one refusal."""
    for whole in (token, MAGIC + token):
        try:
            assert isinstance(read(split(whole)[0]), Claims)
        except InvalidImportTokenException:
            continue
