"""Print records of the audit log for people: one line each."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from hsmkms.cli.tables import plain, print_aligned

if TYPE_CHECKING:
    from hsmkms.service.audit.filters import Fields

_SUCCESS: Final = "ok"
_NAMES: Final = ("Time", "Operation", "User", "Outcome", "Keys")


def print_lines(records: Sequence["Fields"]) -> None:
    """Print time, operation, user, outcome and keys of each record, aligned; a line is never broken or cut."""
    if records:
        print_aligned([_NAMES, *map(_row, records)])


def _row(record: "Fields") -> tuple[str, ...]:
    outcome = record.error_code or _SUCCESS
    return tuple(map(plain, (record.event_time, record.event_name, record.principal, outcome, _keys(record))))


def _keys(record: "Fields") -> str:
    """Return the ids of the keys that the request concerned, or the aliases if there is no key."""
    keys = [arn.rpartition(":key/")[2] for arn in record.keys if ":key/" in arn]
    aliases = [arn.rpartition(":")[2] for arn in record.keys if ":alias/" in arn]
    return " ".join(dict.fromkeys(keys or aliases))
