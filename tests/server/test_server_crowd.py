"""Ten thousand idle connections do not affect the service of others."""

import select
import socket
from contextlib import ExitStack

import pytest
from conftest import NewSite
from floods import many_files, need_files
from raw_client import SECONDS, call
from served import Served, credentials, serving, set_in
from waiting import until

pytestmark = pytest.mark.xdist_group("served")

CONNECTIONS = 10_000
SPARE = 500


def open_files(server: Served) -> int:
    """How many files its workers have open."""
    return sum(len(list(each.iterdir())) for each in (server.files(worker) for worker in server.workers()))


def given_up(connection: socket.socket) -> bool:
    """True once the server has closed a connection."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def test_ten_thousand_connections(new_site: NewSite) -> None:
    """Requests are answered while they come and stay, memory stays bounded, and nothing of them is left afterwards."""
    site = new_site()
    (root,) = credentials(site, ("create_access_key", {"user_name": None}))
    set_in(site, f"max_connections = {CONNECTIONS}")
    with many_files(), serving(site, "--workers", 2) as server, ExitStack() as connections:
        need_files(CONNECTIONS + SPARE)
        endpoint = server.endpoint(root)
        before, memory = open_files(server), server.memory_mib()
        address = ("127.0.0.1", server.port)
        first = connections.enter_context(socket.create_connection(address, timeout=SECONDS))
        for number in range(1, CONNECTIONS):
            newest = connections.enter_context(socket.create_connection(address, timeout=SECONDS))
            if number % 500 == 0:
                assert call(endpoint, "ListKeys", {})[0] == 200
                assert not given_up(newest), "the request had to wait until those before it were given up"
        until(lambda: open_files(server) >= before + CONNECTIONS or given_up(first))
        assert server.memory_mib() - memory < 400
        connections.close()
        until(lambda: open_files(server) < before + SPARE)
        assert call(endpoint, "ListKeys", {})[0] == 200
        assert server.stop() == 0
    assert "Traceback" not in server.log_text
