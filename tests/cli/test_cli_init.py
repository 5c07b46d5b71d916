"""init: what it makes, what it refuses without a change, and how an interrupted one is carried on."""

import json
import os
import re
import stat
from pathlib import Path

import pytest
from cli_site import Site, at_terminal

LABEL = "house token"
PIN = "correct horse"


def modes(folder: Path) -> dict[str, set[str]]:
    """The modes of all folders and of all files below a folder, itself included."""
    modes_by_kind: dict[str, set[str]] = {"folder": set(), "file": set()}
    for each in (folder, *folder.rglob("*")):
        modes_by_kind["folder" if each.is_dir() else "file"].add(f"{stat.S_IMODE(each.stat().st_mode):04o}")
    return modes_by_kind


def write_pin(site: Site, pin: str = PIN, mode: int = 0o600) -> Path:
    """A file with the PIN beside the data folder."""
    file = site.folder / "token.pin"
    file.write_text(f"{pin}\n")
    file.chmod(mode)
    return file


def existing_token(site: Site, *more: str) -> tuple[str, dict[str, str]]:
    """Make a token, or with ``more`` two of one label; its module, and the environment that the module needs."""
    parsed = json.loads(site.program("make_token", site.folder / "elsewhere", LABEL, PIN, *more))
    return parsed.pop("module"), parsed


def test_new_softhsm_token(bare: Site) -> None:
    """A token of the installation's own: everything private, nothing to export, and it works at once."""
    old = os.umask(0)
    try:
        made = bare.run("init", "--data-dir", "data", "--create-softhsm-token").json
    finally:
        os.umask(old)
    assert modes(bare.data) == {"folder": {"0700"}, "file": {"0600"}}
    assert made["Configuration"] == str(bare.config)
    assert made["Databases"] == [str(bare.data / "meta.db"), str(bare.data / "log.db")]
    assert (made["Account"], made["Regions"], made["TokenLabel"]) == ("000000000000", ["us-east-1"], "hsmkms")
    pins = {(bare.data / name).read_text().strip() for name in ("pin", "so-pin")}
    assert len(pins) == 2
    assert all(len(pin) >= 32 for pin in pins)
    assert not any(pin in bare.config.read_text() or pin in json.dumps(made) for pin in pins)
    assert [each.read_text() for each in bare.data.glob("refused-material-*")] == ["survives\n"]
    assert bare.run("create-key", HSMKMS_CONFIG="", cwd=bare.data).json["KeyMetadata"]["Enabled"]


def test_pin_is_on_no_command_line(bare: Site) -> None:
    """No command has an option for a PIN itself, and init starts no other program, whose arguments all could see."""
    assert bare.run("init", "--data-dir", "data", "--create-softhsm-token", "--pin", "1234").status == 2
    # A folder of programs that would betray themselves, and nothing else on the search path.
    traps = bare.folder / "traps"
    traps.mkdir()
    for name in ("softhsm2-util", "pkcs11-tool", "sh"):
        (traps / name).write_text(f"#!/bin/sh\necho started > {bare.folder}/started\nexit 1\n")
        (traps / name).chmod(0o755)
    assert bare.run("init", "--data-dir", "data", "--create-softhsm-token", PATH=str(traps)).status == 0
    assert not (bare.folder / "started").exists()


def test_existing_token(bare: Site) -> None:
    """A token that is there is named by module, label and PIN file; what its module needs is kept."""
    module, environment = existing_token(bare)
    pin = write_pin(bare)
    asked = ("--module", module, "--token-label", LABEL, "--pin-file", pin, "--account-id", "999988887777")
    made = bare.run("init", "--data-dir", "data", *asked, "--region", "eu-west-1", **environment).json
    assert (made["Module"], made["TokenLabel"], made["PinFile"]) == (module, LABEL, str(pin))
    assert PIN not in bare.config.read_text()
    metadata = bare.run("create-key").json["KeyMetadata"]
    assert metadata["Arn"].startswith("arn:aws:kms:eu-west-1:999988887777:key/")
    assert modes(bare.data) == {"folder": {"0700"}, "file": {"0600"}}


