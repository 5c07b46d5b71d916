"""The command destroy-older-material."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from hsmkms.cli.api.confirmations import at_a_terminal
from hsmkms.cli.commands.token import PANEL
from hsmkms.cli.options import Common, named, note, with_common
from hsmkms.errors import ConfigurationError

if TYPE_CHECKING:
    from hsmkms.service.operator.older_material import OlderMaterial


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("destroy-older-material", rich_help_panel=PANEL)(destroy_older_material)


@with_common("config", "output", "query")
def destroy_older_material(
    common: Common,
    *,
    token: Annotated[
        str, typer.Option("--token", metavar="TOKEN", help="Label or serial of a former home, as list-tokens shows it.")
    ],
    key_id: Annotated[
        list[str] | None, typer.Option("--key-id", metavar="KEY", help="Only material of this key (id); repeatable.")
    ] = None,
    never_used: Annotated[
        bool, typer.Option("--never-used", help="Only material that has certainly encrypted nothing.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be destroyed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Destroy older key material on a former home token, since no ciphertext needs it any more: so you state.

    Shows what is known of each material: how many encryptions it has made at most (null if that is unknown, before the
    restore of a backup) and, by the audit log, its last use. Ciphertext that needs destroyed material is lost: first
    re-encrypt it (re-encrypt-files, re-encrypt). The statement is recorded in the audit log. Afterwards forget-token
    removes the token, if nothing else needs it.

    Example: hsmkms destroy-older-material --token old-hsm --dry-run
    """
    with common.open() as kms:
        found = kms.operator.find_older_material(token)
        chosen = [
            each
            for each in found
            if (not key_id or each.key_id in key_id) and (not never_used or each.encryptions == 0)
        ]
        unknown = set(key_id or ()) - {each.key_id for each in found}
        if unknown:
            raise ConfigurationError(f"the token {token!r} holds no older material of {', '.join(sorted(unknown))}")
        if not chosen:
            note([f"none of the {len(found)} older key materials on the token {token!r} matches"])
        if dry_run or not chosen:
            common.show({"OlderMaterial": [named(each) for each in chosen], "Destroyed": []})
            return
        if not yes:
            _ask(token, chosen)
        destroyed = kms.operator.destroy_older_material(token, [each.material_id for each in chosen])
    common.show({"OlderMaterial": [named(each) for each in chosen], "Destroyed": [named(each) for each in destroyed]})
    if any(each.fault for each in destroyed):
        sys.exit(1)


def _ask(token: str, chosen: "list[OlderMaterial]") -> None:
    if not at_a_terminal():
        raise ConfigurationError("destroy-older-material asks at a terminal: run it there, or with --yes")
    for each in chosen:
        count = "an unknown number of" if each.encryptions is None else f"at most {each.encryptions}"
        last = f"last used {each.last_use}" if each.last_use else "no use in the audit log"
        typer.echo(f"{each.key_id} {each.material_id[:16]}…: {count} encryptions, {last}", err=True)
    typer.confirm(
        f"{len(chosen)} older key materials on {token!r} are destroyed: ciphertext that needs them is lost. Go on?",
        abort=True,
        err=True,
    )
