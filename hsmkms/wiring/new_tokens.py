"""Tokens that no installation uses yet: make one, choose one, check one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from hsmkms import ownership
from hsmkms.config.settings import Secret, TokenSettings
from hsmkms.errors import ConfigurationError
from hsmkms.hsm.device import DeviceSettings
from hsmkms.hsm.serials import serial_of as hsm_serial
from hsmkms.hsm.session import module as modules
from hsmkms.hsm.session import softhsm
from hsmkms.hsm.session.check_jobs import job_for
from hsmkms.hsm.session.softhsm import SoftToken
from hsmkms.hsm.session.token_choice import choose
from hsmkms.hsm.token_check import run_checks
from hsmkms.model.token_check import CheckReport
from hsmkms.wiring.tokens import choice_of


def make_softhsm_token(
    module: Path | None, folder: Path, *, label: str, user_pin: str, so_pin: str
) -> tuple[Path, SoftToken]:
    """Create a SoftHSM token in a folder of its own; return the module that was used, and the token."""
    used = module or softhsm.find_module()
    ownership.check_module(used, {})
    return used, softhsm.create(used, folder, label=label, user_pin=user_pin, so_pin=so_pin)


@contextmanager
def loaded_module(token: TokenSettings) -> Iterator[None]:
    """Keep the module of a token loaded for the block, so that it is initialised once, whatever the block opens.

    opencryptoki 3.8 closes a file that is not its own at a second C_Initialize in one process.
    """
    module = _checked_module(token)
    loaded = modules.acquire(module, environment=token.environment, reserved=token.init_reserved)
    try:
        yield
    finally:
        loaded.release()


def serial_of(token: TokenSettings) -> str:
    """Return the serial of the one token that fits, maybe empty; raises TokenNotFoundError for none or several."""
    module = _checked_module(token)
    loaded = modules.acquire(module, environment=token.environment, reserved=token.init_reserved)
    try:
        return hsm_serial(choose(loaded, choice_of(token)))
    finally:
        loaded.release()


def check_token(token: TokenSettings, pin: Secret | None) -> CheckReport:
    """Make all checks on a token that no installation uses yet; without a PIN, those that need no login.

    Nothing is kept on this machine. Raises ConfigurationError or ModuleError.
    """
    module = _checked_module(token)
    with TemporaryDirectory(prefix="hsmkms-token-check-") as folder:
        settings = DeviceSettings(
            module=module,
            choice=choice_of(token),
            state_dir=Path(folder),
            environment=token.environment,
            init_reserved=token.init_reserved,
        )
        return run_checks(job_for(settings, pin, installed=False))


def _checked_module(token: TokenSettings) -> Path:
    """Return the module of a token. ConfigurationError if another user can change it, or if none is named."""
    if token.module is None:
        raise ConfigurationError("token.module is missing")
    ownership.check_module(token.module, token.environment)
    return token.module
