"""scripts/install without root: its options, and what it shares with the units, the command and the guide.

scripts/install-check runs it on a bare machine, which takes minutes.
"""

import os
import pty
import re
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from hsmkms.cli.main import application
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
    """The options that it passes on are those of init, and the page says which."""
    init = typer.main.get_group(application()).commands["init"]
    of_init = {option for each in init.params for option in each.opts if option.startswith("--")}
    common = {"--config", "--output", "--query", "--help"}
    passed = of_init - common - {"--data-dir", "--create-softhsm-token"}
    (case,) = re.findall(r"(?s)\n +(--wheel \|.*?)\)\n", INSTALL.read_text())
    taken = {*re.findall(r"--[a-z-]+", case)} - {"--wheel"}
    assert taken == passed
    assert [option for option in passed if option not in PAGE.read_text()] == []


def test_a_password_of_a_database(machine: Path) -> None:
    """It becomes a file that the service's user alone reads; another one takes its place."""
    for text in ("first secret", "second secret"):
        (machine / "password").write_text(f"{text}\n")
        command = f'user=$(id --user --name) && need_password {machine}/password "$etc/store-password"'
        done = play(["need_file", "need_password"], command, machine)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        kept = machine / "etc/store-password"
        assert kept.read_text() == f"{text}\n"
        assert kept.stat().st_mode & 0o777 == 0o400
        assert kept.stat().st_uid == os.geteuid()


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


# -- what root does in folders of other users ---------------------------------------------------------------------


