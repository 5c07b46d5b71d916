"""Read what the databases know of the use of keys: without the token, and so without proof."""

from datetime import datetime

from msgspec import Struct

from hsmkms.config.settings import Settings
from hsmkms.model.ids import key_arn
from hsmkms.model.records import KeyRecord
from hsmkms.store import aliases, installation, keys, leases, usage
from hsmkms.store.engine import Connection
from hsmkms.wiring.stores import open_store


class Counters(Struct, frozen=True, kw_only=True):
    """Figures of one key, or of all.

    ``encryptions``: how many there were at most with its key materials, or with all; None if that is unknown, since
    material is older than a restored backup. ``last_used``: the last recorded use; ``tracked_since``: since when.
    """

    encryptions: int | None
    last_used: datetime | None
    last_operation: str | None
    tracked_since: datetime


class Known(Struct, frozen=True, kw_only=True):
    """Counters, and the aliases of the keys by ARN; ``exists``: whether there is such a key now."""

    counters: Counters
    aliases: dict[str, str]
    exists: bool


def read(settings: Settings, key: str | None) -> Known:
    """Return the counters of a key (an ARN, or its last part) or of all keys. Raises as ``Store.open`` does."""
    key_id = None if key is None else key.rpartition("key/")[2]
    store = open_store(settings)
    try:
        counts = leases.beyond(store, 1)
        last = usage.fetch_all(store).values()
        with store.meta.reading() as conn:
            names = {
                key_arn(settings.account_id, region, each.target_key_id): each.name
                for region in settings.regions
                for each in aliases.every(conn, region)
            }
            row = installation.fetch(conn)
            restored_at = row.restored_at if row is not None else None
            records = _records(conn, settings, key_id)
        uses = [each for each in last if key_id is None or each.key_id == key_id]
        newest = max(uses, key=lambda each: each.used_at, default=None)
        materials = {each.material_id: each.created_at for record in records for each in record.materials}
        doubtful = restored_at is not None and any(made < restored_at for made in materials.values())
        total = sum(counts.get(each, 0) for each in materials) if key_id is not None else sum(counts.values())
        counters = Counters(
            encryptions=None if doubtful else total,
            last_used=newest.used_at if newest is not None else None,
            last_operation=newest.operation if newest is not None else None,
            tracked_since=usage.tracked_since(store),
        )
    finally:
        store.close()
    return Known(counters=counters, aliases=names, exists=key_id is None or bool(records))


def _records(conn: Connection, settings: Settings, key_id: str | None) -> list[KeyRecord]:
    """Return the records of a key in all regions, or of all keys."""
    if key_id is None:
        return [each for region in settings.regions for each in keys.every(conn, region)]
    found = [keys.fetch(conn, region, key_id) for region in settings.regions]
    return [each for each in found if each is not None]
