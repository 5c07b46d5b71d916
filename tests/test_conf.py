"""The samples in conf/: what they name exists, and they say the same as the scripts and the program."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path

import pytest
import yaml
from sample_files import CONF, ROOT, check_command, settings

from hsmkms.config import settings as config
from hsmkms.config.pin_credentials import credential_names
from hsmkms.config.pins import PinSettings, read_pin
from hsmkms.config.settings import Settings, TokenSettings
from hsmkms.errors import PinError
from hsmkms.server.process import supervisor as server

UNITS = sorted((CONF / "systemd").iterdir())
CONTAINERFILE = CONF / "container" / "Containerfile"
COMPOSE = CONF / "container" / "compose.yaml"
WORKFLOW = CONF / "github-actions" / "kms.yaml"
MAX_EXPOSURE = 2.0
"""systemd-analyze rates units from 0 (closed) to 10."""


def hsmkms_commands(text: str) -> list[list[str]]:
    """Every command line of hsmkms in a text."""
    lines = text.replace("\\\n", " ").splitlines()
    match = (re.search(r"/hsmkms (?!-rf)([^>|&#]*)", line) for line in lines)
    return [each[1].split() for each in match if each is not None]


@pytest.mark.parametrize("drop_in", ["", "two-tokens/pins.conf", "network-hsm/pin.conf"])
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_units_are_valid(unit: Path, tmp_path: Path, drop_in: str) -> None:
    """A unit is without a fault for systemd, once its program is where it says; also with the drop-ins of samples."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for each in UNITS:
        (tmp_path / each.name).write_text(each.read_text().replace("/opt/hsmkms/bin/hsmkms", sys.executable))
        if drop_in and each.suffix == ".service":
            (tmp_path / f"{each.name}.d").mkdir()
            shutil.copy(CONF / drop_in, tmp_path / f"{each.name}.d")
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / unit.name], capture_output=True, text=True, check=False
    )
    named = {unit.name, Path(drop_in).name or unit.name}
    assert [line for line in done.stderr.splitlines() if any(name in line for name in named)] == []


def test_server_unit() -> None:
    """The unit of the server does not start again what cannot start, waits for its workers, and dumps no core."""
    unit = settings(CONF / "systemd" / "hsmkms.service")
    assert unit["RestartPreventExitStatus"] == [str(server.START_REFUSED)]
    assert float(unit["TimeoutStopSec"][0]) > server.STOP_SECONDS
    assert (unit["Type"], unit["LimitCORE"], unit["ExecReload"]) == (["notify"], ["0"], ["/bin/kill -HUP $MAINPID"])
    for command in unit["ExecStart"]:
        check_command(command.split()[1:])


OF_THE_SERVER = {
    *("Type", "Description", "Restart", "RestartSec", "RestartPreventExitStatus", "TimeoutStopSec", "LimitNOFILE"),
    *("ExecStart", "ExecReload", "WantedBy", "After", "Wants", "StateDirectory", "StateDirectoryMode"),
}
"""What the server's unit has because it is a server, and names its folder by."""

FOR_MODULES = {
    *("PrivateDevices", "ProtectClock", "MemoryDenyWriteExecute", "RestrictAddressFamilies"),
    *("SystemCallFilter", "SystemCallErrorNumber"),
}
"""What a drop-in of the server's unit changes for some HSMs, and the unit of maintenance has not."""


def test_maintenance_is_closed_as_the_server() -> None:
    """The unit of maintenance, which has the PIN too, is closed as the server's is, but for what modules may need."""
    server_unit, unit = (settings(CONF / "systemd" / f"{name}.service") for name in ("hsmkms", "hsmkms-maintain"))
    expected = {name: value for name, value in server_unit.items() if name not in OF_THE_SERVER | FOR_MODULES}
    assert {name: unit.get(name) for name in expected} == expected


def test_server_unit_is_closed() -> None:
    """What systemd itself says of the unit's protection."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    command = ["systemd-analyze", "security", "--offline=yes", "--json=short", CONF / "systemd" / "hsmkms.service"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    open_points = [each["name"] for each in json.loads(done.stdout) if not each["set"]]
    assert not {"NoNewPrivileges=", "MemoryDenyWriteExecute=", "ProtectSystem=", "SystemCallFilter=~@debug"} & {
        *open_points
    }
    overall = subprocess.run([*command[:3], command[4]], capture_output=True, text=True, check=False).stdout
    (exposure,) = re.findall(r"Overall exposure level for hsmkms\.service: ([0-9.]+)", overall)
    assert float(exposure) <= MAX_EXPOSURE


def test_pin_from_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The PIN file of systemd precedes the path itself; other files must be closed to other users."""
    named, given = tmp_path / "pin", tmp_path / "credentials"
    pin = partial(read_pin, PinSettings(file=named), credentials=("pin",))
    named.write_text("open to others\n")
    named.chmod(0o640)
    given.mkdir()
    (given / "other").touch()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(given))
    with pytest.raises(PinError, match="open to other users"):
        pin()
    (given / "pin").write_text("1234\n")
    (given / "pin").chmod(0o400)
    assert pin() == "1234"
    (given / "pin").chmod(0o404)
    with pytest.raises(PinError, match="open to other users"):
        pin()


