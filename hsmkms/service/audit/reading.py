"""Read the audit log from its files, without token or database."""

import heapq
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from hsmkms.rules.audit import chain as audit_chain
from hsmkms.store import audit_files
from hsmkms.store.audit_files import Segment


class _Named(Struct):
    arn: str = field(name="ARN", default="")


class _Fields(Struct):
    """The searchable fields of a record."""

    event_time: str = field(name="eventTime", default="")
    event_name: str = field(name="eventName", default="")
    event_id: str = field(name="eventID", default="")
    request_id: str = field(name="requestID", default="")
    resources: list[_Named] = []


_Found = tuple[_Fields, bytes]

_decode = msgspec.json.Decoder(_Fields).decode


class Wanted(Struct, frozen=True, kw_only=True):
    """Filter of records. Times as in the records (2026-01-02T03:04:05Z); ``key``: a part of an ARN."""

    start_time: str | None = None
    end_time: str | None = None
    event_name: str | None = None
    key: str | None = None

    def fits(self, fields: _Fields) -> bool:
        """Return True for a record that matches."""
        return (
            (self.start_time is None or fields.event_time >= self.start_time)
            and (self.end_time is None or fields.event_time < self.end_time)
            and (self.event_name is None or fields.event_name == self.event_name)
            and (self.key is None or any(self.key in each.arn for each in fields.resources))
        )


def export(folder: Path, wanted: Wanted) -> Iterator[bytes]:
    """Yield matching records as written, ordered by time: JSON without a line feed."""
    runs = [run for parts in audit_files.segments(folder).values() for run in _ascending(parts, wanted)]
    return (record for _, record in heapq.merge(*runs, key=_time_of))


def tail(folder: Path, count: int) -> list[dict[str, Any]]:
    """Return the newest records, the oldest of them first."""
    newest: list[tuple[_Fields, bytes]] = []
    for parts in audit_files.segments(folder).values():
        last: deque[tuple[_Fields, bytes]] = deque(maxlen=count)
        last.extend(_records(parts[-2:]))
        newest += last
    newest.sort(key=lambda both: both[0].event_time)
    return [msgspec.json.decode(record) for _, record in newest[-count:]]


def show(folder: Path, wanted_id: str) -> list[dict[str, Any]]:
    """Return the records of an event id or a request id."""
    sought = wanted_id.encode()
    matches = []
    for segments in audit_files.segments(folder).values():
        for segment in segments:
            lines = (line for line in audit_files.lines(segment.path) if sought in line)
            for fields, record in _readable(lines):
                if wanted_id in (fields.event_id, fields.request_id):
                    matches.append((fields.event_time, record))
    return [msgspec.json.decode(record) for _, record in sorted(matches)]


def _ascending(segments: list[Segment], wanted: Wanted) -> tuple[Iterator[_Found], list[_Found]]:
    """Split the matching records of a lane into two runs that are ordered by time.

    A record is written when its request ends and has the time at which it began, so that a long request stands behind
    shorter ones that began later. Only such late records are held in memory; the others are read a second time.
    """
    late: list[_Found] = []
    count, newest = 0, ""
    for fields, record in _records(segments):
        count += 1
        if fields.event_time < newest and wanted.fits(fields):
            late.append((fields, record))
        newest = max(newest, fields.event_time)
    late.sort(key=_time_of)
    return _punctual(islice(_records(segments), count), wanted), late


def _punctual(records: Iterator[_Found], wanted: Wanted) -> Iterator[_Found]:
    newest = ""
    for fields, record in records:
        if fields.event_time >= newest:
            newest = fields.event_time
            if wanted.fits(fields):
                yield fields, record


def _time_of(found: _Found) -> str:
    return found[0].event_time


def _records(segments: list[Segment]) -> Iterator[tuple[_Fields, bytes]]:
    for segment in segments:
        yield from _readable(audit_files.lines(segment.path))


def _readable(lines: Iterator[bytes]) -> Iterator[tuple[_Fields, bytes]]:
    """Yield the records that can be parsed, with their fields; `hsmkms audit verify` names the others."""
    for line in lines:
        record = audit_chain.record_of(line)
        try:
            yield _decode(record), record
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
