"""Read the audit log from a position on, as it is written, for a collector that must get each record once.

The position of a lane is its last record that was read: where it ends in its file, its number, and its hash. Files are
synced before they are read, so that no record is handed on that a crash takes back.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from hsmkms.errors import StoreError
from hsmkms.rules.audit import chain as audit_chain
from hsmkms.service.audit import reading
from hsmkms.service.audit.filters import Fields
from hsmkms.store import audit_files
from hsmkms.store.audit_files import Segment

BATCH_BYTES: Final = 1 << 20
"""How much of a lane is read at once, beside the rest of a line."""


class Position(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The last record of a lane that was read. ``offset``: where its line ends in the file of the segment."""

    segment: int
    offset: int
    sequence: int
    hash: str


class Cursor(Struct, frozen=True, forbid_unknown_fields=True):
    """The position in each lane."""

    lanes: dict[str, Position]


def decode_cursor(text: bytes) -> Cursor:
    """Parse a cursor. Raises ValueError."""
    return msgspec.json.decode(text, type=Cursor)


class Follower:
    """Reads what is new in the files of a log. ``folders``: the log's, and those of its archived files."""

    def __init__(self, folders: Sequence[Path], cursor: Cursor) -> None:
        """Raise StoreError if the log does not have the records that the cursor names."""
        self._folders = folders
        self._positions = dict(cursor.lanes)
        lanes = audit_files.merged(folders)
        for lane, position in self._positions.items():
            _require_same(lane, position, lanes.get(lane, []))

    @property
    def cursor(self) -> Cursor:
        """The present position."""
        return Cursor(dict(self._positions))

    def read(self) -> list[tuple[Fields, bytes]]:
        """Return new records in the order of their times, some of each lane; none if there are none at present.

        StoreError if records are missing, or a file does not continue what was read of it.
        """
        records: list[tuple[Fields, bytes]] = []
        for lane, parts in sorted(audit_files.merged(self._folders).items()):
            lines = self._read_lane(lane, parts)
            records += reading.readable(lines)
        records.sort(key=lambda found: found[0].event_time)
        return records

    def _read_lane(self, lane: str, parts: list[Segment]) -> list[bytes]:
        """Return the next lines of a lane, from the file of its position or the first one behind that has any."""
        position = self._positions.get(lane)
        for part in parts:
            at = 0
            if position is not None:
                if part.number < position.segment:
                    continue
                at = position.offset if part.number == position.segment else 0
            lines = _lines_from(part, at)
            if lines:
                self._positions[lane] = _advance(lane, position, part, at, lines)
                return lines
        return []


def _lines_from(part: Segment, offset: int) -> list[bytes]:
    size = audit_files.size(part.path)
    if size < offset:
        raise StoreError(f"{part.path} is shorter than it was when it was read: run `hsmkms audit verify`")
    if size == offset:
        return []
    audit_files.sync(part.path)
    return audit_files.lines_from(part.path, offset, size, BATCH_BYTES)  # what came since may not be synced


def _advance(lane: str, position: Position | None, part: Segment, offset: int, lines: list[bytes]) -> Position:
    """Return the position after the lines. StoreError unless they continue the lane there."""
    for line in lines:
        head, expected = audit_chain.head_of(line, part.number), position.sequence + 1 if position is not None else None
        if head is None:
            raise StoreError(f"{part.path} has a line that is no record: run `hsmkms audit verify`")
        if position is not None and head.sequence > position.sequence + 1:
            raise StoreError(
                f"records {expected} to {head.sequence - 1} of lane {lane} of the audit log are not there any more: "
                "if they were archived, name the folder by --archive"
            )
        if position is not None and not audit_chain.follows(position.hash, line):
            raise StoreError(
                f"record {head.sequence} of lane {lane} of the audit log does not follow the record before it: run "
                "`hsmkms audit verify`"
            )
        offset += len(line)
        position = Position(segment=part.number, offset=offset, sequence=head.sequence, hash=head.hash)
    assert position is not None  # noqa: S101 - there is a line
    return position


def _require_same(lane: str, position: Position, parts: Sequence[Segment]) -> None:
    """Raise StoreError unless the lane has that record there; the file may have been archived since."""
    part = next((each for each in parts if each.number == position.segment), None)
    if part is None and any(each.number > position.segment for each in parts):
        return  # the first line of the next file must follow the record
    line = audit_files.line_before(part.path, position.offset) if part is not None else b""
    head = audit_chain.head_of(line, position.segment)
    if head is None or (head.sequence, head.hash) != (position.sequence, position.hash):
        raise StoreError(
            f"record {position.sequence} of lane {lane} of the audit log is not the one at which the cursor is: run "
            "`hsmkms audit verify`, or export all of it with another cursor"
        )