@pytest.fixture
def machine() -> Iterator[Path]:
    """A folder with etc, and data that belongs to another user than root, as after `hsmkms init`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for each in ("etc", "data", "work"):
            (folder / each).mkdir()
        (folder / "data/hsmkms.toml").write_text('# data_dir = "."\n[token.pin]\nfile = "pin"\n')
        (folder / "data/pin").write_text("1234\n")
        secret = folder / "secret"
        secret.write_text("only for root\n")
        secret.chmod(0o600 if os.geteuid() == 0 else 0)
        if os.geteuid() == 0:
            for each in (folder / "data", *(folder / "data").iterdir()):
                os.chown(each, 65534, 65534)
        yield folder


def play(
    functions: list[str], command: str, folder: Path, terminal: int | None = None, **settings: object
) -> subprocess.CompletedProcess[str]:
    """Run functions of the script, with its places in a folder, and `runuser` for a user that is here.

    ``terminal``: the terminal that it is started in.
    """
    text = INSTALL.read_text()
    bodies = [
        re.findall(rf"(?ms)^{name}\(\) \{{(?: [^\n]*\}}$|.*?^\}}$)", text)[0] for name in ("say", "die", *functions)
    ]
    places = {"etc": folder / "etc", "data": folder / "data", "work": folder / "work", "user": "nobody"}
    names = places | {"config": folder / "etc/hsmkms.toml"} | settings
    lines = [f"{name}={value}" for name, value in names.items()]
    runuser = folder / "bin" / "runuser"
    runuser.parent.mkdir(exist_ok=True)
    runuser.write_text(f'#!/bin/sh\nshift 3\nexec {" ".join(as_user())} "$@"\n')
    runuser.chmod(0o755)
    user = f"PATH={runuser.parent}:$PATH"
    (preamble,) = re.findall(r"(?m)^umask .*\nexport .*$", text)
    script = "\n".join(["set -euo pipefail", *lines, user, preamble, *bodies, command])
    started = ["bash", "-c", script] if terminal is None else ["setsid", "--ctty", "--wait", "bash", "-c", script]
    return subprocess.run(started, cwd=folder, stdin=terminal, capture_output=True, text=True, check=False)


ADOPT = ["need_file", "need_pin", "read_as_user", "adopt_configuration"]


def test_adopted(machine: Path) -> None:
    """The configuration that init wrote and its PIN move to the folder of root; once more, and nothing changes."""
    for _ in range(2):
        done = play(ADOPT, "adopt_configuration", machine)
        assert (done.returncode, done.stderr) == (0, "")
        assert (machine / "etc/pin").read_text() == "1234\n"
        assert (machine / "etc/pin").stat().st_mode & 0o777 == 0o600
        assert f'data_dir = "{machine}/data"' in (machine / "etc/hsmkms.toml").read_text()
        assert list((machine / "data").iterdir()) == []


def test_link_instead_of_a_pin(machine: Path) -> None:
    """A link that the service's user put in the place of a PIN is not read with root's rights."""
    (machine / "data/pin").unlink()
    (machine / "data/pin").symlink_to(machine / "secret")
    done = play(ADOPT, "adopt_configuration", machine)
    assert done.returncode == 1
    assert f"install: {machine}/data/pin cannot be read by the user nobody\n" in done.stderr
    assert list((machine / "etc").iterdir()) == []


def test_planted_configuration(machine: Path) -> None:
    """Where an installation is complete, a configuration and a PIN in the data folder replace nothing."""
    (machine / "etc/hsmkms.toml").write_text("mine\n")
    (machine / "etc/pin").write_text("4711\n")
    assert play(ADOPT, "adopt_configuration", machine).returncode == 0
    assert ((machine / "etc/hsmkms.toml").read_text(), (machine / "etc/pin").read_text()) == ("mine\n", "4711\n")


def test_pins_of_another_configuration(machine: Path) -> None:
    """A PIN in the data folder that a configuration written by hand names there is not removed: it may be the last."""
    data = machine / "data"
    (data / "so-pin").write_text("8765\n")
    (machine / "etc/hsmkms.toml").write_text(f'data_dir = "{data}"\n[token.pin]\nfile = "{data}/pin"\n')
    done = play(ADOPT, "adopt_configuration", machine)
    assert (done.returncode, (data / "pin").read_text(), (data / "so-pin").read_text()) == (0, "1234\n", "8765\n")
    assert "was not made of" in done.stderr


def test_pin_that_came_later(machine: Path) -> None:
    """A PIN that is not in the folder of root is not removed, though the configuration is the one of init."""
    data = machine / "data"
    (machine / "etc/hsmkms.toml").write_text(
        f'data_dir = "{data}"\n[token.pin]\nfile = "{machine}/etc/pin"\n',
    )
    done = play(ADOPT, "adopt_configuration", machine)
    assert (done.returncode, (data / "pin").read_text()) == (1, "1234\n")
    assert f"{data}/pin is not in {machine}/etc/pin" in done.stderr


def test_terminal_of_root_where_a_file_is_read(machine: Path) -> None:
    """What reads as the service's user, whose other processes control it, has neither root's terminal nor its lock."""
    reader = machine / "bin" / "head"
    reader.parent.mkdir()
    reader.write_text("#!/bin/sh\n(: </dev/tty) 2>/dev/null && echo terminal\nreadlink /proc/$$/fd/9\n")
    reader.chmod(0o755)
    controller, terminal = pty.openpty()
    here = play([], f"exec 9>work/lock; {reader}", machine, terminal)
    assert here.stdout == f"terminal\n{machine}/work/lock\n"
    done = play(["read_as_user"], f"exec 9>work/lock; PATH={reader.parent}:$PATH; read_as_user pin", machine, terminal)
    os.close(controller)
    os.close(terminal)
    assert (done.stdout, done.stderr) == ("", "")


def test_another_pin(machine: Path) -> None:
    """A PIN that is there is not replaced by another one."""
    (machine / "etc/pin").write_text("4711\n")
    done = play(ADOPT, "adopt_configuration", machine)
    assert (done.returncode, (machine / "etc/pin").read_text()) == (1, "4711\n")
    assert "has another PIN than" in done.stderr


def test_folders_of_others(machine: Path) -> None:
    """Root installs nothing into a folder that others can change, or behind a link."""
    etc = machine / "etc"
    function = ["require_roots_folder"]
    if os.geteuid() == 0:
        assert play(function, f"require_roots_folder {etc} {machine}/none", machine).returncode == 0
    link, open_to_all = machine / "link", machine / "open"
    link.symlink_to(etc)
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    assert "is not a folder" in play(function, f"require_roots_folder {link}", machine).stderr
    assert f"can change {open_to_all}: chown" in play(function, f"require_roots_folder {open_to_all}", machine).stderr
    of_another = machine / "data"
    assert f"can change {of_another}: chown" in play(
        function, f"require_roots_folder {of_another}", machine
    ).stderr or (os.geteuid() != 0)


def test_modules_beside(machine: Path) -> None:
    """Python imports nothing from the folder in which the script was started."""
    (machine / "venv.py").write_text("raise SystemExit('imported')\n")
    done = play([], "python3 -m venv --help && python3 -c 'import venv'", machine)
    assert (done.returncode, done.stderr) == (0, "")
    text = INSTALL.read_text()
    assert text.index("export PYTHONSAFEPATH=1") < text.index("python=${PYTHON:-python3}")


@pytest.mark.parametrize("old_opens_it", [True, False])
def test_upgrade_that_was_interrupted(machine: Path, old_opens_it: bool) -> None:  # noqa: FBT001
    """Only a version that can open the databases is gone back to, also if the run that migrated them was interrupted.

    Played with functions in the place of the service, which does not start, and of the versions.
    """
    opt, old, new = machine / "opt", machine / "opt/versions/1", machine / "opt/versions/2"
    for each in (old, new):
        each.mkdir(parents=True)
    (opt / "current").symlink_to(old)
    command = f"""
        active() {{ true; }}
        systemctl() {{ false; }}
        need_units() {{ :; }}
        hsmkms_of() {{ [[ $1 == {new} ]] && echo 0 || {"true" if old_opens_it else "false"}; }}
        upgrade
    """
    settings = {"opt": opt, "version": new, "service": "hsmkms.service", "backup": "", "encrypt": ""}
    done = play(["switch_to", "switch_back", "upgrade"], command, machine, **settings)
    assert done.returncode == 1
    assert (opt / "current").readlink() == (old if old_opens_it else new)
    assert ("is the current version again" in done.stderr) is old_opens_it
    assert ("go back with the backup" in done.stderr) is not old_opens_it


PROGRAM = """#!/bin/sh
(: < /dev/tty) 2> /dev/null && echo "terminal of root" || echo "no terminal of its own"
trap "echo interrupted; exit 5" INT
echo "question"
read -r answer
echo "answer $answer"
while :; do read -r ignored; done
"""


def test_terminal_of_root(machine: Path) -> None:
    """The program can ask and be interrupted, but root's terminal is not its own, into which it could type commands."""
    program = machine / "program"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    (inner,) = re.findall(r"(?s)\nas_service='\n.*?(\nexec 3<&0\n.*?)\n'\n", COMMAND.read_text())
    dropped, is_changed = re.subn(
        r"setpriv --reuid.*?(?=--no-new-privs)", " ".join(as_user()) + " ", inner, flags=re.DOTALL
    )
    assert is_changed == 1
    dropped = dropped if as_user() else dropped.replace("--no-new-privs --", "")
    controller, terminal = pty.openpty()
    shell = subprocess.Popen(
        # The signal may be ignored here, as in a job of a shell in the background: no trap could be set then.
        ["env", "--default-signal=INT", "setsid", "--ctty", "sh", "-c", f"set -eu\n{dropped}"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        cwd="/",
        env={**os.environ, "HSMKMS_PROGRAM": str(program)},
    )
    os.close(terminal)
    shown = b""
    for awaited, typed in ((b"question", b"yes\n"), (b"answer yes", b"\x03"), (b"interrupted", b"")):
        while awaited not in shown:
            shown += os.read(controller, 1000)
        os.write(controller, typed)
    assert shell.wait() == 5
    os.close(controller)
    assert b"no terminal of its own" in shown
