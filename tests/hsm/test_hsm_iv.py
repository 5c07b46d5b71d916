"""Initialisation vectors: none is used twice."""

import threading
from pathlib import Path

import devices
import pytest
from devices import Token, new_key
from pkcs11.types import Session

from hsmkms.errors import TokenError
from hsmkms.hsm.crypto.iv import BLOCK, IV_BYTES, IvSource
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.session.login import open_session
from hsmkms.model.cipher_format import LAYOUTS


def test_none_twice_among_threads(device: TokenDevice) -> None:
    """100,000 IVs of 96 bits, drawn by four threads from one source, are all different."""
    source = IvSource()
    drawn: list[list[bytes]] = [[] for _ in range(4)]

    def draw(into: list[bytes], session: Session) -> None:
        into.extend(source.next(session) for _ in range(25_000))

    threads = [threading.Thread(target=draw, args=(into, open_session(device.connection.token))) for into in drawn]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    ivs = [iv for each in drawn for iv in each]
    assert len(ivs) == len(set(ivs)) == 100_000
    assert {len(iv) for iv in ivs} == {IV_BYTES} == {12}


def test_fetched_in_small_blocks(session: Session) -> None:
    """One call to the token serves at most 64 encryptions, so that few IVs are prefetched."""
    asked: list[int] = []

    class Counting:
        def generate_random(self, bits: int) -> bytes:
            asked.append(bits)
            return session.generate_random(bits)

    source = IvSource()
    for _ in range(3 * BLOCK):
        source.next(Counting())  # type: ignore[arg-type]
    assert asked == [BLOCK * 96] * 3
    assert BLOCK <= 64


def test_failing_generator(session: Session) -> None:
    """If the token returns no random bytes, there is no IV, and the next attempt fetches a new block."""

    class Failing:
        def generate_random(self, _bits: int) -> bytes:
            raise RuntimeError

    source = IvSource()
    with pytest.raises(RuntimeError):
        source.next(Failing())  # type: ignore[arg-type]
    assert len(source.next(session)) == 12


@pytest.mark.parametrize("answer", ["zeros", "again"])
def test_generator_that_repeats(session: Session, answer: str) -> None:
    """A generator that repeats bytes, within a block or in the next one, is refused."""
    first = session.generate_random(BLOCK * 96)

    class Repeating:
        def generate_random(self, bits: int) -> bytes:
            return first if answer == "again" else bytes(bits // 8)

    source = IvSource()
    if answer == "again":
        assert len({source.next(Repeating()) for _ in range(BLOCK)}) == BLOCK  # type: ignore[arg-type]
    with pytest.raises(TokenError, match="repeats itself"):
        source.next(Repeating())  # type: ignore[arg-type]
    assert len(source.next(session)) == 12


def test_none_twice_among_processes(token: Token, programs: Path) -> None:
    """Four processes that encrypt 20,000 times each with one key, at the same time, share no IV."""
    device = token.open()
    key = new_key(device)
    device.close()
    counts = devices.run_together(
        programs / "write_ivs.py", [token] * 4, key=key.hex(), count=20_000, folder=str(token.folder)
    )
    assert counts == [20_000] * 4
    written = b"".join(file.read_bytes() for file in token.folder.glob("*.ivs"))
    size = LAYOUTS[device.profile.cipher_format].iv
    ivs = {written[at : at + size] for at in range(0, len(written), size)}
    assert len(written) == 80_000 * size
    assert len(ivs) == 80_000
