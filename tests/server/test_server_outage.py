"""The server through outages of its token: it stays up, says 503 in time, and works again without a restart."""

import json
import re
import resource
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import shims
from cli_site import Site
from conftest import NewSite
from msgspec import Struct
from raw_client import call
from served import Served, credentials, processor_seconds, serving, set_in
from waiting import until

from hsmkms.hsm.session import softhsm
from hsmkms.testing import Endpoint

pytestmark = pytest.mark.xdist_group("served")

AWAY = "fault * * return 0x32"
HANG_SECONDS = 2


class Outage(Struct):
    """A server with two workers on a played token, its endpoint with the root's credentials, and a key."""

    server: Served
    control: Path
    root: Endpoint
    key_id: str

    def order(self, *lines: str) -> None:
        """Set the orders of the token's shim."""
        shims.order(self.control, *lines)

    def encrypt(self) -> tuple[int, str]:
        """Status and error of an encryption; no connection may fail but by its worker's end."""
        try:
            status, _, answer = call(self.root, "Encrypt", {"KeyId": self.key_id, "Plaintext": "aGVsbG8="})
        except ConnectionError:
            return 0, "reset"
        return status, answer.get("__type", "")

    def metric(self, name: str) -> float:
        """A figure of /metrics without labels."""
        page = self.page("/metrics")[1].decode()
        match = re.search(rf"^{name} ([0-9.e+]+)$", page, re.MULTILINE)
        return float(match[1]) if match else -1.0

    def ready(self) -> tuple[int, list[str]]:
        """What /readyz answers: the status, and the parts that are at fault."""
        status, body = self.page("/readyz")
        return status, list(json.loads(body)["faults"]) if status else []

    def page(self, path: str) -> tuple[int, bytes]:
        """A page for monitors; 0 if its worker ended meanwhile."""
        try:
            return self.server.page(path)
        except ConnectionError:
            return 0, b""

    def is_well(self) -> bool:
        """Whether both workers answer a dozen encryptions."""
        return all(self.encrypt() == (200, "") for _ in range(12))


@pytest.fixture(scope="module")
def outage(new_site: NewSite, shim_path: Path) -> Iterator[Outage]:
    """The server of these tests."""
    site = new_site()
    (root,) = credentials(site, ("create_access_key", {"user_name": None}))
    control = play(site, shim_path)
    set_in(site, f"hang_seconds = {HANG_SECONDS}", "threads = 2", "log_requests = false")
    with serving(site, "--workers", 2) as server:
        endpoint = server.endpoint(root)
        key_id = call(endpoint, "CreateKey", {})[2]["KeyMetadata"]["KeyId"]
        yield Outage(server, control, endpoint, key_id)
        shims.order(control)
        assert server.stop() == 0, server.log_text


def play(site: Site, shim: Path) -> Path:
    """Put the shim before the token of an installation; its control file."""
    control = site.data / "shim.control"
    shims.order(control)
    behind = softhsm.find_module()
    text = site.config.read_text()
    text = re.sub(r"(?m)^module = .*$", f'module = "{shim}"', text, count=1)
    site.config.write_text(text)
    set_in(
        site,
        *(f'{name} = "{value}"' for name, value in shims.variables(behind, control).items()),
        section="token.environment",
    )
    return control


@pytest.fixture
def well(outage: Outage) -> Iterator[Outage]:
    """The same, well before and after the test."""
    until(outage.is_well)
    yield outage
    outage.order()
    until(outage.is_well)


def test_outage(well: Outage) -> None:
    """While the token is away everything is answered 503; once it is back all is as before, without a restart."""
    before = well.server.workers()
    well.order(AWAY)
    until(lambda: well.encrypt()[0] == 503)
    until(lambda: well.metric("hsmkms_token_away") == 2.0 or well.encrypt() == (200, ""))
    assert {well.encrypt() for _ in range(50)} == {(503, "DependencyTimeoutException")}
    status, _, answer = call(well.root, "CreateKey", {})
    assert (status, answer["__type"]) == (503, "DependencyTimeoutException")
    until(lambda: well.ready() == (503, ["token"]))
    assert well.server.page("/healthz")[0] == 200
    well.order()
    until(well.is_well)
    until(lambda: well.ready() == (200, []))
    until(lambda: well.metric("hsmkms_token_outages_total") >= 2.0)
    assert well.server.workers() == before


