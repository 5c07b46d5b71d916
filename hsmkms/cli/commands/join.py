"""The command that makes a further node of an installation: join."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from hsmkms.cli.commands.setup import (
    CONFIG_FILE,
    DEFAULT_ACCOUNT,
    DEFAULT_LABEL,
    DEFAULT_REGION,
    PANEL,
    StorePasswordOption,
    StoreUrlOption,
    check_folder,
    existing_token,
    make_data_folder,
)
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
    token_options,
)
from hsmkms.cli.files.private_files import write_private
from hsmkms.cli.options import Common, with_common
from hsmkms.errors import ConfigurationError, PinError

if TYPE_CHECKING:
    from hsmkms.config.settings import Settings

ATTEMPT_FILE: Final = ".join-unfinished"
"""There from the first file of a join to its configuration, so that an interrupted one can begin afresh."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("join", rich_help_panel=PANEL)(join)


@with_common("output", "query")
def join(
    common: Common,
    *,
    data_dir: Annotated[Path, typer.Option("--data-dir", help="Folder of the new node.", show_default=False)],
    store_url: StoreUrlOption = None,
    store_password_file: StorePasswordOption = None,
    module: ModuleOption = None,
    token_label: LabelOption = None,
    token_serial: SerialsOption = None,
    uri: UriOption = None,
    pin_file: PinFileOption = None,
    environment: EnvironmentOption = None,
    init_reserved: ReservedOption = None,
    region: Annotated[
        list[str] | None,
        typer.Option(
            "--region", help="Region to serve; repeat for more. Default: that of the keys.", show_default=False
        ),
    ] = None,
) -> None:
    """Make a further node of an installation on a PostgreSQL server: a data folder with its configuration.

    The token is opened and must answer the installation's challenge; then the node is registered in the database.
    Settings other than the token's and the store's have their defaults: make them like those of the other nodes before
    you start the server. The same command continues an interrupted join.

    Example: hsmkms join --data-dir ./node-2 --store-url URL --module SO --token-label hsmkms --pin-file ./pin
    """
    options = token_options(
        module=module,
        label=token_label,
        serials=token_serial,
        uri=uri,
        pin_file=pin_file,
        environment=environment,
        init_reserved=init_reserved,
    )
    password_file = absolute(store_password_file) if store_password_file is not None else None
    folder, regions = absolute(data_dir), tuple(region or ())
    with ExitStack() as held:  # some modules cannot be initialised twice in a process
        draft = _draft(folder, store_url, password_file, regions or (DEFAULT_REGION,))
        _join(common, draft, regions, options, held)


def _join(common: Common, draft: "Settings", regions: tuple[str, ...], options: TokenOptions, held: ExitStack) -> None:
    from hsmkms.config import settings as config  # noqa: PLC0415 - help must not pay for the database and the token
    from hsmkms.config import template as config_template  # noqa: PLC0415 - as above
    from hsmkms.wiring import joining  # noqa: PLC0415 - as above

    folder = draft.data_dir
    file = folder / CONFIG_FILE
    # 1. Refuse what cannot become a node, before anything is made or sent.
    if file.exists():
        raise ConfigurationError(
            f"{folder} has a {CONFIG_FILE} already; nothing was changed: choose another folder, unless it has joined "
            f"before (`hsmkms --config {file} list-nodes` says so)"
        )
    check_folder(folder, ATTEMPT_FILE)
    found = joining.describe(draft)
    served = _served_regions(regions, found.regions)
    token = existing_token(options, held)

    # 2. The folder, and the settings as they will be read from its configuration.
    make_data_folder(folder)
    if not (folder / ATTEMPT_FILE).exists():
        write_private(folder / ATTEMPT_FILE, "hsmkms join was interrupted: run it again, it continues\n")
    mine = msgspec.structs.replace(
        draft, data_dir=Path(), account_id=found.account, regions=served, default_region=served[0], token=token
    )
    text = config_template.init_text(mine)
    settings = config.parse(text.encode(), file)
    config.check_owners(settings)

    # 3. The token's proof and the registration; then the configuration, without which no command uses the folder.
    try:
        joined = joining.join(settings)
    except PinError as exc:
        advice = f"correct {token.pin.file}, remove {folder}, and run the command again"
        raise PinError(
            f"{exc}. Nothing has joined, so there is no configuration for `hsmkms doctor` yet: instead {advice}"
        ) from exc
    write_private(file, text)
    (folder / ATTEMPT_FILE).unlink()
    common.show(
        {
            "Installation": joined.installation,
            "Account": settings.account_id,
            "Regions": list(settings.regions),
            "Configuration": str(file),
            "Node": joined.node,
            "Nodes": [{"Node": each.id, "Host": each.host, "Folder": each.folder} for each in joined.nodes],
        }
    )


def _draft(folder: Path, url: str | None, password_file: Path | None, regions: tuple[str, ...]) -> "Settings":
    """Return the settings that the options say, checked; account and token are filled in later."""
    from hsmkms.config import settings as config  # noqa: PLC0415 - see _join

    password = config.PasswordSettings(file=password_file)
    draft = config.Settings(
        account_id=DEFAULT_ACCOUNT,
        regions=regions,
        default_region=regions[0],
        data_dir=folder,
        token=config.TokenSettings(label=DEFAULT_LABEL),
        store=config.StoreSettings(url=url, password=password),
    )
    config.check(draft)
    return draft


def _served_regions(given: tuple[str, ...], used: list[str]) -> tuple[str, ...]:
    """Return the regions that the node serves. ConfigurationError if one with keys is missing, or none can be chosen.

    ``given``: by the options; ``used``: those with keys.
    """
    if not given and len(used) < 2:  # noqa: PLR2004 - more leave open which one is the default
        return tuple(used) or (DEFAULT_REGION,)
    missing = [each for each in used if each not in given]
    if missing:
        raise ConfigurationError(
            f"the installation has keys in {', '.join(missing)}, which this node would not serve; nothing was changed: "
            "name all regions as in the configuration of the other nodes, the default one first, with --region"
        )
    return given
