"""Key records and aliases in the process, dropped at the next call after anybody changed them.

The change signal costs a few microseconds: has any other connection committed to the control-plane database? Only
then is the change log asked what changed, and only those records are dropped. A record that was read before a change
and would be kept after it is recognised by the epoch at which it was read.
"""

import threading
from collections.abc import Callable
from typing import Final

from hsmkms.model.records import AliasRecord, KeyRecord
from hsmkms.process import ForkGuard
from hsmkms.rules import blob
from hsmkms.store import aliases, changes, keys, users
from hsmkms.store.engine import Store
from hsmkms.store.users import AccessKeyRow

MAX_ENTRIES: Final = 50_000
"""Records kept in one process; beyond that all are dropped and read again when needed."""


class CachedKey:
    """A record with what every encryption would otherwise work out anew."""

    __slots__ = ("covers", "current_cka_id", "current_header", "current_material_id", "record")

    def __init__(self, record: KeyRecord) -> None:
        self.record = record
        self.covers = frozenset(each.cka_id for each in record.materials)
        current = record.current
        self.current_material_id = current.material_id if current else ""
        self.current_cka_id = current.cka_id if current else b""
        self.current_header = blob.header(record.key_id, current.material_id) if current else b""


class RecordCache:
    """KMS keys and aliases by region and name. Thread-safe; of no use in a forked child."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._guard = ForkGuard()
        self._signal = changes.ChangeSignal(store)
        self._lock = threading.Lock()
        self._owed = False
        self._begun = 0
        self._done = 0
        self._keys: dict[tuple[str, str], CachedKey] = {}
        self._aliases: dict[tuple[str, str], AliasRecord] = {}
        self._access_keys: dict[str, AccessKeyRow] = {}
        try:
            with store.reading() as conn:
                self._epoch = changes.latest(conn)
        except BaseException:
            self._signal.close()
            raise

    @property
    def epoch(self) -> int:
        """The newest change that this process knows of."""
        return self._epoch

    def key(self, region: str, key_id: str, *, just_looked: bool = False) -> CachedKey | None:
        """The KMS key as it is now, or None. ``just_looked``: this request has asked the cache already."""
        if not just_looked:
            self._freshen()
        cached = self._keys.get((region, key_id))
        return cached if cached is not None else self._load_key(region, key_id)

    def alias(self, region: str, name: str) -> AliasRecord | None:
        """The alias as it is now, or None."""
        self._freshen()
        cached = self._aliases.get((region, name))
        return cached if cached is not None else self._load_alias(region, name)

    def access_key(self, access_key_id: str) -> AccessKeyRow | None:
        """The access key as it is now, or None."""
        self._freshen()
        cached = self._access_keys.get(access_key_id)
        return cached if cached is not None else self._load_access_key(access_key_id)

    def close(self) -> None:
        """Let the signal's connection go."""
        self._signal.close()

    def _freshen(self) -> None:
        """Drop what others have changed before this call.

        Threads that wait for the lock share one look at the signal: any that began after they came is as good.
        """
        self._guard.check()
        begun_before = self._begun
        with self._lock:
            if self._done > begun_before:
                return
            self._begun += 1
            # Owed until it is done: a signal that was heard is not given a second time.
            self._owed = self._signal.moved() or self._owed
            if self._owed:
                self._drop_changed()
                self._owed = False
            self._done = self._begun

    def _drop_changed(self) -> None:
        with self._store.reading() as conn:
            for epoch, region, subject in changes.since(conn, self._epoch):
                self._keys.pop((region, subject), None)
                self._aliases.pop((region, subject), None)
                self._access_keys.pop(subject, None)
                self._epoch = epoch

    def _load_key(self, region: str, key_id: str) -> CachedKey | None:
        with self._store.reading() as conn:
            epoch = changes.latest(conn)
            record = keys.fetch(conn, region, key_id)
        if record is None:
            return None
        cached = CachedKey(record)
        self._keep(epoch, lambda: self._keys.__setitem__((region, key_id), cached))
        return cached

    def _load_alias(self, region: str, name: str) -> AliasRecord | None:
        with self._store.reading() as conn:
            epoch = changes.latest(conn)
            record = aliases.fetch(conn, region, name)
        if record is not None:
            self._keep(epoch, lambda: self._aliases.__setitem__((region, name), record))
        return record

    def _load_access_key(self, access_key_id: str) -> AccessKeyRow | None:
        with self._store.reading() as conn:
            epoch = changes.latest(conn)
            row = users.fetch_access_key(conn, access_key_id)
        if row is not None:
            self._keep(epoch, lambda: self._access_keys.__setitem__(access_key_id, row))
        return row

    def _keep(self, epoch: int, put: Callable[[], None]) -> None:
        with self._lock:
            if epoch < self._epoch:
                return  # read before a change that has been dealt with already
            if len(self._keys) + len(self._aliases) >= MAX_ENTRIES:
                self._keys.clear()
                self._aliases.clear()
            put()
