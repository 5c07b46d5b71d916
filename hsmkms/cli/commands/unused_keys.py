"""The command unused-keys, which lists the keys that nothing has used for long."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from hsmkms.cli.commands.audit import ArchiveOption
from hsmkms.cli.moments import moment
from hsmkms.cli.options import Common, named, note, with_common
from hsmkms.cli.output import OutputFormat
from hsmkms.cli.tables import WideRows
from hsmkms.errors import ValidationException
from hsmkms.model.ids import MULTI_REGION_PREFIX

if TYPE_CHECKING:
    from hsmkms.service.operator.unused_keys import UnusedKeys

PANEL: Final = "Deletion"

_IDLE: Final = timedelta(days=7)
"""An installation with a use is rarely without any for longer: the clock may have jumped ahead."""

_STACKS: Final = (("KeyId", "Alias", "Description"), ("State", "Spec"), ("Created", "Use"))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("unused-keys", rich_help_panel=PANEL)(unused_keys)


@with_common("config", "region", "output", "query")
def unused_keys(
    common: Common,
    *,
    since: Annotated[str, typer.Option("--since", help="Unused since then: 90d, 2026-01-02, 2026-01. UTC.")],
    ids: Annotated[
        bool,
        typer.Option("--ids", help="Print only the ids of the unused keys, one a line; ARNs of multi-Region keys."),
    ] = False,
    archives: ArchiveOption = None,
) -> None:
    """List the keys of the region that were not used since then, with what is known of their last use.

    A use is a successful cryptographic operation here; of a primary key also one in a region of its replicas. What is
    done elsewhere with the public key of an asymmetric key is recorded nowhere. Listed are keys that are older than
    that, are not waiting for their deletion, and are no keys of services. "never used" means that the records reach
    back to the key's creation; Unknown lists the keys that have no recorded use either, but whose records begin later
    than --since: --ids leaves them out.

    For schedule-key-deletion: hsmkms unused-keys --since 90d --ids | xargs -r -n1 hsmkms schedule-key-deletion --key-id

    Example: hsmkms unused-keys --since 90d
    """
    with common.open() as kms:
        now = kms.operator.watch.now()
        instant = moment("--since", since, now)
        if instant > now:
            raise ValidationException(f"--since ({instant:%FT%TZ}) is in the future.")
        found = kms.operator.unused_keys(instant, common.region, archives or ())
    _note(found, since, now, is_short=ids)
    if ids:
        for each in found.unused:
            print(each.arn if each.key_id.startswith(MULTI_REGION_PREFIX) else each.key_id)
        return
    is_table = common.format is OutputFormat.TABLE and common.query is None
    lists = {"Unused": found.unused, "Unknown": found.unknown}
    rows = {name: [named(each) for each in keys] for name, keys in lists.items()}
    if is_table:
        rows = {name: WideRows([_short(each) for each in keys], _STACKS) for name, keys in rows.items()}
    common.show({"Since": f"{found.since:%FT%TZ}", **rows})


def _note(found: "UnusedKeys", since: str, now: datetime, *, is_short: bool) -> None:
    """Say on standard error that there is no such key, which were left out, and if the clock may be wrong."""
    if not found.unused:
        note([f"none of the {found.keys} keys that could be deleted is known to be unused since {since}"])
    if found.unused and found.newest_use is not None and found.newest_use < min(found.since, now - _IDLE):
        newest = f"the newest use of any key was at {found.newest_use:%Y-%m-%d %H:%M:%S} UTC"
        note([f"no key at all was used since {since}: {newest}. Is the clock of this machine right?"])
    if found.unknown and is_short:
        begin = min(each.known_since for each in found.unknown)
        left_out = f"{len(found.unknown)} more without a recorded use are left out"
        note([f"{left_out}: what is recorded of their use begins at {begin:%Y-%m-%d %H:%M:%S} UTC"])


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """Reduce a row to the columns of a table."""
    return {
        "KeyId": row["KeyId"],
        "Alias": ", ".join(row["Aliases"]) or None,
        "Description": row["Description"] or None,
        "State": row["KeyState"],
        "Spec": row["KeySpec"],
        "Created": row["CreatedAt"][:10],
        "Use": row["Use"],
    }
