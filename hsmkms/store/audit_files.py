"""Read and append the files of the audit log: lanes split into segments, and the seals. Lines are opaque here.

``audit/lane-0001.00000001.jsonl`` is the first segment of the first lane. One process at a time owns a lane, by a file
lock on ``lane-0001.lock`` that ends with the process; the next owner continues after the last complete line. Files only
grow, until whole segments are moved to an archive.
"""

import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, Self

from hsmkms import atomic_write
from hsmkms.errors import StoreError
from hsmkms.file_lock import try_lock
from hsmkms.store import files
from hsmkms.store.files import FILE_MODE, FOLDER_MODE

log = logging.getLogger("hsmkms.store")

FOLDER: Final = "audit"
"""Name of the log's folder in the data folder."""

SEALS: Final = "seals.jsonl"
SEAL_LOCK: Final = "seal.lock"
_BLOCK: Final = 65536
_match_segment: Final = re.compile(r"lane-(\d{4})\.(\d{8})\.jsonl").fullmatch


class Segment(NamedTuple):
    """One file of a lane; ``number`` counts from 1."""

    lane: str
    number: int
    path: Path


def segments(folder: Path) -> dict[str, list[Segment]]:
    """Return all segments in a folder by lane, oldest first; empty if the folder does not exist."""
    by_lane: dict[str, list[Segment]] = {}
    with _readable(folder):
        names = os.listdir(folder) if folder.is_dir() else ()  # noqa: PTH208 - a name is all that is needed
    for name in sorted(names):
        match = _match_segment(name)
        if match:
            by_lane.setdefault(match[1], []).append(Segment(match[1], int(match[2]), folder / name))
    return by_lane


def merged(folders: Iterable[Path]) -> dict[str, list[Segment]]:
    """Return the segments of a log and its archives by lane, oldest first; each number once, from the first folder.

    All that reads archives reads them by this function: what is verified and what is believed must be the same files.
    """
    by_lane: dict[str, dict[int, Segment]] = {}
    for folder in folders:
        for lane, parts in segments(folder).items():
            for part in parts:
                by_lane.setdefault(lane, {}).setdefault(part.number, part)
    return {lane: [parts[number] for number in sorted(parts)] for lane, parts in by_lane.items()}


def is_of_the_log(name: str) -> bool:
    """Return True for the name of a segment, and of the seals."""
    return name == SEALS or _match_segment(name) is not None


def segment_path(folder: Path, lane: str, number: int) -> Path:
    """Return the path of a segment."""
    return folder / f"lane-{lane}.{number:08}.jsonl"


def last_line(path: Path) -> bytes:
    """Return the last complete line of a file, b"" if there is none. Bytes after it are an interrupted write."""
    with _readable(path), path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        tail = b""
        while end:
            start = max(end - _BLOCK, 0)
            file.seek(start)
            tail = file.read(end - start) + tail
            end = start
            complete = tail[: tail.rfind(b"\n") + 1]
            begin = complete.rfind(b"\n", 0, -1)
            if begin >= 0 or not start:
                return complete[begin + 1 :]
    return b""


def lines(path: Path) -> Iterator[bytes]:
    """Yield the complete lines of a file, with their line feeds."""
    with _readable(path), path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line


def lines_from(path: Path, offset: int, end: int, most_bytes: int) -> list[bytes]:
    """Return complete lines between two offsets: so many bytes, and the rest of the last line."""
    lines = list[bytes]()
    with _readable(path), path.open("rb") as file:
        file.seek(offset)
        for line in file.readlines(min(most_bytes, end - offset)):
            offset += len(line)
            if offset <= end and line.endswith(b"\n"):
                lines.append(line)
    return lines


def line_before(path: Path, offset: int) -> bytes:
    """Return the line that ends at an offset of a file; b"" if none does."""
    with _readable(path), path.open("rb") as file:
        begin, text = offset, b""
        while begin and text.count(b"\n") < 2:  # noqa: PLR2004 - the end of the line before, and its own
            begin = max(begin - _BLOCK, 0)
            file.seek(begin)
            text = file.read(offset - begin)
    complete = len(text) == offset - begin and text.endswith(b"\n")
    return text[text.rfind(b"\n", 0, -1) + 1 :] if complete else b""


def line_at(path: Path, offset: int) -> bytes:
    """Return the line that begins at an offset of a file."""
    with _readable(path), path.open("rb") as file:
        file.seek(offset)
        return file.readline()


def size(path: Path) -> int:
    """Return the size of a file, 0 if it does not exist."""
    with _readable(path), suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def check_own(folder: Path) -> None:
    """Raise StoreError if another user can change the log: its folder, or a file in it."""
    if os.path.lexists(folder):
        with _readable(folder):
            paths = sorted(folder.iterdir())
        for path in (folder, *paths):
            files.check_own(path)


