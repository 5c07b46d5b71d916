"""NSS softokn: the token of Firefox and of the libraries of Debian, which keeps keys in a SQLite database.

Its folder is named in the parameters of C_Initialize (CK_C_INITIALIZE_ARGS, pReserved) or in NSS_LIB_PARAMS. Slot 1 has
no login and no token objects; the token is slot 2, whose label the parameters may choose. A new database has no PIN,
and the security officer's is empty.

Source: NSS, lib/softoken/pkcs11.c and lib/util/utilpars.h.
"""

import os
from pathlib import Path
from typing import ClassVar

from tokens.driver import LABEL, Driver, NotInstalledError, Token, set_pin

FIREFOX_FOLDERS = ("/usr/lib/firefox-esr", "/usr/lib/firefox")
FOLDER_VARIABLE = "HSMKMS_FIREFOX_FOLDER"
"""Where Firefox's libraries are, if they were only unpacked."""


class NssDriver(Driver):
    """NSS softokn of the distribution."""

    name = "nss"
    title = "NSS softokn"
    packages = ("libnss3",)
    files: ClassVar[tuple[str, ...]] = ("libsoftokn3.so", "nss/libsoftokn3.so")

    def make(self, folder: Path, label: str = LABEL) -> Token:
        """Make a database; the token's label is one of its parameters, so each process must give it again."""
        database = folder / "nss"
        database.mkdir(mode=0o700)
        reserved = (
            f"configdir='sql:{database}' certPrefix='' keyPrefix='' secmod='secmod.db' flags= "
            f"dbTokenDescription='{label}'"
        )
        token = Token(module=self.module, folder=folder, label=label, serial="", environment={}, reserved=reserved)
        return set_pin(token, so_pin="")


class FirefoxDriver(NssDriver):
    """The softokn that Firefox brings along, which is newer than the distribution's.

    Its libraries are found by the loader only if LD_LIBRARY_PATH named their folder when the process was started.
    """

    name = "firefox"
    title = "NSS softokn of Firefox"
    packages = ("firefox-esr",)

    def find(self) -> Path:
        """Find the module in Firefox's folder."""
        for folder in map(Path, filter(None, (os.environ.get(FOLDER_VARIABLE), *FIREFOX_FOLDERS))):
            if (folder / "libsoftokn3.so").is_file():
                if str(folder) not in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep):
                    raise NotInstalledError(f"LD_LIBRARY_PATH must name {folder} when the process is started")
                return folder / "libsoftokn3.so"
        raise NotInstalledError("Firefox is not installed: install firefox-esr")
