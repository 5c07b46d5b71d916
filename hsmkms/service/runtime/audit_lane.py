"""Append records to one lane of the audit log, in order, with group commit: many records share one fsync.

A thread that needs its record on disk calls ``flush``. One thread writes all records added so far; threads that
arrive meanwhile sleep until theirs are on disk, or write the next batch. A thread writes only once no other is about
to add a record, as far as the queue of threads shows (gil_queue.py), but waits for them for some slices at most:
otherwise the threads that have just been answered would always miss the next batch, which would hold half of them.
"""

import logging
import threading
import time
from collections.abc import Callable
from itertools import count as numbers
from pathlib import Path
from typing import Final

from hsmkms.errors import StoreError
from hsmkms.model.audit import Head
from hsmkms.process import ForkGuard
from hsmkms.rules.audit import chain as audit_chain
from hsmkms.service.runtime.gil_queue import MOST_SLICES, GilQueue, Sleeper
from hsmkms.service.runtime.ports import KnownEpoch
from hsmkms.store.audit_files import LaneFile

log = logging.getLogger("hsmkms.service")

MAX_UNWRITTEN: Final = 50_000
"""Limit of records in memory while the log cannot be written; beyond it requests are refused."""

MOST_GATHERED: Final = 64
"""Number of threads for whose records one more does not wait."""

GATHER_SLICES: Final = 4
"""How long a thread waits for others that are about to add records, in slices of the queue of threads."""

QUICK_WRITE_SECONDS: Final = 0.0001
"""If the last write took less, a thread keeps its turn while it writes: files in memory."""


