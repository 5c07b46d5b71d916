"""The command simulate-policy, which shows a decision and the statement that makes it."""

from typing import Annotated, Any, Final

import typer

from hsmkms.cli.api import values
from hsmkms.cli.options import Common, named, with_common

PANEL: Final = "Users"

PrincipalOption = Annotated[str, typer.Option("--principal", help="User by name or ARN, or root.")]
ActionOption = Annotated[str, typer.Option("--action", help="Such as kms:Decrypt, or kms:ReEncryptTo.")]
KeyOption = Annotated[str | None, typer.Option("--key-id", help=values.KEY_HELP, show_default=False)]
ContextOption = Annotated[
    str | None,
    typer.Option("--encryption-context", metavar="MAP", help="name=value,... or JSON.", show_default=False),
]
RequestOption = Annotated[
    str | None,
    typer.Option(
        "--request", metavar="JSON", help="Further values of the request, for conditions.", show_default=False
    ),
]
AddressOption = Annotated[
    str | None, typer.Option("--source-ip", help="Address that the request comes from.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("simulate-policy", rich_help_panel=PANEL)(simulate_policy)


@with_common("config", "region", "output", "query")
def simulate_policy(
    common: Common,
    *,
    principal: PrincipalOption,
    action: ActionOption,
    key_id: KeyOption = None,
    encryption_context: ContextOption = None,
    request: RequestOption = None,
    source_ip: AddressOption = None,
) -> None:
    """Show whether a user would be allowed an action, and which policy and statement decides; nothing is done.

    Example: hsmkms simulate-policy --principal alice --action kms:Decrypt --key-id alias/photos
    """
    pairs = None if encryption_context is None else values.mapping("--encryption-context", encryption_context)
    members: dict[str, Any] = {} if request is None else values.json_object("--request", request)
    with common.open() as kms:
        decision = kms.operator.simulate(
            kms.operator.identities.name_of(principal),
            action,
            key_id=None if key_id is None else values.key_name(key_id),
            encryption_context=pairs,
            members=members,
            region=common.region,
            source_address=source_ip,
        )
    common.show(named(decision))
