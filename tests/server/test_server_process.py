"""The server as an operator runs it: users, workers, stopping, quotas, the log, a token that goes away, the PIN."""

import base64
import json
import os
import pty
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import boto3
import pytest
import spylog
from botocore.config import Config
from cli_site import Site
from conftest import NewSite
from raw_client import SECONDS, call, raw, read_answer, signed
from served import ACCOUNT, REGION, STOP_SECONDS, Served, credentials, serving, set_in, start
from waiting import until

from hsmkms.server.aws.quota import TOO_FAST
from hsmkms.testing import Endpoint

pytestmark = pytest.mark.xdist_group("served")

Installed = tuple[Site, Served, dict[str, Any]]
CONNECTIONS = 12
"""So many that each of two workers has some of them, but for one time in two thousand."""


@pytest.fixture(scope="module")
def installed(new_site: NewSite) -> Iterator[Installed]:
    """A server with two workers, and an access key of the root."""
    site = new_site()
    set_in(site, "GenerateDataKeyWithoutPlaintext = 4.0", "CreateKey = 0", section="serve.quotas")
    (root,) = credentials(site, ("create_access_key", {"user_name": None}))
    with serving(site, "--workers", 2) as server:
        yield site, server, root
        assert server.stop() == 0, server.log_text


@pytest.fixture
def root(installed: Installed) -> Endpoint:
    """The endpoint with the root's credentials."""
    return installed[1].endpoint(installed[2])


def codes(connections: list[HTTPConnection], endpoint: Endpoint) -> set[str]:
    """What the connections answer to one and the same request: an error's code, or ok."""
    statuses = set()
    body = b"{}"
    for connection in connections:
        connection.request("POST", "/", body, signed(endpoint, "ListKeys", body))
        statuses.add(json.loads(connection.getresponse().read()).get("__type", "ok"))
    return statuses


def new_user(name: str) -> tuple[tuple[str, dict[str, Any]], ...]:
    """The acts that make a user who may do everything."""
    policy = '{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:*","Resource":"*"}}'
    return (
        ("create_user", {"name": name}),
        ("put_user_policy", {"name": name, "policy_name": "all", "document": policy}),
    )


def test_access_keys_end_at_the_next_request(installed: Installed) -> None:
    """What the operator does to an access key holds at the next request, in every worker and on open connections."""
    site, server, _ = installed
    user = {"user_name": "alice"}
    _, _, first, second = credentials(
        site, *new_user("alice"), ("create_access_key", user), ("create_access_key", user)
    )
    endpoint, other = server.endpoint(first), server.endpoint(second)
    connections = [HTTPConnection("127.0.0.1", server.port, timeout=SECONDS) for _ in range(CONNECTIONS)]
    assert codes(connections, endpoint) == {"ok"}
    key = {"access_key_id": first["access_key_id"]}
    credentials(site, ("update_access_key", key | {"active": False}))
    assert codes(connections, endpoint) == {"UnrecognizedClientException"}
    assert codes(connections, other) == {"ok"}
    credentials(site, ("update_access_key", key | {"active": True}))
    assert codes(connections, endpoint) == {"ok"}
    credentials(
        site,
        ("delete_access_key", key),
        ("delete_access_key", {"access_key_id": second["access_key_id"]}),
        ("delete_user", {"name": "alice"}),
    )
    assert codes(connections, endpoint) == codes(connections, other) == {"UnrecognizedClientException"}
    for connection in connections:
        connection.close()


def test_inactive_and_unknown_keys_get_the_same_error(installed: Installed) -> None:
    """An access key that is inactive is answered exactly like one that never was, whatever signs."""
    site, server, _ = installed
    (made,) = credentials(site, ("create_access_key", {"user_name": None}))
    endpoint = server.endpoint(made)
    credentials(site, ("update_access_key", {"access_key_id": made["access_key_id"], "active": False}))
    unknown = endpoint._replace(access_key_id="AKIA" + "A" * 16)
    answers = [
        call(each, "ListKeys", {})[::2]
        for each in (endpoint, endpoint._replace(secret_access_key="wrong"), unknown)  # noqa: S106 - no secret
    ]
    assert answers[0] == answers[1] == answers[2]
    credentials(site, ("delete_access_key", {"access_key_id": made["access_key_id"]}))


