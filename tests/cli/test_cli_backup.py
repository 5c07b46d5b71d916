"""Backup and restore as an operator types them: keys from files and programs, and what is asked before it runs."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import get_args

import msgspec
import pyrage
import pytest
from cli_site import Site, at_terminal

from hsmkms.cli.commands.foreign_configuration import described, is_loaded
from hsmkms.config.settings import PinSettings, Settings, TokenSettings

IDENTITY = pyrage.x25519.Identity.generate()
SIGNING = "openssl genpkey -algorithm ed25519 -out signing.pem && openssl pkey -in signing.pem -pubout -out signing.pub"


@pytest.fixture
def keys(site: Site) -> Site:
    """A site with an operator's keys beside it."""
    (site.folder / "key.txt").write_text(f"{IDENTITY}\n")
    (site.folder / "key.txt").chmod(0o600)
    subprocess.run(["sh", "-c", SIGNING], cwd=site.folder, check=True, capture_output=True)
    (site.folder / "signing.pem").chmod(0o600)
    return site


def lose(site: Site) -> None:
    """The installation is gone, but for its token and its PIN."""
    shutil.rmtree(site.data / "audit")
    for each in (*site.data.glob("*.db*"), site.config):
        each.unlink()


def armed(site: Site) -> Path:
    """Let the PIN come from a program, which leaves a trace; the trace."""
    program, trace = site.folder / "pin.sh", site.folder / "trace"
    program.write_text(f"#!/bin/sh\ntouch {trace}\ncat {site.data}/pin\n")
    program.chmod(0o700)
    site.config.write_text(site.config.read_text().replace('file = "pin"', f'command = ["{program}"]'))
    return trace


# -- backup ---------------------------------------------------------------------------------------------------------


def test_options(keys: Site) -> None:
    """Several recipients and a signing key are named in the answer, with the commands that restore the file."""
    output = keys.run(
        "backup", "first", "--recipient", IDENTITY.to_public(), "--recipient", IDENTITY.to_public(),
        "--signing-key", "signing.pem",
    ).json  # fmt: skip
    assert output["Recipients"] == [str(IDENTITY.to_public())] * 2
    assert output["Proof"].startswith("token, signature ")
    file = keys.folder / "first"
    assert output["Sha256"] == sha256(file.read_bytes()).hexdigest()
    assert output["Restore"] == [
        f"hsmkms restore {file} --private-key KEY --signed-by PUBLIC.pem",
        f"age --decrypt --identity KEY {file} | tar --extract",
    ]


def test_settings(keys: Site) -> None:
    """What the configuration says of backups holds where the options say nothing, for backups by a timer."""
    (keys.folder / "recipients.txt").write_text(f"{IDENTITY.to_public()}\n")
    program = keys.folder / "sign.sh"
    program.write_text(f"#!/bin/sh\ncat {keys.folder}/signing.pem\n")
    program.chmod(0o700)
    before = keys.config.read_text()
    section = f'\n[backup]\nrecipients = ["../recipients.txt"]\nsigning_command = ["{program}"]\n'
    keys.config.write_text(before.partition("[backup]")[0] + section)
    output = keys.run("backup", "first").json
    assert (output["Method"], output["Recipients"]) == ("age", [str(IDENTITY.to_public())])
    assert "signature" in output["Proof"]
    program.write_text("#!/bin/sh\nexit 3\n")
    assert "backup.signing_command" not in keys.run("backup", "second").error
    assert f"the program {program} ended with status 3" in keys.run("backup", "second").error
    assert not (keys.folder / "second").exists()


def test_signing_keys_are_kept_like_pins(keys: Site) -> None:
    """A signing key that others can read signs nothing, and one that is none is named, before anything is made."""
    (keys.folder / "signing.pem").chmod(0o640)
    assert (
        "signing.pem is open to other users: run `chmod 600"
        in keys.run("backup", "first", "--signing-key", "signing.pem").error
    )
    (keys.folder / "key.txt").chmod(0o600)
    assert "key.txt holds no signing key" in keys.run("backup", "first", "--signing-key", "key.txt").error
    assert not (keys.folder / "first").exists()


def test_signed_by_and_unproven(keys: Site) -> None:
    """A demand for a proof and the word that none is needed do not go together."""
    done = keys.run("restore", "first", "--signed-by", "signing.pub", "--unproven")
    assert done.status == 2
    assert "give one of them" in " ".join(done.stderr.split())


def test_restore_without_a_configuration(bare: Site) -> None:
    """Where the configuration is lost, the advice is to restore the backup's, not to make another installation."""
    advice = "if it is lost, run the same command with --data-dir DIR, and the backup's configuration is restored too"
    assert (
        bare.run("restore", "x.age").error == f"ConfigurationError: there is no configuration {bare.config}: {advice}"
    )
    without = bare.run("restore", "x.age", HSMKMS_CONFIG="").error
    assert without.startswith("ConfigurationError: there is no configuration (looked for --config, $HSMKMS_CONFIG, ")
    assert without.endswith(f"): {advice}")


# -- the configuration in a backup ----------------------------------------------------------------------------------


