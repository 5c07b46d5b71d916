"""Store when a key was last used, without a write for each use.

A process writes a key's first use at once, and later ones at most once a minute, together with those of all other keys;
the rest is written when it closes. So other processes read values at most a minute old, and a crash loses no more. A
use that cannot be written (full disk) is kept for the next write: it must not fail the request.
"""

import logging
import threading
import time
from datetime import datetime
from typing import Final

from hsmkms.errors import HsmKmsError
from hsmkms.model.enums import Operation, TrackedOperation
from hsmkms.model.records import KeyRecord
from hsmkms.process import ForkGuard
from hsmkms.rules.audit.record import RecordedCall
from hsmkms.service.runtime.record_cache import CachedKey
from hsmkms.store import usage as stored
from hsmkms.store.engine import Store
from hsmkms.store.usage import LastUse

log = logging.getLogger("hsmkms.service")

WRITE_EVERY_SECONDS: Final = 60.0

_Key = tuple[str, str]


class LastUses:
    """The last uses noted by this process, by key id and region. Thread-safe; raises in a forked child."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._guard = ForkGuard()
        self._writing = threading.Lock()
        self._noting = threading.Lock()
        self._unwritten: dict[_Key, tuple[Operation, datetime, str]] = {}
        self._written_at: dict[_Key, float] = {}
        self._failed = False

    def note(self, call: RecordedCall, key: CachedKey) -> None:
        """Note that a cryptographic operation with the key succeeded: its last use, and its material for the audit."""
        record = key.record
        call.material_id = key.current_material_id or None
        subject = (record.key_id, record.region)
        use, lock = (call.operation, call.now, call.caller.request_id), self._noting
        lock.acquire()  # on the path of every request, where a with statement takes longer
        try:
            self._unwritten[subject] = use
        finally:
            lock.release()
        written_at = self._written_at.get(subject)
        if written_at is None or time.monotonic() - written_at >= WRITE_EVERY_SECONDS:
            self.write()

    def write(self) -> None:
        """Write all unwritten uses. Errors are logged, and the write is tried again later."""
        if self._guard.foreign:
            return
        with self._writing:
            with self._noting:
                taken, self._unwritten = self._unwritten, {}
            if not taken:
                return
            self._written_at |= dict.fromkeys(taken, time.monotonic())
            try:
                stored.note(self._store, [_last_use(key, *use) for key, use in taken.items()])
                self._failed = False
            except HsmKmsError as exc:
                self._failed = True
                with self._noting:
                    self._unwritten = taken | self._unwritten
                log.warning("the last uses of %d keys could not be written down: %s", len(taken), exc)

    def write_again(self) -> None:
        """Write what could not be written the last time."""
        if self._failed:
            self.write()

    def last(self, key_id: str, region: str) -> LastUse | None:
        """Return the last use of the key in any process."""
        self.write()
        return stored.fetch(self._store, key_id, region)

    def all(self) -> dict[_Key, LastUse]:
        """Return the last uses of all keys that were ever used, by key id and region."""
        self.write()
        return stored.fetch_all(self._store)

    def tracked_since(self) -> datetime:
        """Return since when uses are stored."""
        return stored.tracked_since(self._store)


def of_this_key(use: LastUse | None, record: KeyRecord) -> LastUse | None:
    """Return the use, or None if it was of an earlier replica of the same id in the region."""
    return use if use is not None and use.used_at >= record.creation_date else None


def _last_use(key: _Key, operation: Operation, used_at: datetime, request_id: str) -> LastUse:
    key_id, region = key
    return LastUse(
        key_id=key_id,
        region=region,
        operation=TrackedOperation(operation),
        used_at=used_at,
        request_id=request_id,
    )