def test_last_use(installed: Installed, root: Endpoint) -> None:
    """When and where an access key was used last is written down."""
    site, _, _ = installed
    assert call(root, "ListKeys", {})[0] == 200
    ((listed,),) = credentials(site, ("list_access_keys", {"user_name": None}))
    assert listed["last_used"] >= listed["create_date"]
    assert listed["last_used_region"] == REGION


def test_quota(installed: Installed, root: Endpoint) -> None:
    """Beyond the rate a user gets AWS's ThrottlingException, others are served, and boto3 retries by itself."""
    site, server, _ = installed
    key_id = call(root, "CreateKey", {})[2]["KeyMetadata"]["KeyId"]
    members = {"KeyId": key_id, "KeySpec": "AES_256"}
    with ThreadPoolExecutor(8) as threads:  # one after the other they may come no faster than the quota
        answers = list(threads.map(lambda _: call(root, "GenerateDataKeyWithoutPlaintext", members), range(40)))
    refused = [answer for status, _, answer in answers if status == 400]
    assert refused
    assert {json.dumps(each) for each in refused} == {
        json.dumps({"__type": "ThrottlingException", "message": TOO_FAST})
    }
    _, _, bob = credentials(site, *new_user("bob"), ("create_access_key", {"user_name": "bob"}))
    assert call(server.endpoint(bob), "GenerateDataKeyWithoutPlaintext", members)[0] == 200
    client = boto3.client(
        "kms",
        endpoint_url=root.url,
        region_name=root.region,
        aws_access_key_id=root.access_key_id,
        aws_secret_access_key=root.secret_access_key,
        config=Config(retries={"mode": "adaptive", "total_max_attempts": 10}),
    )
    tried = [client.generate_data_key_without_plaintext(**members)["ResponseMetadata"] for _ in range(6)]
    assert [each["HTTPStatusCode"] for each in tried] == [200] * 6


def test_log(installed: Installed, root: Endpoint) -> None:
    """Each request has its line, with its request id; plaintext, blobs, secrets and the PIN are in none."""
    site, server, made = installed
    plaintext = b"a plaintext that nobody may log"
    status, headers, answer = call(root, "CreateKey", {"Description": "for the log"})
    key = answer["KeyMetadata"]
    sealed = call(
        root,
        "Encrypt",
        {"KeyId": key["KeyId"], "Plaintext": base64.b64encode(plaintext).decode(), "EncryptionContext": {"a": "ctx"}},
    )
    blob = sealed[2]["CiphertextBlob"]
    opened = call(root, "Decrypt", {"CiphertextBlob": blob, "EncryptionContext": {"a": "wrong"}})
    assert (status, sealed[0], opened[2]["__type"]) == (200, 200, "InvalidCiphertextException")
    ids = [each["x-amzn-requestid"] for each in (headers, sealed[1], opened[1])]
    until(lambda: all(key_id in server.log_text for key_id in ids))  # each worker writes now and then
    lines = [json.loads(line) for line in server.log_text.splitlines() if line.startswith("{")]
    by_request = {line["request_id"]: line for line in lines if line.get("event") == "request"}
    line = by_request[ids[0]]
    assert line["principal"] == f"arn:aws:iam::{ACCOUNT}:root"
    assert (line["operation"], line["outcome"], line["region"]) == ("CreateKey", "ok", REGION)
    assert by_request[ids[1]]["key_id"] == key["Arn"]
    assert by_request[ids[2]]["outcome"] == "InvalidCiphertextException"
    assert len(by_request) == len([line for line in lines if line.get("event") == "request"])
    secrets = (
        *(plaintext.decode(), base64.b64encode(plaintext).decode()[:24], blob[:24], "ctx"),
        *(made["secret_access_key"], (site.data / "pin").read_text().strip(), "Signature="),
    )
    assert [secret for secret in secrets if secret in server.log_text] == []


def test_token_that_goes_away(installed: Installed) -> None:
    """While the token is away the process lives, is not ready, and says what is wrong; then it is ready again."""
    site, server, _ = installed
    until(lambda: server.page("/readyz") == (200, b'{"status":"ready","faults":{}}'))
    tokens = site.data / "softhsm" / "tokens"
    away = tokens.rename(site.data / "softhsm" / "away")
    try:
        pages = [server.page("/readyz")]

        def is_away() -> bool:
            pages.append(server.page("/readyz"))
            return pages[-1][0] == 503

        until(is_away)  # each worker checks once a second
        parsed = json.loads(pages[-1][1])
        assert parsed["status"] == "not ready"
        assert list(parsed["faults"]) == ["token"]
        assert server.page("/healthz")[0] == 200
    finally:
        away.rename(tokens)
    until(lambda: server.page("/readyz")[0] == 200)


