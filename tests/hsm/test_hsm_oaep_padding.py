"""``host_unwrap``: OAEP padding is removed in this process, with the checks of a token."""

import os

import pytest
import wrapped
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hsmkms.errors import RejectedDataError
from hsmkms.hsm.crypto import oaep_padding
from hsmkms.hsm.crypto.oaep_params import OAEP_SHA_1, OAEP_SHA_256, Oaep
from hsmkms.model.enums import WrappingAlgorithm

SOFT_KEY = rsa.generate_private_key(65537, 2048)
NUMBERS = SOFT_KEY.private_numbers()
PADDINGS = {
    OAEP_SHA_1: wrapped.HASHES[WrappingAlgorithm.RSAES_OAEP_SHA_1],
    OAEP_SHA_256: wrapped.HASHES[WrappingAlgorithm.RSAES_OAEP_SHA_256],
}


def padded(oaep: Oaep, secret: bytes) -> bytes:
    """Return the EME-OAEP encoding by ``cryptography``: the result of raw RSA decryption."""
    used = PADDINGS[oaep]
    block = int.from_bytes(SOFT_KEY.public_key().encrypt(secret, OAEP(MGF1(used), used, None)))
    # By the Chinese remainder theorem, a third of the time of one power modulo n.
    q = pow(block, NUMBERS.dmq1, NUMBERS.q)
    return (q + (pow(block, NUMBERS.dmp1, NUMBERS.p) - q) * NUMBERS.iqmp % NUMBERS.p * NUMBERS.q).to_bytes(256)


@given(oaep=st.sampled_from([OAEP_SHA_1, OAEP_SHA_256]), secret=st.binary(max_size=190))
@example(oaep=OAEP_SHA_256, secret=b"")
@example(oaep=OAEP_SHA_256, secret=bytes(190))
@example(oaep=OAEP_SHA_256, secret=b"\1" * 190)
@settings(deadline=None, max_examples=50)
def test_padding_is_removed(oaep: Oaep, secret: bytes) -> None:
    """The padding of ``cryptography`` is removed, for every length of message."""
    assert oaep_padding.remove_padding(padded(oaep, secret), oaep) == secret


@given(oaep=st.sampled_from([OAEP_SHA_1, OAEP_SHA_256]), at=st.integers(0, 255), bit=st.integers(0, 7))
@settings(deadline=None, max_examples=100)
def test_changed_padding_is_refused(oaep: Oaep, at: int, bit: int) -> None:
    """Padding with any changed bit is refused: seed and data mask each other, so every bit counts."""
    good = padded(oaep, os.urandom(32))
    changed = good[:at] + bytes((good[at] ^ 1 << bit,)) + good[at + 1 :]
    with pytest.raises(RejectedDataError) as caught:
        oaep_padding.remove_padding(changed, oaep)
    assert str(caught.value) == "the token refused the data"


def masked(oaep: Oaep, data: bytes, first: int = 0) -> bytes:
    """Return the EME-OAEP encoding of an invalid data block."""
    name = oaep.algorithm().name
    seed = os.urandom(oaep.algorithm().digest_size)
    masked_data = oaep_padding._xor(data, oaep_padding._mgf1(seed, len(data), name))
    masked_seed = oaep_padding._xor(seed, oaep_padding._mgf1(masked_data, len(seed), name))
    return bytes((first,)) + masked_seed + masked_data


def test_every_part_of_the_padding_counts() -> None:
    """A wrong or missing first byte, label hash or separator is refused, each with the same text."""
    good = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")  # SHA-256 of nothing
    room = 256 - 1 - 32 - 32
    message = (b"\1" + bytes(32)).rjust(room, b"\0")
    assert oaep_padding.remove_padding(masked(OAEP_SHA_256, good + message), OAEP_SHA_256) == bytes(32)
    for encoded in (
        masked(OAEP_SHA_256, good + message, first=1),
        masked(OAEP_SHA_256, good[::-1] + message),
        masked(OAEP_SHA_256, good + bytes(room)),
        masked(OAEP_SHA_256, good + b"\2" + message[1:]),
        masked(OAEP_SHA_256, good + message.replace(b"\1", b"\2")),
        masked(OAEP_SHA_256, good[::-1] + bytes(room), first=255),
    ):
        with pytest.raises(RejectedDataError) as caught:
            oaep_padding.remove_padding(encoded, OAEP_SHA_256)
        assert str(caught.value) == "the token refused the data"
