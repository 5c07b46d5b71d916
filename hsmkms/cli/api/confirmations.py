"""Ask a person at a terminal for confirmation before an operation that cannot be undone."""

import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import typer

from hsmkms.model.aliases import ListAliasesRequest
from hsmkms.model.deletion import GetKeyLastUsageRequest
from hsmkms.model.enums import MultiRegionKeyType, Operation
from hsmkms.model.keys import DescribeKeyRequest, KeyMetadata

if TYPE_CHECKING:
    from hsmkms.kms import Kms
    from hsmkms.model.caller import Caller

Question = Callable[["Kms", Any, "Caller | None"], None]
"""Asks about a request; raises ``typer.Abort`` if the answer is no."""


def at_a_terminal() -> bool:
    """Return True if a person can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def schedule_key_deletion(kms: "Kms", request: Any, caller: "Caller | None") -> None:  # noqa: ANN401 - of its operation
    """Show the key, its last use and its aliases, then ask."""
    key = kms.describe_key(DescribeKeyRequest(key_id=request.key_id), caller).key_metadata
    usage = kms.get_key_last_usage(GetKeyLastUsageRequest(key_id=request.key_id), caller)
    names = kms.list_aliases(ListAliasesRequest(key_id=request.key_id), caller).aliases
    last = usage.key_last_usage
    used = (
        f"{last.operation} at {_date(last.timestamp)}"
        if last.timestamp
        else f"not since {_date(usage.tracking_start_date)}"
    )
    for line in (
        f"Key:         {key.arn}",
        f"Description: {key.description or '-'}",
        f"Last use:    {used}",
        f"Aliases:     {', '.join(each.alias_name for each in names) or '-'}",
    ):
        typer.echo(line, err=True)
    days = request.pending_window_in_days or 30
    typer.confirm(
        f"Delete it {_when(key, days)}? What it encrypted cannot be read from now on, and is lost after that time",
        abort=True,
        err=True,
    )


def _when(key: KeyMetadata, days: int) -> str:
    """Describe when the key would be deleted: a primary key waits until its replicas are deleted."""
    family = key.multi_region_configuration
    if family is None or family.multi_region_key_type != MultiRegionKeyType.PRIMARY or not family.replica_keys:
        return f"in {days} days"
    regions = ", ".join(each.region for each in family.replica_keys)
    return f"{days} days after its last replica ({regions}) is gone"


def _date(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if moment is not None else "-"


QUESTIONS: Final[Mapping[Operation, Question]] = {Operation.SCHEDULE_KEY_DELETION: schedule_key_deletion}
