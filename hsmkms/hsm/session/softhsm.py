"""Create a SoftHSM token for the installation, in a folder of its own.

No environment variable needs to be exported afterwards: the folder holds SoftHSM's configuration file and the token,
and hsmkms sets SOFTHSM2_CONF itself before it loads the module. PINs pass through the library call, never through an
argument vector (softhsm2-util would show them to every user of the machine).
"""

from pathlib import Path
from typing import Final

from msgspec import Struct
from pkcs11.constants import TokenFlag
from pkcs11.types import Slot

from hsmkms.errors import ConfigurationError, ModuleError, TokenError, TokenNotFoundError
from hsmkms.hsm.faults import translated
from hsmkms.hsm.return_codes import CKR_OK
from hsmkms.hsm.session import module as modules
from hsmkms.hsm.session.token_choice import TokenChoice, choose

MODULE_PATHS: Final = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)

LABEL_BYTES: Final = 32
"""Size of the label field in CK_TOKEN_INFO; a longer label would be cut, and the token not found again."""

_CONFIGURATION: Final = """\
# SoftHSM's configuration for the token of this folder; hsmkms points SOFTHSM2_CONF here.
directories.tokendir = {tokens}
objectstore.backend = file
log.level = ERROR
slots.removable = false
"""


class SoftToken(Struct, frozen=True, kw_only=True):
    """A created token: its serial, and the environment that its module needs."""

    serial: str
    environment: dict[str, str]


def find_module() -> Path:
    """Find SoftHSM's module in the distributions' usual paths; raises ModuleError if it is in none of them."""
    for path in map(Path, MODULE_PATHS):
        if path.is_file():
            return path
    raise ModuleError("SoftHSM is not installed (looked for libsofthsm2.so): install the package softhsm2")


def create(module: Path, folder: Path, *, label: str, user_pin: str, so_pin: str) -> SoftToken:
    """Create a new SoftHSM token in ``folder``, which holds none yet. Raises ConfigurationError for a bad label."""
    if not 0 < len(label.encode()) <= LABEL_BYTES:
        raise ConfigurationError(f"the token label {label!r} must have 1 to {LABEL_BYTES} bytes: choose another")
    environment = {"SOFTHSM2_CONF": str(_write_configuration(folder))}
    _initialise(module, environment, label, so_pin)
    return SoftToken(serial=_set_user_pin(module, environment, label, user_pin, so_pin), environment=environment)


def _write_configuration(folder: Path) -> Path:
    tokens = folder.resolve() / "tokens"
    folder.mkdir(mode=0o700, exist_ok=True)
    if tokens.exists():
        raise ConfigurationError(f"{tokens} is there already, so no token is made in it: choose another folder")
    tokens.mkdir(mode=0o700)
    configuration = folder.resolve() / "softhsm2.conf"
    configuration.touch(mode=0o600, exist_ok=False)
    configuration.write_text(_CONFIGURATION.format(tokens=tokens))
    return configuration


def _initialise(module: Path, environment: dict[str, str], label: str, so_pin: str) -> None:
    loaded = modules.acquire(module, environment=environment)
    try:
        free = [slot for slot in loaded.slots() if not _initialised(slot)]
        if not free:
            raise TokenNotFoundError("SoftHSM shows no empty slot to make a token in")
        code = loaded.cryptoki.init_token(free[0].slot_id, so_pin, label)
        if code != CKR_OK:
            raise TokenError(f"SoftHSM refused to make a token (C_InitToken: CKR 0x{code:08x})")
    finally:
        loaded.release()


def _set_user_pin(module: Path, environment: dict[str, str], label: str, user_pin: str, so_pin: str) -> str:
    # Reloaded: the token has moved to another slot.
    loaded = modules.acquire(module, environment=environment)
    try:
        token = choose(loaded, TokenChoice(label=label))
        with translated():
            session = token.open(rw=True, so_pin=so_pin)
            session.init_pin(user_pin)
            session.close()
        return token.serial.decode("utf-8", "replace")
    finally:
        loaded.release()


def _initialised(slot: Slot) -> bool:
    with translated():
        return bool(slot.get_token().flags & TokenFlag.TOKEN_INITIALIZED)
