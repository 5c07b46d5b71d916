"""The samples of many nodes in conf/cluster: what they name exists, and programs take them."""

import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from sample_files import CONF, ROOT, check_command, settings

from hsmkms.config import store_settings
from hsmkms.config.pins import PinSettings, read_pin
from hsmkms.config.store_settings import PasswordSettings
from hsmkms.errors import ConfigurationError, PinError
from hsmkms.server.monitoring.pages import Page
from hsmkms.server.process import connection, supervisor

CLUSTER = CONF / "cluster"
KUBERNETES = CLUSTER / "kubernetes"
UNIT = CLUSTER / "hsmkms@.service"
COMPOSE = CLUSTER / "compose.yaml"
PROXIES = ("haproxy.cfg", "compose-haproxy.cfg")
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"


def commands_in(text: str) -> list[list[str]]:
    """Every command line of hsmkms in a shell script or comment, as its words after the program."""
    lines = re.sub(r"\\\n[#\s]*", " ", text).splitlines()
    found = (re.search(r"(?:^|[ /])hsmkms ((?:--config|init|join|serve) .*?)(?:;|$)", line) for line in lines)
    return [shlex.split(each[1]) for each in found if each is not None]


# -- HAProxy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROXIES)
def test_haproxy_takes_it(name: str, tmp_path: Path) -> None:
    """HAProxy reads it without an error, once the certificate is where it says."""
    if shutil.which("haproxy") is None:
        pytest.skip("haproxy is not installed")
    file = tmp_path / name
    file.write_text((CLUSTER / name).read_text().replace("/etc/haproxy/kms-ca.pem", AUTHORITIES))
    done = subprocess.run(["haproxy", "-c", "-f", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", PROXIES)
def test_haproxy_asks_what_hsmkms_answers(name: str) -> None:
    """The check is of the page of readiness; a node ends idle connections before HAProxy does."""
    text = (CLUSTER / name).read_text()
    assert re.findall(r"http-check send meth GET uri (\S+) ", text) == [Page.READYZ]
    assert re.findall(r"http-check expect status (\d+)", text) == ["200"]
    for side in ("client", "server"):
        assert [float(each) for each in re.findall(rf"timeout {side} (\d+)s", text)] > [connection.IDLE_SECONDS]
    assert len(re.findall(r"^    server \w+ ", text, re.MULTILINE)) >= 2
    assert "shutdown-sessions" not in re.sub(r"#.*", "", text)


# -- systemd ---------------------------------------------------------------------------------------------------------


def test_instance_unit_is_valid(tmp_path: Path) -> None:
    """An instance of the unit is without a fault for systemd, once its program is where it says."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    (tmp_path / UNIT.name).write_text(UNIT.read_text().replace("/opt/hsmkms/bin/hsmkms", sys.executable))
    command = ["systemd-analyze", "verify", tmp_path / UNIT.name.replace("@", "@one")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if "hsmkms@" in line] == []


def test_instance_unit_is_closed_as_the_server() -> None:
    """But for its folder, its database and their names it is the unit of the server."""
    server, unit = settings(CONF / "systemd" / "hsmkms.service"), settings(UNIT)
    own = {"Description", "ExecStart", "After", "LoadCredential"}
    assert {name: value for name, value in unit.items() if name not in own} == {
        name: value for name, value in server.items() if name not in own
    }
    (start,) = unit["ExecStart"]
    check_command(start.split()[1:])
    assert "/var/lib/hsmkms/%i/hsmkms.toml" in start
    credentials = dict(each.split(":") for each in unit["LoadCredential"])
    assert credentials[store_settings.CREDENTIAL] == "/etc/hsmkms/database-password"
    comment = UNIT.read_text().partition("[Unit]")[0]
    (join,) = commands_in(comment)
    check_command(join)
    options = dict(zip(join[1::2], join[2::2], strict=True))
    assert options["--pin-file"] == credentials["pin"]
    assert options["--store-password-file"] == credentials[store_settings.CREDENTIAL]
    assert f"{options['--data-dir']}/hsmkms.toml" in start.replace("%i", "one")
    assert set(re.findall(r"LoadCredential=(\S+)", comment)) == {f"{name}:{path}" for name, path in credentials.items()}
    assert all((ROOT / each).exists() for each in re.findall(r"conf/\S+", comment))


# -- compose ---------------------------------------------------------------------------------------------------------


def test_compose() -> None:
    """Its files and services exist, its commands are hsmkms's, and HAProxy calls the nodes where they listen."""
    sample = yaml.safe_load(COMPOSE.read_text())
    services = sample["services"]
    nodes = {name: each for name, each in services.items() if each["image"] == "hsmkms"}
    for name, node in nodes.items():
        build = node["build"]
        assert (COMPOSE.parent / build["context"] / build["dockerfile"]).resolve() == CONF / "container/Containerfile"
        assert set(node["depends_on"]) <= set(services)
        script = " ".join(node["command"]) if "entrypoint" not in node else node["command"][0]
        for command in commands_in(script.replace("$$", "$")) if "entrypoint" in node else [node["command"]]:
            check_command(command)
            assert f"/var/lib/hsmkms/{name.removeprefix('make-')}" in script.replace("$$folder", script)
    assert set(sample["volumes"]) == {
        volume.partition(":")[0] for each in services.values() for volume in each["volumes"] if volume[0] != "."
    }
    mounted = [volume.split(":")[0] for volume in services["haproxy"]["volumes"]]
    assert [COMPOSE.parent / each for each in mounted] == [CLUSTER / "compose-haproxy.cfg"]
    proxy = (CLUSTER / "compose-haproxy.cfg").read_text()
    servers = re.findall(r"^    server (\w+) (\w+):(\d+)$", proxy, re.MULTILINE)
    assert servers == [(name, name, nodes[name]["command"][-1]) for name in ("one", "two")]
    (port,) = re.findall(r"bind :(\d+)", proxy)
    assert services["haproxy"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f"EXPOSE {servers[0][2]}" in (CONF / "container/Containerfile").read_text()


# -- Kubernetes ------------------------------------------------------------------------------------------------------


def manifests(*names: str) -> dict[str, Any]:
    """The objects of files in the folder of Kubernetes by their kind."""
    return {each["kind"]: each for name in names for each in yaml.safe_load_all((KUBERNETES / name).read_text())}


def patched_command(node: str) -> list[str]:
    """The command that makes a node: that of all, or the one that its own folder puts there."""
    pod = manifests("node/node.yaml")["Deployment"]["spec"]["template"]["spec"]
    command: list[str] = pod["initContainers"][0]["command"]
    for patch in yaml.safe_load((KUBERNETES / node / "kustomization.yaml").read_text())["patches"]:
        changed = yaml.safe_load(patch["patch"])
        if isinstance(changed, dict):
            (container,) = changed["spec"]["template"]["spec"]["initContainers"]
            assert container["name"] == pod["initContainers"][0]["name"]
            command = container["command"]
    return command


@pytest.mark.parametrize(("node", "first"), [("one", "init"), ("two", "join")])
def test_kubernetes_commands(node: str, first: str) -> None:
    """The scripts call commands with options that they have, settings that are given and files that are mounted."""
    whole = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    given = {each.partition("=")[0] for each in whole["configMapGenerator"][0]["literals"]}
    shell, options, script = patched_command(node)
    assert (shell, options) == ("sh", "-euc")
    commands = commands_in(script)
    for command in commands:
        check_command(command)
    assert commands[-1][0] == first
    assert set(re.findall(r"\$([A-Z_]+)", script)) <= given
    secrets = {Path(each).name for each in re.findall(r"/run/secrets/hsmkms/(\S+)", script)}
    assert secrets == {"pin", store_settings.CREDENTIAL}
    assert secrets <= set(whole["secretGenerator"][0]["files"])
    assert subprocess.run([shell, "-n", "-c", script], check=False).returncode == 0


def test_kubernetes_server() -> None:
    """Pages, ports, folders, user and time to stop are those of the server and the image."""
    pod = manifests("node/node.yaml")["Deployment"]["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    assert server["command"][0] == "hsmkms"
    check_command(server["command"][1:])
    (port,) = server["ports"]
    assert f"--port={port['containerPort']}" in server["command"]
    paths = {name: server[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: get["path"] for name, get in paths.items()} == {
        **dict.fromkeys(("startup", "liveness"), Page.HEALTHZ),
        "readiness": Page.READYZ,
    }
    assert {(get["port"], get["scheme"]) for get in paths.values()} == {(port["name"], "HTTPS")}
    pause = int(server["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > supervisor.STOP_SECONDS + pause
    volumes = {each["name"] for each in pod["volumes"]}
    for container in (server, *pod["initContainers"]):
        assert {each["name"] for each in container["volumeMounts"]} == volumes
    mounted = [each["mountPath"] for each in server["volumeMounts"]]
    for path in re.findall(r"=(/\S+)", " ".join(server["command"])):
        assert any(Path(path).is_relative_to(each) for each in mounted)
    ids = {pod["securityContext"][name] for name in ("runAsUser", "runAsGroup", "fsGroup")}
    containerfile = (CONF / "container/Containerfile").read_text()
    assert {f"--uid {each}" for each in ids} | {f"--gid {each} hsmkms" for each in ids} == set(
        re.findall(r"--uid \d+|--gid \d+ hsmkms", containerfile)
    )


def test_kubernetes_selects_the_pods() -> None:
    """Service, disruption budget and anti-affinity mean the pods of all nodes; a node's Deployment its own alone."""
    objects = manifests("service.yaml", "node/node.yaml")
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert objects["Service"]["spec"]["selector"] == labels
    assert objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    (port,) = objects["Deployment"]["spec"]["template"]["spec"]["containers"][0]["ports"]
    assert [each["targetPort"] for each in objects["Service"]["spec"]["ports"]] == [port["name"]]
    for node in ("one", "two"):
        own = yaml.safe_load((KUBERNETES / node / "kustomization.yaml").read_text())
        changes = {each["path"]: each["value"] for each in yaml.safe_load(own["patches"][0]["patch"])}
        assert own["nameSuffix"] == f"-{node}"
        assert changes == {
            "/spec/selector/matchLabels/node": node,
            "/spec/template/metadata/labels/node": node,
        }


def test_kustomize_builds_it(tmp_path: Path) -> None:
    """Kustomize makes all objects, with the names of secrets and settings that the pods then use."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    folder = shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    for name in ("pin", "database-password", "database-ca.crt", "tls.crt", "tls.key"):
        (folder / name).write_text("of the test\n")
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    objects = list(yaml.safe_load_all(done.stdout))
    names = {(each["kind"], each["metadata"]["name"]) for each in objects}
    assert Counter(kind for kind, _ in names) == {
        **dict.fromkeys(("Deployment", "PersistentVolumeClaim", "Secret"), 2),
        **dict.fromkeys(("ConfigMap", "PodDisruptionBudget", "Service"), 1),
    }
    for each in (each for each in objects if each["kind"] == "Deployment"):
        pod = each["spec"]["template"]["spec"]
        for volume in pod["volumes"]:
            if "secret" in volume:
                assert ("Secret", volume["secret"]["secretName"]) in names
        claim = pod["volumes"][0]["persistentVolumeClaim"]["claimName"]
        assert claim == each["metadata"]["name"]
        assert ("PersistentVolumeClaim", claim) in names
        assert ("ConfigMap", pod["initContainers"][0]["envFrom"][0]["configMapRef"]["name"]) in names


def test_secrets_as_kubernetes_mounts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root's files behind links in a folder that all may write to, open to the group, are credentials by name."""
    if os.geteuid():
        pytest.skip("only root can make files that belong to root")
    pod = manifests("node/node.yaml")["Deployment"]["spec"]["template"]["spec"]
    (mode,) = {each["secret"]["defaultMode"] for each in pod["volumes"] if "secret" in each}
    mount, version = tmp_path / "mount", "..2026_11_30_22_41_00.123456789"
    (mount / version).mkdir(parents=True)
    (mount / version).chmod(0o755)
    mount.chmod(0o777 | stat.S_ISVTX)
    (mount / "..data").symlink_to(version)
    for name in ("pin", store_settings.CREDENTIAL):
        (mount / version / name).write_text(f"the {name}\n")
        (mount / version / name).chmod(mode)
        (mount / name).symlink_to(f"..data/{name}")
    pin = PinSettings(file=mount / "pin")
    read_password = store_settings.password_reader(PasswordSettings(file=mount / store_settings.CREDENTIAL))
    assert read_password is not None
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(PinError, match="open to other users"):
        read_pin(pin, credentials=("pin",))
    with pytest.raises(ConfigurationError, match="open to other users"):
        read_password()
    for container in (*pod["initContainers"], *pod["containers"]):
        (variable,) = container["env"]
        (secrets,) = [each for each in container["volumeMounts"] if each["name"] == "secrets"]
        assert variable["value"] == secrets["mountPath"]
        monkeypatch.setenv(variable["name"], str(mount))
        assert read_pin(pin, credentials=("pin",)) == "the pin"
        assert read_password() == f"the {store_settings.CREDENTIAL}"
