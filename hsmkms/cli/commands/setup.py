"""Commands that make an installation and bring it up to date: init, migrate."""

import secrets
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from hsmkms import ownership
from hsmkms.cli.commands.interrupted_init import InitOptions, carry_on, serial_setting
from hsmkms.cli.commands.token_options import (
    EnvironmentOption,
    LabelOption,
    ModuleOption,
    PinFileOption,
    ReservedOption,
    SerialsOption,
    TokenOptions,
    UriOption,
    absolute,
    existing_pin_file,
    module_environment,
    token_options,
)
from hsmkms.cli.files.private_files import write_private
from hsmkms.cli.options import Common, runnable, with_common
from hsmkms.errors import ConfigurationError, PinError, StoreError

if TYPE_CHECKING:
    from hsmkms.config.settings import Settings, TokenSettings

PANEL: Final = "Installation"
CONFIG_FILE: Final = "hsmkms.toml"
ATTEMPT_FILE: Final = ".init-unfinished"
"""There from the first file of an init to its configuration, so that an interrupted one can begin afresh."""
DEFAULT_ACCOUNT: Final = "000000000000"
DEFAULT_REGION: Final = "us-east-1"
DEFAULT_LABEL: Final = "hsmkms"
PIN_BYTES: Final = 24


StoreUrlOption = Annotated[
    str | None,
    typer.Option(
        "--store-url", metavar="URL", help="PostgreSQL database in place of files in the folder.", show_default=False
    ),
]
StorePasswordOption = Annotated[
    Path | None,
    typer.Option(
        "--store-password-file", metavar="FILE", help="File with its password, mode 0600.", show_default=False
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("init", rich_help_panel=PANEL)(init)
    app.command("migrate", rich_help_panel=PANEL)(migrate)


@with_common("config", "output", "query")
def init(
    common: Common,
    context: typer.Context,
    *,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Folder of the new installation.", show_default=False)
    ] = None,
    module: ModuleOption = None,
    token_label: LabelOption = None,
    token_serial: SerialsOption = None,
    uri: UriOption = None,
    pin_file: PinFileOption = None,
    environment: EnvironmentOption = None,
    init_reserved: ReservedOption = None,
    create_softhsm_token: Annotated[
        bool, typer.Option("--create-softhsm-token", help="Create a SoftHSM token in the data folder.")
    ] = False,
    store_url: StoreUrlOption = None,
    store_password_file: StorePasswordOption = None,
    account_id: Annotated[str, typer.Option("--account-id", help="Account of all ARNs: 12 digits.")] = DEFAULT_ACCOUNT,
    region: Annotated[
        list[str] | None, typer.Option("--region", help=f"Region to serve; repeat for more. Default: {DEFAULT_REGION}.")
    ] = None,
) -> None:
    """Create an installation: configuration, databases, and its own key on the token.

    Missing options are asked for at a terminal. The same command continues an interrupted init; changed options are
    used, or refused by name where they cannot be changed any more.

    With --config instead of --data-dir the configuration is there already, a sample that was edited, say: its databases
    and keys are created, and an installation that is complete is left as it is.

    Example: hsmkms init --data-dir ./hsmkms-data --create-softhsm-token
    """
    if common.config is not None:
        _refuse_options(context, common.config)
        _create_configured(common, common.config)
        return
    if data_dir is None:
        raise typer.BadParameter("missing --data-dir DIR (or --config FILE, a configuration that is there already)")
    options = InitOptions(
        account_id=account_id if _is_given(context, "account_id") else None,
        regions=tuple(region) if region else None,
        token=token_options(
            module=module,
            label=token_label,
            serials=token_serial,
            uri=uri,
            pin_file=pin_file,
            environment=environment,
            init_reserved=init_reserved,
        ),
        create_softhsm_token=create_softhsm_token,
        store_url=store_url,
        store_password_file=absolute(store_password_file) if store_password_file is not None else None,
    )
    folder = absolute(data_dir)
    with ExitStack() as held:  # some modules cannot be initialised twice in a process
        _configure(folder, options, held)
        _show_installation(common, folder / CONFIG_FILE)


def _refuse_options(context: typer.Context, file: Path) -> None:
    """Raise BadParameter if an option says what the configuration says."""
    shared = ("config", "output", "query")
    given = [name for name in context.params if name not in shared and _is_given(context, name)]
    if given:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(given))
        raise typer.BadParameter(f"--config goes without {named}: change {file} instead")


