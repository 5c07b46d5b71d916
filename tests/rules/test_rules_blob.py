"""The ciphertext blob: its frozen form, and one error for whatever is wrong with it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmkms.errors import InvalidCiphertextException, MisuseError
from hsmkms.model.cipher_format import CipherFormat
from hsmkms.rules import blob

CBC = CipherFormat.AES_256_CBC_HMAC_SHA_256
KEY_ID = "1234abcd-12ab-34cd-56ef-1234567890ab"
MATERIAL_ID = bytes(range(32)).hex()
IV = bytes(range(0xA0, 0xAC))
BODY = b"\xc7" + bytes(range(0xF0, 0x100))
# Written down once, on the day when format version 1 was made; it must be read for ever.
GOLDEN = bytes.fromhex(
    "686b6d73"  # hkms
    "01"  # format version
    "01"  # AES-256-GCM
    "24"  # length of the key id
    "31323334616263642d313261622d333463642d353665662d313233343536373839306162"
    "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
    "a0a1a2a3a4a5a6a7a8a9aaab"
    "c7"
    "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"
)


def refused(data: bytes) -> bool:
    """True if the parser refuses the bytes with its one opaque error; any other error passes through."""
    try:
        blob.parse(data)
    except InvalidCiphertextException:
        return True
    return False


def reassembled(data: bytes) -> bytes:
    """A blob taken apart and put together again."""
    parsed = blob.parse(data)
    return blob.assemble(parsed.header, parsed.iv, parsed.body)


GOLDEN_CBC = bytes.fromhex(
    "686b6d73010224"
    "31323334616263642d313261622d333463642d353665662d313233343536373839306162"
    "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
    "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf"
    "c0c1c2c3c4c5c6c7c8c9cacbcccdcecf"
    "e0e1e2e3e4e5e6e7e8e9eaebecedeeeff0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"
)
"""A blob of AES-CBC with HMAC: header, IV of 16 bytes, one block, tag of 32 bytes."""


def test_golden_blob_of_cbc() -> None:
    """The second format differs in one byte of the header and in its lengths; it is read and made as it ever was."""
    parsed = blob.parse(GOLDEN_CBC)
    assert (parsed.cipher_format, parsed.key_id, parsed.material_id) == (CBC, KEY_ID, MATERIAL_ID)
    assert (parsed.header, parsed.iv, parsed.body) == (GOLDEN_CBC[:75], GOLDEN_CBC[75:91], GOLDEN_CBC[91:])
    assert blob.assemble(blob.header(KEY_ID, MATERIAL_ID, CBC), parsed.iv, parsed.body) == GOLDEN_CBC
    assert blob.header(KEY_ID, MATERIAL_ID)[:5] + bytes((2,)) + blob.header(KEY_ID, MATERIAL_ID)[6:] == parsed.header


@pytest.mark.parametrize("length", range(len(GOLDEN_CBC)))
def test_truncated_blob_of_cbc(length: int) -> None:
    """Every proper prefix of it is refused."""
    assert refused(GOLDEN_CBC[:length])


@pytest.mark.parametrize("added", range(1, 16))
def test_broken_blocks(added: int) -> None:
    """A ciphertext that is no multiple of a block is refused; one more block is not."""
    assert refused(GOLDEN_CBC + bytes(added))
    assert len(blob.parse(GOLDEN_CBC + bytes(16)).body) == 64


def test_golden_blob_is_made() -> None:
    """The parts of the golden blob give its very bytes."""
    assert blob.assemble(blob.header(KEY_ID, MATERIAL_ID), IV, BODY) == GOLDEN


def test_golden_blob_is_read() -> None:
    """The golden blob is taken apart into the parts that it was made of."""
    assert blob.parse(GOLDEN) == blob.Blob(KEY_ID, MATERIAL_ID, GOLDEN[:75], IV, BODY)


def test_lengths() -> None:
    """The overhead is 103 bytes, of which 75 are the header."""
    assert len(GOLDEN) - 1 == 103
    assert blob.HEADER_LENGTH == 75


def test_aad_is_header_and_context() -> None:
    """The additional authenticated data is the header and then the context, without the IV."""
    assert blob.aad(GOLDEN[:75], b"context") == GOLDEN[:75] + b"context"


def test_multi_region_key_id() -> None:
    """A multi-Region key id survives the way through a blob."""
    key_id = "mrk-" + "0123456789abcdef" * 2
    parsed = blob.parse(blob.assemble(blob.header(key_id, MATERIAL_ID), IV, BODY))
    assert (parsed.key_id, parsed.material_id) == (key_id, MATERIAL_ID)


@pytest.mark.parametrize("length", range(len(GOLDEN)))
def test_truncated(length: int) -> None:
    """Every proper prefix of a blob with one byte of plaintext is refused."""
    assert refused(GOLDEN[:length])


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, b"H"),
        (4, b"\x00"),
        (4, b"\x02"),
        (5, b"\x00"),
        (5, b"\x02"),
        (6, b"\x00"),
        (6, b"\x23"),
        (6, b"\xff"),
        (7, b"\xe9"),
        (7, b"A"),
        (7, b"\x00"),
        (15, b"_"),
        (42, b"\n"),
    ],
)
def test_each_field_is_checked(offset: int, value: bytes) -> None:
    """A wrong magic, version, algorithm, length or key id is refused, without a word about which it was."""
    with pytest.raises(InvalidCiphertextException) as caught:
        blob.parse(GOLDEN[:offset] + value + GOLDEN[offset + 1 :])
    assert str(caught.value) == ""
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    """Random bytes raise the opaque error and no other."""
    assert refused(data)


@given(st.binary(max_size=300))
def test_random_bytes_after_the_magic(data: bytes) -> None:
    """Random bytes after a right beginning raise the opaque error, or are taken apart without loss."""
    assert refused(GOLDEN[:6] + data) or reassembled(GOLDEN[:6] + data) == GOLDEN[:6] + data


@given(st.integers(0, len(GOLDEN) * 8 - 1))
def test_flipped_bit_is_refused_or_seen(bit: int) -> None:
    """One flipped bit is refused, or shows in what was parsed, so that the tag catches it."""
    changed = bytearray(GOLDEN)
    changed[bit // 8] ^= 1 << bit % 8
    data = bytes(changed)
    if not refused(data):
        parsed = blob.parse(data)
        assert blob.assemble(parsed.header, parsed.iv, parsed.body) == data
        assert parsed != blob.parse(GOLDEN)


@given(st.uuids(), st.binary(min_size=32, max_size=32), st.binary(min_size=12, max_size=12), st.binary(min_size=17))
def test_round_trip(key: object, material: bytes, iv: bytes, body: bytes) -> None:
    """Whatever was assembled is parsed into the same parts."""
    header = blob.header(str(key), material.hex())
    assert blob.parse(blob.assemble(header, iv, body)) == blob.Blob(str(key), material.hex(), header, iv, body)


@pytest.mark.parametrize(("key_id", "material_id"), [("alias/x", MATERIAL_ID), (KEY_ID, "00"), ("", MATERIAL_ID)])
def test_header_of_nonsense(key_id: str, material_id: str) -> None:
    """A header is never made of something that the parser would refuse."""
    with pytest.raises(MisuseError) as caught:
        blob.header(key_id, material_id)
    assert str(caught.value) == f"no header can be made for key id {key_id!r} and material id {material_id!r}"
