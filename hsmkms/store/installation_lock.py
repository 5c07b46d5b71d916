"""Lock of an installation: acts that only one process of all nodes may run at a time.

Where the databases are files it is a lock file, since there is one node. On a server the processes of a node wait for
the lock file, and nodes for a lease: a row with its holder and an end by the database's clock, which a thread renews.
Every commit to the control plane checks that the leases of its thread are still held: a node that was stopped for
longer than its lease writes nothing more under it. That is no fence for a token, so before each act on one ``require``
is called, and what was made on a token while a lease was lost is removed by the one who made it.
"""

import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from msgspec import Struct
from sqlalchemy import Connection, select, update

from hsmkms import process
from hsmkms.errors import ConflictException, DependencyTimeoutException
from hsmkms.store import node_id, upserts
from hsmkms.store.engine import Store
from hsmkms.store.node_schema import lease
from hsmkms.store.renewal import LEASE, Renewal, renewed

_PAUSE_SECONDS: Final = 0.1


class _Held(Struct):
    """A lease that a thread holds."""

    name: str
    holder: str
    renewal: Renewal


class _Leases(threading.local):
    """The leases that this thread holds, by data folder and name."""

    def __init__(self) -> None:
        self.held: dict[tuple[Path, str], _Held] = {}


_leases = _Leases()
os.register_at_fork(after_in_child=lambda: _leases.held.clear())  # noqa: PLW0108 - of the thread that forks


@contextmanager
def exclusive(store: Store, name: str, seconds: float) -> Iterator[None]:
    """Hold a lock of the installation for the block, across processes, threads and nodes. Reentrant within a thread.

    DependencyTimeoutException if another one holds it for longer than ``seconds``. If this one was stopped for so long
    that another one has it, the next commit and ``require`` raise ConflictException.
    """
    with process.exclusive(store.folder / f"{name}.lock", seconds):
        if store.target is None or (store.folder, name) in _leases.held:
            yield
        else:
            with _leased(store, name, seconds):
                yield


def require(store: Store) -> None:
    """Raise ConflictException unless all leases of this thread are certainly held: before an act on a token."""
    for each in _of_this_thread(store):
        if not each.renewal.is_valid:
            raise _lost(each.name)


class LeaseCheck:
    """Companion of the control plane: checks at each commit that the leases of its thread are held."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def before_commit(self, tx: Connection) -> None:
        """Raise ConflictException unless they are; none is taken over before the transaction has ended."""
        for each in _of_this_thread(self._store):
            own = (lease.c.name == each.name) & (lease.c.holder == each.holder)
            if tx.execute(select(lease.c.name).where(own).with_for_update(read=True)).first() is None:
                raise _lost(each.name)

    def after_commit(self) -> None:
        """Do nothing."""

    def rolled_back(self) -> None:
        """Do nothing."""


@contextmanager
def _leased(store: Store, name: str, seconds: float) -> Iterator[None]:
    holder = f"{node_id.read(store.folder)} {os.getpid()} {uuid.uuid4().hex}"
    asked_at = _acquire(store, name, holder, process.uptime() + seconds)
    key = (store.folder, name)
    try:
        with renewed(name, lambda: _renew(store, name, holder), asked_at) as renewal:
            _leases.held[key] = _Held(name, holder, renewal)
            try:
                yield
            finally:
                _leases.held.pop(key, None)
    finally:
        with store.log.atomic() as tx:
            tx.execute(lease.delete().where(lease.c.name == name, lease.c.holder == holder))


def _acquire(store: Store, name: str, holder: str, deadline: float) -> float:
    """Take a lease as soon as it is free; return when it was asked for, by ``uptime()``."""

    def take(tx: Connection) -> bool:
        own = lease.c.name == name
        locked = tx.execute(select(lease.c.name).where(own).with_for_update()).first()
        now = store.log.lease_time(tx, datetime.now(UTC))  # not before the row is locked: it is compared with its end
        mine = {"holder": holder, "until": now + LEASE}
        if locked is None:
            return upserts.put_new(tx, lease, {"name": name, **mine})
        # One that ends later was written before the database's clock was set back.
        free = (lease.c.until <= now) | (lease.c.until > now + LEASE)
        return tx.execute(update(lease).where(own, free).values(mine)).rowcount > 0

    while True:
        asked_at = process.uptime()
        if store.log.run(take):
            return asked_at
        if asked_at > deadline:
            raise DependencyTimeoutException(
                f"{_holder(store, name)} has held the lock {name} for too long: see what it waits for"
            )
        time.sleep(_PAUSE_SECONDS)


def _renew(store: Store, name: str, holder: str) -> bool:
    def extend(tx: Connection) -> bool:
        until = store.log.lease_time(tx, datetime.now(UTC)) + LEASE
        return (
            tx.execute(update(lease).where(lease.c.name == name, lease.c.holder == holder).values(until=until)).rowcount
            > 0
        )

    return store.log.run(extend)


def _holder(store: Store, name: str) -> str:
    """Return who has a lease, for people."""
    with store.log.reading() as conn:
        holder = conn.scalar(select(lease.c.holder).where(lease.c.name == name))
    node, pid = [*(holder or "").split(), "?", "?"][:2]  # none since just now, or edited by hand
    return f"node {node} (pid {pid})"


def _of_this_thread(store: Store) -> list[_Held]:
    return [held for (folder, _), held in _leases.held.items() if folder == store.folder]


def _lost(name: str) -> ConflictException:
    return ConflictException(
        f"this process was stopped for so long that another node could take over the lock {name}: nothing more was "
        "changed. Run the command again, which goes on from what is there"
    )
