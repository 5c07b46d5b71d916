"""p11-kit remote: PKCS#11 calls sent over a socket to ``p11-kit server``, with SoftHSM behind it.

The server starts a process for each connection, and each C_GetFunctionList of the client module is a connection.
"""

import atexit
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import ClassVar

from tokens.driver import LABEL, Driver, NotInstalledError, Reason, Token
from tokens.measured import MEASURED_ON_SOFTHSM
from tokens.softhsm import SoftHsm

SECONDS = 60.0


class P11KitDriver(Driver):
    """The client module of p11-kit, and a server for the token that was created last."""

    name = "p11-kit"
    title = "p11-kit remote, SoftHSM behind it"
    packages = ("p11-kit", "p11-kit-modules", "softhsm2")
    files: ClassVar[tuple[str, ...]] = ("pkcs11/p11-kit-client.so",)
    excluded = (
        *MEASURED_ON_SOFTHSM,
        Reason(r"test_list_is_the_modules_own", "its C_GetFunctionList gives another list, and connection, each time"),
        Reason(r"\[ECC_NIST_EDWARDS25519", "p11-kit does not pass on calls with EdDSA"),
        Reason(r"test_hsm_unwrapping\.py::test_garbage", "p11-kit does not pass on AES key wrap"),
    )
    refused: ClassVar[tuple[Reason, ...]] = (
        Reason(r"no AES_GCM or AES_CBC", "p11-kit before 0.25 passes on calls with neither AES-GCM nor AES-CBC"),
        Reason(r"This token has no AES-GCM, so", "p11-kit before 0.25 does not pass on calls with AES-GCM"),
        Reason(r"ECC_NIST_EDWARDS25519|CKR_MECHANISM_INVALID", "p11-kit does not pass on calls with EdDSA"),
        Reason(r"it can do RSAES_OAEP_SHA_1(?:$|\.|, RSAES_OAEP_SHA_256)", "p11-kit does not pass on AES key wrap"),
    )

    def __init__(self, module: Path | None = None) -> None:
        super().__init__(module)
        program = shutil.which("p11-kit")
        if program is None:
            raise NotInstalledError("p11-kit is not installed: install p11-kit")
        self._program = program
        place = tempfile.mkdtemp(prefix="hsmkms-p11-kit-")
        atexit.register(shutil.rmtree, place, ignore_errors=True)
        self._socket = Path(place) / "socket"
        self._server: subprocess.Popen[bytes] | None = None

    def make(self, folder: Path, label: str = LABEL) -> Token:
        """Create a SoftHSM token, and serve it in place of the previous one: a function list keeps its address."""
        behind = SoftHsm.make(folder, label)
        os.environ.pop("SOFTHSM2_CONF", None)  # what made it has set it; only the server may see it
        self._end()
        with (folder / "p11-kit.log").open("wb") as log:
            self._server = subprocess.Popen(
                [
                    *(self._program, "server", "--foreground", "--name", self._socket),
                    *("--provider", behind.module, "pkcs11:"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | behind.environment,
            )
        deadline = time.monotonic() + SECONDS
        while not self._socket.exists():
            assert self._server.poll() is None, (folder / "p11-kit.log").read_text()
            assert time.monotonic() < deadline, f"p11-kit server did not listen in {SECONDS} s"
            time.sleep(0.01)
        environment = {"P11_KIT_SERVER_ADDRESS": f"unix:path={self._socket}"}
        return Token(module=self.module, folder=folder, label=label, serial=behind.serial, environment=environment)

    def close(self, folder: Path) -> None:
        """Stop the server, for any folder: there is only one."""
        del folder
        self._end()

    def _end(self) -> None:
        if self._server is not None:
            self._server.terminate()
            self._server.wait(SECONDS)
            self._server = None
        self._socket.unlink(missing_ok=True)
