"""Several tokens at the command line: what there is, what a migration would do, doing it, and naming one of them."""

import json
import shlex
import shutil
import signal
from pathlib import Path

import pytest
import second_token
import warm
from cli_site import SECONDS, Site, at_terminal, hide_rsa

from hsmkms.config import settings as config

PROGRAMS = Path(__file__).parent.parent / "service/programs"


@pytest.fixture
def two(site: Site) -> Site:
    """An installation whose configuration names a second token."""
    second_token.add(site.config)
    return site


def encrypted(site: Site, key_id: str) -> Path:
    """A file that holds a ciphertext under a key."""
    file = site.folder / f"{key_id}.enc"
    answer = site.run("encrypt", "--key-id", key_id, "--plaintext", "cGhvdG8=").json
    file.write_text(answer["CiphertextBlob"])
    return file


def test_migration(two: Site) -> None:
    """Its plan changes nothing; afterwards keys are made on the new token, and the answer says what stays and why."""
    symmetric = two.new_key()
    signing = two.new_key("--key-spec", "ECC_NIST_P256", "--key-usage", "SIGN_VERIFY")
    sealed = encrypted(two, symmetric)
    plan = two.run("migrate-token", "--to", second_token.LABEL, "--dry-run").json
    assert [each["KeyId"] for each in plan["ToRotate"]] == [symmetric]
    stays = {each["KeyId"]: each for each in plan["Left"]}
    assert {*stays} == {symmetric, signing}
    assert stays[symmetric]["Reason"].startswith("older ciphertext")
    assert stays[symmetric]["Encryptions"] == 1
    assert stays[signing]["Reason"].endswith("schedule the deletion of this one")
    home, unused = two.run("list-tokens").json["Tokens"]
    assert (home["Home"], unused["Home"], unused["TokenId"], unused["Label"], unused["Objects"], unused["Away"]) == (
        *(True, False, None, second_token.LABEL, 0, None),
    )
    assert f"`hsmkms migrate-token --to {shlex.quote(second_token.LABEL)}` makes it the home" in unused["Next"]

    refused = two.run("migrate-token", "--to", second_token.LABEL)
    assert "run it there, or with --yes" in refused.error
    (recorded,) = two.data.glob("refused-material-*")
    recorded.unlink()
    done = two.run("migrate-token", "--to", second_token.LABEL, "--yes")
    assert done.status == 0, done
    assert recorded.read_text() == "survives\n"
    answer = two.run("migrate-token", "--to", second_token.LABEL, "--yes").json
    assert (answer["Rotated"], answer["Failures"]) == (0, [])
    left = {each["KeyId"]: each["Reason"] for each in answer["Left"]}
    assert left[signing].startswith("key pairs never move")
    assert left[symmetric].startswith("older ciphertext")

    listed = two.run("list-tokens").json["Tokens"]
    assert [(each["Label"], each["Home"]) for each in listed][1:] == [(second_token.LABEL, True)]
    assert two.run("decrypt", "--ciphertext-blob", sealed.read_text()).json["Plaintext"] == "cGhvdG8="
    rotations = two.run("list-key-rotations", "--key-id", symmetric).json["Rotations"]
    assert [rotation["RotationType"] for rotation in rotations] == ["AUTOMATIC"]
    doctor = two.run("doctor")
    assert (doctor.status, "has no mark" in doctor.stdout) == (0, False)
    assert two.run("re-encrypt-files", sealed, "--destination-key-id", symmetric).json["ReEncrypted"] == 1
    events = two.run("audit", "export", "--event-name", "MigrateToken")
    assert events.stdout.count('"MigrateToken"') == 2