def test_questions_at_a_terminal(bare: Site) -> None:
    """At a terminal a person is asked for module, label and PIN file, and nothing else must be exported later."""
    module, environment = existing_token(bare)
    answers = "\n".join((module, LABEL, str(write_pin(bare))))
    shown, status = at_terminal(bare, "init", "--data-dir", "data", answer=answers, **environment)
    assert status == 0, shown
    for question in ("Path of the PKCS#11 module", "Label of the token", "File with the user PIN"):
        assert question in shown
    assert bare.run("create-key").json["KeyMetadata"]["KeyState"] == "Enabled"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ((), "--module, --token-label, --pin-file"),
        (("--module", "x.so", "--token-label", "y"), "--pin-file"),
        (("--token-label", "y", "--pin-file", "z"), "--module"),
    ],
)
def test_missing_options(bare: Site, given: tuple[str, ...], named: str) -> None:
    """Without a terminal nothing is asked: what is missing is named, and nothing is made."""
    refused = bare.run("init", "--data-dir", "data", *given)
    assert (refused.status, refused.stdout) == (2, "")
    message = " ".join(refused.stderr.replace("│", " ").split())
    assert f"missing {named} (or --create-softhsm-token): there is no terminal to ask at" in message
    assert bare.run("init", "--create-softhsm-token").status == 2
    assert not bare.data.exists()


def test_existing_installation(site: Site) -> None:
    """An installation is not made twice; nothing of the first one changes."""
    before = site.checksum()
    message = site.run("init", "--data-dir", "data", "--create-softhsm-token").error
    assert message == f"ConfigurationError: {site.data} holds an installation already; nothing was changed"
    assert site.checksum() == before


def test_folder_in_use(bare: Site) -> None:
    """A folder that holds something else is left as it is."""
    bare.data.mkdir()
    (bare.data / "diary.txt").write_text("dear diary")
    before = bare.checksum()
    message = bare.run("init", "--data-dir", "data", "--create-softhsm-token").error
    assert message == f"ConfigurationError: {bare.data} is not empty and holds no hsmkms.toml: choose another folder"
    assert bare.checksum() == before


def test_folder_that_cannot_be_made(bare: Site) -> None:
    """A folder in a place where none can be made is named with the reason."""
    (bare.folder / "file").write_text("")
    message = bare.run("init", "--data-dir", "file/data", "--create-softhsm-token").error
    assert message == f"StoreError: {bare.folder}/file/data cannot be made or read: Not a directory"