def make_folder(folder: Path) -> None:
    """Create the log's folder with mode 0700."""
    try:
        folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
    except OSError as exc:
        raise unwritable(folder, exc) from exc


def append(path: Path, line: bytes) -> None:
    """Append a line to a file and fsync it. StoreError if it cannot be written."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
        try:
            os.lseek(descriptor, _cut_torn_end(descriptor, path), os.SEEK_SET)
            _write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise unwritable(path, exc) from exc


def sync(path: Path) -> None:
    """Sync a file (fdatasync), including the writes of other processes."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise unwritable(path, exc) from exc


class LaneFile:
    """A lane that this process has locked, open for appending. Not thread-safe.

    ``size``: where the segment ends without a write that may have failed. ``in_doubt``: true from a write on, until the
    caller has taken it into ``size``, or undone it.
    """

    def __init__(self, folder: Path, lane: str, lock: int) -> None:
        self.lane = lane
        self._folder = folder
        self._lock = lock
        self._descriptor = -1
        existing = segments(folder).get(lane, [])
        self.number = existing[-1].number if existing else 0
        self.size = existing[-1].path.stat().st_size if existing else 0
        self.in_doubt = False
        self.last = b""
        for segment in reversed(existing):
            self.last = last_line(segment.path)
            if self.last:
                break

    @classmethod
    def take(cls, folder: Path, lane: str) -> Self | None:
        """Lock a lane and open it; None if it is locked already."""
        make_folder(folder)
        lock = _lock(folder / f"lane-{lane}.lock")
        if lock is None:
            return None
        try:
            return cls(folder, lane, lock)
        except BaseException:
            os.close(lock)
            raise

    def write(self, data: bytes) -> None:
        """Append complete lines to the segment, without syncing. StoreError if that fails: then call ``undo``."""
        try:
            if self._descriptor < 0:
                self._open()
            self.in_doubt = True
            _write(self._descriptor, data)
        except OSError as exc:
            raise unwritable(segment_path(self._folder, self.lane, max(self.number, 1)), exc) from exc

    def sync(self) -> None:
        """Sync what was written to disk (fdatasync). StoreError if that fails."""
        try:
            os.fdatasync(self._descriptor)
        except OSError as exc:
            raise unwritable(segment_path(self._folder, self.lane, self.number), exc) from exc

    def undo(self) -> None:
        """Truncate the segment to ``size``, since what follows may not be on disk; the next write reopens the file."""
        if self.in_doubt:
            with suppress(OSError):  # then the next write tries again
                os.ftruncate(self._descriptor, self.size)
                self.in_doubt = False
        self._shut()

    def begin_segment(self) -> None:
        """Make the next write go to a new segment file."""
        self._shut()
        self.number += 1
        self.size = 0

    def close(self) -> None:
        """Close the file and release the lane's lock."""
        self._shut()
        os.close(self._lock)

    def _shut(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _open(self) -> None:
        self.number = max(self.number, 1)
        path = segment_path(self._folder, self.lane, self.number)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
        try:
            size = _cut_torn_end(descriptor, path)
            if self.in_doubt and size > self.size:
                size = self.size
                os.ftruncate(descriptor, size)
            if not size:
                atomic_write.sync_folder(self._folder)
            os.lseek(descriptor, size, os.SEEK_SET)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor, self.size = descriptor, size


def _cut_torn_end(descriptor: int, path: Path) -> int:
    """Truncate the rest of an interrupted write after the last complete line; return the new end.

    No response was sent for such a record: responses are sent only after their records are written.
    """
    size = os.fstat(descriptor).st_size
    end = size
    while end:
        start = max(end - _BLOCK, 0)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        log.warning("%s ended in the middle of a line: %d bytes of an interrupted write were removed", path, size - end)
        os.ftruncate(descriptor, end)
    return end


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _lock(path: Path) -> int | None:
    """Lock a file without waiting; None if another process, or another log in this process, has locked it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    except OSError as exc:
        raise unwritable(path, exc) from exc
    if not try_lock(descriptor):
        os.close(descriptor)
        return None
    return descriptor


def replace(path: Path, value: bytes) -> None:
    """Replace a small file atomically."""
    try:
        atomic_write.replace(path, value)
    except OSError as exc:
        raise unwritable(path, exc) from exc


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn an OSError of reading a file in the block into StoreError."""
    try:
        yield
    except OSError as exc:
        sentence = f"the audit log {path} cannot be read ({exc.strerror}): correct its mode, or put a file there"
        raise StoreError(sentence) from exc


def unwritable(path: Path, error: OSError) -> StoreError:
    """Return the error for a file of the log that cannot be written."""
    return StoreError(f"the audit log {path} cannot be written ({error.strerror}): free its disk, or correct its mode")
