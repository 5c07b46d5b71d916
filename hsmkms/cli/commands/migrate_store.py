"""The command that moves the databases to another engine or server: migrate-store."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from hsmkms.cli.api.confirmations import at_a_terminal
from hsmkms.cli.commands.setup import PANEL, StorePasswordOption
from hsmkms.cli.commands.token_options import absolute
from hsmkms.cli.files.progress import progress_of_many
from hsmkms.cli.options import Common, named, with_common
from hsmkms.errors import ConfigurationError

if TYPE_CHECKING:
    from hsmkms.config.store_settings import StoreSettings

FILES: Final = "sqlite"
"""The destination that is files of the data folder."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("migrate-store", rich_help_panel=PANEL)(migrate_store)


@with_common("config", "output", "query")
def migrate_store(
    common: Common,
    *,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="URL|sqlite", help="Empty PostgreSQL database, or files in the data folder."),
    ] = None,
    store_password_file: StorePasswordOption = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Undo an unfinished move to --to.")] = False,
    reopen: Annotated[
        bool, typer.Option("--reopen", help="Use the files again that a move has left, without what came after it.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation (--reopen).")] = False,
) -> None:
    """Move the databases to another engine or server, and compare the copy row by row. Stop all servers first.

    The old store stays as it is, but is marked: no command opens it, and each says where the installation is. Change
    the configuration afterwards as `Next` says. An interrupted move is finished by the same command. To go back, move
    back. --reopen is for when the new store is lost: take a newer backup instead, if there is one.

    Example: hsmkms migrate-store --to postgresql+psycopg://hsmkms@db.example.net/hsmkms
    """
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - help must not pay for the database and the token
    from hsmkms.wiring import move_store  # noqa: PLC0415 - as above

    if (to is None) != reopen or (reopen and (cancel or store_password_file is not None)):
        raise typer.BadParameter("give --to, with --cancel if need be, or --reopen alone")
    settings = wiring.load_settings(common.config)
    if to is None:
        if not yes:
            _ask()
        common.show({"Store": move_store.reopen(settings)})
        return
    destination = _destination(to, store_password_file)
    if cancel:
        common.show({"Store": move_store.cancel(settings, destination)})
        return
    with progress_of_many("migrate-store") as advance:
        moved = move_store.move(settings, destination, advance)
    common.show(named(moved))


def _destination(to: str, password_file: Path | None) -> "StoreSettings":
    from hsmkms.config.store_settings import PasswordSettings, StoreSettings  # noqa: PLC0415 - see above

    file = absolute(password_file) if password_file is not None else None
    return StoreSettings(url=None if to == FILES else to, password=PasswordSettings(file=file))


def _ask() -> None:
    if not at_a_terminal():
        raise ConfigurationError("migrate-store --reopen asks at a terminal: run it there, or with --yes")
    typer.confirm(
        "What was changed since the move is lost, and no node may use the new store any more. Go on?",
        abort=True,
        err=True,
    )
