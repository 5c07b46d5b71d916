"""Commands about the installation's own keys on the token: rotate-installation-keys, renew-installation-keys."""

from typing import TYPE_CHECKING, Annotated

import typer

from hsmkms.cli.api.confirmations import at_a_terminal
from hsmkms.cli.commands.token import PANEL
from hsmkms.cli.options import Common, named, with_common
from hsmkms.errors import ConfigurationError
from hsmkms.model.own_keys import KeyPurpose

if TYPE_CHECKING:
    from hsmkms.service.operator.key_renewal import Loss

_BACK_UP = (
    "back up the token now, by its own means: older copies of it lack the new versions, and no keys are created on "
    "them until `hsmkms renew-installation-keys`"
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("rotate-installation-keys", rich_help_panel=PANEL)(rotate_installation_keys)
    app.command("renew-installation-keys", rich_help_panel=PANEL)(renew_installation_keys)


@with_common("config", "output", "query")
def rotate_installation_keys(
    common: Common,
    *,
    purpose: Annotated[
        list[KeyPurpose] | None, typer.Option("--purpose", help="Rotate only this one; repeatable.")
    ] = None,
    destroy_older: Annotated[
        bool,
        typer.Option(
            "--destroy-older", help="Do not rotate; destroy older versions that the installation does not need."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Rotate the installation's own keys on the token: for MACs, audit seals, stored secrets, backups, reports.

    Running servers use the new versions from their next call on; older versions still verify. The next run finishes an
    interrupted rotation, without creating a further version. Backups from before a rotation need the older versions;
    when you have no such backups any more, --destroy-older removes those versions from the token.

    Example: hsmkms rotate-installation-keys --purpose secrets
    """
    if destroy_older and not yes:
        _ask()
    with common.open() as kms:
        rotated = [
            kms.operator.rotate_installation_key(each, destroy_older=destroy_older) for each in purpose or KeyPurpose
        ]
    shown = [named(each) | {"Older": list(map(named, each.older))} for each in rotated]
    common.show({"InstallationKeys": shown} | ({} if destroy_older else {"Next": _BACK_UP}))


def _ask() -> None:
    if not at_a_terminal():
        raise ConfigurationError("--destroy-older asks at a terminal: run it there, or with --yes if no backup is lost")
    typer.confirm(
        "No backup from before the rotation can be restored afterwards, and none sealed by the token be opened. Go on?",
        abort=True,
        err=True,
    )


@with_common("config", "output", "query")
def renew_installation_keys(
    common: Common, *, yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False
) -> None:
    """Replace the installation's own keys on the home token, after a token with some of them was lost for good.

    For an interrupted migration whose old token is lost, and for a clone that lacks them. Access keys whose secrets
    cannot be read are deleted, database and audit log are accepted as they are now, and backups sealed by the lost
    token can never be opened. KMS keys are not affected. Refused while nothing is lost.

    Example: hsmkms renew-installation-keys
    """
    with common.open() as kms:
        loss = kms.operator.lost_installation_keys()
        if not yes:
            _ask_for_renewal(loss)
        kms.operator.renew_installation_keys(loss)
    common.show(named(loss))


def _ask_for_renewal(loss: "Loss") -> None:
    """Show what is lost, and ask a person. ConfigurationError without a terminal, ``typer.Abort`` for no."""
    for label, lost in {
        "Tokens that are away": ", ".join(loss.tokens),
        "Keys that are replaced by new ones": ", ".join(loss.purposes),
        "Access keys that are deleted": ", ".join(loss.access_keys),
        "Seals of the database": "cannot be proven: it is accepted as it is" if loss.rows else "",
        "Seals of the audit log": "cannot be proven: it is accepted as it is" if loss.log else "",
        "What contradicts its newest seal": loss.contradiction or "",
    }.items():
        typer.echo(f"{label}: {lost or '-'}", err=True)
    if not at_a_terminal():
        raise ConfigurationError(
            "renew-installation-keys asks at a terminal: run it there, or with --yes if the token is lost for good"
        )
    typer.confirm(
        "None of this can be recovered, nor backups that the lost token has sealed. If the token is only away, bring "
        "it back instead. Go on?",
        abort=True,
        err=True,
    )
