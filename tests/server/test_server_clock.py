"""The clock of a running server jumps: nothing irreversible is done by it, and everything works afterwards."""

import json
import struct
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import botocore.auth
import pytest
from cli_site import Site
from conftest import NewSite
from msgspec import Struct
from raw_client import call
from served import Served, credentials, serving
from waiting import until

from hsmkms.testing import Endpoint

pytestmark = pytest.mark.xdist_group("served")

SOURCE: Final = Path(__file__).parents[1] / "torture/clock.c"
DAY: Final = timedelta(days=1)
QUICK: Final = ("--wrapping-key-spec", "RSA_2048")


class Clocked(Struct):
    """A server whose clock can be moved, and a client that goes by the right one or by the server's."""

    site: Site
    server: Served
    root: Endpoint
    shift: Path
    move_client: Callable[[timedelta], None]

    def jump(self, by: timedelta, *, client: bool) -> None:
        """The server's clock is so far ahead from now on; the client's too, or it is right."""
        with self.shift.open("r+b") as file:
            file.write(struct.pack("=q", int(by.total_seconds())))
        self.move_client(by if client else timedelta())

    def ask(self, operation: str, **members: Any) -> tuple[int, dict[str, Any]]:  # noqa: ANN401 - of an operation
        """Status and answer of a request."""
        status, _, answer = call(self.root, operation, members)
        return status, answer

    def ready(self) -> dict[str, str]:
        """What /readyz finds wrong."""
        faults: dict[str, str] = json.loads(self.server.page("/readyz")[1])["faults"]
        return faults


@pytest.fixture
def clocked(new_site: NewSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clocked]:
    """The server of these tests."""
    library, shift = tmp_path / "clock.so", tmp_path / "shift"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o", library, SOURCE], check=True)
    shift.write_bytes(bytes(8))

    def move_client(by: timedelta) -> None:
        def now(*, remove_tzinfo: bool = True) -> datetime:
            moment = datetime.now(UTC) + by
            return moment.replace(tzinfo=None) if remove_tzinfo else moment

        monkeypatch.setattr(botocore.auth, "get_current_datetime", now)

    site = new_site()
    (root,) = credentials(site, ("create_access_key", {"user_name": None}))
    with serving(site, "--workers", 1, LD_PRELOAD=str(library), SHIFT_FILE=str(shift)) as server:
        yield Clocked(site, server, server.endpoint(root), shift, move_client)
        assert server.stop() == 0, server.log_text
    assert "Traceback" not in server.log_text


@pytest.mark.parametrize("by", [DAY, -DAY], ids=["forth", "back"])
def test_client_with_the_right_clock(clocked: Clocked, by: timedelta) -> None:
    """Its signature has expired, or is of a time to come, for a server whose clock is a day off; and then no more."""
    clocked.jump(by, client=False)
    status, answer = clocked.ask("ListKeys")
    assert (status, answer["__type"]) == (400, "InvalidSignatureException")
    assert answer["message"].startswith("Signature expired: " if by == DAY else "Signature not yet current: ")
    clocked.jump(timedelta(), client=False)
    assert clocked.ask("ListKeys")[0] == 200


def test_jump_forth_and_back(clocked: Clocked) -> None:
    """A day ahead /readyz says so, and keys work; material that expired then stays so; set right, everything works."""
    key_id = clocked.ask("CreateKey")[1]["KeyMetadata"]["KeyId"]
    imported = clocked.ask("CreateKey", Origin="EXTERNAL")[1]["KeyMetadata"]["KeyId"]
    material = clocked.site.folder / "material"
    material.write_bytes(bytes(range(32)))
    expiry = f"{datetime.now(UTC) + DAY / 2:%Y-%m-%dT%H:%M:%SZ}"
    assert clocked.site.run("import-key", material, "--key-id", imported, "--valid-to", expiry, *QUICK).status == 0
    sealed = [
        clocked.ask("Encrypt", KeyId=each, Plaintext="c2VjcmV0")[1]["CiphertextBlob"] for each in (key_id, imported)
    ]

    clocked.jump(DAY, client=True)
    until(lambda: "clock" in clocked.ready())
    assert "the clock was moved" in clocked.ready()["clock"]
    again = clocked.ask("Encrypt", KeyId=key_id, Plaintext="c2VjcmV0")[1]["CiphertextBlob"]
    assert clocked.ask("Decrypt", CiphertextBlob=again)[1]["Plaintext"] == "c2VjcmV0"
    assert clocked.ask("Decrypt", CiphertextBlob=sealed[1])[1]["__type"] == "KMSInvalidStateException"

    clocked.jump(timedelta(), client=False)
    until(lambda: not clocked.ready())
    assert {clocked.ask("Decrypt", CiphertextBlob=each)[1]["Plaintext"] for each in (sealed[0], again)} == {"c2VjcmV0"}
    assert clocked.ask("Decrypt", CiphertextBlob=sealed[1])[1]["__type"] == "KMSInvalidStateException"
    assert clocked.ask("DescribeKey", KeyId=imported)[1]["KeyMetadata"]["KeyState"] == "PendingImport"
    assert clocked.site.run("import-key", material, "--key-id", imported, "--no-expiry", *QUICK).status == 0
    assert clocked.ask("Decrypt", CiphertextBlob=sealed[1])[1]["Plaintext"] == "c2VjcmV0"
    assert clocked.site.run("audit", "verify").status == 0
