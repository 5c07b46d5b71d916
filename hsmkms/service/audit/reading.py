"""Read the audit log from its files, without token or database."""

import heapq
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from hsmkms.rules.audit import chain as audit_chain
from hsmkms.service.audit.filters import Fields, Seen, Wanted
from hsmkms.store import audit_files
from hsmkms.store.audit_files import Segment

_Found = tuple[Fields, bytes]

_ANY: Final = Wanted()

_decode = msgspec.json.Decoder(Fields).decode


class Export(Struct):
    """Matching records in the order of their times, and what was looked at to find them. Iterates over the records."""

    found: Iterator[_Found]
    seen: Seen

    def __iter__(self) -> Iterator[bytes]:
        return (record for _, record in self.found)


def export(folders: Sequence[Path], wanted: Wanted) -> Export:
    """Return matching records as written, ordered by time: JSON without a line feed.

    ``folders``: the log's, and those of its archived files.
    """
    seen = Seen()
    runs = [run for parts in audit_files.merged(folders).values() for run in _ascending(parts, wanted, seen)]
    return Export(heapq.merge(*runs, key=_time_of), seen)


def time_span(folder: Path) -> tuple[str, str]:
    """Return the times of the first and the last record, as the ends of the lanes have them; "" if there is none."""
    ends: list[tuple[str, str]] = []
    for parts in audit_files.segments(folder).values():
        first = next((fields for fields, _ in records(parts)), None)
        last = next((fields for fields, _ in readable([audit_files.last_line(parts[-1].path)])), first)
        if first is not None and last is not None:
            ends.append((first.event_time, last.event_time))
    return min((each[0] for each in ends), default=""), max((each[1] for each in ends), default="")


class Tail(Struct, frozen=True):
    """Matching records, the oldest first, and what was looked at to find them."""

    found: list[_Found]
    seen: Seen

    @property
    def records(self) -> list[dict[str, Any]]:
        """The records, parsed."""
        return [msgspec.json.decode(record) for _, record in self.found]


def tail(folder: Path, count: int, wanted: Wanted = _ANY) -> Tail:
    """Return the newest matching records; of each lane only as many files are read as have so many."""
    seen, newest = Seen(), list[_Found]()
    for parts in audit_files.segments(folder).values():
        newest += _newest_of_lane(parts, count, wanted, seen)
    newest.sort(key=_time_of)
    return Tail(newest[-count:], seen)


def _newest_of_lane(segments: list[Segment], count: int, wanted: Wanted, seen: Seen) -> list[_Found]:
    """Return a lane's newest matching records, from its newest files; of the last two all records are looked at."""
    newest: list[_Found] = []
    for index, segment in enumerate(reversed(segments)):
        if index > 1 and len(newest) >= count:
            break
        matching: deque[_Found] = deque(maxlen=count)
        for found in records([segment]):
            seen.note(found[0])
            if wanted.fits(found[0]):
                matching.append(found)
        newest = [*matching, *newest][-count:]
    return newest


def show(folder: Path, wanted_id: str, wanted: Wanted = _ANY) -> Tail:
    """Return the records of an event id or a request id that match; all records are looked at."""
    seen, matching, sought = Seen(), list[_Found](), wanted_id.encode()
    for segment in (each for parts in audit_files.segments(folder).values() for each in parts):
        for line in audit_files.lines(segment.path):
            if wanted == _ANY and sought not in line:
                seen.records += 1  # without parsing it, which takes most of the time
                continue
            for found in readable([line]):
                seen.note(found[0])
                if wanted_id in (found[0].event_id, found[0].request_id) and wanted.fits(found[0]):
                    matching.append(found)
    matching.sort(key=_time_of)
    return Tail(matching, seen)


def last_uses(folder: Path, material_ids: Collection[str]) -> dict[str, str]:
    """Return the time of the newest record that each key material has been used in. Reads the whole log."""
    sought = {each.encode() for each in material_ids}
    newest: dict[str, str] = {}
    for segments in audit_files.segments(folder).values():
        for segment in segments:
            lines = (line for line in audit_files.lines(segment.path) if _MATERIAL in line)
            for fields, record in readable(line for line in lines if any(each in line for each in sought)):
                for each in _materials(record).intersection(material_ids):
                    newest[each] = max(newest.get(each, ""), fields.event_time)
    return newest


class Recorded(Struct, frozen=True, kw_only=True):
    """A record of the log and where it stands: its lane, and its number there."""

    lane: str
    sequence: int
    record: dict[str, Any]


def find_event(folders: Sequence[Path], event_name: str, parameters: dict[str, Any]) -> Recorded | None:
    """Return the first successful event of that name with these request parameters, among others. Reads the whole log.

    ``folders``: the log's, and those of its archived files. The same files are read as by a verification with them.
    """
    sought = [str(each).encode() for each in parameters.values()]
    for lane, segments in audit_files.merged(folders).items():
        for segment in segments:
            for line in audit_files.lines(segment.path):
                if all(each in line for each in sought) and (found := _as_event(line, event_name, parameters)):
                    head = audit_chain.head_of(line, segment.number)
                    if head is not None:
                        return Recorded(lane=lane, sequence=head.sequence, record=found)
    return None


def _as_event(line: bytes, event_name: str, parameters: dict[str, Any]) -> dict[str, Any] | None:
    """Return the line's record if it is of that event and parameters, and of a success."""
    for fields, record in readable(iter([line])):
        if fields.event_name == event_name and not fields.error_code:
            parsed: dict[str, Any] = msgspec.json.decode(record)
            given = parsed.get("requestParameters") or {}
            if all(given.get(name) == value for name, value in parameters.items()):
                return parsed
    return None


def _materials(record: bytes) -> set[str]:
    """Return the ids of the materials that a cryptographic operation has used."""
    more = msgspec.json.decode(record).get("additionalEventData") or {}
    return {str(value) for name, value in more.items() if name.casefold().endswith("keymaterialid")}


_MATERIAL: Final = b"eyMaterialId"


def _ascending(segments: list[Segment], wanted: Wanted, seen: Seen) -> tuple[Iterator[_Found], list[_Found]]:
    """Split the matching records of a lane into two runs that are ordered by time.

    A record is written when its request ends and has the time at which it began, so that a long request stands behind
    shorter ones that began later. Only such late records are held in memory; the others are read a second time.
    """
    late: list[_Found] = []
    count, newest = 0, ""
    for fields, record in records(segments):
        count += 1
        seen.note(fields)
        if fields.event_time < newest and wanted.fits(fields):
            late.append((fields, record))
        newest = max(newest, fields.event_time)
    late.sort(key=_time_of)
    return _punctual(islice(records(segments), count), wanted), late


def _punctual(records: Iterator[_Found], wanted: Wanted) -> Iterator[_Found]:
    newest = ""
    for fields, record in records:
        if fields.event_time >= newest:
            newest = fields.event_time
            if wanted.fits(fields):
                yield fields, record


def _time_of(found: _Found) -> str:
    return found[0].event_time


def records(segments: Sequence[Segment]) -> Iterator[tuple[Fields, bytes]]:
    """Yield the records of segments, with their fields."""
    for segment in segments:
        yield from readable(audit_files.lines(segment.path))


def readable(lines: Iterable[bytes]) -> Iterator[tuple[Fields, bytes]]:
    """Yield the records that can be parsed, with their fields; `hsmkms audit verify` names the others."""
    for line in lines:
        record = audit_chain.record_of(line)
        try:
            yield _decode(record), record
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
