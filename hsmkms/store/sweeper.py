"""Lease of the sweeper: one process at a time runs what is due, and another one takes over if it dies."""

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import Connection, select, update

from hsmkms.store import upserts
from hsmkms.store.engine import Store
from hsmkms.store.log_schema import sweeper


def acquire_lease(store: Store, holder: str, clock: Callable[[], datetime], duration: timedelta) -> bool:
    """Take or renew the lease; False while another holder has it.

    A lease that ends later than ``duration`` from now was written before the clock was set back: it counts as expired.
    So the clock is read once the row is locked, or what another process has just taken would seem to be such a one.
    """

    def take(tx: Connection) -> bool:
        locked = tx.execute(select(sweeper.c.only).with_for_update()).first()
        time = store.log.lease_time(tx, clock())
        mine = {"holder": holder, "until": time + duration}
        if locked is None:
            return upserts.put_new(tx, sweeper, {"only": 1, **mine})
        free = (sweeper.c.holder == holder) | (sweeper.c.until <= time) | (sweeper.c.until > time + duration)
        return tx.execute(update(sweeper).where(free).values(mine)).rowcount > 0

    return store.log.run(take)


def release_lease(store: Store, holder: str) -> None:
    """Release the lease."""
    with store.log.atomic() as tx:
        tx.execute(sweeper.delete().where(sweeper.c.holder == holder))
