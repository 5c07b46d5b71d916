"""Count encryptions per material without a write for each.

One key material may make 2^32 encryptions (rules/budget.py), so they are counted, over all processes and permanently. A
process leases a number of encryptions in advance: the store counts them as used at once, so that a crash loses budget
but never undercounts; a clean exit returns the rest. Leases start at 1 and double to 65,536, so that a command costs
one and a busy server writes rarely.
"""

import threading
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

    __slots__ = ("last_grant", "lock", "remaining")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.remaining = 0
        self.last_grant = 0


class LeaseBook:
    """The leases of this process, by material id. Thread-safe; raises in a forked child."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._leases: dict[str, _Lease] = {}
        self.nearly_spent: dict[str, Share] = {}
        """Materials beyond half of their budget; the next encryption removes the entry and rotates or warns."""
        self._guard = ForkGuard()

    def spend(self, material_id: str) -> None:
        """Count one encryption, before it is done. LimitExceededException when the material's 2^32 are used up."""
        if self._guard.foreign:
            self._guard.refuse()
        lease = self._leases.get(material_id)
        if lease is None:
            lease = self._leases.setdefault(material_id, _Lease())
        with lease.lock:
            if not lease.remaining:
                self._renew(material_id, lease)
            lease.remaining -= 1

    def give_back(self) -> None:
        """Return unused leases to the store: for a clean exit, after the last encryption."""
        if self._guard.foreign:
            return
        for material_id, lease in list(self._leases.items()):  # a late call may add one
            with lease.lock:
                unused, lease.remaining = lease.remaining, 0
            if unused:
                stored.give_back(self._store, material_id, unused)

    def _renew(self, material_id: str, lease: _Lease) -> None:
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
