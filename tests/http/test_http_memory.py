"""The memory of a worker under floods of clients that have no credential, and what others are answered meanwhile."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import NewSite
from floods import FLOODS, flood
from raw_client import address_of, call
from served import Served, credentials, serving, until

from hsmkms.testing import Endpoint

pytestmark = pytest.mark.xdist_group("served")

MOST = 1.5
"""Times a worker's memory at the start, all floods together."""

AFTERWARDS = 1.25
"""The same some seconds later: caches and the allocator keep a little."""


def kib(worker: int, name: str) -> int:
    """A figure of a process's memory: ``VmRSS`` now, ``VmHWM`` at its peak."""
    status = Path(f"/proc/{worker}/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0])


@pytest.fixture(scope="module")
def flooded(new_site: NewSite) -> Iterator[tuple[Served, Endpoint, int]]:
    """A server with one worker, a client of it, and the worker's memory at the start."""
    site = new_site()
    (root,) = credentials(site, ("create_access_key", {"user_name": None}))
    with serving(site, "--workers", 1) as server:
        endpoint = server.endpoint(root)
        for _ in range(50):
            assert call(endpoint, "GenerateRandom", {"NumberOfBytes": 8})[0] == 200
        server.page("/metrics")
        (worker,) = server.workers()
        yield server, endpoint, kib(worker, "VmRSS")
        assert "Traceback" not in server.said


@pytest.mark.parametrize("name", FLOODS)
def test_floods(flooded: tuple[Served, Endpoint, int], name: str) -> None:
    """A worker's memory stays below one and a half of its start, others are served meanwhile, and it returns."""
    server, endpoint, start = flooded
    count, data = FLOODS[name]
    (worker,) = server.workers()
    Path(f"/proc/{worker}/clear_refs").write_text("5")  # the peak counts from now on
    with flood(address_of(endpoint), count, data(endpoint)):
        for _ in range(20):
            assert call(endpoint, "GenerateRandom", {"NumberOfBytes": 8})[0] == 200
    assert server.workers() == {worker}
    assert kib(worker, "VmHWM") < start * MOST, f"{start} KiB grew to {kib(worker, 'VmHWM')} KiB"
    until(lambda: kib(worker, "VmRSS") < start * AFTERWARDS)
