"""opencryptoki's software token: one for the whole machine, served by the daemon pkcsslotd; needs root.

Its PINs have 4 to 8 characters. That of the security officer has a default; both must be changed before use. A token
that is initialised a second time refuses the security officer's login (3.8), so its files are removed instead, and
those of the first token are put back.

Source: opencryptoki, man pkcsconf(1) and pkcsslotd(8).
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar, Final, NamedTuple, Self

from tokens.driver import LABEL, Driver, NotInstalledError, NotPossibleError, Reason, Token
from tokens.measured import MEASURED_ON_SOFTHSM

CONFIGURATION = Path("/etc/opencryptoki/opencryptoki.conf")
RUN = (Path("/run"), Path("/run/opencryptoki"))
STATE = Path("/var/lib/opencryptoki/swtok")
GROUP = "pkcs11"
SHARED_MEMORY = Path("/dev/shm/var.lib.opencryptoki.swtok")  # noqa: S108 - opencryptoki's own
DEFAULT_SO_PIN = "87654321"
NEW_PIN = "11111111"
PIN = "22222222"
SO_PIN = "33333333"
OTHER_PIN = "44444444"
SECONDS = 60.0


def _sockets() -> list[Path]:
    """Return the sockets that the daemon listens on; none if it does not run."""
    return [file for folder in RUN for file in folder.glob("pkcsslotd*.socket")]


def _numbers() -> list[int]:
    """Return the daemon's process id, which it writes a moment after it has begun to listen."""
    written = [file.read_text().strip() for folder in RUN for file in folder.glob("pkcsslotd.pid")]
    running = [int(number) for number in written if number.isdigit()]
    return [number for number in running if not _has_ended(number)]


