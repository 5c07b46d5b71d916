"""Heartbeats of the servers of all nodes, by the database's clock: which workers run, and what they can reach."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Row, select

from hsmkms.store import upserts
from hsmkms.store.engine import Store
from hsmkms.store.node_schema import node_process

FRESH: Final = timedelta(seconds=15)
"""How old the heartbeat of a running worker is at most; it beats every few seconds."""

_KEPT: Final = timedelta(days=1)
"""How long the heartbeats of workers that died are kept beside one of a running worker."""


class Process(Struct, frozen=True, kw_only=True):
    """A worker of a node. ``name``: unique within its node; ``revision``: of the schema that its program works with.

    ``epoch``: the newest change that it has read; ``tokens``: those that it has open, as (label, serial).
    """

    node_id: str
    name: str
    version: str
    revision: str
    epoch: int
    tokens: list[tuple[str, str]]


class Heartbeat(Struct, frozen=True, kw_only=True):
    """The newest heartbeat of a worker; ``fresh``: it runs, as far as the database knows."""

    process: Process
    seen_at: datetime
    fresh: bool


def beat(store: Store, process: Process) -> None:
    """Write a worker's heartbeat; forget those of its node that are a day old."""

    def write(tx: Connection) -> None:
        now = store.log.lease_time(tx, datetime.now(UTC))
        tokens = msgspec.json.encode(process.tokens).decode()
        row = msgspec.structs.asdict(process) | {"tokens": tokens, "seen_at": now}
        upserts.put(tx, node_process, [row])
        old = (node_process.c.node_id == process.node_id) & (node_process.c.seen_at < now - _KEPT)
        tx.execute(node_process.delete().where(old))

    store.log.run(write)


def leave(store: Store, process: Process) -> None:
    """Remove the heartbeat of a worker that ends."""
    own = (node_process.c.node_id == process.node_id) & (node_process.c.name == process.name)
    with store.log.atomic() as tx:
        tx.execute(node_process.delete().where(own))


def fetch_all(store: Store) -> list[Heartbeat]:
    """Return the heartbeats of all nodes, newest first.

    One from later than now was written before the database's clock was set back, or by hand: it tells nothing of now.
    """
    with store.log.reading() as conn:
        now = store.log.lease_time(conn, datetime.now(UTC))
        rows = conn.execute(select(*node_process.c).order_by(node_process.c.seen_at.desc())).all()
    return [Heartbeat(process=_process(row), seen_at=row.seen_at, fresh=abs(now - row.seen_at) < FRESH) for row in rows]


def fresh(store: Store, *, besides: str | None = None) -> list[Process]:
    """Return the workers that run, on all nodes or on the others than one."""
    return [each.process for each in fetch_all(store) if each.fresh and each.process.node_id != besides]


def nodes_of(processes: Iterable[Process]) -> list[str]:
    """Return the ids of the processes' nodes, each once."""
    return list(dict.fromkeys(each.node_id for each in processes))


def forget(tx: Connection, node_id: str) -> None:
    """Remove all heartbeats of a node."""
    tx.execute(node_process.delete().where(node_process.c.node_id == node_id))


def _process(row: Row[Any]) -> Process:
    return Process(
        node_id=row.node_id,
        name=row.name,
        version=row.version,
        revision=row.revision,
        epoch=row.epoch,
        tokens=_tokens(row.tokens),
    )


def _tokens(text: str) -> list[tuple[str, str]]:
    """Return the tokens of a row; none if it was edited by hand."""
    try:
        return msgspec.json.decode(text, type=list[tuple[str, str]])
    except msgspec.DecodeError:
        return []
