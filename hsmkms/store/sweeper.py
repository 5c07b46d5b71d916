"""Lease of the sweeper: one process at a time runs what is due, and another one takes over if it dies."""

from datetime import datetime, timedelta

from sqlalchemy import Connection

from hsmkms.store import upserts
from hsmkms.store.engine import Store
from hsmkms.store.log_schema import sweeper


def acquire_lease(store: Store, holder: str, now: datetime, duration: timedelta) -> bool:
    """Take or renew the lease; False while another holder has it.

    A lease that ends later than ``duration`` from now was written before the clock was set back: it counts as expired.
    One statement decides and writes, so that of several processes at once only one gets it.
    """

    def take(tx: Connection) -> bool:
        time = store.log.lease_time(tx, now)
        mine = {"holder": holder, "until": time + duration}
        free = (sweeper.c.holder == holder) | (sweeper.c.until <= time) | (sweeper.c.until > time + duration)
        taken = upserts.insert(tx, sweeper).values(only=1, **mine)
        taken = taken.on_conflict_do_update(index_elements=[sweeper.c.only], set_=mine, where=free)
        return upserts.count(tx, taken) > 0

    return store.log.run(take)


def release_lease(store: Store, holder: str) -> None:
    """Release the lease."""
    with store.log.atomic() as tx:
        tx.execute(sweeper.delete().where(sweeper.c.holder == holder))