class Journal:
    """Appends records to a lane of its own, locked at the first record. Thread-safe; raises in a forked child.

    ``genesis`` returns the hash before the first record of a lane. ``known`` has the newest change to the database that
    this process has read; ``newest`` queries the database.
    """

    def __init__(
        self,
        folder: Path,
        genesis: Callable[[str], str],
        known: KnownEpoch,
        newest: Callable[[], int],
        segment_bytes: int,
        only: str | None = None,
        turns: GilQueue | None = None,
    ) -> None:
        self._folder = folder
        self._genesis = genesis
        self._known = known
        self._newest = newest
        self._least_epoch = 0
        self._segment_bytes = segment_bytes
        self._only = only
        self._guard = ForkGuard()
        self._adding = threading.Lock()
        self._turns = turns or GilQueue()
        self._batching = threading.Lock()
        self._writing = threading.Lock()
        self._sleepers: list[Sleeper] = []
        self._write_seconds = 0.0
        self._lane: LaneFile | None = None
        self._previous = ""
        self._added = 0
        self._safe = 0
        self._unwritten: list[bytes] = []
        self.end: tuple[str, Head] | None = None
        """The lane and its last record on disk, if it has any."""
        self.broken = False
        """True while the log cannot be written."""

    @property
    def used(self) -> bool:
        """True once a lane was locked."""
        return self._lane is not None

    @property
    def waiting(self) -> bool:
        """True while records are not on disk."""
        return self._safe < self._added

    @property
    def safe(self) -> int:
        """Return the number of the newest record on disk."""
        return self._safe

    def take(self) -> str | None:
        """Lock a lane, unless one is locked; return its name. None if the only acceptable lane is locked elsewhere."""
        self._guard.check()
        with self._adding:
            return self._taken().lane if self._lane is not None or self._try_to_take() else None

    def add(self, record: bytes) -> int:
        """Add a record to the lane; return its number for ``flush``. StoreError if no lane can be locked."""
        if self._guard.foreign:  # before the lock, which a thread of the parent may have held
            self._guard.refuse()
        with self._adding:
            if self._lane is None:
                self._taken()
            unwritten = self._unwritten
            if len(unwritten) >= MAX_UNWRITTEN:
                raise StoreError("the audit log cannot be written, and too many records wait for it already")
            unwritten.append(record)
            self._added = self._safe + len(unwritten)
            return self._added

    def flush(self, number: int | None = None) -> None:
        """Wait until that record (by default, every record) is on disk. StoreError if it cannot be written."""
        wanted = self._added if number is None else number
        may_gather = True
        while self._safe < wanted:
            if self._guard.foreign:
                self._guard.refuse()
            sleeper = self._join(wanted, may_gather=may_gather)
            if sleeper is None:
                self._write_for_all()
            else:
                self._turns.give_up()
                may_gather = self._sleep(sleeper)

    def _join(self, wanted: int, *, may_gather: bool) -> Sleeper | None:
        """Return this thread as one of those that sleep until their records are on disk; None if it is to write."""
        turns = self._turns
        may_gather = may_gather and self._write_seconds > QUICK_WRITE_SECONDS and not turns.is_disabled
        with self._batching:
            others_add = may_gather and turns.is_wanted and len(self._sleepers) < MOST_GATHERED
            if not (self._writing.locked() or others_add):
                return None
            try:
                sleeper = Sleeper(wanted, wants_turn=turns.is_held_here)
            except OSError as exc:
                raise StoreError(f"a thread cannot wait for the audit log ({exc.strerror})") from exc
            self._sleepers.append(sleeper)
            return sleeper

    def _sleep(self, sleeper: Sleeper) -> bool:
        """Sleep until the thread is woken; False if it has waited long enough for a writer."""
        while not self._turns.sleep(sleeper, self._slices(sleeper)):
            with self._batching:
                if not self._writing.locked() and self._turns.withdraw(sleeper):
                    if sleeper in self._sleepers:
                        self._sleepers.remove(sleeper)
                    return False
        return True

    def _slices(self, sleeper: Sleeper) -> int:
        """Return how long a thread sleeps before it looks again; while nobody writes, the first one looks sooner."""
        is_first = not self._writing.locked() and self._sleepers[:1] == [sleeper]
        return GATHER_SLICES if is_first else MOST_SLICES

    def _write_for_all(self) -> None:
        """Write a batch; wake the threads whose records are on disk, and one of the others to write the next.

        An interruption of the user may come at any line: the threads that are not woken then look for themselves.
        """
        try:
            with self._writing:
                if self._write_seconds > QUICK_WRITE_SECONDS and not self._turns.is_disabled:
                    self._turns.give_up()
                self._write()
        finally:
            with self._batching:
                done = [each for each in self._sleepers if each.number <= self._safe]
                rest = [each for each in self._sleepers if each.number > self._safe]
                self._sleepers = rest[1:]
            if done:
                self._turns.wake(done)
            if rest:
                self._turns.wake_without_turn(rest[0])

    def close(self) -> None:
        """Write the remaining records and release the lane; in a forked child the parent keeps it."""
        if self._lane is None or self._guard.foreign:
            return
        try:
            self.flush()
        finally:
            self._lane.close()

    def _write(self) -> None:
        """Chain the records in memory, write and fsync them. Called by one thread at a time.

        If that is interrupted, also by the user, the records are still in memory, and the lane ends where it did.
        """
        lane = self._taken()
        if lane.in_doubt:
            lane.undo()
        with self._adding:
            records = self._unwritten[:]
        if not records:
            return  # another thread has written them
        epoch = max(self._known.epoch, self._least_epoch)
        previous, lines = audit_chain.extend(self._previous, lane.lane, self._safe + 1, epoch, records)
        if lane.size >= self._segment_bytes:
            lane.begin_segment()
        data, began = b"".join(lines), time.monotonic()
        try:
            lane.write(data)
            lane.sync()
        except BaseException as exc:
            lane.undo()
            self.broken = self.broken or isinstance(exc, StoreError)
            raise
        self._write_seconds = time.monotonic() - began
        count, size = len(records), lane.size + len(data)
        safe = self._safe + count
        end = lane.lane, Head(sequence=safe, hash=previous, segment=lane.number)
        with self._adding:  # Python calls a signal's handler after calls only: there are none here
            del self._unwritten[:count]
            self._safe, self._previous, self.end, self.broken = safe, previous, end, False
            lane.size, lane.in_doubt = size, False

    def _taken(self) -> LaneFile:
        if self._guard.foreign:
            self._guard.refuse()
        if self._lane is None and not self._try_to_take():
            raise StoreError("the lane of the audit log is held by another process")
        assert self._lane is not None  # noqa: S101 - it was taken just now
        return self._lane

    def _try_to_take(self) -> bool:
        if self._guard.foreign:
            self._guard.refuse()
        for number in numbers(1):
            name = self._only or f"{number:04}"
            lane = LaneFile.take(self._folder, name)
            if lane is not None and self._begin(lane):
                return True
            if self._only:
                break
        return False

    def _begin(self, lane: LaneFile) -> bool:
        """Continue where the lane ends; False, after releasing the lane, if its end cannot be read."""
        head = audit_chain.head_of(lane.last, lane.number)
        if lane.last and head is None:
            log.error("lane %s of the audit log ends in a line that is no record: run `hsmkms audit verify`", lane.lane)
            lane.close()
            return False
        self._previous = head.hash if head else self._genesis(lane.lane)
        self._added = self._safe = head.sequence if head else 0
        self._least_epoch = self._newest()  # the lane's previous holder may have read more changes than this process
        self._lane = lane
        return True
