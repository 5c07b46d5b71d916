"""Reading the audit log: its files are enough, no token and no database is asked."""

import heapq
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from hsmkms.rules.audit import chain as audit_chain
from hsmkms.store import audit_files
from hsmkms.store.audit_files import Segment


class _Named(Struct):
    arn: str = field(name="ARN", default="")


class _Told(Struct):
    """What a record is looked for by."""

    event_time: str = field(name="eventTime", default="")
    event_name: str = field(name="eventName", default="")
    event_id: str = field(name="eventID", default="")
    request_id: str = field(name="requestID", default="")
    resources: list[_Named] = []


_decode = msgspec.json.Decoder(_Told).decode


class Wanted(Struct, frozen=True, kw_only=True):
    """Which records are asked for. Times as in the records (2026-01-02T03:04:05Z); ``key``: a part of an ARN."""

    start_time: str | None = None
    end_time: str | None = None
    event_name: str | None = None
    key: str | None = None

    def fits(self, told: _Told) -> bool:
        """True for a record that is asked for."""
        return (
            (self.start_time is None or told.event_time >= self.start_time)
            and (self.end_time is None or told.event_time < self.end_time)
            and (self.event_name is None or told.event_name == self.event_name)
            and (self.key is None or any(self.key in each.arn for each in told.resources))
        )


def export(folder: Path, wanted: Wanted) -> Iterator[bytes]:
    """Records in the order of their time, as they were written: JSON without a line feed."""
    lanes = [_records(parts) for parts in audit_files.segments(folder).values()]
    merged = heapq.merge(*lanes, key=lambda both: both[0].event_time)
    return (record for told, record in merged if wanted.fits(told))


def tail(folder: Path, count: int) -> list[dict[str, Any]]:
    """The newest records, oldest of them first."""
    newest: list[tuple[_Told, bytes]] = []
    for parts in audit_files.segments(folder).values():
        last: deque[tuple[_Told, bytes]] = deque(maxlen=count)
        last.extend(_records(parts[-2:]))
        newest += last
    newest.sort(key=lambda both: both[0].event_time)
    return [msgspec.json.decode(record) for _, record in newest[-count:]]


def show(folder: Path, wanted_id: str) -> list[dict[str, Any]]:
    """The records of an event id or a request id."""
    sought = wanted_id.encode()
    found = []
    for parts in audit_files.segments(folder).values():
        for each in parts:
            lines = (line for line in audit_files.lines(each.path) if sought in line)
            for told, record in _told(lines):
                if wanted_id in (told.event_id, told.request_id):
                    found.append((told.event_time, record))
    return [msgspec.json.decode(record) for _, record in sorted(found)]


def _records(parts: list[Segment]) -> Iterator[tuple[_Told, bytes]]:
    for each in parts:
        yield from _told(audit_files.lines(each.path))


def _told(lines: Iterator[bytes]) -> Iterator[tuple[_Told, bytes]]:
    """Records that can be read; `hsmkms audit verify` names the others."""
    for line in lines:
        record = audit_chain.record_of(line)
        try:
            yield _decode(record), record
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
