"""Install hsmkms in a bare root folder as its guide says, and try what must hold; started by scripts/install-check.

Needs root, and a machine that is there for this alone. Only the standard library: nothing else is installed there.
"""

import json
import re
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

from install_machine import (
    CHECKOUT,
    DATA,
    DROP_INS,
    ETC,
    OPT,
    WORK,
    check,
    current,
    encrypt_by_http,
    run,
    server,
    state,
    use_free_port,
    works,
)
from install_samples import MODULE, SAMPLES, commands, follow
from install_units import credential, maintenance, refused_pin, reload, restart, sandbox

GUIDE = CHECKOUT / "hsmkms" / "guide" / "install.md"
BACKUPS = Path("/var/backups/hsmkms")
PLAYED = Path("/usr/local/sbin/systemctl")


def blocks(heading: str) -> list[str]:
    """Return the commands of a chapter of the guide's page, or of its beginning."""
    text = f"\n## \n{GUIDE.read_text()}"
    chapter = re.split(r"^## ", text.partition(f"\n## {heading}\n")[2], flags=re.MULTILINE)[0]
    return re.findall(r"^```sh\n(.*?)^```$", chapter, re.MULTILINE | re.DOTALL)


def copy_of_checkout(name: str, number: str, changes: Mapping[str, tuple[str, str]] | None = None) -> Path:
    """Make a checkout of another version, with a text in some files replaced."""
    folder = WORK / name
    shutil.copytree(CHECKOUT, folder, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    for file, (old, new) in {
        "pyproject.toml": ('version = "0.1.0"', f'version = "{number}"'),
        **(changes or {}),
    }.items():
        text = (folder / file).read_text()
        check(text.count(old) == 1, f"{old} is in {file} once")
        (folder / file).write_text(text.replace(old, new))
    return folder


# -- the steps --------------------------------------------------------------------------------------------------------


def prepare() -> None:
    """Make the bare root a machine with systemd, as far as that can be, unless systemd was booted there."""
    run("apt-get -qq update && apt-get -qq install --yes --no-install-recommends systemd curl")
    if not Path("/run/systemd/system").exists():
        shutil.copy(CHECKOUT / "scripts" / "played_systemctl.py", PLAYED)
        PLAYED.chmod(0o755)
        Path("/run/systemd/system").mkdir(parents=True)
    use_free_port()
    WORK.mkdir()


def first_installation() -> None:
    """Install an older version by the page's first commands, and see whose everything is."""
    copy_of_checkout("older", "0.0.9")
    (first,) = blocks("")
    run(f"cd {WORK}\n" + first.replace("scripts/install", f"{WORK}/older/scripts/install"))
    check(current() == "0.0.9", "the version of the checkout is installed")
    pin = (ETC / "pin").read_text().strip()
    for path, mode, owner in ((ETC / "pin", 0o600, "root"), (ETC / "so-pin", 0o600, "root"), (DATA, 0o700, "hsmkms")):
        check((path.stat().st_mode & 0o777, path.owner()) == (mode, owner), f"{path} is {owner}'s, mode {mode:o}")
    check(not any((DATA / name).exists() for name in ("pin", "so-pin", "hsmkms.toml")), "no PIN is left in the data")
    check(all(path.owner() == "hsmkms" for path in DATA.rglob("*")), "all data are the service's")
    processes = server()
    check(processes and all(each.owner() == "hsmkms" for each in processes), "the service runs as hsmkms")
    shown = b"".join((each / name).read_bytes() for each in processes for name in ("cmdline", "environ"))
    check(pin.encode() not in shown, "no PIN is in arguments or environment")
    faults = run("systemd-analyze verify hsmkms.service hsmkms-maintain.service hsmkms-maintain.timer 2>&1 || true")
    check("hsmkms" not in faults, f"systemd finds no fault in the units: {faults}")
    check(run("systemctl is-enabled hsmkms").strip() == "enabled", "the service is enabled")
    (WORK / "first.encrypted").write_text(encrypt_by_http())


def other_users() -> None:
    """Other users are told which command works, and can read the guide."""
    check("sudo hsmkms" in run("cd / && runuser -u nobody -- hsmkms list-keys", status=1), "nobody is told the command")
    check("sudo hsmkms" in run("cd / && runuser -u hsmkms -- hsmkms list-keys", status=1), "hsmkms is told the command")
    check("Install for good" in run("cd / && runuser -u nobody -- hsmkms guide install"), "nobody can read the guide")
    check(not list(Path("/run/hsmkms-credentials").iterdir()), "no credential of a command is left")


def again() -> None:
    """A second run changes nothing; after an interruption it goes on."""
    before, processes = state(), server()
    run("scripts/install", WORK / "older")
    after = state()
    changed = [path for path in {*before, *after} if before.get(path) != after.get(path)]
    check(not changed, f"nothing changes: {changed}")
    check(server() == processes, "the service is not restarted")
    refused = run("scripts/install --region eu-west-1", WORK / "older", status=1)
    check("leave out --region eu-west-1" in refused, "options for what is configured already are refused")
    run(f"mv {ETC}/hsmkms.toml {DATA} && install -o hsmkms -m 600 {ETC}/pin {DATA}/pin")
    run(f"rm {OPT}/installed {OPT}/bin && systemctl stop hsmkms")
    run("scripts/install", WORK / "older")
    check({*state()} == {*before}, "an interrupted installation is completed")
    works()


def failed_upgrades() -> None:
    """A version that cannot be installed, or does not start, leaves the old one in use."""
    processes = server()
    broken = copy_of_checkout(
        "broken",
        "0.0.91",
        {"hsmkms/cli/main.py": ("def main() -> None:\n", "raise SystemExit(1)\ndef main() -> None:\n")},
    )
    run("scripts/install", broken, status=-1)
    check((current(), server()) == ("0.0.9", processes), "a version that does not run is not used")
    works()
    sick = copy_of_checkout(
        "sick",
        "0.0.92",
        {"hsmkms/server/process/systemd.py": ("def ready() -> None:\n", "def ready() -> None:\n    raise OSError\n")},
    )
    told = run("scripts/install", sick, status=1)
    check("is the current version again" in told and current() == "0.0.9", f"what does not start is not used: {told}")
    check(not (OPT / "previous").exists(), "and not gone back to either")
    works()


def upgrade_and_back() -> None:
    """Upgrade, go back and forward by the page's commands; go back over a migration with the backup."""
    (upgrade,) = blocks("Upgrades")
    back, restore = blocks("Going back")
    run(upgrade)
    check(current() == "0.1.0", "the newer version is in use")
    kept = sorted(path.name.partition("-")[0] for path in (OPT / "versions").iterdir())
    check(kept == ["0.0.9", "0.1.0"], f"the version before is kept, and no other: {kept}")
    check(any(BACKUPS.glob("before-0.1.0-*.age")), "there is a backup from before")
    works()
    run(back)
    check(current() == "0.0.9", "the older version is in use")
    works()
    run(upgrade)
    with closing(sqlite3.connect(DATA / "meta.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'meta_9999'")
    told = run(back, status=1)
    check("restore the backup" in told and current() == "0.1.0", f"going back over a migration is refused: {told}")
    run(restore)
    check(current() == "0.0.9", "the older version is in use again")
    works()
    run(upgrade)
    works()


def units() -> None:
    """What systemd makes of the units; nothing where it is played."""
    if not PLAYED.exists():
        for step in (credential, sandbox, reload, restart, refused_pin, maintenance):
            step()
            works()


def pins() -> None:
    """Change the PIN by the page's commands; encrypt it."""
    old = (ETC / "pin").read_text()
    (change,) = blocks("The command")
    run(change)
    check((ETC / "pin").read_text() != old, "the PIN is another one")
    check((ETC / "pin").owner() == "root", "the PIN file is root's")
    works()
    run("scripts/install --encrypt-pin")
    check(not (ETC / "pin").exists() and (ETC / "pin.cred").exists(), "the PIN is on the disk in encrypted form only")
    run("systemctl restart hsmkms")
    works()


def removal() -> None:
    """Uninstall leaves the data; a wheel that pip has installed brings hsmkms back."""
    (uninstall,) = blocks("Removing it")
    (wheel,) = blocks("From a wheel")
    builder = WORK / "builder"
    run(f"python3 -m venv {builder} && {builder}/bin/pip -qq install --require-hashes -r conf/container/build.lock")
    run(f"{builder}/bin/python -m hatchling build --target wheel --directory {WORK}")
    run(uninstall)
    check(not OPT.exists() and not Path("/usr/local/bin/hsmkms").exists(), "the program is gone")
    check(not list(Path("/usr/local/lib/systemd/system").iterdir()), "the units are gone")
    check((DATA / "meta.db").exists() and (ETC / "pin.cred").exists(), "data and PIN are there")
    run("systemctl is-active hsmkms", status=-1)
    run(wheel, WORK)
    check(current() == "0.1.0", "the wheel is installed")
    works()


def clear() -> None:
    """Take data and configuration away, so that nothing is installed but an environment that can be used again."""
    run(f"systemctl stop hsmkms && rm -f {OPT}/installed")
    for place in (ETC, DATA, BACKUPS, DROP_INS):
        shutil.rmtree(place, ignore_errors=True)
    use_free_port()


def older_schema() -> None:
    """Data of the first schema, left by an earlier installation, are migrated and decrypt."""
    clear()
    frozen = CHECKOUT / "tests" / "frozen" / "meta_0001"
    shutil.copytree(frozen / "data", DATA)
    for name in ("meta", "log"):
        with closing(sqlite3.connect(DATA / f"{name}.db")) as database:
            database.executescript((frozen / f"{name}.sql").read_text())
    conf = DATA / "softhsm" / "softhsm2.conf"
    conf.write_text(conf.read_text().replace("@FOLDER@/data", str(DATA)))
    ETC.mkdir()
    text = (DATA / "hsmkms.toml").read_text().replace("@FOLDER@/data", str(DATA))
    text = re.sub(r"(?m)^# data_dir = .*$", f'data_dir = "{DATA}"', text).replace('file = "pin"', f'file = "{ETC}/pin"')
    (ETC / "hsmkms.toml").write_text(text)
    shutil.move(DATA / "pin", ETC / "pin")
    (DATA / "hsmkms.toml").unlink()
    run(f"chmod 600 {ETC}/pin && chown -R hsmkms:hsmkms {DATA} && chmod -R u=rwX,go= {DATA}")
    run("scripts/install")
    for each in json.loads((frozen / "expected.json").read_text())["ciphertexts"]:
        context = " ".join(f"--encryption-context {name}={value}" for name, value in each["context"].items())
        text = run(
            f"hsmkms decrypt --ciphertext-blob {each['blob']} {context} --query Plaintext --output text | base64 -d"
        )
        check(text == each["plaintext"], f"{each['plaintext']} decrypts: {text}")
    run("curl --silent --fail http://127.0.0.1:8443/readyz")


def given_token() -> None:
    """The page's command for a token that is there, with SoftHSM in the place of the vendor's module."""
    clear()
    (command,) = blocks("On a token that is there")
    WORK.joinpath("pin").write_text("4321\n")
    tokens = Path("/var/lib/vendor/tokens")
    tokens.mkdir(parents=True)
    Path("/etc/vendor").mkdir()
    Path("/etc/vendor/client.conf").write_text(f"directories.tokendir = {tokens}\n")
    Path("/opt/vendor/lib").mkdir(parents=True)
    shutil.copy(MODULE, "/opt/vendor/lib/libpkcs11.so")
    run(f"chown -R hsmkms:hsmkms {tokens} && chmod 700 {tokens}")
    run(
        "SOFTHSM2_CONF=/etc/vendor/client.conf runuser -u hsmkms -- "
        "softhsm2-util --init-token --free --label production --pin 4321 --so-pin 87654321"
    )
    command = command.replace("VENDOR_CONF", "SOFTHSM2_CONF")
    run(f"cd {WORK}\n" + command.replace("scripts/install", f"{CHECKOUT}/scripts/install"))
    arn = run("hsmkms create-key --query KeyMetadata.Arn --output text")
    check(arn.startswith("arn:aws:kms:eu-central-1:111122223333:key/"), f"account and region are as given: {arn}")
    run("curl --silent --fail http://127.0.0.1:8443/readyz")


def samples() -> None:
    """Each sample leads to a running service by its own comments."""
    for name, preparation in SAMPLES.items():
        clear()
        folder = WORK / name
        shutil.copytree(CHECKOUT / "conf", folder / "conf")
        (folder / "scripts").mkdir()
        (folder / "scripts/install").write_text(f'#!/bin/sh\nexec {CHECKOUT}/scripts/install "$@"\n')
        (folder / "scripts/install").chmod(0o755)
        preparation(folder, run)
        follow(folder, commands(folder / "conf" / name / "hsmkms.toml"))
        run("curl --silent --fail http://127.0.0.1:8443/readyz")
        check("Enabled" in run("hsmkms create-key --query KeyMetadata.KeyState"), f"{name} can create a key")


STEPS: Mapping[str, Callable[[], None]] = {
    step.__name__.replace("_", "-"): step
    for step in (
        *(prepare, first_installation, other_users, again, failed_upgrades, upgrade_and_back, units, pins, removal),
        *(older_schema, given_token, samples),
    )
}
"""In their order: each goes on with what those before it have left."""


def main() -> None:
    """Run all steps, or those that are named."""
    for name in sys.argv[1:] or STEPS:
        began = time.monotonic()
        STEPS[name]()
        print(f"install-check: {name}: {time.monotonic() - began:.0f} s", flush=True)
    run("systemctl stop hsmkms")
    print("install-check: all of it holds", flush=True)


if __name__ == "__main__":
    main()