def test_older_material(two: Site) -> None:
    """What is known of older material is shown; at the operator's word it is abandoned, and its token forgotten.

    Nothing on that token is destroyed: a backup from before the act decrypts again.
    """
    used, unused = two.new_key(), two.new_key()
    sealed = encrypted(two, used)
    two.run("migrate-token", "--to", second_token.LABEL, "--yes")
    left = {each["KeyId"]: each for each in two.run("list-tokens").json["Left"]}
    advice = "forget-token --abandon-older-material"
    assert left[unused]["Reason"] == f"older material that has encrypted nothing: {advice}"
    assert (left[used]["Encryptions"], left[used]["Reason"].endswith(advice)) == (1, True)
    home, old = second_token.LABEL, two.run("list-tokens").json["Tokens"][0]["Label"]
    assert "is the home" in two.run("list-older-material", "--token", home).error
    assert "name one token" in two.run("list-older-material", "--token", "x").error
    found = {each["KeyId"]: each for each in two.run("list-older-material", "--token", old).json["OlderMaterial"]}
    assert {key: each["Encryptions"] for key, each in found.items()} == {used: 1, unused: 0}
    assert (found[unused]["LastUse"], found[used]["LastUse"] is None) == (None, False)

    command = ("forget-token", "--token", old, "--abandon-older-material")
    assert "still needed: objects of keys (2: " in two.run("forget-token", "--token", old, "--yes").error
    assert "run it there, or with --yes" in two.run(*command).error
    output, status = at_terminal(two, *command, answer="n\n")
    assert status == 1
    assert "at most 1 encryptions, last used 20" in output
    assert "2 older key materials" in output
    pair = two.new_key("--key-spec", "ECC_NIST_P256", "--key-usage", "SIGN_VERIFY")
    assert pair not in found
    before = two.folder / "before"
    shutil.copytree(two.data, before)

    done = two.run(*command, "--yes").json
    assert (done["Label"], done["Abandoned"], done["Destroyed"]) == (old, 2, 0)
    assert "erase it with the token's own tool" in done["Away"]
    lost = two.run("decrypt", "--ciphertext-blob", sealed.read_text()).error
    assert lost.startswith("KMSInvalidStateException: The key material ")
    for key in (used, unused):
        assert two.run("decrypt", "--ciphertext-blob", encrypted(two, key).read_text()).json["Plaintext"] == "cGhvdG8="
    assert two.run("reconcile").json["Findings"] == []
    assert two.run("audit", "export", "--event-name", "AbandonOlderKeyMaterial").stdout.count("\n") == 2
    assert two.run("audit", "verify").status == two.run("verify-store").status == 0

    for name in ("meta.db", "log.db"):
        for each in two.data.glob(f"{name}*"):
            each.unlink()
        shutil.copy(before / name, two.data / name)
    assert two.run("decrypt", "--ciphertext-blob", sealed.read_text()).status == 0


def test_question(two: Site) -> None:
    """At a terminal it is asked whether all servers know the token; no changes nothing."""
    output, status = at_terminal(two, "migrate-token", "--to", second_token.LABEL, answer="n\n")
    assert "cannot be undone" in output
    assert status == 1
    assert [token["TokenId"] is None for token in two.run("list-tokens").json["Tokens"]] == [False, True]


def test_naming_a_token(two: Site) -> None:
    """With several tokens, commands about one require --token; an unknown one is refused with those that exist."""
    info = two.run("token-info", "--token", second_token.LABEL, "--query", "Profile.Label").json
    assert info == second_token.LABEL
    hide_rsa(two.data / "softhsm" / "softhsm2.conf")
    assert len([*two.data.glob("refused-material-*")]) == 1, "of init"
    assert two.run("token-check", "--token", second_token.LABEL).status == 0
    assert len([*two.data.glob("refused-material-*")]) == 2, "of a token without RSA"
    for command in (("change-pin", "--generate"), ("token-info", "--token", "x"), ("migrate-token", "--to", "x")):
        message = two.run(*command).error
        assert message.startswith("ConfigurationError: name one [[token]] of the configuration")
        assert second_token.LABEL in message
    file = two.data / "new-pin"
    before = file.read_text()
    assert two.run("change-pin", "--generate", "--token", second_token.LABEL).json["PinFile"] == str(file)
    assert file.read_text() != before
    assert two.run("token-info", "--token", second_token.LABEL, "--query", "Profile.Label").json == second_token.LABEL


