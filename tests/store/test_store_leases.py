"""The count of encryptions: never too low, also with concurrent reservations."""

import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import pytest

from hsmkms.errors import StoreError
from hsmkms.store import leases
from hsmkms.store.engine import Store

pytestmark = pytest.mark.both_engines

MATERIAL = "ab" * 32
LIMIT = 2**32


def test_reserving_counts_at_once(store: Store) -> None:
    """Each reservation starts where the last one ended; what is given back may be reserved again."""
    assert leases.total(store, MATERIAL) == 0
    assert leases.reserve(store, MATERIAL, 1, LIMIT) == (0, 1)
    assert leases.reserve(store, MATERIAL, 2, LIMIT) == (1, 2)
    leases.give_back(store, MATERIAL, 2)
    assert leases.reserve(store, MATERIAL, 4, LIMIT) == (1, 4)
    assert leases.total(store, MATERIAL) == 5


def test_nothing_is_granted_when_nothing_is_left(store: Store) -> None:
    """A lease of 0 leaves the count unchanged, even where there is none yet; the last one is what is left."""
    assert leases.reserve(store, MATERIAL, 0, LIMIT) == (0, 0)
    assert leases.reserve(store, MATERIAL, 5, 0) == (0, 0)
    assert leases.reserve(store, MATERIAL, LIMIT - 3, LIMIT) == (0, LIMIT - 3)
    assert leases.reserve(store, MATERIAL, 65_536, LIMIT) == (LIMIT - 3, 3)
    assert leases.reserve(store, MATERIAL, 1, LIMIT) == (LIMIT, 0)
    assert leases.reserve(store, "cd" * 32, LIMIT + 1, LIMIT) == (0, LIMIT)
    assert leases.total(store, MATERIAL) == LIMIT


def test_materials_are_counted_apart(store: Store) -> None:
    """One material's use is none of another's."""
    leases.reserve(store, MATERIAL, 7, LIMIT)
    assert leases.total(store, "cd" * 32) == 0


def test_no_more_comes_back_than_was_taken(store: Store) -> None:
    """The count never falls below nothing: the database refuses, and keeps what it has."""
    leases.reserve(store, MATERIAL, 3, LIMIT)
    with pytest.raises(StoreError):
        leases.give_back(store, MATERIAL, 4)
    assert leases.total(store, MATERIAL) == 3


def test_at_least_only_raises(store: Store) -> None:
    """An unknown history is taken as that much used; a known longer one stays."""
    leases.at_least(store, MATERIAL, 10)
    leases.at_least(store, MATERIAL, 5)
    assert leases.total(store, MATERIAL) == 10


WORK = """
import sys, threading
from pathlib import Path
from hsmkms.store import leases
from hsmkms.store.engine import Store

store = Store.open(Path(sys.argv[1]), busy_timeout_seconds=60)
ranges = []

def work():
    for size in range(1, 26):
        used, granted = leases.reserve(store, sys.argv[2], size, 2**32)
        ranges.append((used, used + granted))

threads = [threading.Thread(target=work) for _ in range(4)]
for each in threads:
    each.start()
for each in threads:
    each.join()
store.close()
print(*(f"{first}-{last}" for first, last in ranges))
"""


def test_threads_and_processes_never_share_a_reservation(folder: Path) -> None:
    """Two processes of four threads each get ranges that follow on each other without overlap or gap."""
    running = [
        subprocess.Popen([sys.executable, "-c", WORK, str(folder), MATERIAL], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ranges = []
    for each in running:
        out, _ = each.communicate(timeout=120)
        assert each.returncode == 0
        ranges += [tuple(map(int, pair.split("-"))) for pair in out.split()]
    ranges.sort()
    assert len(ranges) == 2 * 4 * 25
    assert ranges[0][0] == 0
    assert all(one[1] == other[0] for one, other in pairwise(ranges))
    store = Store.open(folder)
    assert leases.total(store, MATERIAL) == ranges[-1][1] == 2 * 4 * sum(range(1, 26))
    store.close()


def test_eight_threads_that_reserve_and_give_back_end_even(folder: Path) -> None:
    """What is left after all processes have returned the unused part is exactly what was used."""
    store = Store.open(folder, busy_timeout_seconds=60)
    used: list[int] = []

    def work() -> None:
        for size in range(1, 21):
            _, granted = leases.reserve(store, MATERIAL, size * 2, LIMIT)
            used.append(granted - size)
            leases.give_back(store, MATERIAL, size)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert leases.total(store, MATERIAL) == sum(used) == 8 * sum(range(1, 21))
    store.close()
