"""NSS softokn: the token of Firefox and of the libraries of Debian, which keeps keys in a SQLite database.

Its folder is named in the parameters of C_Initialize (CK_C_INITIALIZE_ARGS, pReserved) or in NSS_LIB_PARAMS. Slot 1 has
no login and no token objects; the token is slot 2, whose label the parameters may choose. A new database has no PIN,
and the security officer's is empty.

Source: NSS, lib/softoken/pkcs11.c and lib/util/utilpars.h.
"""

import os
from pathlib import Path
from typing import ClassVar, Final

from tokens.driver import LABEL, Driver, NotInstalledError, Reason, Token, set_pin
from tokens.measured import MEASURED_ON_SOFTHSM

FIREFOX_FOLDERS = ("/usr/lib/firefox-esr", "/usr/lib/firefox")
FOLDER_VARIABLE = "HSMKMS_FIREFOX_FOLDER"
"""Where Firefox's libraries are, if they were only unpacked."""


EXCLUDED: Final = (
    *MEASURED_ON_SOFTHSM,
    Reason(r"test_hsm_handles\.py::test_foreign_objects", "NSS takes no such objects of other applications"),
    Reason(r"test_hsm_objects\.py::test_attest_counts_keys", "NSS replaces a key that has the CKA_ID of a new one"),
    Reason(r"test_hsm_login\.py::test_pin_that_the_token_does_not_take", "NSS takes PINs of any length"),
    Reason(
        r"test_hsm_token_choice\.py::test_(?:any_token|none_fits\[change1\])",
        "NSS has a second token, without a login, and all its serials are zeros",
    ),
    Reason(
        r"test_hsm_loss\.py::test_lost_login_is_not_an_empty_token",
        "NSS tells attributes of private objects without a login, so the key is said to be there, which is right",
    ),
    Reason(
        r"test_hsm_loss\.py::test_made_again_by_another_process",
        "NSS gives a new key the handle of a destroyed one, so a key made again under its CKA_ID is not noticed",
    ),
    Reason(r"test_losses_leak_no_sessions", "its handles of sessions are not small numbers that could be counted"),
    Reason(
        r"test_kind_is_derived_from_the_objects\[RSA_2048-ENCRYPT_DECRYPT\]",
        "no object is adopted on a token whose keys report CKA_LOCAL false",
    ),
)
REFUSED: Final = (
    Reason(r"ECC_SECG_P256K1|ECC_NIST_EDWARDS25519|CKR_DOMAIN_PARAMS_INVALID", "NSS lacks the curve"),
    Reason(r"this token keeps no data objects", "NSS keeps none but its own"),
    Reason(r"CKR_KEY_TYPE_INCONSISTENT", "NSS makes no RSA pairs whose private half alone may decrypt (host_unwrap)"),
)


class NssDriver(Driver):
    """NSS softokn of the distribution."""

    name = "nss"
    title = "NSS softokn"
    packages = ("libnss3",)
    files: ClassVar[tuple[str, ...]] = ("libsoftokn3.so", "nss/libsoftokn3.so")
    excluded = EXCLUDED
    refused = REFUSED

    def make(self, folder: Path, label: str = LABEL) -> Token:
        """Create a database; the token's label is one of its parameters, which each process must pass again."""
        database = folder / "nss"
        database.mkdir(mode=0o700)
        reserved = (
            f"configdir='sql:{database}' certPrefix='' keyPrefix='' secmod='secmod.db' flags= "
            f"dbTokenDescription='{label}'"
        )
        environment = {"NSS_MAX_MP_PBE_ITERATION_COUNT": "1"}  # 10,000 for each use of a key of the token otherwise
        token = Token(
            module=self.module, folder=folder, label=label, serial="", environment=environment, reserved=reserved
        )
        return set_pin(token, so_pin="")


class FirefoxDriver(NssDriver):
    """The softokn of Firefox, which is newer than the distribution's.

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
