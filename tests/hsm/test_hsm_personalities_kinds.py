"""Keys of every kind on a token with all quirks at once: the tests of the kinds run again."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from devices import NewToken
from shims import EVERYTHING, Played
from test_hsm_keypairs import (  # noqa: F401
    Bench,
    test_destruction_takes_both_halves,
    test_hmac,
    test_key_agreement,
    test_kind_is_derived_from_the_objects,
    test_oaep,
    test_signatures,
)


@pytest.fixture(scope="module")
def bench(new_token: NewToken, shim_path: Path) -> Iterator[Bench]:
    """Return the token that the tests of this module share."""
    device = Played.of(new_token("kinds-of-keys"), shim_path, *EVERYTHING.orders).token.open()
    yield Bench(device)
    device.close()
