"""The encryption budget of a material."""

from itertools import accumulate, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmkms.hsm.crypto import cbc
from hsmkms.rules.budget import CBC_BLOCKS, LIMIT, grant, next_lease, warning


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
    ("used", "want", "expected"),
    [(0, 1, 1), (0, 65_536, 65_536), (LIMIT - 1, 65_536, 1), (LIMIT, 1, 0), (LIMIT + 5, 1, 0), (LIMIT - 4, 4, 4)],
)
def test_grant(used: int, want: int, expected: int) -> None:
    """A grant is what is wanted, or what the budget still holds, and never negative."""
    assert grant(used, want) == expected


@given(st.integers(0, LIMIT), st.integers(0, LIMIT))
def test_grant_never_exceeds_the_limit(used: int, want: int) -> None:
    """No grant leads beyond the limit, and none is refused while there is room."""
    granted = grant(used, want)
    assert granted == want or used + granted == LIMIT
    assert used + granted <= LIMIT


@pytest.mark.parametrize(
    ("used", "expected"),
    [(0, None), (2**31 - 1, None), (2**31, 50), (3_865_470_566, 50), (3_865_470_567, 90), (LIMIT, 90)],
)
def test_warning(used: int, expected: int | None) -> None:
    """A warning is due from one half on, and a stronger one from nine tenths on."""
    assert warning(used) == expected