def test_change_pin_of_the_old_token(two: Site) -> None:
    """After a migration the PINs of both tokens can be changed, each in its own file."""
    two.run("migrate-token", "--to", second_token.LABEL, "--yes")
    old = two.run("list-tokens").json["Tokens"][0]["Label"]
    files = [two.run("change-pin", "--generate", "--token", each).json["PinFile"] for each in (old, second_token.LABEL)]
    assert files == [str(two.data / "pin"), str(two.data / "new-pin")]
    assert two.run("doctor").status == 0


def test_accept_clone(site: Site) -> None:
    """A clone is refused with what to do; accepted at the operator's word, it is what list-tokens shows."""
    clone = second_token.add_clone(site.config)
    serial = str(clone.serial)
    for command in (("migrate-token", "--to", serial, "--yes"), ("migrate-token", "--to", serial, "--dry-run")):
        refused = site.run(*command)
        assert refused.status == 1
        assert "is a clone of this installation's token" in refused.error
    assert "is a clone of this installation's token" in site.run("doctor").stdout
    second_token.clone_again(config.load(site.config).tokens[0], clone)
    assert "run it there, or with --yes" in site.run("accept-clone", "--token", serial).error
    output, status = at_terminal(site, "accept-clone", "--token", serial, answer="n\n")
    assert "is refused from then on" in output
    assert status == 1
    answer = site.run("accept-clone", "--token", serial, "--yes").json
    assert (answer["Serial"], answer["Missing"]) == (serial, 0)
    result, original = site.run("list-tokens").json["Tokens"]
    assert (result["Serial"], original["TokenId"], "is a clone" in original["Next"]) == (serial, None, True)
    assert site.run("create-key").status == 0
    assert site.run("audit", "export", "--event-name", "AcceptClone").stdout.count('"AcceptClone"') == 1


def test_clone_from_before_a_rotation(site: Site) -> None:
    """Its acceptance, and doctor, name the command that starts afresh what it lacks."""
    site.run("create-key")
    clone = second_token.add_clone(site.config)
    site.run("rotate-installation-keys", "--purpose", "audit-seal")
    site.run("create-key")
    shutil.rmtree(second_token.token_folder(config.load(site.config).token))
    answer = json.loads(site.run("accept-clone", "--token", str(clone.serial), "--yes").stdout)
    assert answer["LostPurposes"] == ["audit-seal"]
    assert "`hsmkms renew-installation-keys`" in answer["Next"]
    assert "`hsmkms renew-installation-keys`" in site.run("doctor").stdout
    assert site.run("renew-installation-keys", "--yes").status == 0
    assert site.run("audit", "verify").json["Faults"] == []
    assert "`hsmkms renew-installation-keys`" not in site.run("doctor").stdout


def test_forget_token(two: Site) -> None:
    """The home is refused; a token that was left and is empty is gone from the list afterwards."""
    old = two.run("list-tokens").json["Tokens"][0]["Label"]
    assert "is the home" in two.run("forget-token", "--token", old, "--yes").error
    two.run("migrate-token", "--to", second_token.LABEL, "--yes")
    assert "run it there, or with --yes" in two.run("forget-token", "--token", old).error
    output, status = at_terminal(two, "forget-token", "--token", old, answer="n\n")
    assert "no backup from before the migration" in output
    assert status == 1
    answer = two.run("forget-token", "--token", old, "--yes").json
    assert answer["Next"].startswith("remove the [[token]] with label")
    listed = two.run("list-tokens")
    assert [token["Label"] for token in listed.json["Tokens"] if token["TokenId"]] == [second_token.LABEL]
    assert two.run("create-key").status == 0
    assert two.run("doctor").status == 0
    assert two.run("audit", "export", "--event-name", "ForgetToken").stdout.count('"ForgetToken"') == 1


