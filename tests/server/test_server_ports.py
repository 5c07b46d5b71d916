"""A port belongs to one server: a second one is refused in a sentence, but for one that replaces it on request."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import NewSite
from msgspec.structs import replace
from served import SECONDS, Served, serving, start
from waiting import until

from hsmkms.config.settings import ServeSettings
from hsmkms.errors import ConfigurationError
from hsmkms.server.process.ports import PortOwner, listeners

SETTINGS = ServeSettings(port=0, workers=2)


@pytest.fixture
def first(tmp_path: Path) -> Iterator[ServeSettings]:
    """The settings of a server that listens with two sockets, on a port that the kernel chose."""
    with listeners(SETTINGS, PortOwner(tmp_path / "a")) as sockets:
        ports = {socket.getsockname()[1] for socket in sockets}
        assert (len(sockets), len(ports)) == (2, 1)
        yield replace(SETTINGS, port=ports.pop())


@pytest.fixture(autouse=True)
def folders(tmp_path: Path) -> None:
    """Two data folders."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()


def refused(settings: ServeSettings, owner: PortOwner) -> str:
    """The error of a server that cannot listen."""
    with pytest.raises(ConfigurationError) as caught, listeners(settings, owner):
        pass
    return str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])  # noqa: S104 - refused
def test_second_server_is_refused(first: ServeSettings, tmp_path: Path, host: str) -> None:
    """Neither the same installation nor another one shares a port unasked; the sentence says which of them has it."""
    wanted = replace(first, host=host)
    same = refused(wanted, PortOwner(tmp_path / "a"))
    place = f"port {first.port} of {host} is in use"
    if host == "0.0.0.0":  # noqa: S104
        assert f"{place}, and a server of this installation (process {os.getpid()}) listens on that port" in same
    else:
        assert f"{place} by another server of this installation (process {os.getpid()})" in same
    assert "--join" in same
    for joins in (False, True):
        other = refused(wanted, PortOwner(tmp_path / "b", joins))
        assert "in use by another program or another installation" in other
        assert ("which --join cannot share" in other) == joins
    assert not list((tmp_path / "b").glob("port-*"))


def test_replacement_joins(first: ServeSettings, tmp_path: Path) -> None:
    """A server of the same installation joins on request, keeps the port when the first one ends, and is exclusive."""
    with listeners(first, PortOwner(tmp_path / "a", joins=True)) as sockets:
        assert {socket.getsockname()[1] for socket in sockets} == {first.port}
        assert "in use by another program" in refused(first, PortOwner(tmp_path / "b", joins=True))


def test_other_server_at_another_address(first: ServeSettings, tmp_path: Path) -> None:
    """A running server of the installation lets nobody join another installation that has its port at another address.

    The kernel would let them share it: both belong to one user, and share their ports among their workers.
    """
    elsewhere = replace(first, host="127.0.0.2")
    with listeners(elsewhere, PortOwner(tmp_path / "b")):
        sentence = refused(elsewhere, PortOwner(tmp_path / "a", joins=True))
    assert f"port {first.port} of 127.0.0.2 is in use, and a server of this installation (process " in sentence
    with listeners(elsewhere, PortOwner(tmp_path / "a", joins=True)) as sockets:
        assert len(sockets) == elsewhere.workers


def test_port_of_a_server_that_ended(tmp_path: Path) -> None:
    """The port and its lock are free once a server has ended; --join needs no running server."""
    with listeners(SETTINGS, PortOwner(tmp_path / "a")) as sockets:
        port = sockets[0].getsockname()[1]
    with listeners(replace(SETTINGS, port=port), PortOwner(tmp_path / "b", joins=True)) as sockets:
        assert sockets[0].getsockname()[1] == port
    with socket.socket() as program:
        program.bind(("127.0.0.1", port))
        program.listen()
        assert "in use by another program" in refused(replace(SETTINGS, port=port), PortOwner(tmp_path / "a", True))


def test_address_that_cannot_be_bound(tmp_path: Path) -> None:
    """Any other refusal of the kernel is a sentence with its reason."""
    assert refused(replace(SETTINGS, host="192.0.2.1"), PortOwner(tmp_path / "a")) == (
        "cannot listen on 192.0.2.1 port 0: Cannot assign requested address"
    )


def end(server: Served) -> None:
    """Kill a server and its workers."""
    os.killpg(server.process.pid, signal.SIGKILL)
    server.process.wait(SECONDS)


def test_two_servers(new_site: NewSite) -> None:
    """A server says where it listens, with installation and token; a second is refused, a replacement drops nothing."""
    site, other = new_site(), new_site()
    with ExitStack() as stack:
        old = stack.enter_context(serving(site))
        until(lambda: "listening on" in old.log_text)
        (line,) = [each for each in old.log_text.splitlines() if "listening on" in each]
        assert line.startswith(f"hsmkms: listening on http://127.0.0.1:{old.port} for installation ")
        assert " on token 'hsmkms' (serial " in line
        for place, words in ((site, "another server of this installation"), (other, "another installation")):
            second = start(place, "--port", old.port)  # the last --port of a command line counts
            assert second.process.wait(SECONDS) == 1
            assert f"ConfigurationError: port {old.port} of 127.0.0.1 is in use by " in second.log_text
            assert words in second.log_text
            assert "Traceback" not in second.log_text
        new = start(site, "--port", old.port, "--join")
        stack.callback(end, new)
        until(lambda: "listening on" in new.log_text)
        assert old.page("/healthz")[0] == 200
        assert old.stop() == 0
        assert [old.page("/healthz")[0] for _ in range(10)] == [200] * 10


def test_second_development_server(tmp_path: Path) -> None:
    """Two development servers on one port: the second ends with a sentence and prints no credentials."""
    with listeners(SETTINGS, PortOwner(tmp_path / "a")) as sockets:
        port = sockets[0].getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "hsmkms", "serve", "--dev", "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env=os.environ | {"TMPDIR": str(tmp_path)},
        )
    assert (done.returncode, done.stdout) == (1, "")
    assert f"port {port} of 127.0.0.1 is in use by another program or another installation" in done.stderr
