"""Whose turn it is to do what is due: one process at a time, and another one if that dies."""

from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.dialects.sqlite import insert

from hsmkms.store.engine import Store
from hsmkms.store.schema import sweeper


def take_turn(store: Store, holder: str, now: datetime, turn: timedelta) -> bool:
    """Begin or go on with a turn; False while another holder has one.

    A turn that would last longer than any can was written by a clock that has been set back since: it counts as over.
    """
    with store.log.atomic() as tx:
        held = tx.execute(select(sweeper.c.holder, sweeper.c.until)).one_or_none()
        if held is not None and held.holder != holder and now < held.until <= now + turn:
            return False
        mine = {"holder": holder, "until": now + turn}
        tx.execute(insert(sweeper).values(only=1, **mine).on_conflict_do_update(set_=mine))
    return True


def end_turn(store: Store, holder: str) -> None:
    """Let the next one begin at once."""
    with store.log.atomic() as tx:
        tx.execute(sweeper.delete().where(sweeper.c.holder == holder))
