"""Count the uses of keys in the audit log, and find out since when the log has every use.

A use is a cryptographic operation, as GetKeyLastUsage counts them. Records are read one by one; only counts are kept.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

from msgspec import Struct, field

from hsmkms.model.enums import TrackedOperation
from hsmkms.rules.audit import chain as audit_chain
from hsmkms.service.audit import reading
from hsmkms.service.audit.filters import Fields, Seen, Wanted
from hsmkms.store import audit_files
from hsmkms.store.audit_files import Segment

Lanes = Mapping[str, Sequence[Segment]]

USES: Final = frozenset(map(str, TrackedOperation))
_DATE: Final = len("2026-01-02")


class Subject(StrEnum):
    """What uses are counted by, besides the day."""

    KEY = "key"
    PRINCIPAL = "principal"
    OPERATION = "operation"


class Count(Struct):
    """A number of requests, and how many of them failed; ``last``: the time of the last one."""

    requests: int = 0
    errors: int = 0
    last: str = ""

    def add(self, fields: Fields) -> None:
        """Count a record."""
        self.requests += 1
        self.errors += bool(fields.error_code)
        self.last = max(self.last, fields.event_time)


class Uses(Struct):
    """Counts by day (2026-01-02, UTC), and by subject and day; ``seen``: which records were looked at."""

    days: dict[str, Count] = field(default_factory=dict)
    subjects: dict[str, dict[str, Count]] = field(default_factory=dict)
    seen: Seen = field(default_factory=Seen)


def lanes(folders: Iterable[Path]) -> Lanes:
    """Return the segments of the log and its archives by lane, oldest first; each number once."""
    return audit_files.merged(folders)


def covered_since(log: Lanes) -> str | None:
    """Return since when the log has every record: its oldest one, or after the files that are missing; None if empty.

    A lane that does not begin with its record 1, or in which a file is missing, is complete from its next file on.
    """
    begins = [begin for segments in log.values() if (begin := _begin(segments)) is not None]
    gaps = [time for time, complete in begins if not complete]
    return max(gaps) if gaps else min((time for time, _ in begins), default=None)


def count(log: Lanes, wanted: Wanted, by: Subject | None) -> Uses:
    """Count the uses that match, by day and by subject."""
    uses = Uses()
    subjects = _SUBJECTS[by] if by is not None else None
    for fields in _all_fields(log):
        uses.seen.note(fields)
        if fields.event_name not in USES or not wanted.fits(fields):
            continue
        day = fields.event_time[:_DATE]
        uses.days.setdefault(day, Count()).add(fields)
        for name in subjects(fields) if subjects is not None else ():
            uses.subjects.setdefault(name, {}).setdefault(day, Count()).add(fields)
    return uses


def last_uses(log: Lanes, key_arns: Collection[str]) -> dict[str, Fields]:
    """Return the newest record of a successful use of each of these keys."""
    newest: dict[str, Fields] = {}
    for fields in _all_fields(log):
        if fields.event_name not in USES or fields.error_code:
            continue
        for arn in fields.keys:
            known = newest.get(arn)
            if arn in key_arns and (known is None or known.event_time < fields.event_time):
                newest[arn] = fields
    return newest


def _all_fields(log: Lanes) -> Iterable[Fields]:
    return (fields for segments in log.values() for fields, _ in reading.records(segments))


def _begin(segments: Sequence[Segment]) -> tuple[str, bool] | None:
    """Return the time of the first record after which no file of a lane is missing, and whether it is record 1."""
    first = len(segments) - 1
    while first > 0 and segments[first - 1].number == segments[first].number - 1:
        first -= 1
    for segment in segments[first:]:
        for line in audit_files.lines(segment.path):
            head = audit_chain.head_of(line, segment.number)
            fields = next((fields for fields, _ in reading.readable([line])), None)
            if head is not None and fields is not None:
                return fields.event_time, head.sequence == 1
    return None


def _keys(fields: Fields) -> list[str]:
    return [arn for arn in dict.fromkeys(fields.keys) if ":key/" in arn]


_SUBJECTS: Final[Mapping[Subject, Callable[[Fields], Iterable[str]]]] = {
    Subject.KEY: _keys,
    Subject.PRINCIPAL: lambda fields: (fields.principal,),
    Subject.OPERATION: lambda fields: (fields.event_name,),
}
