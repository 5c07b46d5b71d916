"""Define the tables that nodes write in transactions of mere use: leases, heartbeats, notices of refused PINs.

On a server all tables are in one database, so the change signal stays quiet, as for those of ``log.db``. Where the
databases are files of the data folder these tables are empty. Their rows are not sealed: they decide about no key.
"""

from typing import Final

from sqlalchemy import Boolean, Column, Table, Text

from hsmkms.store.instant import WIDE, UnsealedInstant
from hsmkms.store.schema import meta

__all__ = ["lease", "meta", "node_process", "pin_notice"]

lease: Final = Table(
    "lease",
    meta,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("until", UnsealedInstant, nullable=False),
)
"""Locks that a node holds: see ``installation_lock.py``."""

node_process: Final = Table(
    "node_process",
    meta,
    Column("node_id", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("seen_at", UnsealedInstant, nullable=False),
    Column("version", Text, nullable=False),
    Column("revision", Text, nullable=False),
    Column("epoch", WIDE, nullable=False),
    Column("tokens", Text, nullable=False),
)
"""The newest heartbeat of each worker of each node: see ``presence.py``. ``tokens``: JSON, as in ``Process``."""

pin_notice: Final = Table(
    "pin_notice",
    meta,
    Column("node_id", Text, primary_key=True),
    Column("serial", Text, primary_key=True),
    Column("label", Text, nullable=False),
    Column("noted_at", UnsealedInstant, nullable=False),
    Column("by_node", Text, nullable=False),
    Column("changed", Boolean, nullable=False),
    Column("source", Text, nullable=False),
    Column("alone", Boolean, nullable=False),
)
"""Which nodes must not send their PIN to a token unasked: see ``pin_notices.py``."""
