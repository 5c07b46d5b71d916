"""The files of the audit log: lanes cut into segments, and the seals. What their lines mean is not known here.

``audit/lane-0001.00000001.jsonl`` is the first segment of the first lane. One process at a time holds a lane, by a lock
on ``lane-0001.lock`` that ends with the process; the next one goes on behind the last complete line. Files only grow,
until whole segments are moved to an archive.
"""

import logging
import os
import re
from collections.abc import Iterator
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
"""Where the log is in the data folder."""

SEALS: Final = "seals.jsonl"
SEAL_LOCK: Final = "seal.lock"
_BLOCK: Final = 65536
_match_segment: Final = re.compile(r"lane-(\d{4})\.(\d{8})\.jsonl").fullmatch


class Segment(NamedTuple):
    """A part of a lane in a file of its own; ``number`` counts from 1."""

    lane: str
    number: int
    path: Path


def segments(folder: Path) -> dict[str, list[Segment]]:
    """All segments in a folder by lane, oldest first; none if the folder is not there."""
    found: dict[str, list[Segment]] = {}
    with _readable(folder):
        names = os.listdir(folder) if folder.is_dir() else ()  # noqa: PTH208 - a name is all that is needed
    for name in sorted(names):
        match = _match_segment(name)
        if match:
            found.setdefault(match[1], []).append(Segment(match[1], int(match[2]), folder / name))
    return found


def is_of_the_log(name: str) -> bool:
    """True for the name of a segment, and of the seals."""
    return name == SEALS or _match_segment(name) is not None


def segment_path(folder: Path, lane: str, number: int) -> Path:
    """Where a segment is."""
    return folder / f"lane-{lane}.{number:08}.jsonl"


def last_line(path: Path) -> bytes:
    """The last complete line of a file, b"" if there is none. What follows it is of an interrupted write."""
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
    """The complete lines of a file, with their line feeds."""
    with _readable(path), path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line


def line_at(path: Path, offset: int) -> bytes:
    """The line of a file that begins there."""
    with _readable(path), path.open("rb") as file:
        file.seek(offset)
        return file.readline()


def size(path: Path) -> int:
    """The size of a file, 0 if it is not there."""
    with _readable(path), suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def check_own(folder: Path) -> None:
    """Raise StoreError if another user can change the log: its folder, or a file in it."""
    if os.path.lexists(folder):
        for each in (folder, *sorted(folder.iterdir())):
            files.check_own(each)


def make_folder(folder: Path) -> None:
    """Make the log's folder for its owner alone."""
    try:
        folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
    except OSError as exc:
        raise unwritable(folder, exc) from exc


def append(path: Path, line: bytes) -> None:
    """Add a line to a file, durably. StoreError if it cannot be written."""
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
    """Make sure that what any process has written to a file is on the disk."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise unwritable(path, exc) from exc


class LaneFile:
    """A lane that this process holds, open at its end. Not thread-safe."""

    def __init__(self, folder: Path, lane: str, lock: int) -> None:
        self.lane = lane
        self._folder = folder
        self._lock = lock
        self._descriptor = -1
        held = segments(folder).get(lane, [])
        self.number = held[-1].number if held else 0
        self.size = held[-1].path.stat().st_size if held else 0
        self.last = b""
        for each in reversed(held):
            self.last = last_line(each.path)
            if self.last:
                break

    @classmethod
    def take(cls, folder: Path, lane: str) -> Self | None:
        """Take a lane; None if somebody holds it."""
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
        """Add complete lines to the segment; all or nothing, not yet durable. StoreError if they cannot be written."""
        path = segment_path(self._folder, self.lane, max(self.number, 1))
        try:
            if self._descriptor < 0:
                self._open()
            try:
                _write(self._descriptor, data)
            except OSError:
                self.undo(self.size)
                raise
        except OSError as exc:
            raise unwritable(path, exc) from exc
        self.size += len(data)

    def sync(self) -> None:
        """Wait until all that was written is on the disk. StoreError if it does not get there."""
        try:
            os.fdatasync(self._descriptor)
        except OSError as exc:
            raise unwritable(segment_path(self._folder, self.lane, self.number), exc) from exc

    def undo(self, size: int) -> None:
        """Take back what was written after ``size`` and is not known to be on the disk; the file is opened anew."""
        with suppress(OSError):
            os.ftruncate(self._descriptor, size)
        self._shut()
        self.size = size

    def begin_segment(self) -> None:
        """What comes next goes to a new file."""
        self._shut()
        self.number += 1
        self.size = 0

    def close(self) -> None:
        """Let the lane go."""
        self._shut()
        os.close(self._lock)

    def _shut(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def _open(self) -> None:
        self.number = max(self.number, 1)
        path = segment_path(self._folder, self.lane, self.number)
        fresh = not path.exists()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
        if fresh:
            atomic_write.sync_folder(self._folder)
        self.size = _cut_torn_end(self._descriptor, path)
        os.lseek(self._descriptor, self.size, os.SEEK_SET)


def _cut_torn_end(descriptor: int, path: Path) -> int:
    """Remove what an interrupted write left behind the last complete line; where that ends.

    Nobody was told that it was written: an answer leaves after its record.
    """
    size = os.fstat(descriptor).st_size
    end = size
    while end:
        start = max(end - _BLOCK, 0)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
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
    """Lock a file; None if another process or another log of this one has it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    except OSError as exc:
        raise unwritable(path, exc) from exc
    if not try_lock(descriptor):
        os.close(descriptor)
        return None
    return descriptor


def replace(path: Path, value: bytes) -> None:
    """Write a small file in the place of another, so that one of the two is there whatever happens."""
    try:
        atomic_write.replace(path, value)
    except OSError as exc:
        raise unwritable(path, exc) from exc


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Read a file in the block; StoreError if that cannot be done."""
    try:
        yield
    except OSError as exc:
        sentence = f"the audit log {path} cannot be read ({exc.strerror}): mend its mode, or put a file there"
        raise StoreError(sentence) from exc


def unwritable(path: Path, error: OSError) -> StoreError:
    """The error for a file of the log that cannot be written."""
    return StoreError(f"the audit log {path} cannot be written ({error.strerror}): free its disk, or mend its mode")
