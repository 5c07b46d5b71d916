"""Define the tables that nodes write in transactions of mere use: leases and heartbeats.

On a server all tables are in one database, so the change signal stays quiet, as for those of ``log.db``. Where the
databases are files of the data folder these tables are empty. Their rows are not sealed: they decide about no key.
"""

from typing import Final

from sqlalchemy import Column, Table, Text

from hsmkms.store.instant import WIDE, Instant
from hsmkms.store.schema import meta

__all__ = ["lease", "meta", "node_process"]

lease: Final = Table(
    "lease",
    meta,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("until", Instant, nullable=False),
)
"""Locks that a node holds: see ``installation_lock.py``."""

node_process: Final = Table(
    "node_process",
    meta,
    Column("node_id", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("seen_at", Instant, nullable=False),
    Column("version", Text, nullable=False),
    Column("revision", Text, nullable=False),
    Column("epoch", WIDE, nullable=False),
    Column("tokens", Text, nullable=False),
)
"""The newest heartbeat of each worker of each node: see ``presence.py``. ``tokens``: JSON, as in ``Process``."""
