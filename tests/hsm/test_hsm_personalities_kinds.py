"""Keys of every kind on the token that has all quirks at once: the tests of the kinds, run here once more."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from devices import SoftHsm
from shims import EVERYTHING, Played
from test_hsm_keypairs import (  # noqa: F401
    Bench,
    test_destruction_takes_both_halves,
    test_hmac,
    test_key_agreement,
    test_oaep,
    test_objects_tell_their_kind,
    test_signatures,
)


@pytest.fixture(scope="module")
def bench(scratch: Path, shim_path: Path) -> Iterator[Bench]:
    """The token that the tests of this module share."""
    folder = scratch / "kinds-of-keys"
    folder.mkdir()
    device = Played.of(SoftHsm.make(folder), shim_path, *EVERYTHING.orders).token.open()
    yield Bench(device)
    device.close()
