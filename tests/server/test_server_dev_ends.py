"""The throw-away server and the pytest plugin: in other projects, and after a kill."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from raw_client import address_of, call
from waiting import until

from hsmkms.testing import Endpoint, read_endpoint

PATIENCE = 120.0

SAMPLE = """
import time
from pathlib import Path

def test_round_trip(kms_client, hsmkms_endpoint):
    key_id = kms_client.create_key()["KeyMetadata"]["KeyId"]
    sealed = kms_client.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    assert kms_client.decrypt(CiphertextBlob=sealed)["Plaintext"] == b"x"
    assert hsmkms_endpoint.environment()["AWS_ENDPOINT_URL_KMS"] == kms_client.meta.endpoint_url

def test_that_hangs(hsmkms_endpoint):
    Path("port").write_text(hsmkms_endpoint.url)
    time.sleep(600)
"""


def listens(port: int) -> bool:
    """Return whether a process accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def environment(folder: Path) -> dict[str, str]:
    """Nothing of the person who runs the tests; temporary files go to ``folder``."""
    folder.mkdir(exist_ok=True)
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder)}


def test_plugin_in_another_project(tmp_path: Path) -> None:
    """The fixtures work in a project that knows nothing of hsmkms, and leave nothing, also when pytest is killed."""
    project, temporary = tmp_path / "project", tmp_path / "tmp"
    project.mkdir()
    (project / "test_sample.py").write_text(SAMPLE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    with subprocess.Popen(
        command, cwd=project, env=environment(temporary), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as run:
        until(lambda: (project / "port").exists() or run.poll() is not None)
        assert run.poll() is None, run.communicate()
        until(lambda: (project / "port").read_text() != "")
        port = int((project / "port").read_text().rpartition(":")[2])
        assert listens(port)
        assert len(list(temporary.glob("hsmkms-dev-*"))) == 1
        run.send_signal(signal.SIGKILL)
    until(lambda: not listens(port))
    until(lambda: not list(temporary.glob("hsmkms-*")))


def test_options_and_what_a_killed_server_leaves(tmp_path: Path) -> None:
    """Port, account and region are as given; a killed server's workers end, and the next server removes its folder."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "hsmkms", "serve", "--dev", "--port", str(port), "--account-id", "123456789012"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(tmp_path / "tmp")) as first:
        endpoint = read_endpoint(first)
        assert address_of(endpoint) == ("127.0.0.1", port)
        _, _, made = call(endpoint._replace(region="ap-south-2"), "CreateKey", {"Origin": "EXTERNAL"})
        assert made["KeyMetadata"]["Arn"].startswith("arn:aws:kms:ap-south-2:123456789012:key/")
        assert wraps_on_host(endpoint._replace(region="ap-south-2"), made["KeyMetadata"]["KeyId"])
        first.kill()
    until(lambda: not listens(port))
    (left,) = (tmp_path / "tmp").iterdir()
    until(lambda: is_free(left))
    os.utime(left, (0, 0))
    with subprocess.Popen(
        [*command[:5], "--until-stdin-ends"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(tmp_path / "tmp"),
    ) as second:
        read_endpoint(second)
        until(lambda: not left.exists())
        assert second.stdin is not None
        second.stdin.close()
        assert second.wait(PATIENCE) == 0
    assert list((tmp_path / "tmp").iterdir()) == []


def is_free(folder: Path) -> bool:
    """True once no process of a server holds the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def wraps_on_host(endpoint: Endpoint, key_id: str) -> bool:
    """True if material may be imported in a way that SoftHSM itself cannot do."""
    wanted = {"KeyId": key_id, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"}
    return call(endpoint, "GetParametersForImport", wanted)[0] == 200
