"""The command rotation-report, which shows the rotation of every key."""

import sys
from typing import Annotated, Any, Final

import typer

from hsmkms.cli.options import Common, named, with_common
from hsmkms.cli.output import OutputFormat, default_format

PANEL: Final = "Upkeep"

_BAD: Final = frozenset({"overdue", "waiting", "expiring"})


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("rotation-report", rich_help_panel=PANEL)(rotation_report)


@with_common("config", "region", "output", "query")
def rotation_report(
    common: Common,
    *,
    only_problems: Annotated[bool, typer.Option("--only-problems", help="Leave out keys that rotate on time.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Status 1 if a key is overdue, waiting or expiring.")] = False,
) -> None:
    """Show every key's age, backing keys, next rotation, last use, and why it is overdue or cannot rotate.

    The table has the most important columns; --output json has all.

    Example: hsmkms rotation-report --only-problems
    """
    with common.open() as kms:
        rows = [named(each) for each in kms.operator.rotation_report(common.region)]
    problems = [each for each in rows if each["Posture"] in _BAD]
    shown = [each for each in rows if each["Posture"] != "ok"] if only_problems else rows
    if (common.output or default_format()) is OutputFormat.TABLE and common.query is None:
        shown = [_short(each) for each in shown]
    common.show({"Keys": shown, "Problems": len(problems)})
    if check and problems:
        sys.exit(1)


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """Reduce a row to the columns that fit a table."""
    return {
        "Key": row["Aliases"][0] if row["Aliases"] else row["KeyId"],
        "Posture": row["Posture"],
        "Dates": f"{row['AgeDays']} days old, {row['BackingKeys']} backing keys, "
        f"next {str(row['NextRotation'] or '-')[:10]}, used {str(row['LastUsed'] or '-')[:10]}",
        "Reason": row["Reason"] or "-",
    }
