"""Noting when a key was last used, without writing for each use.

A process writes down a key's first use at once and then at most one a minute, together with those of all other keys;
what is left is written when it closes. So what others read is at most a minute old, and a crash loses no more. A use
that cannot be written (a full disk) is kept for the next time: it must not fail the request.
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
from hsmkms.service.runtime.ports import RecordedCall
from hsmkms.service.runtime.record_cache import CachedKey
from hsmkms.store import usage as stored
from hsmkms.store.engine import Store
from hsmkms.store.usage import LastUse

log = logging.getLogger("hsmkms.service")

WRITE_EVERY_SECONDS: Final = 60.0

_Key = tuple[str, str]


class UsageBook:
    """The last uses that this process knows of, by key id and region. Thread-safe; of no use in a forked child."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._guard = ForkGuard()
        self._writing = threading.Lock()
        self._noting = threading.Lock()
        self._unwritten: dict[_Key, tuple[Operation, datetime, str]] = {}
        self._written_at: dict[_Key, float] = {}

    def note(self, call: RecordedCall, key: CachedKey) -> None:
        """Note that a cryptographic operation with the key succeeded: its last use, and its material for the audit."""
        record = key.record
        call.material_id = key.current_material_id or None
        subject = (record.key_id, record.region)
        with self._noting:
            self._unwritten[subject] = (call.operation, call.now, call.caller.request_id)
        written_at = self._written_at.get(subject)
        if written_at is None or time.monotonic() - written_at >= WRITE_EVERY_SECONDS:
            self.write()

    def write(self) -> None:
        """Write down what is not written yet. What hinders it is logged, and tried again later."""
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
            except HsmKmsError as exc:
                with self._noting:
                    self._unwritten = taken | self._unwritten
                log.warning("the last uses of %d keys could not be written down: %s", len(taken), exc)

    def last(self, key_id: str, region: str) -> LastUse | None:
        """The last use of the key, in any process."""
        self.write()
        return stored.fetch(self._store, key_id, region)

    def all(self) -> dict[_Key, LastUse]:
        """The last uses of all keys that were ever used, by key id and region."""
        self.write()
        return stored.fetch_all(self._store)

    def tracked_since(self) -> datetime:
        """Since when uses are noted at all."""
        return stored.tracked_since(self._store)


def of_this_key(use: LastUse | None, record: KeyRecord) -> LastUse | None:
    """The use, unless it was of an earlier replica that the region had before it was made again."""
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
