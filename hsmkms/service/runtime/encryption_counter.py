"""Count encryptions per material without a write for each.

One key material may make 2^32 encryptions (rules/budget.py), so they are counted, over all processes and permanently. A
process leases a number of encryptions in advance: the store counts them as used at once, so that a crash loses budget
but never undercounts; a clean exit returns the rest. Leases start at 1 and double to 65,536, so that a command costs
one and a busy server writes rarely. A server whose database may go away holds more in reserve (``reserve_ahead``).
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from hsmkms.errors import HsmKmsError, LimitExceededException
from hsmkms.process import ForkGuard
from hsmkms.rules import budget
from hsmkms.store import leases as stored
from hsmkms.store.engine import Store

log = logging.getLogger("hsmkms.service")

_FADING: Final = 0.99
"""What is left of the highest rate a second later."""

_LEAST_SECONDS: Final = 0.1


class Share(NamedTuple):
    """Used share of a budget, at least, in percent; ``crossed``: the last lease crossed that mark."""

    percent: int
    crossed: bool


class _Lease:
    """Encryptions under one material that this process may do before it needs another lease."""

    __slots__ = ("_counter", "_material_id", "granted", "last_grant", "lock", "peak_rate", "remaining", "spent")

    def __init__(self, counter: "EncryptionCounter", material_id: str) -> None:
        self._counter = counter
        self._material_id = material_id
        self.lock = threading.Lock()
        self.remaining = 0
        self.last_grant = 0
        self.granted = self.spent = 0
        """All that was leased, and how many of these were spent when ``reserve_ahead`` looked last."""
        self.peak_rate = 0.0
        """Most encryptions a second lately."""

    def spend(self) -> None:
        """Count one encryption, before it is done. LimitExceededException when the material's 2^32 are used up."""
        counter, lock = self._counter, self.lock
        if counter.guard.foreign:
            counter.guard.refuse()
        lock.acquire()  # on the path of every request, where a with statement takes longer
        try:
            if not self.remaining:
                counter.renew(self._material_id, self)
            self.remaining -= 1
        finally:
            lock.release()

    def add(self, granted: int) -> None:
        """Add encryptions that were reserved; the lock is held."""
        self.granted += granted
        self.remaining += granted

    def shortage(self, elapsed_seconds: float, bridged_seconds: float) -> int:
        """Return how many encryptions to reserve ahead; 0 if there are enough, or none was made since the last look."""
        with self.lock:
            spent, remaining = self.granted - self.remaining, self.remaining
        recent, self.spent = spent - self.spent, spent
        if not recent:
            return 0
        self.peak_rate = max(recent / elapsed_seconds, self.peak_rate * _FADING)
        needed = budget.reserve(self.peak_rate, bridged_seconds)
        return 2 * needed - remaining if remaining < needed else 0  # twice, so that a steady rate rarely writes


class EncryptionCounter:
    """Counts the encryptions of this process by leases, per material id. Thread-safe; raises in a forked child."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._leases: dict[str, _Lease] = {}
        self.nearly_spent: dict[str, Share] = {}
        """Materials beyond half of their budget; the next encryption removes the entry and rotates or warns."""
        self.guard = ForkGuard()
        self._looked_at = time.monotonic()
        self._highest: dict[str, int] = {}
        """The highest count of each material after a reservation of this process."""
        self._in_doubt = False

    def doubt(self) -> None:
        """Let counts be raised, before they are changed again, to what this process has seen committed.

        For a database that may lack the last commits: encryptions that were reserved by them may have been made.
        """
        self._in_doubt = True

    def counter(self, material_id: str) -> Callable[[], None]:
        """Return the function that counts one encryption under a material (``_Lease.spend``)."""
        lease = self._leases.get(material_id)
        if lease is None:
            lease = self._leases.setdefault(material_id, _Lease(self, material_id))
        return lease.spend

    def give_back(self) -> None:
        """Return unused leases to the store: for a clean exit, after the last encryption.

        What cannot be returned (the database is away, say) is wasted, as after a crash.
        """
        if self.guard.foreign:
            return
        for material_id, lease in list(self._leases.items()):  # a late call may add one
            with lease.lock:
                unused, lease.remaining = lease.remaining, 0
            if unused:
                try:
                    self._settle_doubt()
                    stored.give_back(self._store, material_id, unused)
                except HsmKmsError as exc:
                    log.warning("%d reserved encryptions of %s stay counted as used: %s", unused, material_id, exc)

    def renew(self, material_id: str, lease: _Lease) -> None:
        """Reserve more encryptions for a lease; its lock is held."""
        granted = self._reserve(material_id, budget.next_lease(lease.last_grant))
        if not granted:
            raise LimitExceededException(
                "this key material has made all 2^32 encryptions that are allowed for one: rotate the key, "
                "or create a new one and move the alias to it"
            )
        lease.last_grant = granted
        lease.add(granted)

    def reserve_ahead(self, bridged_seconds: float) -> None:
        """Reserve what may be needed while the database is away, of materials in use. Call it about once a second.

        Without reserves an outage would end encryptions with the next lease.
        """
        self._settle_doubt()
        now, before = time.monotonic(), self._looked_at
        self._looked_at = now
        for material_id, lease in list(self._leases.items()):  # a request may add one
            shortage = lease.shortage(max(now - before, _LEAST_SECONDS), bridged_seconds)
            if shortage:
                granted = self._reserve(material_id, shortage)  # without the lock, for which requests would wait
                with lease.lock:
                    lease.add(granted)

    def _settle_doubt(self) -> None:
        if not self._in_doubt:
            return
        for material_id, highest in list(self._highest.items()):
            stored.at_least(self._store, material_id, highest)
        self._in_doubt = False  # after an error it is tried again

    def _reserve(self, material_id: str, want: int) -> int:
        self._settle_doubt()
        used, granted = stored.reserve(self._store, material_id, want, budget.LIMIT)
        self._highest[material_id] = max(used + granted, self._highest.get(material_id, 0))
        percent = budget.warning(used + granted)
        if granted and percent is not None:
            self.nearly_spent[material_id] = Share(percent, percent != budget.warning(used))
        return granted
