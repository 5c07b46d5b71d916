"""Resume an interrupted init: apply the options of the second run to the configuration that the first one wrote.

An option that differs is accepted as long as possible: the account until the database has one, the token until the
database names one, since that may have the installation's key already. Otherwise the option is refused by name.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from hsmkms import atomic_write
from hsmkms.cli.commands.token_options import TokenOptions, existing_pin_file, module_environment
from hsmkms.errors import ConfigurationError, StoreError

if TYPE_CHECKING:
    from hsmkms.config.settings import Settings, TokenSettings


class InitOptions(Struct, frozen=True, kw_only=True):
    """The options of init; None for one that was not given."""

    account_id: str | None = None
    regions: tuple[str, ...] | None = None
    token: TokenOptions
    create_softhsm_token: bool = False
    store_url: str | None = None
    store_password_file: Path | None = None


def serial_setting(present: str, wanted: tuple[str, ...] | None) -> str | tuple[str, ...] | None:
    """Return the setting ``serial``: that of the present token, if it has one, or those of all members of its group."""
    return wanted if wanted is not None and len(wanted) > 1 else present or None


def carry_on(file: Path, options: InitOptions, held: ExitStack) -> None:
    """Update the configuration of an interrupted init with the options of this run.

    A module that is loaded for this stays loaded until ``held`` is closed. ConfigurationError for an option that can no
    longer be applied; then nothing was changed.
    """
    from hsmkms.config import settings as config  # noqa: PLC0415 - help must not pay for the database and the token
    from hsmkms.config import template as config_template  # noqa: PLC0415 - help must not pay for the database and the token

    settings = config.load(file)
    wanted = _wanted(settings, options, file.parent, held)
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


def _wanted(settings: "Settings", options: InitOptions, folder: Path, held: ExitStack) -> "Settings":
    """Return the settings with the options applied."""
    wanted = replace(settings, account_id=options.account_id or settings.account_id)
    if options.store_url not in (None, settings.store.url):
        begun = settings.store.url if settings.store.url is not None else "databases in the data folder"
        raise _refused("--store-url", begun, folder)
    if options.store_password_file is not None:
        password = replace(settings.store.password, file=options.store_password_file)
        wanted = replace(wanted, store=replace(settings.store, password=password))
    if options.regions is not None and options.regions != settings.regions:
        wanted = replace(wanted, regions=options.regions, default_region=options.regions[0])
    if _is_own_token(settings, folder):
        _check_own_token(settings.token, options.token, folder)
        return wanted
    if options.create_softhsm_token:
        begun = f"the token {settings.token.label!r} of {settings.token.module}"
        raise _refused("--create-softhsm-token", begun, folder)
    return replace(wanted, token=_wanted_token(settings.token, options.token, held))


def _wanted_token(token: "TokenSettings", options: TokenOptions, held: ExitStack) -> "TokenSettings":
    from hsmkms.config import settings as config  # noqa: PLC0415 - see carry_on
    from hsmkms.wiring import new_tokens  # noqa: PLC0415 - see carry_on

    chosen_anew = options.label is not None or options.serials is not None
    named = options.module is not None or options.uri is not None or chosen_anew
    wanted = replace(
        token,
        module=options.module or token.module,
        label=None if options.uri is not None else options.label or token.label,
        serial=None if options.uri is not None else options.serials or token.serial,
        uri=options.uri or (None if chosen_anew else token.uri),
        environment=token.environment | (module_environment() if named else {}) | options.environment,
        init_reserved=options.init_reserved if options.init_reserved is not None else token.init_reserved,
    )
    if wanted != token:  # perhaps another token: its serial is read again
        held.enter_context(new_tokens.loaded_module(wanted))
        present = new_tokens.serial_of(replace(wanted, serial=options.serials))
        if wanted.uri is None:
            wanted = replace(wanted, serial=serial_setting(present, options.serials))
    if options.pin_file is None:
        return wanted
    return replace(wanted, pin=config.PinSettings(file=existing_pin_file(options.pin_file)))


def _is_own_token(settings: "Settings", folder: Path) -> bool:
    """Return True if the interrupted init has created a SoftHSM token in the data folder."""
    own = (folder / "softhsm").resolve()
    return any(Path(each).is_relative_to(own) for each in settings.token.environment.values())


def _check_own_token(token: "TokenSettings", options: TokenOptions, folder: Path) -> None:
    """Refuse options that name another token than the SoftHSM token that was created."""
    differing = {
        "--module": options.module not in (None, token.module),
        "--token-label": options.label not in (None, token.label),
        "--token-serial": options.serials not in (None, (token.serial,)),
        "--uri": options.uri is not None,
        "--pin-file": options.pin_file not in (None, token.pin.file),
        "--environment": not options.environment.items() <= token.environment.items(),
        "--init-reserved": options.init_reserved not in (None, token.init_reserved),
    }
    for option, differs in differing.items():
        if differs:
            raise _refused(option, f"a SoftHSM token of its own ({token.label!r})", folder)


def _check_begun(settings: "Settings", wanted: "Settings", folder: Path) -> None:
    """Refuse options that differ from the account or token that the database has already."""
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - see carry_on
    from hsmkms.wiring import new_tokens  # noqa: PLC0415 - see carry_on

    account, serial = wiring.begun_with(settings)
    if account is not None and wanted.account_id != account:
        raise _refused("--account-id", f"the account {account}", folder)
    if serial is None or wanted.token == settings.token:
        return
    if serial not in wanted.token.serials and serial != new_tokens.serial_of(wanted.token):
        raise _refused(
            "--module, --token-label, --token-serial or --uri",
            f"the token of serial {serial}, whose key it may have",
            folder,
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
        account_id=settings.account_id,
        regions=settings.regions,
        default_region=settings.default_region,
        token=token,
        store=settings.store,
    )


def _replace(file: Path, text: str) -> None:
    try:
        atomic_write.replace(file, text.encode())
    except OSError as exc:
        raise StoreError(f"{file} cannot be written: {exc.strerror}") from exc
