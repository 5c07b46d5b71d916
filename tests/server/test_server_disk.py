"""A disk that becomes read-only, full, or fails under a running server: named answers in time, and nothing is lost."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from cli_site import Site, damage
from conftest import NewSite
from msgspec import Struct
from raw_client import call
from served import STOP_SECONDS, Served, credentials, serving, start
from waiting import until

from hsmkms.testing import Endpoint

pytestmark = pytest.mark.xdist_group("served")

SOURCE: Final = Path(__file__).with_name("disk.c")
FAULTS: Final = {"read-only": "r", "full": "f", "failing": "b"}
WELL: Final = "w"


class Disk(Struct):
    """A server whose data folder is on a disk that fails on demand, and the root's endpoint."""

    site: Site
    server: Served
    control: Path
    root: Endpoint
    key_id: str
    sealed: str

    def be(self, letter: str) -> None:
        """Fail in one way from now on, or be well."""
        self.control.write_text(letter)

    def ask(self, operation: str, **members: Any) -> tuple[int, dict[str, Any]]:  # noqa: ANN401 - of an operation
        """Status and answer of a request."""
        status, _, answer = call(self.root, operation, members)
        return status, answer

    def ready(self) -> dict[str, str]:
        """What /readyz finds wrong."""
        faults: dict[str, str] = json.loads(self.server.page("/readyz")[1])["faults"]
        return faults

    def series(self) -> dict[str, float]:
        """The metric hsmkms_ready, by part."""
        page = self.server.page("/metrics")[1].decode()
        series = re.findall(r'^hsmkms_ready\{part="(\w+)"\} (\S+)$', page, re.MULTILINE)
        return {part: float(value) for part, value in series}


def environment(folder: Path, site: Site) -> dict[str, str]:
    """What puts the data folder of a program on the disk; its token is on another one."""
    library = folder / "disk.so"
    if not library.exists():
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o", library, SOURCE], check=True
        )
    return {
        "LD_PRELOAD": str(library),
        "DISK_FOLDER": str(site.data),
        "DISK_EXCEPT": str(site.data / "softhsm"),
        "DISK_CONTROL": str(folder / "disk"),
    }


@pytest.fixture(scope="module")
def disk(new_site: NewSite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    """The server of these tests."""
    site, folder = new_site(), tmp_path_factory.mktemp("disk")
    (root,) = credentials(site, ("create_access_key", {"user_name": None}))
    (folder / "disk").write_text(WELL)
    with serving(site, "--workers", 1, **environment(folder, site)) as server:
        made = Disk(site, server, folder / "disk", server.endpoint(root), "", "")
        made.key_id = made.ask("CreateKey")[1]["KeyMetadata"]["KeyId"]
        made.sealed = made.ask("Encrypt", KeyId=made.key_id, Plaintext="c2VjcmV0")[1]["CiphertextBlob"]
        yield made
        assert server.stop() == 0, server.log_text
    log = server.log_text
    assert "Traceback" not in log, log[max(log.find("Traceback") - 1500, 0) :][:6000]


@pytest.mark.parametrize("fault", FAULTS)
def test_disk_fails(disk: Disk, fault: str) -> None:
    """Requests that change or decrypt are refused, reading works, /readyz says why; then all works as before."""
    before = [key["KeyId"] for key in disk.ask("ListKeys")[1]["Keys"]]
    disk.be(FAULTS[fault])
    until(lambda: "disk" in disk.ready())
    assert "free or repair its disk" in disk.ready()["disk"]
    assert disk.series() == {"token": 1.0, "database": 1.0, "disk": 0.0, "clock": 1.0}
    for operation, members in (
        ("CreateKey", {}),
        ("Encrypt", {"KeyId": disk.key_id, "Plaintext": "c2VjcmV0"}),
        ("Decrypt", {"CiphertextBlob": disk.sealed}),
        ("CreateAlias", {"AliasName": "alias/full", "TargetKeyId": disk.key_id}),
        ("ScheduleKeyDeletion", {"KeyId": disk.key_id}),
    ):
        status, answer = disk.ask(operation, **members)
        assert status == 500, (operation, answer)
        assert answer["__type"] == "KMSInternalException", (operation, answer)
        assert "Plaintext" not in answer
    assert disk.ask("DescribeKey", KeyId=disk.key_id)[0] == 200
    disk.be(WELL)
    until(lambda: not disk.ready())
    assert set(disk.series().values()) == {1.0}
    status, answer = disk.ask("Decrypt", CiphertextBlob=disk.sealed)
    assert (status, answer["Plaintext"]) == (200, "c2VjcmV0")
    made = disk.ask("CreateKey")[1]["KeyMetadata"]["KeyId"]
    assert {key["KeyId"] for key in disk.ask("ListKeys")[1]["Keys"]} == {*before, made}
    verdict = disk.site.run("audit", "verify")
    assert verdict.status == 0, verdict
    assert disk.site.run("reconcile").json["Findings"] == []


@pytest.mark.parametrize("fault", FAULTS)
def test_start_on_it(disk: Disk, tmp_path: Path, fault: str) -> None:
    """A command that would write says so in one line."""
    (tmp_path / "disk").write_text(FAULTS[fault])
    message = disk.site.run("create-key", **environment(tmp_path, disk.site)).error
    assert any(
        words in message for words in ("cannot be written", "cannot be opened", "is full", "fails or is full")
    ), message


def test_damaged_log(new_site: NewSite) -> None:
    """With a damaged log.db nothing encrypts without its count, what was encrypted opens; renewed, all works."""
    site = new_site()
    (root,) = credentials(site, ("create_access_key", {"user_name": None}))
    with serving(site) as server:
        installation = Disk(site, server, site.data, server.endpoint(root), "", "")
        key_id = installation.ask("CreateKey")[1]["KeyMetadata"]["KeyId"]
        sealed = installation.ask("Encrypt", KeyId=key_id, Plaintext="c2VjcmV0")[1]["CiphertextBlob"]
        assert "processes have the installation open (pid " in site.run("renew-log").error
        assert server.stop() == 0
    with serving(site) as server:
        installation = Disk(site, server, site.data, server.endpoint(root), "", "")
        assert installation.ask("Decrypt", CiphertextBlob=sealed)[0] == 200
        damage(site.data / "log.db")
        for _ in range(4):
            status, answer = installation.ask("Encrypt", KeyId=key_id, Plaintext="c2VjcmV0")
            assert (status, answer["__type"]) == (500, "KMSInternalException"), (answer, server.log_text[-3000:])
            assert "run `hsmkms renew-log`" in answer["message"]
            assert installation.ask("Decrypt", CiphertextBlob=sealed)[1]["Plaintext"] == "c2VjcmV0"
        server.stop()
    refused = start(site)
    assert refused.process.wait(STOP_SECONDS) == 78
    assert "run `hsmkms renew-log`" in refused.log_text
    assert site.run("renew-log").json["Outcome"] == "renewed"
    with serving(site) as server:
        installation = Disk(site, server, site.data, server.endpoint(root), "", "")
        again = installation.ask("Encrypt", KeyId=key_id, Plaintext="c2VjcmV0")[1]["CiphertextBlob"]
        opened = [installation.ask("Decrypt", CiphertextBlob=each)[1] for each in (sealed, again)]
        assert [each["Plaintext"] for each in opened] == ["c2VjcmV0"] * 2
        assert opened[0]["KeyMaterialId"] != opened[1]["KeyMaterialId"]
        assert server.stop() == 0