def test_renewal_of_own_keys(two: Site) -> None:
    """While nothing is lost it is refused; with the old token lost it shows the loss, asks, and everything works."""
    two.run("create-user", "--user-name", "alice")
    lost = two.run("create-access-key", "--user-name", "alice").json["AccessKey"]["AccessKeyId"]
    assert "nothing is lost" in two.run("renew-installation-keys", "--yes").error
    environment = two.environment(PYTHONPATH=str(PROGRAMS.parent.parent))
    killed = warm.run_program(PROGRAMS / "migrate_until.py", [str(two.config), "migrate 3"], environment, SECONDS)
    assert killed.returncode == -signal.SIGKILL
    shutil.rmtree(second_token.token_folder(config.load(two.config).tokens[0]))
    refused = two.run("renew-installation-keys")
    assert lost in refused.stderr
    assert "run it there, or with --yes" in refused.stderr
    answer = two.run("renew-installation-keys", "--yes")
    assert answer.status == 0
    assert f'"{lost}"' in answer.stdout
    assert two.run("create-access-key", "--user-name", "alice").status == 0
    assert two.run("create-key").status == 0
    assert two.run("audit", "verify").status == 0


def test_init_on_a_group(site: Site) -> None:
    """The serials of an HA group that init is given stand in the configuration, as a list."""
    token = config.load(site.config).token
    made = site.run(
        *("init", "--data-dir", site.folder / "group", "--module", token.module, "--token-label", token.label),
        *("--token-serial", "absent", "--token-serial", token.serial, "--pin-file", site.data / "pin"),
        **token.environment,
    )
    assert json.loads(made.stdout)["TokenSerial"] == ["absent", token.serial]
    assert made.stderr.count("is made without the HA member with serial absent") == 1
    assert config.load(site.folder / "group/hsmkms.toml").token.serial == ("absent", token.serial)
    assert site.run("create-key", "--config", site.folder / "group/hsmkms.toml").status == 0


def test_a_token_is_away(two: Site) -> None:
    """list-tokens and doctor report it with status 1; the keys at home work on."""
    two.run("migrate-token", "--to", second_token.LABEL, "--yes")
    text = two.config.read_text()
    first = text.index("[[token]]\n")
    two.config.write_text(text[:first] + text[text.rindex("[[token]]\n") :])
    listed = two.run("list-tokens")
    assert listed.status == 1
    assert "add it to the configuration" in listed.stdout
    created = two.run("create-key")
    assert created.status == 0
    doctor = two.run("doctor")
    assert doctor.status == 1
    assert "1 differences between database and token" in doctor.stdout


@pytest.fixture
def handed_over(two: Site) -> Path:
    """The folder in which systemd would put the PIN files; those that the configuration names have the same name."""
    text = two.config.read_text()
    for old, new in ((str(two.data / "new-pin"), str(two.data / "second/pin")), ('file = "pin"', 'file = "first/pin"')):
        assert text.count(old) == 1
        text = text.replace(old, new)
    two.config.write_text(text)
    folder = two.folder / "credentials"
    folder.mkdir(mode=0o700)
    return folder


def test_pins_from_systemd(two: Site, handed_over: Path) -> None:
    """Each token gets the PIN file that systemd handed over for it, though both files have one name."""
    labels = [token.label for token in config.load(two.config).tokens]
    for label, pin in zip(labels, ("pin", "new-pin"), strict=True):
        (two.data / pin).rename(handed_over / f"pin-{label.replace(' ', '-')}")
    environment = {"CREDENTIALS_DIRECTORY": str(handed_over)}
    done = two.run("migrate-token", "--to", second_token.LABEL, "--yes", **environment)
    assert done.status == 0, done
    assert two.run("doctor", **environment).status == 0
    assert len(two.run("list-tokens", **environment).json["Tokens"]) == 2


def test_a_credential_that_fits_both(two: Site, handed_over: Path) -> None:
    """A file that systemd handed over under the name of both PIN files is sent to neither token."""
    (two.data / "pin").rename(handed_over / "pin")
    refused = two.run("list-keys", CREDENTIALS_DIRECTORY=str(handed_over)).error
    (label, _) = [token.label for token in config.load(two.config).tokens]
    assert f"systemd passes it with LoadCredential=pin-{label}:{two.data}/first/pin" in refused
    assert not list(two.data.rglob("pin-refused*"))
