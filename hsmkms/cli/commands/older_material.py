"""The command list-older-material, and the question before such material is abandoned."""

from typing import TYPE_CHECKING, Annotated

import typer

from hsmkms.cli.commands.token import PANEL
from hsmkms.cli.options import Common, named, with_common

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hsmkms.service.operator.older_material import OlderMaterial


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("list-older-material", rich_help_panel=PANEL)(list_older_material)


@with_common("config", "output", "query")
def list_older_material(
    common: Common,
    *,
    token: Annotated[
        str, typer.Option("--token", metavar="TOKEN", help="Label or serial of a former home, as list-tokens shows it.")
    ],
) -> None:
    """List the older key material on a former home token, which only decrypts, and what is known of its use.

    Encryptions: how many it has made at most; null if that is unknown, before the restore of a backup. LastUse: the
    last record of the audit log that names it. Whether ciphertext that needs it is left only you can know.

    Example: hsmkms list-older-material --token old-hsm
    """
    with common.open() as kms:
        found = kms.operator.find_older_material(token)
    common.show({"OlderMaterial": [named(each) for each in found]})


def show(found: "Sequence[OlderMaterial]") -> None:
    """Print what is known of each material to standard error, before a question."""
    for each in found:
        count = "an unknown number of" if each.encryptions is None else f"at most {each.encryptions}"
        last = f"last used {each.last_use}" if each.last_use else "no use in the audit log"
        typer.echo(f"{each.key_id} {each.material_id[:16]}…: {count} encryptions, {last}", err=True)
