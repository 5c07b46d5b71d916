"""The change log: which records changed, for other processes.

A signal that something changed, which costs less to ask, is the engine's (``Store.change_signal``).
"""

from typing import Final

from sqlalchemy import Connection, bindparam, func, insert, select

from hsmkms.store.schema import change_log

# Built once: building a statement takes longer than SQLite takes to run it.
_NOTE: Final = insert(change_log)
NOTED: Final = "hsmkms_noted"
"""In the ``info`` of a connection: true once its transaction has recorded a change."""

_SINCE: Final = (
    select(change_log.c.epoch, change_log.c.region, change_log.c.subject)
    .where(change_log.c.epoch > bindparam("before"))
    .order_by(change_log.c.epoch)
)


def note(tx: Connection, region: str, subject: str) -> int:
    """Record that a key (by id) or an alias (by name) changed; return the epoch of the change."""
    tx.info[NOTED] = True
    done = tx.execute(_NOTE, {"region": region, "subject": subject})
    epoch: int = done.inserted_primary_key[0]  # type: ignore[index]  # an insert of one row always has one
    return epoch


def latest(conn: Connection) -> int:
    """Return the epoch of the last change; 0 before the first."""
    return conn.execute(select(func.max(change_log.c.epoch))).scalar() or 0


def since(conn: Connection, epoch: int) -> list[tuple[int, str, str]]:
    """Return the changes after an epoch, oldest first: (epoch, region, key id or alias name)."""
    rows = conn.execute(_SINCE, {"before": epoch})
    return [(row.epoch, row.region, row.subject) for row in rows]
