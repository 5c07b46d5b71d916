"""Commands about the integrity of the database: verify-store, accept-store."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from hsmkms.cli.api.confirmations import at_a_terminal
from hsmkms.cli.commands.audit import PANEL
from hsmkms.cli.options import Common, named, with_common
from hsmkms.errors import ConfigurationError

if TYPE_CHECKING:
    from hsmkms.model.audit import Fault
    from hsmkms.service.runtime.seal_checks import RowFault


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("verify-store", rich_help_panel=PANEL)(verify_store)
    app.command("accept-store", rich_help_panel=PANEL)(accept_store)


@with_common("config", "output", "query")
def verify_store(common: Common) -> None:
    """Check the database's deciding rows (keys, aliases, grants, users, groups) against their seals.

    Status 1 if rows were changed, removed, added or put back by hand: operations that depend on them are refused until
    the rows are as they were, or are accepted.

    Example: hsmkms verify-store
    """
    with common.open() as kms:
        faults = kms.operator.audit.verify_rows()
    common.show({"Faults": [named(each) for each in faults]})
    if faults:
        sys.exit(1)


@with_common("config", "output", "query")
def accept_store(
    common: Common, *, yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False
) -> None:
    """Accept database and audit log as they are now: after a restored backup, and for nothing else.

    Contradictions to the seals are shown first; the command and what it accepted stay in the audit log for ever.

    Example: hsmkms accept-store
    """
    with common.open() as kms:
        kms.operator.audit.require_keys()
        verdict, rows = kms.operator.audit.verify(), kms.operator.audit.verify_rows()
        faults = [*verdict.faults, *verdict.unproven]
        if (faults or rows) and not yes:
            _ask(faults, rows)
        if faults or rows:
            kms.operator.audit.accept((faults, rows))
    common.show({"Accepted": [named(each) for each in faults], "AcceptedRows": [named(each) for each in rows]})


def _ask(faults: "list[Fault]", rows: "list[RowFault]") -> None:
    """Show the contradictions, and ask a person. ConfigurationError without a terminal, ``typer.Abort`` for no."""
    for each in faults:
        typer.echo(f"{each.lane} {each.sequence}: {each.kind}: {each.detail}", err=True)
    for row in rows:
        typer.echo(f"{row.subject}: {row.reason}", err=True)
    if not at_a_terminal():
        raise ConfigurationError("accept-store asks at a terminal: run it there, or with --yes if you know the reason")
    typer.confirm("Take this as the truth from here on? Only a restored backup is a good reason", abort=True, err=True)
