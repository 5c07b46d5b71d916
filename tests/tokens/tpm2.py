"""tpm2-pkcs11: keys in a TPM 2.0, here one simulated by swtpm."""

import shutil
import subprocess
import time
from pathlib import Path
from typing import ClassVar

from tokens.driver import LABEL, Driver, NotInstalledError, Reason, Token, initialise
from tokens.measured import MEASURED_ON_SOFTHSM

SECONDS = 60.0


class Tpm2Driver(Driver):
    """tpm2-pkcs11, with a swtpm of its own for each token."""

    name = "tpm2"
    title = "tpm2-pkcs11 on swtpm"
    packages = ("libtpm2-pkcs11-1", "swtpm", "libtss2-tcti-swtpm0")
    files: ClassVar[tuple[str, ...]] = (
        "pkcs11/libtpm2_pkcs11.so",
        "libtpm2_pkcs11.so.1",
        "pkcs11/libtpm2_pkcs11.so.1",
    )
    excluded = MEASURED_ON_SOFTHSM
    refused: ClassVar[tuple[Reason, ...]] = (
        Reason(r"GENERIC_SECRET_KEY_GEN: it generates no secret keys", "it makes no generic secrets"),
    )

    def __init__(self, module: Path | None = None) -> None:
        super().__init__(module)
        program = shutil.which("swtpm")
        if program is None:
            raise NotInstalledError("swtpm is not installed: install swtpm")
        self._program = program
        self._machines: dict[Path, subprocess.Popen[bytes]] = {}

    def make(self, folder: Path, label: str = LABEL) -> Token:
        """Start a new TPM, and create a token in it."""
        state, store, socket = folder / "swtpm", folder / "store", folder / "swtpm.sock"
        state.mkdir(mode=0o700)
        store.mkdir(mode=0o700)
        command = [
            *(self._program, "socket", "--tpm2", "--tpmstate", f"dir={state}"),
            *("--server", f"type=unixio,path={socket}", "--ctrl", f"type=unixio,path={socket}.ctrl"),
            *("--flags", "not-need-init,startup-clear"),
        ]
        with (folder / "swtpm.log").open("wb") as log:
            machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._machines[folder] = machine
        deadline = time.monotonic() + SECONDS
        while not socket.exists():
            assert machine.poll() is None, (folder / "swtpm.log").read_text()
            assert time.monotonic() < deadline, f"swtpm did not listen in {SECONDS} s"
            time.sleep(0.01)
        environment = {"TPM2_PKCS11_STORE": str(store), "TPM2_PKCS11_TCTI": f"swtpm:path={socket}"}
        return initialise(Token(module=self.module, folder=folder, label=label, serial="", environment=environment))

    def close(self, folder: Path) -> None:
        """Switch the token's TPM off."""
        machine = self._machines.pop(folder, None)
        if machine is not None:
            machine.terminate()
            machine.wait(SECONDS)
