"""Commands that repair damage: reconcile, renew-log."""

import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from hsmkms.cli.options import Common, named, with_common
from hsmkms.errors import HsmKmsError

if TYPE_CHECKING:
    from hsmkms.kms import Kms
    from hsmkms.service.operator.reconcile import Finding

PANEL: Final = "Repair"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("reconcile", rich_help_panel=PANEL)(reconcile)
    app.command("renew-log", rich_help_panel=PANEL)(renew_log)


@with_common("config", "region", "output", "query")
def reconcile(
    common: Common,
    *,
    mend: Annotated[
        bool, typer.Option("--mend", help="Repair whatever needs no destruction: adopt objects, drop stale rows.")
    ] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove objects instead of adopting them, after a confirmation for each.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --remove: do not ask for confirmation.")] = False,
) -> None:
    """Show the differences between database and token, and repair them on request; status 1 while there are any.

    Adopted keys are Disabled until you enable them. --region is for objects whose label has no room for one.

    Example: hsmkms reconcile --mend
    """
    with common.open() as kms:
        findings = kms.operator.find_differences()
        rows = [named(each) for each in findings]
        if mend or remove:
            for row, finding in zip(rows, findings, strict=True):
                row["Outcome"] = _mend(kms, finding, remove=remove, yes=yes, region=common.region)
        left = len(kms.operator.find_differences()) if (mend or remove) else len(findings)
    common.show({"Findings": rows, "Left": left})
    if left:
        sys.exit(1)


@with_common("config", "output", "query")
def renew_log(common: Common) -> None:
    """Replace a damaged or lost log.db by a new one. Stop all hsmkms processes first.

    It holds the number of encryptions per key material, and last uses. Since the counts are lost, every generated key
    gets a new backing key before it encrypts next. The damaged file is kept beside the new one.

    Example: hsmkms renew-log
    """
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - help must not pay for the database and the token

    kept = wiring.renew_log(wiring.load_settings(common.config))
    with common.open():
        pass  # the first process that opens it records the lost counts in the control plane
    common.show({"Outcome": "renewed", "Kept": str(kept) if kept is not None else None})


def _mend(kms: "Kms", finding: "Finding", *, remove: bool, yes: bool, region: str | None) -> str:
    """Mend one finding; describe what was done, or why nothing was."""
    from hsmkms.service.operator.reconcile import MENDABLE, REMOVABLE  # noqa: PLC0415 - help must not pay for the token

    if finding.kind not in MENDABLE:
        return "left as it is"
    removing = remove and finding.kind in REMOVABLE
    if removing and not (yes or _confirmed(finding)):
        return "left as it is"
    try:
        return kms.operator.mend(finding, remove=removing, region=region)
    except HsmKmsError as exc:
        return f"left as it is: {exc}"


def _confirmed(finding: "Finding") -> bool:
    """Ask a person; return False without a terminal."""
    if not sys.stdin.isatty():
        return False
    return typer.confirm(
        f"Destroy the object {finding.cka_id} ({finding.label}) on the token? What it encrypted is lost for ever"
    )
