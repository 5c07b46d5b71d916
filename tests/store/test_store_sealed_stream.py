"""The sealed file: what is written comes back, and no other file gives anything but an error."""

import io
import os

import pytest

from hsmkms.errors import StoreError
from hsmkms.store.sealed_stream import MAGIC, SealedReader, SealedWriter, read_header

KEY = bytes(range(32))
HEADER = b'{"who":"me"}'
CHUNK = 65536
FRONT = len(MAGIC) + 4 + len(HEADER)


def sealed(plaintext: bytes, key: bytes = KEY) -> bytes:
    """A whole file."""
    file = io.BytesIO()
    writer = SealedWriter(file, HEADER, key)
    for start in range(0, len(plaintext), 50_000):
        writer.write(plaintext[start : start + 50_000])
    writer.finish()
    return file.getvalue()


def opened(data: bytes, key: bytes = KEY) -> bytes:
    """What a file holds."""
    reader = SealedReader(io.BytesIO(data), lambda _: key)
    plaintext = b"".join(iter(lambda: reader.read(10_000), b""))
    reader.drain()
    return plaintext


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 7])
def test_round_trip(size: int) -> None:
    """Data of any size is read as it was written, and the file reveals nothing of it but its length."""
    plaintext = os.urandom(size)
    data = sealed(plaintext)
    assert opened(data) == plaintext
    assert read_header(io.BytesIO(data)) == HEADER
    assert len(data) == FRONT + size + 16 * max(1, -(-size // CHUNK))
    assert size < 32 or plaintext[:32] not in data


def test_every_region_is_proven() -> None:
    """A changed bit gives an error wherever it is: in the magic, the length, the header, any chunk or tag."""
    data = sealed(bytes(2 * CHUNK + 100))
    places = [*range(FRONT + 40), *range(FRONT, len(data), 997), *range(len(data) - 120, len(data))]
    for place in places:
        bent = bytearray(data)
        bent[place] ^= 1 << place % 8
        with pytest.raises(StoreError):
            opened(bytes(bent))


def test_every_cut_is_seen() -> None:
    """A file that ends early gives an error, also where it ends with a whole chunk."""
    data = sealed(bytes(2 * CHUNK + 100))
    ends = [FRONT + number * (CHUNK + 16) for number in range(3)]
    for end in [*range(FRONT), *ends, *(each + 1 for each in ends), len(data) - 1]:
        with pytest.raises(StoreError):
            opened(data[:end])


def test_nothing_can_be_added_or_moved() -> None:
    """Chunks that follow the last one, stand in another order, twice, or come from another file, give an error."""
    data = sealed(bytes(3 * CHUNK))
    front, parts = data[:FRONT], [data[at : at + CHUNK + 16] for at in range(FRONT, len(data), CHUNK + 16)]
    other = sealed(bytes(3 * CHUNK), bytes(32))[FRONT : FRONT + CHUNK + 16]
    for chunks in (
        [*parts, b"\0"],
        [*parts, parts[-1]],
        [parts[1], parts[0], parts[2]],
        [parts[0], parts[0], parts[2]],
        [parts[0], parts[2]],
        [other, *parts[1:]],
    ):
        with pytest.raises(StoreError, match="changed or is not complete"):
            opened(front + b"".join(chunks))


def test_another_key_opens_nothing() -> None:
    """The file's key is needed, and nothing comes out before the first chunk is proven."""
    with pytest.raises(StoreError, match="changed or is not complete"):
        opened(sealed(b"plain"), bytes(32))


def test_unfinished_is_no_file() -> None:
    """What an interrupted writer leaves cannot be opened."""
    file = io.BytesIO()
    SealedWriter(file, HEADER, KEY).write(bytes(2 * CHUNK))
    with pytest.raises(StoreError, match="changed or is not complete"):
        opened(file.getvalue())


@pytest.mark.parametrize("data", [b"", b"hsmkms", b"hsmkms-backup/2\n\0\0\0\1{", bytes(1000)])
def test_other_files(data: bytes) -> None:
    """A file of another kind, or of a newer version, is named as such."""
    with pytest.raises(StoreError, match="this is no backup of hsmkms"):
        opened(data)
