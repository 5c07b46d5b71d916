"""The audit log behind the endpoint: refusals before the pipeline are in it, and kill -9 loses no answered request."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import warm
from raw_client import call, exchange, raw, signed

from hsmkms.testing import Endpoint

STARTED = "hsmkms: serving on"


def run(folder: Path, *words: str) -> Any:  # noqa: ANN401 - JSON
    """A command on the installation in a folder; its answer."""
    done = subprocess.run(
        [warm.folder() / "hsmkms", *words],
        capture_output=True,
        check=True,
        timeout=60,
        text=True,
        env=environment(folder),
    )
    return json.loads(done.stdout) if done.stdout else None


def environment(folder: Path) -> dict[str, str]:
    """The environment in which commands find that installation."""
    return {
        "HSMKMS_CONFIG": str(folder / "data" / "hsmkms.toml"),
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LANG": warm.LANG,
        "COLUMNS": "200",
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation with a user and access key, which are in ``key.json``."""
    place = tmp_path_factory.mktemp("audit")
    run(place, "init", "--data-dir", str(place / "data"), "--create-softhsm-token")
    made = run(place, "create-access-key", "--root")
    (place / "key.json").write_text(json.dumps(made["AccessKey"]))
    return place


class Server:
    """`hsmkms serve` in a group of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        key = json.loads((folder / "key.json").read_text())
        self.endpoint = Endpoint(f"http://127.0.0.1:{port}", "us-east-1", key["AccessKeyId"], key["SecretAccessKey"])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hsmkms", "serve", "--port", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(folder),
            start_new_session=True,
        )
        for _ in range(1200):
            try:
                if exchange(self.endpoint, raw("GET", "/readyz", {"Host": "x"}))[0] == 200:
                    return
            except OSError:
                pass
            threading.Event().wait(0.1)
        raise AssertionError("the server does not answer")

    def kill(self) -> None:
        """Kill -9, parent and workers."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def server(folder: Path, unused_port: int) -> Iterator[Server]:
    """A server; killed after the test."""
    started = Server(folder, unused_port)
    yield started
    if started.process.poll() is None:
        started.kill()


@pytest.fixture
def unused_port() -> int:
    """Return a port without a listener."""
    import socket  # noqa: PLC0415 - here alone

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """All records of requests, by their id."""
    result = subprocess.run(
        [warm.folder() / "hsmkms", "audit", "export"],
        capture_output=True,
        check=True,
        timeout=60,
        text=True,
        env=environment(folder),
    )
    parsed = (json.loads(line) for line in result.stdout.splitlines())
    return {each["requestID"]: each for each in parsed if "requestID" in each}


def test_nothing_is_lost_by_kill_9(folder: Path, server: Server) -> None:
    """After kill -9 at full load every request that was answered is in the log, and the chain verifies."""
    _, _, made = call(server.endpoint, "CreateKey", {})
    key_id = made["KeyMetadata"]["KeyId"]
    answered: set[str] = set()
    kinds = (("Encrypt", {"KeyId": key_id, "Plaintext": "aGVsbG8="}), ("TagResource", None), ("DescribeKey", None))

    def ask(number: int) -> None:
        operation, members = kinds[number % 3]
        tags = {"KeyId": key_id, "Tags": [{"TagKey": "a", "TagValue": "b"}]} if operation == "TagResource" else {}
        body = json.dumps(members or tags or {"KeyId": key_id}).encode()
        request = raw("POST", "/", signed(server.endpoint, operation, body), body)
        try:
            while True:
                status, headers, _ = exchange(server.endpoint, request)
                assert status == 200
                answered.add(headers["x-amzn-requestid"])
        except OSError:
            return

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    while len(answered) < 600:
        threading.Event().wait(0.02)
    server.kill()
    for thread in threads:
        thread.join()
    assert len(answered) >= 600
    run(folder, "describe-key", "--key-id", key_id)
    assert answered <= records(folder).keys()
    assert run(folder, "audit", "verify")["Faults"] == []


def test_before_the_pipeline(folder: Path, server: Server) -> None:
    """What is wrong with signature, operation or form is recorded too, with who asked as far as that is proven."""
    endpoint = server.endpoint
    names_by_request = {}
    for name, where, members in (
        ("MissingAuthenticationTokenException", endpoint, None),
        ("UnrecognizedClientException", endpoint._replace(access_key_id="AKIA" + "A" * 16), {}),
        ("InvalidSignatureException", endpoint._replace(secret_access_key="x" * 40), {}),
        ("SerializationException", endpoint, b"["),
    ):
        if members is None:
            status, headers, _ = exchange(
                endpoint, raw("POST", "/", {"Host": "x", "X-Amz-Target": "TrentService.Decrypt"})
            )
        else:
            status, headers, _ = call(where, "Decrypt", members, User_Agent="a stranger/1")
        assert status == 400
        names_by_request[headers["x-amzn-requestid"]] = name
    server.process.terminate()
    assert server.process.wait(60) == 0
    record = records(folder)
    assert {request_id: record[request_id]["errorCode"] for request_id in names_by_request} == names_by_request
    assert {record[request_id]["eventName"] for request_id in names_by_request} == {"Decrypt"}
    identities = {name: record[each]["userIdentity"]["type"] for each, name in names_by_request.items()}
    assert identities["SerializationException"] == "Root"
    assert identities["InvalidSignatureException"] == "Unknown"
    agents = {record[request_id]["userAgent"] for request_id in names_by_request}
    assert "a stranger/1" in agents
    assert {record[request_id]["sourceIPAddress"] for request_id in names_by_request} == {"127.0.0.1"}
    verdict = run(folder, "audit", "verify")
    assert (verdict["Faults"], verdict["Unsealed"]) == ([], 0)
