"""The samples of conf/cluster, played: their commands make nodes, which serve behind HAProxy."""

import os
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_site import BIN, Site
from node_sites import answer, softhsm_module
from postgresql_cluster import Cluster
from sample_files import CONF
from served import STOP_SECONDS, Served, credentials
from waiting import until

from hsmkms.testing import Endpoint

CLUSTER = CONF / "cluster"
REGION = "us-east-1"
URL = "postgresql+psycopg://hsmkms@/hsmkms?host=/var/run/postgresql"
SETTINGS = {"TOKEN_LABEL": "hsmkms", "ACCOUNT_ID": "111122223333", "REGION": REGION}


@pytest.fixture
def url(cluster: Cluster) -> Iterator[str]:
    """An empty database of the test's own."""
    with cluster.database() as made:
        yield made


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_script(site: Site, script: str, **environment: str) -> None:
    """Run a shell script of a sample."""
    command = ["sh", "-euc", script, "sh"]
    done = subprocess.run(
        command, env=site.environment(**environment), cwd=site.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done


# -- compose ---------------------------------------------------------------------------------------------------------


@contextmanager
def compose_node(site: Site, command: list[str]) -> Iterator[Served]:
    """The server of a node with the command of its service, on a port of its own, with one worker."""
    port, log = free_port(), site.folder / f"{site.name}.log"
    words = [word.replace("/var/lib/hsmkms", str(site.folder)).replace("8443", str(port)) for word in command]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [BIN / "hsmkms", *words, "--workers", "1"],
            stdout=file,
            stderr=file,
            env=site.environment(),
            cwd=site.folder,
            start_new_session=True,
        )
    server = Served(process, port, log)
    try:
        server.wait_until_ready()
        yield server
    finally:
        kill(server)


def kill(server: Served) -> None:
    """End all processes of a server, as `docker compose kill` does."""
    with suppress(ProcessLookupError):
        os.killpg(server.process.pid, signal.SIGKILL)
    server.process.wait(STOP_SECONDS)


@contextmanager
def compose_proxy(folder: Path, ports: dict[str, int]) -> Iterator[int]:
    """HAProxy with the configuration of the sample, before nodes of this machine; its port."""
    port, file = free_port(), folder / "haproxy.cfg"
    text = (CLUSTER / "compose-haproxy.cfg").read_text().replace("bind :8443", f"bind 127.0.0.1:{port}")
    for name, own in ports.items():
        text = text.replace(f"{name}:8443", f"127.0.0.1:{own}")
    file.write_text(text)
    with subprocess.Popen(["haproxy", "-db", "-f", file], stderr=subprocess.DEVNULL) as process:
        try:
            yield port
        finally:
            process.kill()


def is_ready(port: int) -> bool:
    """Whether a node, or HAProxy by a node, says that it is ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except (OSError, HTTPException):
        return False


def client(key: dict[str, Any], port: int) -> Any:  # noqa: ANN401 - a client of botocore
    """A client with an access key."""
    return Endpoint(f"http://127.0.0.1:{port}", REGION, key["access_key_id"], key["secret_access_key"]).client()


def test_compose(tmp_path: Path, url: str) -> None:
    """The services make an installation and a second node; HAProxy finds the other one when one is killed."""
    if shutil.which("haproxy") is None:
        pytest.skip("haproxy is not installed")
    services = yaml.safe_load((CLUSTER / "compose.yaml").read_text())["services"]
    sites = {name: Site(folder=tmp_path, name=name) for name in ("one", "two")}
    for name, site in sites.items():
        script = services[f"make-{name}"]["command"][0].replace("$$", "$").replace(URL, url)
        for _ in range(2):  # the second time, as at the next start, nothing is left to do
            run_script(site, script.replace("/var/lib/hsmkms", str(tmp_path)))
    (key,) = credentials(sites["one"], ("create_access_key", {"user_name": None}))
    with ExitStack() as stack:
        nodes = {
            name: stack.enter_context(compose_node(site, services[name]["command"])) for name, site in sites.items()
        }
        port = stack.enter_context(compose_proxy(tmp_path, {name: node.port for name, node in nodes.items()}))
        for each in (*(node.port for node in nodes.values()), port):
            until(lambda each=each: is_ready(each))
        by_proxy, *by_node = (client(key, each) for each in (port, *(node.port for node in nodes.values())))
        key_id = by_proxy.create_key()["KeyMetadata"]["KeyId"]
        sealed = [each.encrypt(KeyId=key_id, Plaintext=b"hello")["CiphertextBlob"] for each in by_node]
        kill(nodes["one"])
        until(lambda: is_ready(port))
        for each in sealed:
            assert by_proxy.decrypt(CiphertextBlob=each)["Plaintext"] == b"hello"


# -- Kubernetes ------------------------------------------------------------------------------------------------------


def kubernetes_script(node: str) -> str:
    """The script that makes a node, as Kustomize puts it into the Deployment."""
    folder = CLUSTER / "kubernetes"
    own = yaml.safe_load((folder / node / "kustomization.yaml").read_text())["patches"]
    _, deployment = yaml.safe_load_all((folder / "node/node.yaml").read_text())
    *_, source = deployment, *(each for each in (yaml.safe_load(patch["patch"]) for patch in own) if "spec" in each)
    script: str = source["spec"]["template"]["spec"]["initContainers"][0]["command"][2]
    return script


def test_kubernetes(tmp_path: Path, url: str) -> None:
    """The containers that make the nodes do so once, with secrets as Kubernetes mounts them."""
    if os.geteuid():
        pytest.skip("only root can make files that belong to root, as Kubernetes does")
    tokens = Site(folder=tmp_path, name="tokens")
    assert tokens.run("init", "--data-dir", tokens.data, "--create-softhsm-token").status == 0
    secrets, password = tmp_path / "secrets", "database-password"
    secrets.mkdir()
    shutil.copy(tokens.data / "pin", secrets / "pin")
    (secrets / password).write_text("correct horse\n")
    for each in secrets.iterdir():
        each.chmod(0o440)
    environment = SETTINGS | {
        "STORE_URL": url,
        "MODULE": softhsm_module(tokens),
        "CREDENTIALS_DIRECTORY": str(secrets),
        "SOFTHSM2_CONF": str(tokens.data / "softhsm/softhsm2.conf"),
    }
    for node in ("one", "two"):
        volume = tmp_path / node
        volume.mkdir()
        script = kubernetes_script(node).replace("/run/secrets/hsmkms", str(secrets))
        for _ in range(2):
            run_script(tokens, script.replace("/var/lib/hsmkms", str(volume)), **environment)
    key_id = Site(folder=tmp_path / "one", name="node").run("create-key", **environment).json["KeyMetadata"]["KeyId"]
    other = Site(folder=tmp_path / "two", name="node")
    assert answer(other.run("describe-key", "--key-id", key_id, **environment))["KeyMetadata"]["Enabled"]
