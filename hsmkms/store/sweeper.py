"""Lease of the sweeper: one process at a time runs what is due, and another one takes over if it dies."""

from datetime import datetime, timedelta

from sqlalchemy import select

from hsmkms.store import upserts
from hsmkms.store.engine import Store
from hsmkms.store.schema import sweeper


def acquire_lease(store: Store, holder: str, now: datetime, duration: timedelta) -> bool:
    """Take or renew the lease; False while another holder has it.

    A lease that ends later than ``duration`` from now was written before the clock was set back: it counts as expired.
    """
    with store.log.atomic() as tx:
        lease = tx.execute(select(sweeper.c.holder, sweeper.c.until)).one_or_none()
        if lease is not None and lease.holder != holder and now < lease.until <= now + duration:
            return False
        upserts.put(tx, sweeper, [{"only": 1, "holder": holder, "until": now + duration}])
    return True


def release_lease(store: Store, holder: str) -> None:
    """Release the lease."""
    with store.log.atomic() as tx:
        tx.execute(sweeper.delete().where(sweeper.c.holder == holder))
