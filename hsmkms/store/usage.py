"""Store the last use of each key, in ``log.db``."""

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct, structs
from sqlalchemy import select

from hsmkms.model.enums import TrackedOperation
from hsmkms.store import upserts
from hsmkms.store.engine import Store
from hsmkms.store.log_schema import last_use, use_tracking


class LastUse(Struct, frozen=True, kw_only=True):
    """The last successful cryptographic operation with a key in a region."""

    key_id: str
    region: str
    operation: TrackedOperation
    used_at: datetime
    request_id: str


def note(store: Store, uses: Sequence[LastUse]) -> None:
    """Store uses, unless later ones are stored already."""
    # In the order of their keys: two nodes that store many at once must not wait for each other.
    rows = [structs.asdict(each) for each in sorted(uses, key=lambda use: (use.key_id, use.region))]
    store.log.run(lambda tx: upserts.put(tx, last_use, rows, unless_newer=last_use.c.used_at))


def fetch(store: Store, key_id: str, region: str) -> LastUse | None:
    """Return the last stored use of a key, or None."""
    return fetch_all(store, key_id, region).get((key_id, region))


def fetch_all(store: Store, key_id: str | None = None, region: str | None = None) -> dict[tuple[str, str], LastUse]:
    """Return the last uses by (key id, region): of all keys, or of one."""
    query = select(
        last_use.c.key_id, last_use.c.region, last_use.c.operation, last_use.c.used_at, last_use.c.request_id
    )
    if key_id is not None:
        query = query.where(last_use.c.key_id == key_id, last_use.c.region == region)
    with store.log.reading() as conn:
        rows = conn.execute(query).all()
    return {
        (row.key_id, row.region): LastUse(
            key_id=row.key_id,
            region=row.region,
            operation=TrackedOperation(row.operation),
            used_at=row.used_at,
            request_id=row.request_id,
        )
        for row in rows
    }


def tracked_since(store: Store) -> datetime:
    """Return when recording of uses began."""
    with store.log.reading() as conn:
        since: datetime = conn.execute(select(use_tracking.c.since)).scalar_one()
    return since
