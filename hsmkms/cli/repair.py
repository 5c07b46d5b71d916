"""Commands for the bad day: reconcile, doctor."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Final

import typer

from hsmkms.cli.invocation import (
    Common,
    ConfigOption,
    OutputOption,
    QueryOption,
    RegionOption,
    named,
    outer_options,
)
from hsmkms.errors import HsmKmsError, StoreError

if TYPE_CHECKING:
    from hsmkms.config import Settings
    from hsmkms.service.kms import Kms
    from hsmkms.service.reconcile import Finding

PANEL: Final = "Repair"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("reconcile", rich_help_panel=PANEL)(reconcile)
    app.command("doctor", rich_help_panel=PANEL)(doctor)


def reconcile(
    context: typer.Context,
    *,
    mend: Annotated[bool, typer.Option("--mend", help="Adopt and forget: everything that loses nothing.")] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove objects instead of adopting them, each after a question.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Answer the questions of --remove with yes.")] = False,
    config: ConfigOption = None,
    region: RegionOption = None,
    output: OutputOption = None,
    query: QueryOption = None,
) -> None:
    """Show what differs between database and token, and mend it if asked to; status 1 while something differs.

    Adopted keys are Disabled until you enable them. --region is for objects whose label has no room for one.

    Example: hsmkms reconcile --mend
    """
    common = Common(config=config, region=region, output=output, query=query).over(outer_options(context))
    with common.open() as kms:
        found = kms.operator.find_differences()
        rows = [named(each) for each in found]
        if mend or remove:
            for row, finding in zip(rows, found, strict=True):
                row["Outcome"] = _mend(kms, finding, remove=remove, yes=yes, region=common.region)
        left = len(kms.operator.find_differences()) if (mend or remove) else len(found)
    common.show({"Findings": rows, "Left": left})
    if left:
        sys.exit(1)


def _mend(kms: "Kms", finding: "Finding", *, remove: bool, yes: bool, region: str | None) -> str:
    """Mend one finding and say what was done, or why not."""
    from hsmkms.service.reconcile import MENDABLE, REMOVABLE  # noqa: PLC0415 - help must not pay for the token

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
    """Ask a person; without a terminal the answer is no."""
    if not sys.stdin.isatty():
        return False
    return typer.confirm(
        f"Destroy the object {finding.cka_id} ({finding.label}) on the token? What it encrypted is lost for ever"
    )


def doctor(
    context: typer.Context,
    *,
    retry_pin: Annotated[
        bool, typer.Option("--retry-pin", help="Forget that the token refused the PIN, and try it once.")
    ] = False,
    config: ConfigOption = None,
    output: OutputOption = None,
    query: QueryOption = None,
) -> None:
    """Check the installation from the outside in, and say what to do; status 1 if something is wrong.

    Example: hsmkms doctor
    """
    from hsmkms import wiring  # noqa: PLC0415 - help must not pay for the database and the token

    common = Common(config=config, output=output, query=query).over(outer_options(context))
    settings = wiring.load_settings(common.config)
    if retry_pin:
        wiring.retry_pin(settings)
    checks = [_check(name, check, settings) for name, check in _CHECKS.items()]
    common.show({"Checks": checks})
    if any(each["Outcome"] != "ok" for each in checks):
        sys.exit(1)


def _check(name: str, check: "Callable[[Settings], str]", settings: "Settings") -> dict[str, str]:
    try:
        return {"Check": name, "Outcome": "ok", "Detail": check(settings)}
    except HsmKmsError as exc:
        return {"Check": name, "Outcome": "wrong", "Detail": f"{type(exc).__name__}: {exc}"}


def _databases(settings: "Settings") -> str:
    from hsmkms import wiring  # noqa: PLC0415 - see doctor

    return f"private, and at the revision of this program: {', '.join(wiring.database_revisions(settings).values())}"


def _token(settings: "Settings") -> str:
    from hsmkms import wiring  # noqa: PLC0415 - see doctor

    device = wiring.open_device(settings)
    try:
        profile = device.profile
        return f"{profile.label} ({profile.model}, serial {profile.serial}) took the PIN and passed the probe"
    finally:
        device.close()


def _whole(settings: "Settings") -> str:
    from hsmkms import Kms, wiring  # noqa: PLC0415 - see doctor

    with Kms(wiring.core_of(settings)) as kms:
        findings = len(kms.operator.find_differences())
    if findings:
        raise StoreError(f"{findings} differences between database and token: run `hsmkms reconcile`")
    return "database and token belong together and agree"


def _audit(settings: "Settings") -> str:
    from hsmkms import Kms, wiring  # noqa: PLC0415 - see doctor

    if settings.audit.durability == "off":
        return "switched off by audit.durability"
    with Kms(wiring.core_of(settings)) as kms:
        kms.operator.audit.check()
    return "the newest seal fits what is there (`hsmkms audit verify` looks at every record)"


_CHECKS: Final = {"databases": _databases, "token": _token, "installation": _whole, "audit log": _audit}
