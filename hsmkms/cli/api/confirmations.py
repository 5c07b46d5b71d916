"""Ask a person at a terminal for confirmation before an operation that cannot be undone."""

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import typer

from hsmkms.cli.tables import printable
from hsmkms.model.aliases import ListAliasesRequest
from hsmkms.model.enums import KeySpec, KeyUsage, MultiRegionKeyType, Operation
from hsmkms.model.keys import DescribeKeyRequest, KeyMetadata

if TYPE_CHECKING:
    from hsmkms.kms import Kms
    from hsmkms.model.caller import Caller

Question = Callable[["Kms", Any, "Caller | None"], str]
"""Shows on standard error what a request would end; returns the question about it."""


_PUBLIC_KEY: Final = "Public key:  what is encrypted or verified with it elsewhere is recorded nowhere"


def at_a_terminal() -> bool:
    """Return True if a person can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def confirm(operation: Operation, kms: "Kms", request: Any, caller: "Caller | None") -> None:  # noqa: ANN401 - of its operation
    """Show at a terminal what a request would end, and ask for confirmation; ``typer.Abort`` if the answer is no.

    If standard input is no terminal (xargs), nobody can be asked, and it is only shown.
    """
    if operation in QUESTIONS and sys.stdout.isatty():
        question = QUESTIONS[operation](kms, request, caller)
        if sys.stdin.isatty():
            typer.confirm(question, abort=True, err=True)


def schedule_key_deletion(kms: "Kms", request: Any, caller: "Caller | None") -> str:  # noqa: ANN401 - of its operation
    """Show the key, its last use as far as it is known, and its aliases."""
    key = kms.describe_key(DescribeKeyRequest(key_id=request.key_id), caller).key_metadata
    names = kms.list_aliases(ListAliasesRequest(key_id=request.key_id), caller).aliases
    used = kms.operator.known_use(key.key_id, caller.region if caller is not None else None)
    for line in (
        f"Key:         {key.arn}",
        f"Description: {printable(key.description or '-')}",
        f"Last use:    {used.sentence()}",
        *([_PUBLIC_KEY] if _has_public_key(key) else []),
        f"Aliases:     {', '.join(each.alias_name for each in names) or '-'}",
    ):
        typer.echo(line, err=True)
    days = request.pending_window_in_days or 30
    return f"Delete it {_when(key, days)}? What it encrypted cannot be read from now on, and is lost after that time"


def _has_public_key(key: KeyMetadata) -> bool:
    return key.key_spec != KeySpec.SYMMETRIC_DEFAULT and key.key_usage != KeyUsage.GENERATE_VERIFY_MAC


def _when(key: KeyMetadata, days: int) -> str:
    """Describe when the key would be deleted: a primary key waits until its replicas are deleted."""
    family = key.multi_region_configuration
    if family is None or family.multi_region_key_type != MultiRegionKeyType.PRIMARY or not family.replica_keys:
        return f"in {days} days"
    regions = ", ".join(each.region for each in family.replica_keys)
    return f"{days} days after its last replica ({regions}) is gone"


QUESTIONS: Final[Mapping[Operation, Question]] = {Operation.SCHEDULE_KEY_DELETION: schedule_key_deletion}
