"""The command rotation-report, which shows the rotation of every key."""

import sys
from typing import Annotated, Any, Final

import typer

from hsmkms.cli.options import Common, named, with_common
from hsmkms.cli.output import OutputFormat, default_format
from hsmkms.cli.tables import WideRows

PANEL: Final = "Upkeep"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("rotation-report", rich_help_panel=PANEL)(rotation_report)


@with_common("config", "region", "output", "query")
def rotation_report(
    common: Common,
    *,
    only_problems: Annotated[bool, typer.Option("--only-problems", help="Show only keys that need action.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Status 1 if a key needs action.")] = False,
) -> None:
    """Show every key's age, backing keys, next rotation, last use, and why it is overdue or cannot rotate.

    Keys that need action: overdue, waiting for key material, with material that expires within 30 days (expiring), or
    enabled, without automatic rotation and with material older than the rotation period (aged).

    The table has the most important columns; --output json has all.

    Example: hsmkms rotation-report --only-problems
    """
    with common.open() as kms:
        rows = [named(each) for each in kms.operator.rotation_report(common.region)]
    problems = [each for each in rows if each["Problem"]]
    shown = problems if only_problems else rows
    if (common.output or default_format()) is OutputFormat.TABLE and common.query is None:
        shown = WideRows([_short(each) for each in shown], [("Key", "Posture"), ("Dates",), ("Reason",)])
    common.show({"Keys": shown, "Problems": len(problems)})
    if check and problems:
        sys.exit(1)


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """Reduce a row to the columns that fit a table."""
    backing_keys = "1 backing key" if row["BackingKeys"] == 1 else f"{row['BackingKeys']} backing keys"
    return {
        "Key": row["Aliases"][0] if row["Aliases"] else row["KeyId"],
        "Posture": row["Posture"],
        "Dates": f"{row['AgeDays']} days old, {backing_keys}, "
        f"next {str(row['NextRotation'] or '-')[:10]}, used {str(row['LastUsed'] or '-')[:10]}",
        "Reason": row["Reason"] or "-",
    }
