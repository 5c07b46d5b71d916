"""scripts/quickstart makes an installation that doctor approves of, and ends with the line to go on with."""

import shutil
import subprocess
from pathlib import Path

import warm
from cli_site import BIN, SECONDS, Site

ROOT = Path(__file__).parent.parent.parent


def checkout(site: Site) -> Path:
    """A checkout that scripts/setup has made ready, in a folder with a blank in its name.

    Only `init` is a process of its own with the umask of its caller: the other commands are forked (see warm.py).
    """
    folder = site.folder / "a checkout"
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts/quickstart", folder / "scripts")
    command = folder / ".venv/bin/hsmkms"
    command.parent.mkdir(parents=True)
    for script, text in (
        (folder / "scripts/setup", "exit 0"),
        (command, f'[ "$1" = init ] && exec {BIN}/hsmkms "$@"\nexec {warm.folder()}/hsmkms "$@"'),
    ):
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)
    return folder


def run(site: Site, script: str) -> str:
    """What a script of the shell prints, which must succeed. No variable points at an installation."""
    environment = site.environment()
    del environment["HSMKMS_CONFIG"]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        cwd=site.folder,
        env=environment,
    )
    assert done.returncode == 0, done
    return done.stdout


def test_doctor_approves_under_any_umask(bare: Site) -> None:
    """Nothing in the folder is open to others, what was is closed again, and the last line is for the user's shell."""
    folder = checkout(bare)
    data = folder / "hsmkms-data"
    run(bare, f"umask 000; '{folder}/scripts/quickstart'")
    assert [path for path in data.rglob("*") if path.stat().st_mode & 0o077] == []
    (data / "quickstart").chmod(0o755)
    (data / "quickstart/letter.txt").chmod(0o644)
    printed = run(bare, f"umask 027; '{folder}/scripts/quickstart'")
    assert "What the last run encrypted decrypts still." in printed
    line = printed.splitlines()[-1]
    doctor = "hsmkms doctor --output json --query 'Checks[?Outcome!=`ok`]'"
    assert run(bare, f"cd /\n{line}\n{doctor}") == "[]\n"
