"""The command maintain, which runs due work."""

import logging
import sys
from typing import Annotated, Final

import typer

from hsmkms.cli.options import Common, named, with_common

PANEL: Final = "Upkeep"

_LEFT: Final = frozenset({"held", "failed"})


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("maintain", rich_help_panel=PANEL)(maintain)


@with_common("config", "output", "query")
def maintain(
    common: Common,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what is due.")] = False,
    trust_clock: Annotated[
        bool,
        typer.Option("--trust-clock", help="Confirm that the clock is right, although the database has newer dates."),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log each step to standard error.")] = False,
) -> None:
    """Run what is due: rotations, expired key material, wrapping keys, deletions; status 1 if something must wait.

    For a timer, about once an hour. Any number of processes may run it: one works, the others report Busy.

    Nothing is printed to standard error unless it deserves a mail from the timer.

    Example: hsmkms maintain --dry-run
    """
    from hsmkms import Kms  # noqa: PLC0415 - help must not pay for the database and the token
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - help must not pay for the database and the token

    if verbose:
        logging.getLogger("hsmkms").setLevel(logging.INFO)
    with Kms(wiring.open_core_for_maintenance(common.config)) as kms:
        if trust_clock:
            kms.operator.trust_clock()
        report = kms.operator.maintain(dry_run=dry_run)
    answer = named(report)
    answer["Steps"] = [named(each) for each in report.steps]
    common.show(answer)
    if report.doubt is not None or any(each.outcome in _LEFT for each in report.steps):
        sys.exit(1)
