"""Commands that look at the token: token-info, token-check, attest."""

import sys
from typing import Annotated, Final

import typer

from hsmkms.cli import values
from hsmkms.cli.invocation import (
    Common,
    ConfigOption,
    OutputOption,
    QueryOption,
    RegionOption,
    named,
    outer_options,
)

PANEL: Final = "Token"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("token-info", rich_help_panel=PANEL)(token_info)
    app.command("token-check", rich_help_panel=PANEL)(token_check)
    app.command("attest", rich_help_panel=PANEL)(attest)


def token_info(
    context: typer.Context, config: ConfigOption = None, output: OutputOption = None, query: QueryOption = None
) -> None:
    """Show what the token is and can do: profile, sessions, free memory, mechanisms, quirks.

    Example: hsmkms token-info --query Profile
    """
    common = Common(config=config, output=output, query=query).over(outer_options(context))
    with common.open() as kms:
        info = kms.operator.token_info()
    profile = named(info.profile)
    common.show(
        {
            "Profile": {name: value for name, value in profile.items() if name != "Mechanisms"},
            "Limits": named(info.limits) if info.limits is not None else {},
            "Mechanisms": [named(each) for each in info.mechanisms],
        }
    )


def token_check(
    context: typer.Context, config: ConfigOption = None, output: OutputOption = None, query: QueryOption = None
) -> None:
    """Try on the token everything that hsmkms needs; status 1 if something fails.

    Example: hsmkms token-check
    """
    common = Common(config=config, output=output, query=query).over(outer_options(context))
    with common.open() as kms:
        checks = kms.operator.token_check()
    common.show({"Checks": [named(each) for each in checks]})
    if any(each.failed for each in checks):
        sys.exit(1)


def attest(
    context: typer.Context,
    key_id: Annotated[str, typer.Option("--key-id", help=values.KEY_HELP)],
    config: ConfigOption = None,
    region: RegionOption = None,
    output: OutputOption = None,
    query: QueryOption = None,
) -> None:
    """Read a key's backing keys back from the token: each attribute as it is now; status 1 if one is not as made.

    Example: hsmkms attest --key-id alias/photos
    """
    common = Common(config=config, region=region, output=output, query=query).over(outer_options(context))
    with common.open() as kms:
        attestations = kms.operator.attest(values.key_name(key_id), common.region)
    common.show({"BackingKeys": [named(each) for each in attestations]})
    if not all(each.as_made for each in attestations):
        sys.exit(1)
