"""scripts/install without root: its options, and what it shares with the units, the command and the guide.

scripts/install-check runs it on a bare machine, which takes minutes.
"""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer

from hsmkms.cli.main import app
from hsmkms.ownership import SERVICE_VARIABLE

ROOT = Path(__file__).parent.parent
INSTALL = ROOT / "scripts" / "install"
COMMAND = ROOT / "conf" / "install" / "hsmkms"
UNIT = ROOT / "conf" / "systemd" / "hsmkms.service"
PAGE = ROOT / "hsmkms" / "guide" / "install.md"


def variables() -> dict[str, str]:
    """The places that the script names at its beginning, with those that they are made of."""
    places: dict[str, str] = {}
    for name, value in re.findall(r"(?m)^([a-z]+)=(\S+)$", INSTALL.read_text()):
        places.setdefault(name, re.sub(r"\$([a-z]+)", lambda match: places.get(match[1], ""), value))
    return places


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--fast"], "unknown option --fast"),
        (["somewhere"], "unknown option somewhere"),
        (["--wheel"], "--wheel needs a value"),
        (["--token-label"], "--token-label needs a value"),
        (["--pin", "1234"], "unknown option --pin"),
        (["--uninstall", "--encrypt-pin"], "--uninstall takes no other options"),
        (["--region", "eu-west-1", "--rollback"], "--rollback takes no other options"),
        (["--rollback", "--wheel", "x.whl"], "--rollback takes no other options"),
        (["--uri", "pkcs11:token=x", "--rollback"], "--rollback takes no other options"),
    ],
)
def test_refused(arguments: list[str], complaint: str) -> None:
    """A wrong option is refused with the usage, before anything is looked at; there is none for a PIN."""
    done = subprocess.run([INSTALL, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"install: {complaint}\nusage: scripts/install ")


def test_help() -> None:
    """--help says on standard output what is made and how to undo it, and changes nothing."""
    done = subprocess.run([INSTALL, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Install hsmkms for good")
    places = [variables()[name] for name in ("opt", "etc", "data", "backups", "units", "command", "service")]
    assert [word for word in ("--uninstall", "--rollback", *places) if word not in done.stdout] == []


def as_user() -> list[str]:
    """The beginning of a command line that runs as another user than root."""
    return [] if os.geteuid() else ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def test_not_as_root() -> None:
    """Another user than root gets the command that works, and nothing is made."""
    # The text, since that user may not be able to read the checkout.
    text = INSTALL.read_text().replace("${BASH_SOURCE[0]}", "/usr/bin/install")
    done = subprocess.run([*as_user(), "bash", "-c", text], cwd="/", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "install: run it as root: sudo scripts/install\n")


def test_options_of_init() -> None:
    """The options that it passes on are those of init, all of them, and the page says which."""
    init = typer.main.get_group(app).commands["init"]
    of_init = {option for each in init.params for option in each.opts if option.startswith("--")}
    common = {"--config", "--output", "--query", "--help"}
    passed = of_init - common - {"--data-dir", "--create-softhsm-token"}
    (case,) = re.findall(r"(?s)\n +(--wheel \|.*?)\)\n", INSTALL.read_text())
    taken = {*re.findall(r"--[a-z-]+", case)} - {"--wheel"}
    assert taken == passed
    assert [option for option in passed if option not in PAGE.read_text()] == []


def test_places() -> None:
    """Script, units, command and page name the same places."""
    places = variables()
    unit, command, page = UNIT.read_text(), COMMAND.read_text(), PAGE.read_text()
    assert f"ExecStart={places['opt']}/bin/hsmkms --config {places['config']} serve" in unit
    assert f"LoadCredential=pin:{places['etc']}/pin" in unit
    assert f"User={places['user']}\n" in unit
    assert f"data={places['data']}\n" in command
    assert f"HSMKMS_PROGRAM:-{places['opt']}/bin/hsmkms" in command
    assert f"{places['units']}/$service" in command
    for name in ("opt", "config", "data", "backups", "units", "command"):
        assert places[name] in page, name


def test_command() -> None:
    """The command is valid for a POSIX shell, with what runs in the namespace, and names the service's user."""
    assert os.access(COMMAND, os.X_OK)
    subprocess.run(["sh", "-n", COMMAND], check=True)
    (inner,) = re.findall(r"(?s)\nas_service='\n(.*?)\n'\n", COMMAND.read_text())
    subprocess.run(["sh", "-n", "-c", inner], check=True)
    assert f"export {SERVICE_VARIABLE}=hsmkms" in COMMAND.read_text()


def test_command_of_a_user() -> None:
    """Another user's command is the program itself, with all arguments."""
    environment = {**os.environ, "HSMKMS_PROGRAM": "printf"}
    command = [*as_user(), "sh", "-c", COMMAND.read_text(), "hsmkms", "%s|", "a b", ""]
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "a b||"


@pytest.mark.parametrize(
    ("drop_in", "loaded"),
    [
        ("", "LoadCredential pin /etc/hsmkms/pin\n"),
        (
            "[Service]\nLoadCredential=more:/etc/more\n",
            "LoadCredential pin /etc/hsmkms/pin\nLoadCredential more /etc/more\n",
        ),
        (
            (ROOT / "conf/network-hsm/pin.conf").read_text(),
            "LoadCredentialEncrypted hsm-pin /etc/hsmkms/hsm-pin.cred\n",
        ),
        (
            (ROOT / "conf/two-tokens/pins.conf").read_text(),
            "LoadCredential pin-old-hsm /etc/hsmkms/old-pin\nLoadCredential pin-new-hsm /etc/hsmkms/new-pin\n",
        ),
    ],
)
def test_credentials_of_the_command(tmp_path: Path, drop_in: str, loaded: str) -> None:
    """The command hands over what the unit and its drop-ins do: an empty assignment forgets those before it."""
    units = tmp_path / "local"
    (tmp_path / "etc/hsmkms.service.d").mkdir(parents=True)
    units.mkdir()
    (units / "hsmkms.service").write_text(UNIT.read_text())
    (tmp_path / "etc/hsmkms.service.d/pin.conf").write_text(drop_in)
    (function,) = re.findall(r"(?s)\n(credentials\(\) \{.*?\n\})\n", COMMAND.read_text())
    function = function.replace("/etc/systemd/system", f"{tmp_path}/etc")
    function = function.replace("/usr/local/lib/systemd/system", str(units))
    script = f"set -eu\nservice=hsmkms.service\n{function}\ncredentials"
    assert subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout == loaded


def test_the_wheel_has_the_samples() -> None:
    """The wheel brings the samples, the units and scripts/install, below share/hsmkms as in the checkout."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    for source, target in wheel["shared-data"].items():
        assert (ROOT / source).exists()
        assert target == f"share/hsmkms/{source}"
    assert {"conf", "scripts/install", "scripts/setup"} == {*wheel["shared-data"]}
    for file in re.findall(r"share/hsmkms/([\w./-]+\w)", INSTALL.read_text() + PAGE.read_text()):
        assert any(file == source or file.startswith(f"{source}/") for source in wheel["shared-data"]), file
        assert (ROOT / file).exists(), file