def _create_configured(common: Common, file: Path) -> None:
    """Create databases and keys of an existing configuration, and its data folder if that is missing."""
    from hsmkms.config import settings as config  # noqa: PLC0415 - see _configure

    make_data_folder(config.load(file).data_dir)
    _show_installation(common, file)


def _configure(folder: Path, options: InitOptions, held: ExitStack) -> None:
    """Write the configuration, or bring that of an interrupted init to the options."""
    from hsmkms.config import settings as config  # noqa: PLC0415 - help must not pay for the database and the token
    from hsmkms.config import template as config_template  # noqa: PLC0415 - help must not pay for the database and the token

    file = folder / CONFIG_FILE
    if not file.exists():
        label = options.token.label or DEFAULT_LABEL
        draft = _draft(options.account_id or DEFAULT_ACCOUNT, options.regions or (DEFAULT_REGION,), label, options)
        check_folder(folder, ATTEMPT_FILE)
        _check_database(draft)
        existing = None
        if not options.create_softhsm_token:
            existing = existing_token(options.token, held, " (or --create-softhsm-token)")
        make_data_folder(folder)
        token = existing or _new_softhsm_token(folder, options.token.module, label)
        write_private(file, config_template.init_text(msgspec.structs.replace(draft, token=token)))
    elif _complete(config.load(file)):
        raise ConfigurationError(f"{folder} holds an installation already; nothing was changed")
    else:
        carry_on(file, options, held)
    _forget_attempt(folder)


def _show_installation(common: Common, file: Path) -> None:
    """Create the databases and the installation's own key; show what there is then."""
    from hsmkms.config import settings as config  # noqa: PLC0415 - see _configure
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - see _configure

    settings = config.load(file)
    try:
        row = wiring.initialise(settings, try_refused_material=True)
    except PinError as exc:
        raise PinError(runnable(str(exc), file)) from exc
    token = settings.token
    named = config.parse_uri(token.uri) if token.uri else token
    common.show(
        {
            "Installation": row.id,
            "Account": settings.account_id,
            "Regions": list(settings.regions),
            "Configuration": str(file.absolute()),
            "Databases": wiring.database_names(settings),
            "Module": str(token.module),
            "TokenLabel": named.label or "",
            "TokenSerial": list(named.serial) if isinstance(named.serial, tuple) else named.serial or "",
            "PinFile": str(token.pin.file or ""),
        }
    )


@with_common("config", "output", "query")
def migrate(common: Common) -> None:
    """Migrate the databases to this program's version. Make a backup first.

    Example: hsmkms migrate
    """
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - help must not pay for the database
    from hsmkms.wiring import databases  # noqa: PLC0415 - as above

    applied, revisions = databases.migrate_databases(wiring.load_settings(common.config))
    common.show({"Applied": list(applied), "Revisions": dict(revisions)})


