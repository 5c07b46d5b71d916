"""An HA group under a server with load: members fail, a worker is killed, and nothing acknowledged is lost."""

import json
import os
import re
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
from botocore.exceptions import ClientError, HTTPClientError
from cli_site import Site
from conftest import NewSite
from groups import REMOVED, SECOND_SERIAL, Group, Member, Modules
from msgspec import Struct
from raw_client import call
from served import Served, credentials, serving, set_in
from waiting import until

from hsmkms.config import settings as config
from hsmkms.hsm.session.last_member import LastMember
from hsmkms.rules import blob

pytestmark = pytest.mark.xdist_group("served")

THREADS: Final = 4
RETRYABLE: Final = {"DependencyTimeoutException", "KMSInternalException", "ThrottlingException"}
"""The last one is that of CreateKey's quota."""
ERROR, NOT_PRESENT, SESSION_HANDLE_INVALID = 0x30, 0xE0, 0xB3


class Load(Struct):
    """What clients were answered, and how requests failed."""

    sealed: list[tuple[bytes, bytes]] = []
    keys: list[str] = []
    refused: list[str] = []
    cut_off: int = 0
    rounds: int = 0


@pytest.fixture
def grouped(new_site: NewSite, group_modules: Modules) -> tuple[Site, Group]:
    """A fresh installation on an HA group."""
    site = new_site()
    group = Group.of(config.load(site.config).token, site.folder / "ha", group_modules)
    group.write(site.config)
    return site, group


def run(client: Any, load: Load, key_id: str, stopped: threading.Event, number: int) -> None:  # noqa: ANN401 - boto3
    """Create keys, encrypt and decrypt until it is time to stop; whatever is answered is noted."""
    step = 0
    while not stopped.is_set():
        step += 1
        plaintext = f"{number}/{step}".encode()
        try:
            ciphertext = client.encrypt(KeyId=key_id, Plaintext=plaintext)["CiphertextBlob"]
            load.sealed.append((plaintext, ciphertext))
            assert client.decrypt(CiphertextBlob=ciphertext)["Plaintext"] == plaintext
            if step % 5 == 0:
                load.keys.append(client.create_key()["KeyMetadata"]["KeyId"])
            load.rounds += 1
        except ClientError as exc:
            load.refused.append(str(exc))
        except HTTPClientError:
            load.cut_off += 1


def fail_over(load: Load, leaving: Member, code: int) -> None:
    """Let the member in use fail; wait until the other one has answered, and let the first come back."""
    leaving.fail(code)
    answered = load.rounds
    until(lambda: load.rounds > answered + 5 * THREADS)
    leaving.come_back()


def look(server: Served, root: dict[str, Any], load: Load) -> None:
    """Decrypt everything that was answered, and use every key that was created."""
    client = server.endpoint(root).client()
    for plaintext, ciphertext in load.sealed:
        assert answer_of(lambda: client.decrypt(CiphertextBlob=ciphertext))["Plaintext"] == plaintext  # noqa: B023
    for key_id in load.keys:
        assert answer_of(lambda: client.encrypt(KeyId=key_id, Plaintext=b"x"))["CiphertextBlob"]  # noqa: B023


def answer_of(request: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Repeat a request while a worker that has not found the other member yet answers that the token is away."""
    answers: list[dict[str, Any]] = []

    def is_answered() -> bool:
        try:
            answers.append(request())
        except ClientError as exc:
            if exc.response["Error"]["Code"] != "DependencyTimeoutException":
                raise
            return False
        return True

    until(is_answered)
    return answers[0]


def test_failover_under_load(grouped: tuple[Site, Group]) -> None:
    """What fails is retryable, all that was answered is there, no IV is used twice, and no key is missing."""
    site, group = grouped
    (root,) = credentials(site, ("create_access_key", {"user_name": None}))
    load, stopped = Load(), threading.Event()
    with serving(site, "--workers", 2) as server:
        key_id = server.endpoint(root).client().create_key()["KeyMetadata"]["KeyId"]
        clients = [server.endpoint(root).client() for _ in range(THREADS)]
        threads = [
            threading.Thread(target=run, args=(client, load, key_id, stopped, number))
            for number, client in enumerate(clients)
        ]
        for each in threads:
            each.start()
        until(lambda: load.rounds > THREADS)
        leaving, taking = group.first, group.second
        for code in (REMOVED, SESSION_HANDLE_INVALID, ERROR, NOT_PRESENT):
            if code == ERROR:
                os.kill(min(server.workers()), signal.SIGKILL)  # it may be about to log in to the other member
            fail_over(load, leaving, code)
            leaving, taking = taking, leaving
        stopped.set()
        for each in threads:
            each.join()
        look(server, root, load)
        assert server.stop() == 0, server.log_text
    assert [each for each in load.refused if not any(code in each for code in RETRYABLE)] == []
    assert len(load.keys) > 0
    ivs = [blob.parse(ciphertext).iv for _, ciphertext in load.sealed]
    assert len(set(ivs)) == len(ivs)
    for serial in (group.first.serial, SECOND_SERIAL):
        assert f"the HA member with serial {serial} has taken over" in server.log_text
    members = site.run("token-info").json["Members"]
    assert [each["Serial"] for each in members if each["Present"]] == [group.first.serial, SECOND_SERIAL]
    findings = json.loads(site.run("reconcile").stdout)["Findings"]
    assert {each["Kind"] for each in findings} <= {"unacknowledged", "unfinished"}


def passed_on(log: str, workers: set[int]) -> list[str]:
    """The members that new workers were to begin with after one of these workers was killed."""
    serials, killed = [], 0
    for line in log.splitlines():
        if found := re.search(r"worker (\d+) has given no sign of life", line):
            killed = int(found[1])
        elif killed in workers and (found := re.search(r"begin with the HA member with serial (\w+)", line)):
            serials.append(found[1])
    return serials


@pytest.mark.parametrize("threads", [2, 8], ids=["fewer threads", "more threads than sessions"])
def test_member_that_hangs(grouped: tuple[Site, Group], threads: int) -> None:
    """Workers that hang with a member are replaced by workers that begin with the next one, and stay with that.

    So they are if threads are left, which wait for a session in vain. A new worker that a busy machine keeps
    from its processor for two seconds is killed as well: that is no fault, and changes the member once more.
    """
    site, group = grouped
    serials = (group.first.serial, group.second.serial)
    (root,) = credentials(site, ("create_access_key", {"user_name": None}))
    set_in(site, "hang_seconds = 2", f"threads = {threads}", "log_requests = false")
    set_in(site, "max_sessions = 4", "session_wait_seconds = 0.5", section="token")
    with serving(site, "--workers", 2) as server:
        key_id = server.endpoint(root).client().create_key()["KeyMetadata"]["KeyId"]

        def is_answered() -> bool:
            try:
                return call(server.endpoint(root), "Encrypt", {"KeyId": key_id, "Plaintext": "eA=="})[0] == 200
            except ConnectionError:  # its worker was killed
                return False

        for each in (group.first, group.second):
            each.order("fault * * delay 3000")  # a slow token is called in threads, not on the loop
        for _ in range(100):
            until(is_answered)
        hanging, workers = LastMember(site.data, serials).read(), server.workers()
        leaving, taking = sorted((group.first, group.second), key=lambda each: each.serial != hanging)
        taking.order()
        leaving.order("fault C_EncryptInit * hang", "fault C_Login * hang")

        with ThreadPoolExecutor(12) as clients:
            until(lambda: all(clients.map(lambda _: is_answered(), range(12))))
        assert passed_on(server.log_text, workers) == [taking.serial]
        server.stop()
