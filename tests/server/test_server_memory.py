"""The memory of a worker under floods of clients that have no credential, and what others are answered meanwhile."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli_site import Site
from conftest import NewSite
from floods import FLOODS, LIMIT, MANY, flood, many_files, need_files
from raw_client import address_of, call
from served import Served, credentials, serving, set_in
from waiting import until

from hsmkms.testing import Endpoint

pytestmark = pytest.mark.xdist_group("served")

REQUESTS_KIB = 2 * 12 * 1024 + 4 * 1024
"""What a flood of requests may take: twice ``serve.request_memory_mib``, and what the allocator cannot use."""

CONNECTION_KIB = 5
"""What each of its connections may take besides."""

KEPT_KIB = 20 * 1024
"""What caches and the allocator may keep of all floods so far, some seconds later."""

CROWD = 10_000
CROWD_KIB = CROWD * 5 + 12 * 1024 + 4 * 1024
"""What so many connections may take: by themselves, what is unfinished on them, and the allocator."""

CROWD_LEFT_KIB = 24 * 1024
"""What the allocator keeps of it some seconds later."""


def kib(worker: int, name: str) -> int:
    """A figure of a process's memory: ``VmRSS`` now, ``VmHWM`` at its peak."""
    status = Path(f"/proc/{worker}/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0])


@contextmanager
def served_by_one(site: Site) -> Iterator[tuple[Served, Endpoint, int]]:
    """A server with one worker, a client of it, and the worker's memory at the start, in KiB."""
    (root,) = credentials(site, ("create_access_key", {"user_name": None}))
    with many_files(), serving(site, "--workers", 1) as server:
        endpoint = server.endpoint(root)
        for _ in range(50):
            assert call(endpoint, "GenerateRandom", {"NumberOfBytes": 8})[0] == 200
        server.page("/metrics")
        (worker,) = server.workers()
        yield server, endpoint, kib(worker, "VmRSS")
        assert "Traceback" not in server.log_text


@pytest.fixture(scope="module")
def flooded(new_site: NewSite) -> Iterator[tuple[Served, Endpoint, int]]:
    """A server that may have so many connections as all floods but those of a crowd need."""
    site = new_site()
    set_in(site, f"max_connections = {LIMIT}")
    with served_by_one(site) as found:
        yield found


@pytest.fixture(scope="module")
def crowded(new_site: NewSite) -> Iterator[tuple[Served, Endpoint, int]]:
    """A server that may have many more connections, as by default."""
    site = new_site()
    set_in(site, f"max_connections = {CROWD}")
    with served_by_one(site) as found:
        yield found


def peak_under(server: Served, endpoint: Endpoint, count: int, data: bytes) -> int:
    """Send on so many connections while another client is served; the worker's memory at its peak, in KiB."""
    need_files(count)
    (worker,) = server.workers()
    Path(f"/proc/{worker}/clear_refs").write_text("5")  # the peak counts from now on
    with flood(address_of(endpoint), count, data):
        for _ in range(20):
            assert call(endpoint, "GenerateRandom", {"NumberOfBytes": 8})[0] == 200
    assert server.workers() == {worker}
    return kib(worker, "VmHWM")


def returns_to(server: Served, most: float) -> None:
    """Wait until the worker's memory is less than so many KiB."""
    (worker,) = server.workers()
    until(lambda: kib(worker, "VmRSS") < most)


@pytest.mark.parametrize("name", FLOODS)
def test_floods(flooded: tuple[Served, Endpoint, int], name: str) -> None:
    """A flood takes 5 KiB a connection and its budget, others are served meanwhile, and the memory is given back."""
    server, endpoint, start = flooded
    count, data = FLOODS[name]
    (worker,) = server.workers()
    before = kib(worker, "VmRSS")  # with what earlier floods have left, which is at most KEPT_KIB
    peak = peak_under(server, endpoint, count, data(endpoint))
    assert peak < before + REQUESTS_KIB + count * CONNECTION_KIB, f"{before} KiB grew to {peak} KiB"
    returns_to(server, start + KEPT_KIB)


@pytest.mark.parametrize("name", ["half bodies", "half small bodies", "fitting requests ahead", "names of headers"])
def test_floods_beside_idle_connections(flooded: tuple[Served, Endpoint, int], name: str) -> None:
    """So it is where all other connections that a worker serves are open as well, and say nothing."""
    server, endpoint, start = flooded
    count, data = FLOODS[name]
    need_files(MANY)
    (worker,) = server.workers()
    before = kib(worker, "VmRSS")
    with flood(address_of(endpoint), MANY - count, b""):
        peak = peak_under(server, endpoint, count, data(endpoint))
    assert peak < before + REQUESTS_KIB + MANY * CONNECTION_KIB, f"{before} KiB grew to {peak} KiB"
    returns_to(server, start + KEPT_KIB)


@pytest.mark.parametrize(
    "name", ["idle connections at the limit", "half small heads at the limit", "half tiny bodies at the limit"]
)
def test_floods_of_a_crowd(crowded: tuple[Served, Endpoint, int], name: str) -> None:
    """With another limit of connections a worker's memory stays below its start, 5 KiB for each, and the budget."""
    server, endpoint, start = crowded
    _, data = FLOODS[name]
    peak = peak_under(server, endpoint, CROWD - 50, data(endpoint))
    assert peak < start + CROWD_KIB, f"{start} KiB grew to {peak} KiB"
    returns_to(server, start + CROWD_LEFT_KIB)