def test_worker_that_dies(installed: Installed, root: Endpoint) -> None:
    """A worker that was killed is replaced, and the others serve on."""
    _, server, _ = installed
    # One that dies before the PIN is proven ends the server instead.
    until(lambda: server.page("/readyz")[0] == 200)
    before = server.workers()
    assert len(before) == 2
    os.kill(min(before), signal.SIGKILL)
    until(lambda: len(server.workers()) == 2 and server.workers() != before)
    # While the token's view settles a call may be answered 5xx, which every SDK sends again.
    for _ in range(CONNECTIONS):
        until(lambda: call(root, "ListKeys", {})[0] == 200)


def test_pin_that_is_changed(new_site: NewSite) -> None:
    """Through a change of the PIN all are served, and workers that die afterwards come back with the new one."""
    site = new_site()
    (access_key,) = credentials(site, ("create_access_key", {"user_name": None}))
    with serving(site, "--workers", 2) as server:
        root = server.endpoint(access_key)
        assert site.run("change-pin", "--generate").status == 0  # while a worker may be logging in
        for _ in range(CONNECTIONS):
            assert call(root, "GenerateRandom", {"NumberOfBytes": 1})[0] == 200
        before = server.workers()
        for each in before:
            os.kill(each, signal.SIGKILL)
        until(lambda: len(server.workers()) == 2 and not server.workers() & before)
        until(lambda: server.page("/readyz")[0] == 200)
        until(lambda: call(root, "GenerateRandom", {"NumberOfBytes": 1})[0] == 200)
        assert not (site.data / "pin-refused.json").exists()
        assert server.stop() == 0, server.log_text


def test_parent_that_is_killed(new_site: NewSite) -> None:
    """Workers do not outlive their parent, however it ends."""
    with serving(new_site(), "--workers", 2) as server:
        until(lambda: len(server.workers()) == 2)
        workers = server.workers()
        server.process.kill()
        server.process.wait(STOP_SECONDS)
        until(lambda: not server.listens())
        until(lambda: not any(Path(f"/proc/{worker}/environ").exists() for worker in workers))
        assert not server.listens()


# -- stopping ---------------------------------------------------------------------------------------------------


def test_graceful_stop(new_site: NewSite, spy_path: Any) -> None:  # noqa: ANN401 - a path
    """What clients have begun is answered, new ones are refused, every session is closed, and the status is 0."""
    site = new_site()
    (root,) = credentials(site, ("create_access_key", {"user_name": None}))
    module = next(line for line in site.config.read_text().splitlines() if line.startswith("module = "))
    site.config.write_text(site.config.read_text().replace(module, f'module = "{spy_path}"'))
    set_in(site, "CreateKey = 0", section="serve.quotas")
    spied = site.folder / "spied"
    set_in(site, module.replace("module", "PKCS11SPY"), f'PKCS11SPY_OUTPUT = "{spied}"', section="token.environment")
    with serving(site, "--workers", 2) as server, ExitStack() as opened:

        def connect() -> socket.socket:
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS)
            opened.enter_context(connection)
            connection.sendall(raw("GET", "/healthz", {"Host": "x"}))
            assert read_answer(connection)[0] == 200
            return connection

        endpoint = server.endpoint(root)
        body = b'{"Description": "begun before the end"}'
        request = raw("POST", "/", signed(endpoint, "CreateKey", body), body)
        begun = [connect() for _ in range(CONNECTIONS)]
        for each in begun:
            each.sendall(request[:-5])
        idle = connect()
        server.process.send_signal(signal.SIGTERM)
        until(lambda: not server.listens())
        assert idle.recv(1) == b""
        for each in begun:
            each.sendall(request[-5:])
        answers = [read_answer(each) for each in begun]
        assert server.process.wait(STOP_SECONDS) == 0, server.log_text
    assert [(status, headers["connection"]) for status, headers, _ in answers] == [(200, "close")] * CONNECTIONS
    assert b"begun before the end" in answers[0][2]
    ended = [call.name for call in spylog.read(spied) if call.returned == "CKR_OK"]
    assert ended.count("C_Initialize") == ended.count("C_Finalize") == 2  # no other process than the workers
    # Not compared call by call: two workers write one log at once, and a line of it may be lost.
    assert min(ended.count("C_OpenSession"), ended.count("C_CloseSession")) >= 3