ONE = TokenSettings(label="old hsm", serial="1c2e", pin=PinSettings(file=Path("/etc/old/pin")))


@pytest.mark.parametrize(
    ("other", "names"),
    [
        ((), ["pin-old-hsm", "pin-1c2e", "pin"]),
        ((TokenSettings(label="new", pin=PinSettings(environment="PIN")),), ["pin-old-hsm", "pin-1c2e", "pin"]),
        ((TokenSettings(label="new", pin=PinSettings(file=Path("/etc/old/pin"))),), ["pin-old-hsm", "pin-1c2e", "pin"]),
        ((TokenSettings(label="new", pin=PinSettings(file=Path("/etc/new/pin"))),), ["pin-old-hsm", "pin-1c2e"]),
        (
            (TokenSettings(label="old.hsm", pin=PinSettings(file=Path("/etc/new-pin"))),),
            ["pin-old-hsm", "pin-1c2e", "pin"],
        ),
        ((TokenSettings(label="old/hsm", pin=PinSettings(file=Path("/etc/new-pin"))),), ["pin-1c2e", "pin"]),
        ((TokenSettings(label="new", pin=PinSettings(file=Path("/etc/pin-1c2e"))),), ["pin-old-hsm", "pin"]),
        ((TokenSettings(uri="pkcs11:serial=1c2e", pin=PinSettings(file=Path("/etc/p"))),), ["pin-old-hsm", "pin"]),
    ],
)
def test_names_of_credentials(other: tuple[TokenSettings, ...], names: list[str]) -> None:
    """A PIN file is named by its token's label, its serial or its own name, and by no name of another token's file."""
    settings = Settings(account_id="111122223333", regions=("eu-central-1",), token=ONE, further_tokens=other)
    assert list(credential_names(settings, ONE)) == names


def test_credentials_of_two_tokens() -> None:
    """The drop-in for two tokens passes the PIN file of each, under the name that hsmkms expects."""
    sample = config.load(CONF / "two-tokens" / "hsmkms.toml")
    _, *handed_over = settings(CONF / "two-tokens" / "pins.conf")["LoadCredential"]
    assert len(handed_over) == len(sample.tokens)
    for token, (name, _, path) in zip(sample.tokens, (each.partition(":") for each in handed_over), strict=True):
        assert (credential_names(sample, token)[0], token.pin.file) == (name, Path(path))


def test_containerfile() -> None:
    """What it copies is there, its user is not root, and it runs a command that hsmkms has."""
    text = CONTAINERFILE.read_text()
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / each).exists() for each in sources.split())
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE) == ["hsmkms"]
    (entry,) = re.findall(r"^ENTRYPOINT (.+)$", text, re.MULTILINE)
    (command,) = re.findall(r"^CMD (.+)$", text, re.MULTILINE)
    assert json.loads(entry) == ["hsmkms"]
    check_command(json.loads(command))
    (port,) = re.findall(r"^EXPOSE (\d+)$", text, re.MULTILINE)
    assert port in json.loads(command)
    assert f"http://127.0.0.1:{port}/readyz" in text
    assert "softhsm2" in (ROOT / "scripts/quickstart").read_text()
    assert re.search(r"install .*\bsofthsm2\b", text)


def test_locked_packages() -> None:
    """Every package that hsmkms needs, also for PostgreSQL, is pinned with hashes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["postgresql"], "psycopg-binary"]
    names = {re.match(r"[A-Za-z0-9_-]+", each)[0].lower() for each in wanted}  # type: ignore[index]  # each has a name
    for file in ("requirements.lock", "postgresql.lock", "build.lock"):
        text = (CONF / "container" / file).read_text()
        entries = re.findall(
            r"^([a-z0-9_.-]+)==\S+ \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.MULTILINE
        )
        assert len(entries) == len(re.findall("==", text))
        assert all(hashes for _, hashes in entries)
        if file == "requirements.lock":
            assert names <= {name for name, _ in entries}
        elif file == "postgresql.lock":
            assert [name for name, _ in entries] == ["psycopg", "psycopg-binary"]
        else:
            assert "hatchling" in {name for name, _ in entries}


def test_compose_and_workflow() -> None:
    """They are YAML, build from files that exist, agree about the port, and start hsmkms with options that it has."""
    (service,) = yaml.safe_load(COMPOSE.read_text())["services"].values()
    build = service["build"]
    assert (COMPOSE.parent / build["context"]).resolve() == ROOT
    assert ROOT / build["dockerfile"] == CONTAINERFILE
    assert service["ports"] == ["127.0.0.1:8443:8443"]
    steps = [step for job in yaml.safe_load(WORKFLOW.read_text())["jobs"].values() for step in job["steps"]]
    runs = "\n".join(step["run"] for step in steps if "run" in step)
    commands = hsmkms_commands(runs.replace('bin/pip" install ./hsmkms', "").replace('hsmkms" ', "hsmkms "))
    assert len(commands) == 1
    for command in commands:
        check_command(command)
    for file in re.findall(r"--file (\S+)", runs + COMPOSE.read_text()):
        assert (ROOT / file).is_file()