def test_without_a_terminal(keys: Site) -> None:
    """What would be loaded and run is shown, and nothing of it is, until the digest of that very file is given."""
    trace = armed(keys)
    made = keys.run("backup", "first", "--recipient", IDENTITY.to_public(), "--signing-key", "signing.pem").json
    trace.unlink()
    lose(keys)
    restore = ("restore", "first", "--private-key", "key.txt", "--data-dir", "data")
    refused = keys.run(*restore, "--signed-by", "signing.pub")
    assert (refused.status, refused.stdout) == (1, "")
    assert f'    token.pin.command = ["{keys.folder}/pin.sh"]\n' in refused.stderr
    assert "    token.module = " in refused.stderr
    assert "    token.environment.SOFTHSM2_CONF = " in refused.stderr
    assert f"--accept-configuration {made['Sha256']}" in refused.stderr
    other = keys.run(*restore, "--accept-configuration", "0" * 64)
    assert f"names another file: this one has SHA-256 {made['Sha256']}" in other.error
    assert not trace.exists()
    assert not keys.config.exists()
    output = keys.run(*restore, "--accept-configuration", made["Sha256"]).json
    assert output["Proof"] == "token"
    assert trace.exists()
    keys.new_key()


def test_paths_of_another_machine(keys: Site) -> None:
    """Where the backup's configuration names what is not here, the answer says where to write the right paths."""
    settings = keys.config.read_text()
    made = keys.run("backup", "first", "--recipient", IDENTITY.to_public()).json
    (conf,) = re.findall(r'(?m)^SOFTHSM2_CONF = "(.*)"$', settings)
    lose(keys)
    token = Path(conf).rename(f"{conf}.away")
    restore = ("restore", "first", "--private-key", "key.txt", "--data-dir", "data")
    refused = keys.run(*restore, "--accept-configuration", made["Sha256"])
    assert (refused.status, refused.stdout) == (1, "")
    assert refused.error.startswith("ModuleError: ")
    assert f"write them into a configuration of your own, {keys.config}, first" in refused.error
    keys.config.write_text(settings.replace(conf, str(token)))
    assert keys.run(*restore).json["Proof"] == "token"


@pytest.mark.parametrize("answer", ["n", ""])
def test_at_a_terminal(keys: Site, answer: str) -> None:
    """At a terminal the same is shown with a question; only a yes continues."""
    trace = armed(keys)
    keys.run("backup", "first", "--recipient", IDENTITY.to_public())
    trace.unlink()
    lose(keys)
    restore = ("restore", "first", "--private-key", "key.txt", "--data-dir", "data")
    shown, status = at_terminal(keys, *restore, answer=answer or "\n")
    assert status == 1
    assert "not proven so far; the token is asked next" in shown
    assert f'token.pin.command = ["{keys.folder}/pin.sh"]' in shown
    assert "Load and run this here [y/N]:" in shown
    assert not trace.exists()
    shown, status = at_terminal(keys, *restore, answer="y")
    assert status == 0, shown
    assert trace.exists()
    keys.new_key()


def test_the_operators_own_is_not_asked_about(keys: Site) -> None:
    """With a configuration of the operator's nothing of the backup's is shown, asked or loaded."""
    keys.run("backup", "first", "--recipient", IDENTITY.to_public())
    kept = keys.config.read_bytes()
    trace = armed(keys)
    keys.run("backup", "armed", "--recipient", IDENTITY.to_public())
    trace.unlink()
    lose(keys)
    keys.config.write_bytes(kept)
    assert keys.run("restore", "armed", "--private-key", "key.txt", "--data-dir", "data").json["Proof"] == "token"
    assert not trace.exists()
    assert keys.config.read_bytes() == kept


def test_nothing_bends_the_terminal() -> None:
    """Control characters in a configuration are shown as such, in names as well as in values."""
    token = TokenSettings(
        module=Path("/lib\x1b[2J.so"),
        pin=PinSettings(command=("sh", "-c", "evil\r\x1b[1A")),
        environment={"A\nB\x9b": "\x07"},
    )
    lines = list(described(Settings(account_id="1", regions=("a\u202eb",), token=token), None))
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert any(r"evil\r\u001b[1A" in line for line in lines)


def settings_of(section: type[msgspec.Struct], table: str = "") -> Iterator[tuple[str, object]]:
    """Every setting by its full name, and its type."""
    for field in msgspec.structs.fields(section):
        name = f"{table}.{field.encode_name}".lstrip(".")
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from settings_of(field.type, name)
        elif field.name != "further_tokens":
            yield name, field.type


def holds(kind: object, wanted: type) -> bool:
    """True if a value of that type may be, or hold, one of the wanted type."""
    inner = get_args(kind)
    return kind is wanted or any(holds(each, wanted) for each in inner)


SETTINGS = list(settings_of(Settings))


@pytest.mark.parametrize(("name", "kind"), SETTINGS, ids=[name for name, _ in SETTINGS])
def test_whatever_is_loaded_is_shown_first(name: str, kind: object) -> None:
    """Every setting that is a path, a program, or variables for a library is among those that are shown first."""
    names_something = holds(kind, Path) or kind == dict[str, str] or name.endswith("command")
    assert is_loaded(name) or not names_something