def _is_given(context: typer.Context, name: str) -> bool:
    """True unless the option has its default because nobody gave it."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _draft(account_id: str, regions: tuple[str, ...], label: str, options: InitOptions) -> "Settings":
    """The settings that the options say, checked before anything is made; the token is filled in later."""
    from hsmkms.config import settings as config  # noqa: PLC0415 - see _configure

    draft = config.Settings(
        account_id=account_id,
        regions=regions,
        default_region=regions[0],
        token=config.TokenSettings(label=label),
        store=config.StoreSettings(
            url=options.store_url, password=config.PasswordSettings(file=options.store_password_file)
        ),
    )
    config.check(draft)
    return draft


def _check_database(draft: "Settings") -> None:
    """Raise unless the named database can be connected to and is not one of another installation."""
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - see _configure

    nodes = wiring.registered_nodes(draft)
    if nodes:
        raise ConfigurationError(
            f"the database of --store-url holds an installation already ({'; '.join(map(str, nodes))}); nothing was "
            "changed: name an empty one, or add a node to that installation with `hsmkms join`"
        )


def _complete(settings: "Settings") -> bool:
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - see _configure

    local = settings.store.url is None
    begun = (settings.data_dir / "meta.db").exists() if local else wiring.is_begun(settings)
    return begun and wiring.is_initialised(settings)


def check_folder(folder: Path, attempt: str) -> None:
    """Raise unless the folder is safe from others, and missing, empty, or what an interrupted attempt has left.

    ``attempt``: the name of the file that such an attempt leaves.
    """
    ownership.check("the data folder", folder)
    try:
        ours = (folder / attempt).exists() and not (folder / "meta.db").exists()
        if folder.exists() and any(folder.iterdir()) and not ours:
            raise ConfigurationError(f"{folder} is not empty and holds no {CONFIG_FILE}: choose another folder")
    except OSError as exc:
        raise StoreError(f"{folder} cannot be made or read: {exc.strerror}") from exc


def make_data_folder(folder: Path) -> None:
    """Make the folder for its owner alone, or refuse one that another user can change."""
    try:
        ownership.make_folder(folder, 0o700)
    except OSError as exc:
        raise StoreError(f"{folder} cannot be made or read: {exc.strerror}") from exc
    ownership.check("the data folder", folder)  # another user may have made it meanwhile


def _forget_attempt(folder: Path) -> None:
    """Before the token is used: from now on nobody may begin afresh."""
    (folder / ATTEMPT_FILE).unlink(missing_ok=True)


def _new_softhsm_token(folder: Path, module: Path | None, label: str) -> "TokenSettings":
    from hsmkms.config import settings as config  # noqa: PLC0415 - see _configure
    from hsmkms.wiring import new_tokens  # noqa: PLC0415 - see _configure

    # As long as there is no configuration nothing has used the token, so an attempt that ended here begins afresh.
    # The file is the proof that the folder was empty before: whatever has these names is ours.
    if (folder / ATTEMPT_FILE).exists():
        for name in ("pin", "so-pin"):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "softhsm", ignore_errors=True)
    else:
        write_private(folder / ATTEMPT_FILE, "hsmkms init was interrupted: run it again, it begins afresh\n")
    user_pin, so_pin = (secrets.token_urlsafe(PIN_BYTES) for _ in range(2))
    write_private(folder / "pin", f"{user_pin}\n")
    write_private(folder / "so-pin", f"{so_pin}\n")
    used, made = new_tokens.make_softhsm_token(
        module, folder / "softhsm", label=label, user_pin=user_pin, so_pin=so_pin
    )
    return config.TokenSettings(
        module=used,
        label=label,
        serial=made.serial,
        pin=config.PinSettings(file=Path("pin")),
        environment=made.environment,
    )


def existing_token(options: TokenOptions, held: ExitStack, alternative: str = "") -> "TokenSettings":
    """Return the token that the options name; a person at a terminal is asked for what they leave out.

    ``alternative``: another way, named in the error where there is no terminal.
    """
    named = options.label if options.uri is None else options.uri
    missing = [
        option
        for option, value in {
            "--module": options.module,
            "--token-label": named,
            "--pin-file": options.pin_file,
        }.items()
        if value is None
    ]
    if missing and not sys.stdin.isatty():
        raise typer.BadParameter(f"missing {', '.join(missing)}{alternative}: there is no terminal to ask at")
    from hsmkms.config import settings as config  # noqa: PLC0415 - see _configure
    from hsmkms.wiring import new_tokens  # noqa: PLC0415 - see _configure

    module = options.module or absolute(Path(typer.prompt("Path of the PKCS#11 module")))
    label = None if options.uri is not None else options.label or typer.prompt("Label of the token")
    pin_file = existing_pin_file(options.pin_file or Path(typer.prompt("File with the user PIN (mode 0600)")))
    token = config.TokenSettings(
        module=module,
        label=label,
        serial=options.serials,
        uri=options.uri,
        pin=config.PinSettings(file=pin_file),
        environment=module_environment() | options.environment,
        init_reserved=options.init_reserved,
    )
    held.enter_context(new_tokens.loaded_module(token))
    present = new_tokens.serial_of(token)
    if token.uri is not None:
        return token
    return msgspec.structs.replace(token, serial=serial_setting(present, options.serials))
