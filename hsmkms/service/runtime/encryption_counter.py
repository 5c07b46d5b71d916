"""Count encryptions per material without a write for each.

One key material may make 2^32 encryptions (rules/budget.py), so they are counted, over all processes and permanently. A
process leases a number of encryptions in advance: the store counts them as used at once, so that a crash loses budget
but never undercounts; a clean exit returns the rest. Leases start at 1 and double to 65,536, so that a command costs
one and a busy server writes rarely.
"""

import threading
from collections.abc import Callable
from typing import NamedTuple

from hsmkms.errors import LimitExceededException
from hsmkms.process import ForkGuard
from hsmkms.rules import budget
from hsmkms.store import leases as stored
from hsmkms.store.engine import Store


class Share(NamedTuple):
    """Used share of a budget, at least, in percent; ``crossed``: the last lease crossed that mark."""

    percent: int
    crossed: bool


class _Lease:
    """Encryptions under one material that this process may do before it needs another lease."""

    __slots__ = ("_counter", "_material_id", "last_grant", "lock", "remaining")

    def __init__(self, counter: "EncryptionCounter", material_id: str) -> None:
        self._counter = counter
        self._material_id = material_id
        self.lock = threading.Lock()
        self.remaining = 0
        self.last_grant = 0

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


class EncryptionCounter:
    """Counts the encryptions of this process by leases, per material id. Thread-safe; raises in a forked child."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._leases: dict[str, _Lease] = {}
        self.nearly_spent: dict[str, Share] = {}
        """Materials beyond half of their budget; the next encryption removes the entry and rotates or warns."""
        self.guard = ForkGuard()

    def counter(self, material_id: str) -> Callable[[], None]:
        """Return the function that counts one encryption under a material (``_Lease.spend``)."""
        lease = self._leases.get(material_id)
        if lease is None:
            lease = self._leases.setdefault(material_id, _Lease(self, material_id))
        return lease.spend

    def give_back(self) -> None:
        """Return unused leases to the store: for a clean exit, after the last encryption."""
        if self.guard.foreign:
            return
        for material_id, lease in list(self._leases.items()):  # a late call may add one
            with lease.lock:
                unused, lease.remaining = lease.remaining, 0
            if unused:
                stored.give_back(self._store, material_id, unused)

    def renew(self, material_id: str, lease: _Lease) -> None:
        """Reserve more encryptions for a lease; its lock is held."""
        want = budget.next_lease(lease.last_grant)
        used, granted = stored.reserve(self._store, material_id, lambda used: budget.grant(used, want))
        if not granted:
            raise LimitExceededException(
                "this key material has made all 2^32 encryptions that are allowed for one: rotate the key, "
                "or create a new one and move the alias to it"
            )
        lease.last_grant = lease.remaining = granted
        percent = budget.warning(used + granted)
        if percent is not None:
            self.nearly_spent[material_id] = Share(percent, percent != budget.warning(used))