def _has_ended(number: int) -> bool:
    """Return True if there is no such process, or only a zombie."""
    try:
        return not Path(f"/proc/{number}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True


_NO_KEY_WRAP: Final = Reason(r"cannot unwrap RSA_AES_KEY_WRAP_SHA_", "it has no AES key wrap with padding")
_REFUSED: Final = {
    "3.8": (
        Reason(r"This token has no AES-GCM, so", "3.8 has no AES-GCM, so no symmetric key is imported"),
        Reason(r"(?:KeySpec|KeyPairSpec|spec) ECC_", "Debian's 3.8 has no elliptic curves in its software token"),
        Reason(r"KeySpec HMAC_224", "3.8 has no HMAC with SHA-224"),
        _NO_KEY_WRAP,
    ),
    "3.23": (
        Reason(r"(?:KeySpec|KeyPairSpec|spec) ECC_NIST_EDWARDS25519", "3.23 has no Ed25519 in its software token"),
        _NO_KEY_WRAP,
    ),
    "3.27": (
        Reason(
            r"the module crashes or hangs where material cannot be unwrapped",
            "3.27 damages its memory where material cannot be unwrapped, so nothing is imported",
        ),
    ),
}
"""What is known of each version; whatever another one refuses is to be looked at."""

_FAILED_CHECKS: Final = {"3.27": ("refused material",)}


def _version() -> str:
    """Return the version of Debian's package, without its patch level."""
    command = ["dpkg-query", "--show", "--showformat=${Version}", "opencryptoki"]
    full = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return ".".join(full.split(".")[:2])


class _StoredFile(NamedTuple):
    """A file of a token, with its owner and mode."""

    path: Path
    data: bytes
    status: os.stat_result

    @classmethod
    def of(cls, path: Path) -> Self:
        """Read a file."""
        return cls(path, path.read_bytes(), path.stat())

    def restore(self) -> None:
        """Restore the file as it was."""
        self.path.write_bytes(self.data)
        self.path.chmod(self.status.st_mode)
        os.chown(self.path, self.status.st_uid, self.status.st_gid)


class _EmptyToken(NamedTuple):
    """A token without objects: its serial, and its files."""

    serial: str
    files: tuple[_StoredFile, ...]


class OpenCryptokiDriver(Driver):
    """opencryptoki of the distribution. Each token replaces the one before."""

    name = "opencryptoki"
    title = "opencryptoki, software token"
    packages = ("opencryptoki",)
    files: ClassVar[tuple[str, ...]] = ("opencryptoki/libopencryptoki.so", "pkcs11/libopencryptoki.so")
    excluded = MEASURED_ON_SOFTHSM

    def __init__(self, module: Path | None = None) -> None:
        super().__init__(module)
        if shutil.which("pkcsslotd") is None:
            raise NotInstalledError("pkcsslotd is not installed: install opencryptoki")
        if os.geteuid():
            raise NotInstalledError("opencryptoki's token is the machine's own: only root can make it anew")
        found = re.search(r"slot\s+(\d+)\s*\{[^}]*libpkcs11_sw\.so", CONFIGURATION.read_text())
        assert found, f"{CONFIGURATION} has no software token"
        version = _version()
        self.refused = _REFUSED.get(version, ())  # type: ignore[misc]
        self.failed_checks = _FAILED_CHECKS.get(version, ())  # type: ignore[misc]
        self._slot = found[1]
        self._started = False
        self._empty: dict[str, _EmptyToken] = {}
        """By label: what the first one was made as, so that others need no tool."""

    def make(self, folder: Path, label: str = LABEL) -> Token:
        """Remove the token with all its files, and create it again."""
        self._end()
        if _sockets():
            raise NotPossibleError("pkcsslotd runs on this machine: whoever uses it must end it first")
        for file in (*STATE.glob("*"), *(STATE / "TOK_OBJ").glob("*"), SHARED_MEMORY):
            if file.is_file():
                file.unlink()
        empty = self._empty.get(label)
        if empty is None:
            empty = self._empty[label] = self._make_empty(label)
        else:
            for stored in empty.files:
                stored.restore()
            self._serve()
        return Token(
            module=self.module,
            folder=folder,
            label=label,
            serial=empty.serial,
            environment={},
            pin=PIN,
            so_pin=SO_PIN,
            new_pin=OTHER_PIN,
        )

    def _make_empty(self, label: str) -> "_EmptyToken":
        """Create a token by opencryptoki's own tool, whose derivation of keys from PINs takes seconds."""
        for folder in (STATE, STATE / "TOK_OBJ"):  # 3.27 wants it so, and Debian's package does not make it so
            shutil.chown(folder, group=GROUP)
            folder.chmod(0o770)
        self._serve()
        self._configure("-I", "-S", DEFAULT_SO_PIN, answer=label)
        self._configure("-P", "-S", DEFAULT_SO_PIN, "-n", SO_PIN)
        self._configure("-u", "-S", SO_PIN, "-n", NEW_PIN)
        self._configure("-p", "-U", NEW_PIN, "-n", PIN)
        files = tuple(_StoredFile.of(file) for file in STATE.glob("*") if file.is_file())
        return _EmptyToken(self._serial(), files)

    def close(self, folder: Path) -> None:
        """Stop the daemon, for any folder: there is only one token."""
        del folder
        self._end()

    def _serve(self) -> None:
        """Start the daemon, which goes into the background."""
        self._started = True
        subprocess.run(
            ["pkcsslotd"], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._wait(lambda: bool(_sockets() and _numbers()), "did not listen")

    def _end(self) -> None:
        if self._started:
            self._started = False
            for number in _numbers():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGTERM)
                self._wait(partial(_has_ended, number), "did not end")

    def _wait(self, happened: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not happened():
            assert time.monotonic() < deadline, f"pkcsslotd {otherwise} in {SECONDS} s"
            time.sleep(0.01)

    def _serial(self) -> str:
        """Return the token's serial, which is empty since about version 3.9."""
        found = re.search(r"Serial(?: Number)?:[ \t]*(.*)", self._configure("-t"))
        assert found, "pkcsconf shows no serial"
        return found[1].strip()

    def _configure(self, *options: str, answer: str = "") -> str:
        command = ["pkcsconf", "-c", self._slot, *options]
        done = subprocess.run(
            command, input=f"{answer}\n", capture_output=True, text=True, check=False, timeout=SECONDS
        )
        assert done.returncode == 0, (options[0], done.stdout, done.stderr)
        return done.stdout
