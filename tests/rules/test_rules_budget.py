"""The encryption budget of a material."""

from itertools import accumulate, repeat

import pytest

from hsmkms.hsm.crypto import cbc
from hsmkms.rules.budget import CBC_BLOCKS, LIMIT, next_lease, reserve, warning


def test_limit() -> None:
    """One material does 2^32 encryptions."""
    assert LIMIT == 4_294_967_296


def test_limit_of_cbc() -> None:
    """With as many encryptions of the longest plaintext, two equal blocks of AES-CBC are less likely than 2^-48."""
    assert CBC_BLOCKS == cbc.LARGEST_PLAINTEXT // cbc.BLOCK + 1
    blocks = LIMIT * CBC_BLOCKS
    assert blocks**2 * 2**48 < 2**129


def test_leases_double() -> None:
    """Leases are 1, 2, 4 and so on up to 65,536, and stay there."""
    sizes = list(accumulate(repeat(0, 19), lambda previous, _: next_lease(previous)))
    assert sizes == [0, *(2**power for power in range(17)), 65_536]


@pytest.mark.parametrize(
    ("rate", "seconds", "expected"),
    [(0, 30, 1024), (0.1, 30, 1030), (100, 30, 7024), (5000, 30, 301_024), (20_000, 30, 2**20), (100, 0, 1024)],
)
def test_reserve(rate: float, seconds: float, expected: int) -> None:
    """A reserve is for twice the rate, at least for a few, and never so large that a crash wastes much."""
    assert reserve(rate, seconds) == expected


@pytest.mark.parametrize(
    ("used", "expected"),
    [(0, None), (2**31 - 1, None), (2**31, 50), (3_865_470_566, 50), (3_865_470_567, 90), (LIMIT, 90)],
)
def test_warning(used: int, expected: int | None) -> None:
    """A warning is due from one half on, and a stronger one from nine tenths on."""
    assert warning(used) == expected
