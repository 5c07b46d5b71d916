"""The command rotate, which rotates all keys with old key material and prints evidence of it."""

import sys
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from hsmkms.cli.files.interruption import INTERRUPTED, interruptible
from hsmkms.cli.files.progress import progress
from hsmkms.cli.moments import moment
from hsmkms.cli.options import Common, named, note, with_common
from hsmkms.cli.output import OutputFormat
from hsmkms.cli.tables import WideRows
from hsmkms.errors import ValidationException

if TYPE_CHECKING:
    from collections.abc import Sequence

    from msgspec import Struct

PANEL: Final = "Rotation"
CANNOT_ROTATE_STATUS: Final = 3
"""Status if no rotation failed, but there are old keys that cannot rotate."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("rotate", rich_help_panel=PANEL)(rotate)


@with_common("config", "region", "output", "query")
def rotate(
    common: Common,
    *,
    older_than: Annotated[
        str, typer.Option("--older-than", help="Age or date of the current key material: 365d, 2026-01-02. UTC.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be rotated, and what cannot.")
    ] = False,
) -> None:
    """Rotate every key whose current key material is older, in all regions or that of --region.

    At the end it shows the key material and its date before and after each rotation, and the request of the audit log;
    --output json has all of it. CannotRotate: old keys that do not rotate, and why. Each rotation is one on demand, of
    which a key has 25. Ctrl-C ends the run after the key in work; the same command then rotates the rest. Status 1 if
    a rotation failed; 3 if all that can rotate did, and CannotRotate is not empty.

    Example: hsmkms rotate --older-than 365d --dry-run
    """
    with common.open() as kms, interruptible() as interrupted:
        operator = kms.operator
        now = operator.watch.now()
        before = moment("--older-than", older_than, now)
        if before > now:
            raise ValidationException(f"--older-than ({before:%FT%TZ}) is in the future.")
        old = operator.old_keys(before, common.region)
        ready = [each for each in old if each.obstacle is None]
        cannot = [each for each in old if each.obstacle is not None]
        with progress("rotate", lambda: len(ready)) as advance:
            run = operator.rotate_old_keys([] if dry_run else ready, advance, interrupted.is_set)
    done = run.rotations
    failed = [each for each in done if each.fault is not None]
    answer = {
        "OlderThan": f"{before:%FT%TZ}",
        "At": f"{now:%FT%TZ}",
        **({"ToRotate": _rows(common, ready)} if dry_run else {}),
        **({} if dry_run else {"Rotated": _rows(common, [each for each in done if each.fault is None])}),
        **({} if dry_run else {"Failed": _rows(common, failed), "NotDone": len(ready) - len(done)}),
        "CannotRotate": _rows(common, cannot),
    }
    if not old:
        note([f"no key has key material that is older than {older_than}"])
    common.show(answer)
    if run.stopped_by is not None:
        raise run.stopped_by
    if not dry_run and interrupted.is_set() and len(done) < len(ready):
        sys.exit(INTERRUPTED)
    if failed:
        sys.exit(1)
    if cannot:
        sys.exit(CANNOT_ROTATE_STATUS)


def _rows(common: Common, keys: "Sequence[Struct]") -> list[dict[str, Any]]:
    """Return the rows of an answer; for a table the columns that fit it."""
    rows = [_camel(named(each)) for each in keys]
    if common.format is not OutputFormat.TABLE or common.query is not None:
        return rows
    shown = [_short(row) for row in rows]
    return WideRows(shown, [("KeyId", "Alias"), tuple(shown[0])[2:]] if shown else [])


def _camel(row: dict[str, Any]) -> dict[str, Any]:
    """Name the members of key materials in the API's style, too."""
    return {
        name: {"".join(word.capitalize() for word in inner.split("_")): each for inner, each in value.items()}
        if isinstance(value, dict)
        else value
        for name, value in row.items()
    }


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """Reduce a row to the columns of a table: the key, and its materials or the reason why it was not rotated."""
    head = {"KeyId": row["KeyId"], "Alias": ", ".join(row["Aliases"]) or None}
    reason = row.get("Obstacle") or row.get("Fault")
    if reason is not None:
        return head | {"Why": reason}
    return head | {name: _material(row[name]) for name in ("Current", "Before", "After") if name in row}


def _material(material: dict[str, Any] | None) -> str | None:
    """Return since when the key has the material, and its id."""
    if material is None:
        return None
    return f"{(material['RotationDate'] or material['CreatedAt'])[:10]} {material['KeyMaterialId']}"
