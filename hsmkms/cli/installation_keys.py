"""The command about the installation's own keys on the token: rotate-installation-keys."""

from enum import StrEnum
from typing import Annotated

import typer

from hsmkms.cli.invocation import Common, ConfigOption, OutputOption, QueryOption, named, outer_options
from hsmkms.cli.questions import at_a_terminal
from hsmkms.cli.token import PANEL
from hsmkms.errors import ConfigurationError


class Purpose(StrEnum):
    """What a key of the installation is for; the same as service/own_rotation.py has, which help need not load."""

    MAC = "mac"
    AUDIT_SEAL = "audit-seal"
    SECRETS = "secrets"
    BACKUP = "backup"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("rotate-installation-keys", rich_help_panel=PANEL)(rotate_installation_keys)


def rotate_installation_keys(
    context: typer.Context,
    *,
    purpose: Annotated[
        list[Purpose] | None, typer.Option("--purpose", help="Rotate this one alone; may be repeated.")
    ] = None,
    destroy_older: Annotated[
        bool,
        typer.Option("--destroy-older", help="Make no version, but destroy the older ones that nothing here needs."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Answer the question with yes.")] = False,
    config: ConfigOption = None,
    output: OutputOption = None,
    query: QueryOption = None,
) -> None:
    """Give the installation's own keys a new version on the token: for MACs, audit seals, stored secrets, backups.

    Running servers use the new versions from their next call on; older ones go on verifying. An interrupted rotation is
    finished by the next, which then makes no further version. Backups from before a rotation need the older versions;
    when you have none any more, --destroy-older removes those from the token.

    Example: hsmkms rotate-installation-keys --purpose secrets
    """
    common = Common(config=config, output=output, query=query).over(outer_options(context))
    if destroy_older and not yes:
        _ask()
    with common.open() as kms:
        rotated = [
            kms.operator.rotate_installation_key(each, destroy_older=destroy_older) for each in purpose or Purpose
        ]
    common.show({"InstallationKeys": [named(each) | {"Older": list(map(named, each.older))} for each in rotated]})


def _ask() -> None:
    if not at_a_terminal():
        raise ConfigurationError("--destroy-older asks at a terminal: run it there, or with --yes if no backup is lost")
    typer.confirm(
        "No backup from before the rotation can be restored afterwards, and none sealed by the token be opened. Go on?",
        abort=True,
        err=True,
    )
