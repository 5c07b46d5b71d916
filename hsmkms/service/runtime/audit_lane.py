"""One lane of the audit log: records keep the order in which they come, and many of them share one wait for the disk.

Whoever wants his record to be safe calls ``flush``. The first one writes what all have added so far; those who come
meanwhile wait for him, find their records safe or write the next batch.
"""

import logging
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Final

from hsmkms.errors import StoreError
from hsmkms.process import ForkGuard
from hsmkms.rules.audit import chain as audit_chain
from hsmkms.service.runtime.ports import KnownEpoch
from hsmkms.store.audit_files import LaneFile

log = logging.getLogger("hsmkms.service")

MAX_UNWRITTEN: Final = 50_000
"""Records that wait in memory while the log cannot be written; beyond that nothing is done any more."""


class Journal:
    """Adds records to a lane of its own, taken at the first one. Thread-safe; of no use in a forked child.

    ``known`` has the newest change to the database that this process has read; ``newest`` queries the database.
    """

    def __init__(
        self,
        folder: Path,
        installation_id: str,
        known: KnownEpoch,
        newest: Callable[[], int],
        segment_bytes: int,
        only: str | None = None,
    ) -> None:
        self._folder = folder
        self._installation_id = installation_id
        self._known = known
        self._newest = newest
        self._least_epoch = 0
        self._segment_bytes = segment_bytes
        self._only = only
        self._guard = ForkGuard()
        self._adding = threading.Lock()
        self._turn = threading.Condition()
        self._writing = False
        self._lane: LaneFile | None = None
        self._previous = ""
        self._added = 0
        self._safe = 0
        self._unwritten: list[bytes] = []
        self.broken = False
        """True while the log cannot be written."""

    @property
    def used(self) -> bool:
        """True once a lane was taken."""
        return self._lane is not None

    @property
    def waiting(self) -> bool:
        """True while there is something to flush."""
        return self._safe < self._added

    @property
    def safe(self) -> int:
        """The number of the newest record that is on the disk."""
        return self._safe

    def take(self) -> str | None:
        """Take a lane, unless that was done; its name. None if the only one that was wanted is held by another."""
        with self._adding:
            return self._taken().lane if self._lane is not None or self._try_to_take() else None

    def add(self, record: bytes) -> int:
        """Add a record to the lane; the number by which ``flush`` knows it. StoreError if no lane can be had."""
        with self._adding:
            if self._guard.foreign:
                self._guard.refuse()
            if self._lane is None:
                self._taken()
            unwritten = self._unwritten
            if len(unwritten) >= MAX_UNWRITTEN:
                raise StoreError("the audit log cannot be written, and too many records wait for it already")
            unwritten.append(record)
            self._added += 1
            return self._added

    def flush(self, number: int | None = None) -> None:
        """Return when that record (or every one that was added) is on the disk. StoreError if it does not get there."""
        wanted = self._added if number is None else number
        while self._safe < wanted:
            with self._turn:
                if self._writing:
                    self._turn.wait()
                    continue
                self._writing = True
            try:
                self._write()
            finally:
                with self._turn:
                    self._writing = False
                    self._turn.notify_all()

    def close(self) -> None:
        """Write what is left, and let the lane go; in a forked child it stays the parent's."""
        if self._lane is None or self._guard.foreign:
            return
        try:
            self.flush()
        finally:
            self._lane.close()

    def _write(self) -> None:
        """Chain the records that there are and bring them to the disk. One thread at a time is here."""
        with self._adding:
            records, self._unwritten = self._unwritten, []
        lane = self._taken()
        epoch = max(self._known.epoch, self._least_epoch)
        previous, lines = audit_chain.extend(self._previous, lane.lane, self._safe + 1, epoch, records)
        if lane.size >= self._segment_bytes:
            lane.begin_segment()
        before = lane.size
        try:
            lane.write(b"".join(lines))
            try:
                lane.sync()
            except StoreError:
                lane.undo(before)
                raise
        except StoreError:
            with self._adding:
                self._unwritten[:0] = records
            self.broken = True
            raise
        self._previous = previous
        self._safe += len(records)
        self.broken = False

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
        for number in count(1):
            name = self._only or f"{number:04}"
            lane = LaneFile.take(self._folder, name)
            if lane is not None and self._begin(lane):
                return True
            if self._only:
                break
        return False

    def _begin(self, lane: LaneFile) -> bool:
        """Go on where the lane ends; False (and the lane is let go) if its end cannot be read."""
        head = audit_chain.head_of(lane.last, lane.number)
        if lane.last and head is None:
            log.error("lane %s of the audit log ends in a line that is no record: run `hsmkms audit verify`", lane.lane)
            lane.close()
            return False
        self._previous = head.hash if head else audit_chain.genesis(self._installation_id, lane.lane)
        self._added = self._safe = head.sequence if head else 0
        self._least_epoch = self._newest()  # whoever held the lane before may have known more than this process
        self._lane = lane
        return True
