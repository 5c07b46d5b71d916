"""Define the tables of ``log.db``, as ``schema.py`` does those of ``meta.db``.

It holds data that changes with mere use, so that the change signal of ``meta.db`` stays quiet under load.
"""

from typing import Final

from sqlalchemy import CheckConstraint, Column, Integer, MetaData, Table, Text

from hsmkms.model.enums import TrackedOperation
from hsmkms.store.instant import WIDE, Instant
from hsmkms.store.schema import NAMES, one_of

log: Final = MetaData(naming_convention=NAMES)

encryption_count: Final = Table(
    "encryption_count",
    log,
    Column("material_id", Text, primary_key=True),
    Column("reserved", WIDE, CheckConstraint("reserved >= 0", name="reserved"), nullable=False),
)

last_use: Final = Table(
    "last_use",
    log,
    Column("key_id", Text, primary_key=True),
    Column("region", Text, primary_key=True),
    Column("operation", Text, nullable=False),
    Column("used_at", Instant, nullable=False),
    Column("request_id", Text, nullable=False),
    one_of("operation", TrackedOperation),
)

access_key_use: Final = Table(
    "access_key_use",
    log,
    Column("access_key_id", Text, primary_key=True),
    Column("region", Text, nullable=False),
    Column("used_at", Instant, nullable=False),
)

use_tracking: Final = Table(
    "use_tracking",
    log,
    Column("only", Integer, CheckConstraint("only = 1", name="only"), primary_key=True, autoincrement=False),
    Column("since", Instant, nullable=False),
)
"""When recording of uses began: earlier uses are not recorded."""

sweeper: Final = Table(
    "sweeper",
    log,
    Column("only", Integer, CheckConstraint("only = 1", name="only"), primary_key=True, autoincrement=False),
    Column("holder", Text, nullable=False),
    Column("until", Instant, nullable=False),
)
"""The sweeper's lease. Here and not in meta.db, so that the change signal stays quiet."""
