"""Follow the comments of the samples in conf/ on a bare machine; used by scripts/install_check.py.

What a comment takes for granted (the vendor's client, its partition, the files with the PINs) is made first: SoftHSM
stands in for the vendors' modules.
"""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

PIN, SO_PIN = "482907", "57310482"
MODULE = "/usr/lib/softhsm/libsofthsm2.so"
TOKENS = Path("/var/lib/hsmkms/softhsm/tokens")
PROMPT = re.compile(rb"(SO|user) PIN[^\n]*: \Z", re.IGNORECASE)
SECONDS = 600.0

Run = Callable[..., str]


def commands(sample: Path) -> str:
    """Return the commands of a sample's first comment, a line each."""
    comment = sample.read_text().split("\n\n")[0]
    return "\n".join(line.removeprefix("#   ") for line in comment.splitlines() if line.startswith("#   "))


def follow(folder: Path, text: str, environment: Mapping[str, str] | None = None) -> None:
    """Run the commands of a sample at a terminal, where SoftHSM's questions for new PINs are answered."""
    terminal, theirs = pty.openpty()
    shell = subprocess.Popen(
        ["bash", "-euxo", "pipefail", "-c", text],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env=environment,
        start_new_session=True,
    )
    os.close(theirs)
    printed, answered = b"", 0
    while select.select([terminal], [], [], SECONDS)[0]:
        try:
            printed += os.read(terminal, 4096)
        except OSError:  # Linux's error once the other end is closed
            break
        asked = PROMPT.search(printed[answered:])
        if asked is not None:
            answered = len(printed)
            pin = SO_PIN if asked[1].upper() == b"SO" else PIN
            os.write(terminal, f"{pin}\n".encode())
    os.close(terminal)
    if shell.wait(SECONDS):
        sys.exit(f"status {shell.returncode} of:\n{text}\n{printed.decode(errors='replace')}")


def own_token(folder: Path, run: Run) -> None:
    """The file with the PIN that is typed."""
    del run
    (folder / "pin").write_text(f"{PIN}\n")


def network_hsm(folder: Path, run: Run) -> None:
    """A vendor's module with a partition, and its serial in the sample."""
    (folder / "pin").write_text(f"{PIN}\n")
    serials = make_tokens(run, {"kms-production": "/opt/example-hsm/lib/libexample-pkcs11.so"})
    replace(folder / "conf/network-hsm/hsmkms.toml", {"1234567890": serials["kms-production"]})


def two_tokens(folder: Path, run: Run) -> None:
    """Two vendors' modules with a partition each, and their serials in the sample."""
    for name in ("old-pin", "new-pin"):
        (folder / name).write_text(f"{PIN}\n")
    modules = {name: f"/opt/{name[:3]}-vendor/lib/libpkcs11.so" for name in ("old-hsm", "new-hsm")}
    serials = make_tokens(run, modules)
    sample = folder / "conf/two-tokens/hsmkms.toml"
    replace(sample, {"0123456789": serials["old-hsm"], "9876543210": serials["new-hsm"]})


SAMPLES: Mapping[str, Callable[[Path, Run], None]] = {
    "softhsm": own_token,
    "network-hsm": network_hsm,
    "two-tokens": two_tokens,
}


def make_tokens(run: Run, modules: Mapping[str, str]) -> dict[str, str]:
    """Make a token for each label in SoftHSM's default configuration, and its module; return the serials."""
    Path("/etc/softhsm/softhsm2.conf").write_text(f"directories.tokendir = {TOKENS}\n")
    run(
        f"chmod 755 /etc/softhsm && chmod 644 /etc/softhsm/softhsm2.conf && install -d -m 700 -o hsmkms -g hsmkms "
        f"{TOKENS.parent.parent} {TOKENS.parent} {TOKENS}"
    )
    serials = {}
    for label, module in modules.items():
        Path(module).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(MODULE, module)
        shown = run(
            "cd / && runuser -u hsmkms -- softhsm2-util --init-token --free "
            f"--label {label} --pin {PIN} --so-pin {SO_PIN} && runuser -u hsmkms -- softhsm2-util --show-slots"
        )
        serials[label] = serial_of(label, shown)
    return serials


def serial_of(label: str, shown: str) -> str:
    """Return the serial of a token from the output of softhsm2-util --show-slots."""
    (serial,) = re.findall(
        rf"Serial number:\s+(\w+)\s+Initialized:.*\n\s+User PIN init.:.*\n\s+Label:\s+{label}\b", shown
    )
    return str(serial)


def replace(file: Path, places: Mapping[str, str]) -> None:
    """Put the values of this machine into a sample."""
    text = file.read_text()
    for old, new in places.items():
        text = text.replace(old, new)
    file.write_text(text)