def test_hanging_call(well: Outage) -> None:
    """A call that hangs is answered within the limit, or ends with its worker; all others are answered normally."""
    well.order("fault C_EncryptInit 1 hang")
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: well.encrypt(), range(8)))
    assert {status for status, _ in answers} <= {0, 200, 503}
    well.order()
    until(well.is_well)


def test_token_that_hangs_for_good(well: Outage) -> None:
    """While every call hangs, also those that a new worker begins with, answers come in time: 503 by a stand-in."""
    well.order("fault * * hang")
    first = well.encrypt()
    assert first[0] in (0, 503)
    until(lambda: well.encrypt()[0] == 503)
    assert {well.encrypt() for _ in range(6)} <= {(503, "DependencyTimeoutException"), (0, "reset")}
    until(lambda: well.ready()[0] == 503)
    until(lambda: well.page("/healthz")[0] == 200)
    until(lambda: well.metric("hsmkms_workers_replaced_total") >= 2.0)
    assert "s: it is killed and replaced" in well.server.log_text
    well.order()
    until(well.is_well)


def test_out_of_file_descriptors(well: Outage) -> None:
    """Workers that may open no more files neither spin nor die; given them back, they answer as before."""
    until(lambda: len(well.server.workers()) == 2)  # a stand-in of the test before has ended
    before = well.server.workers()
    limits = {each: resource.prlimit(each, resource.RLIMIT_NOFILE) for each in before}
    sockets: list[socket.socket] = []
    try:
        for each, (_, hard) in limits.items():
            most = max(int(file.name) for file in Path(f"/proc/{each}/fd").iterdir()) + 3
            resource.prlimit(each, resource.RLIMIT_NOFILE, (most, hard))
        sockets.extend(socket.create_connection(("127.0.0.1", well.server.port), timeout=5) for _ in range(40))
        began, used = time.monotonic(), sum(map(processor_seconds, before))
        time.sleep(0.5)
        assert sum(map(processor_seconds, before)) - used < 0.7 * (time.monotonic() - began), "they spin"
    finally:
        for each, limit in limits.items():
            resource.prlimit(each, resource.RLIMIT_NOFILE, limit)
        for connection in sockets:
            connection.close()
    until(well.is_well)
    assert well.server.workers() == before


def test_disk_that_takes_no_more(well: Outage) -> None:
    """While no file may grow, each request is refused by name; with room again everything works."""
    until(lambda: len(well.server.workers()) == 2)  # a stand-in of the test before has ended
    before = well.server.workers()
    blob = call(well.root, "Encrypt", {"KeyId": well.key_id, "Plaintext": "aGVsbG8="})[2]["CiphertextBlob"]
    limits = {each: resource.prlimit(each, resource.RLIMIT_FSIZE) for each in before}
    outcomes = []
    try:
        for each, (_, hard) in limits.items():
            resource.prlimit(each, resource.RLIMIT_FSIZE, (4096, hard))
        for operation, members in (("CreateKey", {}), ("Encrypt", {"KeyId": well.key_id, "Plaintext": "aGVsbG8="})) * 4:
            status, _, answer = call(well.root, operation, members)
            outcomes.append((status, answer.get("__type"), answer.get("message")))
    finally:
        for each, limit in limits.items():
            resource.prlimit(each, resource.RLIMIT_FSIZE, limit)
    assert {outcome[:2] for outcome in outcomes} == {(500, "KMSInternalException")}
    assert all("audit log cannot be written" in outcome[2] for outcome in outcomes)
    until(well.is_well)
    assert call(well.root, "Decrypt", {"CiphertextBlob": blob})[2]["Plaintext"] == "aGVsbG8="
    assert well.server.workers() == before
