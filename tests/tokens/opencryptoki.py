"""opencryptoki's software token: one for the whole machine, served by the daemon pkcsslotd; only root can run this.

Its PINs have 4 to 8 characters. C_InitToken gives the security officer's a default; both must be changed before use.

Source: opencryptoki, man pkcsconf(1) and pkcsslotd(8).
"""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import ClassVar

from tokens.driver import LABEL, Driver, NotInstalledError, Token

CONFIGURATION = Path("/etc/opencryptoki/opencryptoki.conf")
SOCKET = Path("/run/pkcsslotd.socket")
DEFAULT_SO_PIN = "87654321"
NEW_PIN = "11111111"
PIN = "22222222"
SO_PIN = "33333333"
SECONDS = 60.0


class OpenCryptokiDriver(Driver):
    """opencryptoki of the distribution. Each token replaces the one before."""

    name = "opencryptoki"
    title = "opencryptoki, software token"
    packages = ("opencryptoki",)
    files: ClassVar[tuple[str, ...]] = ("opencryptoki/libopencryptoki.so", "pkcs11/libopencryptoki.so")

    def __init__(self, module: Path | None = None) -> None:
        super().__init__(module)
        if shutil.which("pkcsslotd") is None:
            raise NotInstalledError("pkcsslotd is not installed: install opencryptoki")
        if os.geteuid():
            raise NotInstalledError("opencryptoki's token is the machine's own: only root can make it anew")
        found = re.search(r"slot\s+(\d+)\s*\{[^}]*libpkcs11_sw\.so", CONFIGURATION.read_text())
        assert found, f"{CONFIGURATION} has no software token"
        self._slot = found[1]
        self._so_pin = DEFAULT_SO_PIN

    def make(self, folder: Path, label: str = LABEL) -> Token:
        """Initialise the token anew, which ends all its objects."""
        self._serve()
        self._configure("-I", "-S", self._so_pin, answer=label)
        self._configure("-P", "-S", DEFAULT_SO_PIN, "-n", SO_PIN)
        self._so_pin = SO_PIN
        self._configure("-u", "-S", SO_PIN, "-n", NEW_PIN)
        self._configure("-p", "-U", NEW_PIN, "-n", PIN)
        return Token(module=self.module, folder=folder, label=label, serial="", environment={}, pin=PIN, so_pin=SO_PIN)

    def _serve(self) -> None:
        """Start the daemon unless it runs. It stays: it is a service of the machine."""
        if SOCKET.exists():
            return
        subprocess.run(["pkcsslotd"], check=True, capture_output=True, timeout=SECONDS)
        deadline = time.monotonic() + SECONDS
        while not SOCKET.exists():
            assert time.monotonic() < deadline, f"pkcsslotd did not listen in {SECONDS} s"
            time.sleep(0.01)

    def _configure(self, *options: str, answer: str = "") -> None:
        command = ["pkcsconf", "-c", self._slot, *options]
        done = subprocess.run(
            command, input=f"{answer}\n", capture_output=True, text=True, check=False, timeout=SECONDS
        )
        assert done.returncode == 0, (options[0], done.stdout, done.stderr)
