"""Resume an interrupted init: apply the options of the second run to the configuration that the first one wrote.

An option that differs is accepted as long as possible: the account until the database has one, the token until the
database names one, since that may have the installation's key already. Otherwise the option is refused by name.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from hsmkms import atomic_write
from hsmkms.errors import ConfigurationError, PinError, StoreError

if TYPE_CHECKING:
    from hsmkms.config.settings import Settings, TokenSettings

MODULE_VARIABLES: Final = ("SOFTHSM2_CONF",)
"""Variables that a module may need: init copies those that are set to the configuration: no export is needed."""


class InitOptions(Struct, frozen=True, kw_only=True):
    """The options of init; None for one that was not given."""

    account_id: str | None = None
    regions: tuple[str, ...] | None = None
    module: Path | None = None
    token_label: str | None = None
    token_serials: tuple[str, ...] | None = None
    pin_file: Path | None = None
    create_softhsm_token: bool = False


def module_environment() -> dict[str, str]:
    """Return those of ``MODULE_VARIABLES`` that this process has, with their values."""
    return {name: os.environ[name] for name in MODULE_VARIABLES if name in os.environ}


def absolute(path: Path) -> Path:
    """Expand ``~`` and make a path absolute."""
    return Path(os.path.expanduser(path)).absolute()  # noqa: PTH111 - Path.expanduser raises for unknown users


def existing_pin_file(path: Path) -> Path:
    """Return the absolute path of a PIN file. PinError if there is none."""
    file = absolute(path)
    if not file.is_file():
        raise PinError(f"there is no PIN file {file}: write the user PIN into it and run `chmod 600 {file}`")
    return file


def serial_setting(present: str, wanted: tuple[str, ...] | None) -> str | tuple[str, ...]:
    """Return the setting ``serial``: that of the present token, or those of all members of its HA group."""
    return wanted if wanted is not None and len(wanted) > 1 else present


def carry_on(file: Path, options: InitOptions) -> None:
    """Update the configuration of an interrupted init with the options of this run.

    ConfigurationError for an option that can no longer be applied; then nothing was changed.
    """
    from hsmkms.config import settings as config  # noqa: PLC0415 - help must not pay for the database and the token
    from hsmkms.config import template as config_template  # noqa: PLC0415 - help must not pay for the database and the token

    settings = config.load(file)
    wanted = _wanted(settings, options, file.parent)
    if wanted == settings:
        return
    if file.read_text(encoding="utf-8") != config_template.init_text(_as_written(settings, file.parent)):
        raise ConfigurationError(
            f"{file} was edited after the interrupted init had written it, and differs from the options: correct it "
            "there, and run `hsmkms init --data-dir DIR` without them"
        )
    _check_begun(settings, wanted, file.parent)
    config.check(wanted)
    _replace(file, config_template.init_text(_as_written(wanted, file.parent)))


def _wanted(settings: "Settings", options: InitOptions, folder: Path) -> "Settings":
    """Return the settings with the options applied."""
    wanted = replace(settings, account_id=options.account_id or settings.account_id)
    if options.regions is not None and options.regions != settings.regions:
        wanted = replace(wanted, regions=options.regions, default_region=options.regions[0])
    if _is_own_token(settings, folder):
        _check_own_token(settings.token, options, folder)
        return wanted
    if options.create_softhsm_token:
        begun = f"the token {settings.token.label!r} of {settings.token.module}"
        raise _refused("--create-softhsm-token", begun, folder)
    return replace(wanted, token=_wanted_token(settings.token, options))


def _wanted_token(token: "TokenSettings", options: InitOptions) -> "TokenSettings":
    from hsmkms.config import settings as config  # noqa: PLC0415 - see carry_on
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - see carry_on

    wanted = replace(
        token,
        module=absolute(options.module) if options.module is not None else token.module,
        label=options.token_label or token.label,
        serial=options.token_serials or token.serial,
        environment=token.environment | module_environment(),
    )
    if wanted != token and wanted.module is not None:  # perhaps another token: read its serial again
        present = wiring.serial_of(wanted.module, wanted.environment, wanted.label or "", options.token_serials)
        wanted = replace(wanted, serial=serial_setting(present, options.token_serials))
    if options.pin_file is None:
        return wanted
    return replace(wanted, pin=config.PinSettings(file=existing_pin_file(options.pin_file)))


def _is_own_token(settings: "Settings", folder: Path) -> bool:
    """Return True if the interrupted init has created a SoftHSM token in the data folder."""
    own = (folder / "softhsm").resolve()
    return any(Path(each).is_relative_to(own) for each in settings.token.environment.values())


def _check_own_token(token: "TokenSettings", options: InitOptions, folder: Path) -> None:
    """Refuse options that name another token than the SoftHSM token that was created."""
    differing = {
        "--module": options.module is not None and absolute(options.module) != token.module,
        "--token-label": options.token_label not in (None, token.label),
        "--token-serial": options.token_serials not in (None, (token.serial,)),
        "--pin-file": options.pin_file is not None and absolute(options.pin_file) != token.pin.file,
    }
    for option, differs in differing.items():
        if differs:
            raise _refused(option, f"a SoftHSM token of its own ({token.label!r})", folder)


def _check_begun(settings: "Settings", wanted: "Settings", folder: Path) -> None:
    """Refuse options that differ from the account or token that the database has already."""
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - see carry_on

    account, serial = wiring.begun_with(settings)
    if account is not None and wanted.account_id != account:
        raise _refused("--account-id", f"the account {account}", folder)
    if serial is not None and serial not in wanted.token.serials:
        raise _refused(
            "--module, --token-label or --token-serial", f"the token of serial {serial}, whose key it may have", folder
        )


def _refused(option: str, begun: str, folder: Path) -> ConfigurationError:
    return ConfigurationError(
        f"{option} cannot be used: the init that was interrupted in {folder} has begun with {begun}. Run it again "
        "without that option, or choose another --data-dir"
    )


def _as_written(settings: "Settings", folder: Path) -> "Settings":
    """Return the settings as init writes them to the file; all others have their defaults."""
    from hsmkms.config import settings as config  # noqa: PLC0415 - see carry_on

    token = settings.token
    if _is_own_token(settings, folder):
        token = replace(token, pin=config.PinSettings(file=Path("pin")))
    return config.Settings(
        account_id=settings.account_id, regions=settings.regions, default_region=settings.default_region, token=token
    )


def _replace(file: Path, text: str) -> None:
    try:
        atomic_write.replace(file, text.encode())
    except OSError as exc:
        raise StoreError(f"{file} cannot be written: {exc.strerror}") from exc