def test_renewal_drops_nothing(new_site: NewSite) -> None:
    """SIGHUP replaces every worker while clients with new and with kept connections are answered without a gap."""
    site = new_site()
    (root,) = credentials(site, ("create_access_key", {"user_name": None}))
    stopped = threading.Event()
    answered: list[int] = []
    failed: list[object] = []

    with serving(site, "--workers", 2) as server:
        endpoint = server.endpoint(root)
        body = b'{"NumberOfBytes": 8}'
        headers = signed(endpoint, "GenerateRandom", body)

        def ask(*, keep: bool) -> None:
            connection = HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
            while not stopped.is_set():
                try:
                    connection.request("POST", "/", body, headers)
                    response = connection.getresponse()
                    answered.append(response.status)
                    response.read()
                except OSError as exc:
                    failed.append(exc)
                if not keep or response.getheader("Connection") == "close":
                    connection.close()
                stopped.wait(0.005)
            connection.close()

        clients = [threading.Thread(target=ask, kwargs={"keep": keep}) for keep in (True, True, False, False)]
        before = server.workers()
        for client in clients:
            client.start()
        until(lambda: len(answered) > 20)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: len(server.workers()) == 2 and not server.workers() & before)
        replaced = len(answered)
        until(lambda: len(answered) > replaced + 20)
        stopped.set()
        for client in clients:
            client.join()
        assert server.stop() == 0
    assert failed == []
    assert set(answered) == {200}


# -- the PIN, and the address -----------------------------------------------------------------------------------


def test_pin_at_the_terminal(new_site: NewSite) -> None:
    """A PIN that is asked for is asked for once, is not shown, and is in no argument and no environment."""
    site = new_site()
    pin = (site.data / "pin").read_text().strip()
    (site.data / "pin").unlink()
    site.config.write_text(site.config.read_text().replace('file = "pin"', "prompt = true"))
    controller, terminal = pty.openpty()
    server = start(site, "--workers", 2, terminal=terminal)
    os.close(terminal)
    try:
        asked = b""
        while b"PIN" not in asked:
            asked += os.read(controller, 1024)
        os.write(controller, f"{pin}\n".encode())
        server.wait_until_ready()
        until(lambda: server.page("/readyz")[0] == 200)
        processes = {server.process.pid, *server.workers()}
        assert len(processes) == 3
        for process in processes:
            for name in ("cmdline", "environ"):
                with open(f"/proc/{process}/{name}", "rb") as file:  # noqa: PTH123 - a path of the kernel
                    assert pin.encode() not in file.read()
        assert server.stop() == 0
        with suppress(OSError):  # Linux's error when all other ends are closed
            while more := os.read(controller, 1024):
                asked += more
        assert pin.encode() not in asked
        assert asked.count(b"PIN") == 1
    finally:
        server.process.kill()
        os.close(controller)


def test_wrong_pin(new_site: NewSite) -> None:
    """A wrong PIN is sent once, by one worker, reported once, and never sent again; systemd does not restart that."""
    site = new_site()
    (site.data / "pin").write_text("wrong-pin\n")
    server = start(site, "--workers", 2)
    assert server.process.wait(STOP_SECONDS) == 78
    assert server.log_text.count("PinError") == 1
    assert "wrong-pin" not in server.log_text
    assert (site.data / "pin-refused.json").exists()
    again = start(site, "--workers", 2)
    assert again.process.wait(STOP_SECONDS) == 78
    assert "doctor --retry-pin" in again.log_text
    assert again.log_text.count("PinError") == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])  # noqa: S104 - to be refused
def test_plain_http_beyond_loopback(new_site: NewSite, host: str) -> None:
    """Without TLS an address that others can reach is refused, unless it is asked for by name."""
    server = start(new_site(), "--host", host)
    assert server.process.wait(STOP_SECONDS) == 78
    assert "serve.plain_http = true" in server.log_text


def test_plain_http_by_name(new_site: NewSite) -> None:
    """Plain HTTP beyond loopback is served if it is asked for by name."""
    with serving(new_site(), "--host", "0.0.0.0", "--plain-http", "--workers", 1) as server:  # noqa: S104 - see above
        assert server.page("/healthz")[0] == 200
        assert server.stop() == 0