def test_folder_that_others_can_change(bare: Site) -> None:
    """A data folder that is open to others, or below one, is refused with what mends it; nothing is made."""
    place = bare.folder / "open"
    place.mkdir()
    place.chmod(0o777)
    for data in (place, place / "data"):
        message = bare.run("init", "--data-dir", data, "--create-softhsm-token").error
        assert message.startswith(
            f"ConfigurationError: the data folder {data} can be changed by another user, so it is "
        )
        assert message.endswith(f"run `chmod go-w {place}`")
        assert list(place.iterdir()) == []
    place.chmod(0o755)
    assert bare.run("init", "--data-dir", place / "data", "--create-softhsm-token").status == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_configuration_of_a_stranger(bare: Site) -> None:
    """In another user's folder hsmkms.toml is refused before its program for the PIN is run."""
    place = bare.folder / "tmp"
    place.mkdir()
    place.chmod(0o1777)
    trap = place / "hsmkms.toml"
    trap.write_text(
        'account_id = "111122223333"\nregions = ["eu-west-1"]\n[token]\nmodule = "/usr/lib/softhsm/libsofthsm2.so"\n'
        f'label = "x"\n[token.pin]\ncommand = ["touch", "{bare.folder}/run"]\n'
    )
    os.chown(trap, 54321, 54321)
    for command in (["list-keys"], ["doctor"], ["init", "--data-dir", place / "data", "--module", "x"]):
        result = bare.run(*command, cwd=place, HSMKMS_CONFIG="")
        assert result.status != 0
        assert not (bare.folder / "run").exists()
    result = bare.run("list-keys", cwd=place, HSMKMS_CONFIG="")
    assert result.error.startswith(
        "ConfigurationError: the configuration hsmkms.toml can be changed by another user, so"
    )
    assert f"{trap} belongs to 54321 (uid 54321): run hsmkms as the uid 54321; if 54321" in result.error


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs programs as another user")
def test_root_on_the_files_of_a_user(site: Site) -> None:
    """Root is refused with the advice to run as the installation's user, and leaves no files owned by root in it."""
    for each in (site.data, *site.data.rglob("*")):
        os.chown(each, 54321, 54321)
    before = sorted(site.data.rglob("*"))
    assert "run hsmkms as the uid 54321" in site.run("create-key").error
    for command in (("create-key",), ("doctor",), ("audit", "tail")):
        refused = site.run(*command, HSMKMS_TRUSTED_OWNERS="54321").error
        assert refused.startswith(
            f"ConfigurationError: the data folder {site.data} belongs to 54321, who could not read"
        )
    for each in (site.data, site.config, site.data / "softhsm"):
        os.chown(each, 0, 0)
    refused = site.run("create-key", HSMKMS_TRUSTED_OWNERS="54321").error
    assert refused.startswith(f"ConfigurationError: the SoftHSM token {site.data}/softhsm/tokens/")
    assert sorted(site.data.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_read_only_folder(bare: Site) -> None:
    """A folder that may not be written is named with the reason."""
    bare.data.mkdir(mode=0o500)
    message = bare.run("init", "--data-dir", "data", "--create-softhsm-token").error
    assert message.startswith(f"StoreError: {bare.data}")
    assert "Permission denied" in message


def test_kernel_file_system(bare: Site) -> None:
    """A file system that takes no folders, for root neither, is named with the reason."""
    message = bare.run("init", "--data-dir", "/proc/hsmkms", "--create-softhsm-token").error
    assert message.startswith("StoreError: /proc/hsmkms cannot be made or read: ")


@pytest.mark.parametrize("step", ["init 1", "init 2"])
def test_interrupted(bare: Site, pristine: Site, step: str) -> None:
    """A killed init is said at every use, and carried on by the same command, with the same token."""
    pristine.copy(bare.folder / "half")
    half = Site(folder=bare.folder / "half")
    for path in half.data.glob("*.db*"):
        path.unlink()
    half.program("interrupt_init", half.config, step, status=-9)
    assert half.run("list-keys").error == (
        "BindingError: `hsmkms init` was interrupted here: run it again with the same --data-dir"
    )
    assert half.run("init", "--data-dir", half.data, "--create-softhsm-token").json["Account"] == "111122223333"
    assert half.new_key()
    assert half.run("reconcile").json == {"Findings": [], "Left": 0}


@pytest.mark.parametrize(
    ("option", "value", "begun"),
    [
        ("--account-id", "999988887777", "the account 111122223333"),
        ("--token-label", "other", "a SoftHSM token of its own ('hsmkms')"),
        ("--pin-file", "other.pin", "a SoftHSM token of its own ('hsmkms')"),
    ],
)
def test_option_that_is_too_late(bare: Site, pristine: Site, option: str, value: str, begun: str) -> None:
    """What an interrupted init has begun with is not replaced: the option is refused by its name, nothing changes."""
    half = pristine.copy(bare.folder / "half")
    for path in half.data.glob("*.db*"):
        path.unlink()
    half.program("interrupt_init", half.config, "init 1", status=-9)
    before = half.config.read_text()
    message = half.run("init", "--data-dir", half.data, option, value).error
    assert message == (
        f"ConfigurationError: {option} cannot be used: the init that was interrupted in {half.data} has begun with "
        f"{begun}. Run it again without that option, or choose another --data-dir"
    )
    assert half.config.read_text() == before
    assert half.run("init", "--data-dir", half.data, "--region", "eu-north-1").json["Regions"] == ["eu-north-1"]


def test_token_that_is_too_late(bare: Site) -> None:
    """Once the database names a token, whose key may be there, another one is refused; the options are named."""
    module, environment = existing_token(bare)
    pin = write_pin(bare)
    asked = ("--data-dir", "data", "--module", module, "--pin-file", pin)
    write_pin(bare, pin="wrong horse")
    assert bare.run("init", *asked, "--token-label", LABEL, **environment).status == 1
    write_pin(bare)
    (bare.data / "pin-refused.json").unlink()
    bare.program("interrupt_init", bare.config, "init 2", status=-9)
    other = json.loads(bare.program("make_token", bare.folder / "another", "other token", PIN))
    message = bare.run("init", *asked, "--token-label", "other token", SOFTHSM2_CONF=other["SOFTHSM2_CONF"]).error
    assert message.startswith("ConfigurationError: --module, --token-label, --token-serial or --uri cannot be used: ")
    message = bare.run("init", "--data-dir", "data", "--create-softhsm-token").error
    assert message.startswith(
        "ConfigurationError: --create-softhsm-token cannot be used: the init that was interrupted"
    )
    assert bare.run("init", *asked, "--token-label", LABEL, **environment).status == 0
    assert bare.run("reconcile").json == {"Findings": [], "Left": 0}


def test_edited_by_hand(bare: Site) -> None:
    """A configuration that a person has edited since is not written over: he corrects it himself."""
    module, environment = existing_token(bare)
    asked = ("--data-dir", "data", "--module", module, "--token-label", LABEL, "--pin-file", write_pin(bare, "wrong"))
    assert bare.run("init", *asked, **environment).status == 1
    with bare.config.open("a") as file:
        file.write("# my own words\n")
    before = bare.config.read_text()
    message = bare.run("init", *asked, "--region", "eu-north-1", **environment).error
    assert message.startswith(f"ConfigurationError: {bare.config} was edited after the interrupted init had written it")
    assert bare.config.read_text() == before


def test_interrupted_before_the_databases(pristine: Site, bare: Site) -> None:
    """An init that ended after the configuration is carried on."""
    half = pristine.copy(bare.folder / "half")
    for path in half.data.glob("*.db*"):
        path.unlink()
    assert half.run("init", "--data-dir", half.data, "--create-softhsm-token").status == 0
    assert half.new_key()


@pytest.mark.parametrize("left", [("pin",), ("pin", "so-pin"), ("pin", "so-pin", "softhsm")])
def test_interrupted_before_the_configuration(pristine: Site, bare: Site, left: tuple[str, ...]) -> None:
    """An init that was killed while it made its token begins afresh, also after a half-made token."""
    whole = pristine.copy(bare.folder / "whole")
    bare.data.mkdir(mode=0o700)
    (bare.data / ".init-unfinished").touch(0o600)
    for name in left:
        (whole.data / name).rename(bare.data / name)
    assert bare.run("init", "--data-dir", "data", "--create-softhsm-token").status == 0
    assert bare.new_key()
    assert not (bare.data / ".init-unfinished").exists()


def test_a_used_token_is_never_begun_afresh(site: Site) -> None:
    """A lost configuration does not let init replace the token of an installation, whatever lies beside it."""
    site.new_key()
    site.config.unlink()
    (site.data / ".init-unfinished").touch(0o600)
    before = site.checksum()
    message = site.run("init", "--data-dir", "data", "--create-softhsm-token").error
    assert message.startswith(f"ConfigurationError: {site.data} is not empty")
    assert site.checksum() == before


def test_wrong_module_for_a_new_token(bare: Site) -> None:
    """An init that could make no token can be repeated with the right module."""
    asked = ("init", "--data-dir", "data", "--create-softhsm-token")
    assert bare.run(*asked, "--module", "/nowhere/libsofthsm2.so").error.startswith("ModuleError: ")
    assert not bare.config.exists()
    assert bare.run(*asked).status == 0
    assert bare.new_key()


def test_missing_module(bare: Site) -> None:
    """A module that is not there is named; neither configuration nor database is left behind."""
    asked = ("--module", "/nowhere/libhsm.so", "--token-label", LABEL, "--pin-file", write_pin(bare))
    message = bare.run("init", "--data-dir", "data", *asked).error
    assert message.startswith("ModuleError: ")
    assert "/nowhere/libhsm.so" in message
    assert not bare.data.exists()


def test_missing_token(bare: Site) -> None:
    """A label that no token has is named; with the right one the same folder can be used."""
    module, environment = existing_token(bare)
    asked = ("--data-dir", "data", "--module", module, "--pin-file", write_pin(bare))
    message = bare.run("init", *asked, "--token-label", "other", **environment).error
    assert message.startswith("TokenNotFoundError: ")
    assert "other" in message
    assert not bare.data.exists()
    assert bare.run("init", *asked, "--token-label", LABEL, **environment).status == 0


def test_ambiguous_token(bare: Site) -> None:
    """With two tokens of one label neither is taken."""
    module, environment = existing_token(bare, "twice")
    asked = ("--module", module, "--token-label", LABEL, "--pin-file", write_pin(bare))
    message = bare.run("init", "--data-dir", "data", *asked, **environment).error
    assert message.startswith("TokenNotFoundError: ")
    assert "serial" in message
    assert not bare.data.exists()


def test_missing_pin_file(bare: Site) -> None:
    """A PIN file that is not there is named, with what to do."""
    asked = ("--module", "/nowhere/libhsm.so", "--token-label", LABEL, "--pin-file", "no.pin")
    message = bare.run("init", "--data-dir", "data", *asked).error
    pin = bare.folder / "no.pin"
    assert message == f"PinError: there is no PIN file {pin}: write the user PIN into it and run `chmod 600 {pin}`"


def test_open_pin_file(bare: Site) -> None:
    """A PIN file that others may read is refused; after chmod the same init is carried on."""
    module, environment = existing_token(bare)
    pin = write_pin(bare, mode=0o644)
    asked = ("--data-dir", "data", "--module", module, "--token-label", LABEL, "--pin-file", pin)
    message = bare.run("init", *asked, **environment).error
    assert message == f"PinError: the PIN file {pin} is open to other users: run `chmod 600 {pin}`"
    pin.chmod(0o600)
    assert bare.run("init", *asked, **environment).status == 0


def test_wrong_pin(bare: Site) -> None:
    """A wrong PIN is sent once, by init and all later commands; doctor sends the corrected one and init continues."""
    module, environment = existing_token(bare)
    pin = write_pin(bare, pin="wrong horse")
    asked = ("--data-dir", "data", "--module", module, "--token-label", LABEL, "--pin-file", pin)
    first = bare.run("init", *asked, **environment).error
    assert first.startswith(f"PinError: the token '{LABEL}' refused the PIN")
    assert f"`hsmkms doctor --config {bare.config} --retry-pin`" in first
    mark = (bare.data / "pin-refused.json").read_text()
    write_pin(bare)
    again = bare.run("init", *asked, **environment).error
    advice = f"hsmkms doctor --config {bare.config} --retry-pin"
    assert f"`{advice}" in again
    assert (bare.data / "pin-refused.json").read_text() == mark
    result = bare.run(*advice.split()[1:], "--yes", "--query", "Checks[].[Check, Outcome, Detail]", HSMKMS_CONFIG="")
    assert [each[:2] for each in json.loads(result.stdout)] == [
        ["PIN", "ok"],
        ["token", "ok"],
        ["installation", "wrong"],
    ]
    assert "init is not finished: run the same init again" in result.stdout
    assert bare.run("init", *asked, **environment).status == 0
    assert bare.new_key()


def test_bad_label(bare: Site) -> None:
    """A label that a token cannot keep whole is refused."""
    message = bare.run("init", "--data-dir", "data", "--create-softhsm-token", "--token-label", "x" * 33).error
    assert message.startswith("ConfigurationError: the token label")
    assert bare.run("init", "--data-dir", "data", "--create-softhsm-token").status == 0


@pytest.mark.parametrize(
    ("option", "value", "named"), [("--account-id", "12", "account_id"), ("--region", "Mars", "'Mars'")]
)
def test_bad_settings(bare: Site, option: str, value: str, named: str) -> None:
    """An account or a region that cannot be one is refused before anything is made."""
    message = bare.run("init", "--data-dir", "data", "--create-softhsm-token", option, value).error
    assert message.startswith("ConfigurationError: ")
    assert named in message
    assert not bare.data.exists()


def test_configuration_that_is_there(bare: Site, pristine: Site) -> None:
    """--config instead of --data-dir creates what a configuration describes, in its data folder; again, nothing."""
    half = pristine.copy(bare.folder / "half")
    for path in half.data.glob("*.db*"):
        path.unlink()
    place, data = bare.folder / "etc" / "hsmkms.toml", bare.folder / "var" / "data"
    place.parent.mkdir()
    text = half.config.read_text().replace('file = "pin"', f'file = "{half.data}/pin"')
    place.write_text(re.sub(r"(?m)^# data_dir = .*$", f'data_dir = "{data}"', text))
    made = bare.run("init", "--config", place).json
    assert made["Configuration"] == str(place)
    assert made["Databases"] == [str(data / "meta.db"), str(data / "log.db")]
    assert modes(data)["folder"] == {"0700"}
    key = bare.run("create-key", HSMKMS_CONFIG=str(place)).json["KeyMetadata"]["KeyId"]
    assert bare.run("--config", place, "init").json == made
    assert bare.run("list-keys", "--query", "Keys[].KeyId", HSMKMS_CONFIG=str(place)).json == [key]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (("--config", "x.toml", "--data-dir", "data"), "--config goes without --data-dir: change x.toml instead"),
        (("--config", "x.toml", "--region", "eu-west-1", "--module", "m"), "--config goes without --module, --region:"),
        (("--create-softhsm-token",), "missing --data-dir DIR (or --config FILE, a configuration that is there"),
    ],
)
def test_data_folder_or_configuration(bare: Site, given: tuple[str, ...], complaint: str) -> None:
    """Init takes one of the two, and no option for what the configuration contains."""
    refused = bare.run("init", *given)
    assert (refused.status, refused.stdout) == (2, "")
    assert complaint in " ".join(refused.stderr.replace("│", " ").split())
    assert not bare.data.exists()
