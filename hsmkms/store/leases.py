"""Count encryptions per material in ``log.db``. Counts outlive the key: a re-imported material is the same key."""

from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection, exists, func, select, update

from hsmkms.store import files, upserts
from hsmkms.store.engine import Store
from hsmkms.store.schema import encryption_count
from hsmkms.store.sqlite.database import FileDatabase

_reserved = encryption_count.c.reserved


def reserve(store: Store, material_id: str, count_of: Callable[[int], int]) -> tuple[int, int]:
    """Reserve encryptions before they happen; return (used before, granted).

    ``count_of`` gets the number used already and returns how many to grant, 0 for none. It may be called again.
    """
    of_material = encryption_count.c.material_id == material_id
    locked = select(_reserved).where(of_material).with_for_update()  # for engines without one lock for all writers

    def take(tx: Connection) -> tuple[int, int]:
        used = tx.scalar(locked)
        if used is None:
            upserts.put_new(tx, encryption_count, {"material_id": material_id, "reserved": 0})
            used = tx.execute(locked).scalar_one()  # another process may have inserted it meanwhile
        granted = count_of(used)
        if granted:
            tx.execute(update(encryption_count).where(of_material).values(reserved=used + granted))
        return used, granted

    return store.log.run(take)


def give_back(store: Store, material_id: str, unused: int) -> None:
    """Give back reserved encryptions that were certainly not used."""
    with store.log.atomic() as tx:
        counted = update(encryption_count).where(encryption_count.c.material_id == material_id)
        tx.execute(counted.values(reserved=_reserved - unused))


def total(store: Store, material_id: str) -> int:
    """Return the encryptions counted so far: at least as many as were made."""
    with store.log.reading() as conn:
        return conn.execute(select(_reserved).where(encryption_count.c.material_id == material_id)).scalar() or 0


def counted(folder: Path) -> bool:
    """Return True if the folder's ``log.db`` has counted any encryption; False if there is no such file."""
    file = folder / files.LOG.name
    if not file.exists():
        return False
    log = FileDatabase(file)
    try:
        with log.reading() as conn:
            return conn.scalar(select(exists().where(encryption_count.c.reserved > 0))) or False
    finally:
        log.close()


def at_least(store: Store, material_id: str, count: int) -> None:
    """Raise the count of a material with an unknown history to at least ``count``."""
    reserve(store, material_id, lambda used: max(count - used, 0))


def beyond(store: Store, count: int) -> dict[str, int]:
    """Return the materials with at least ``count`` encryptions, with their counts."""
    with store.log.reading() as conn:
        query = select(encryption_count.c.material_id, _reserved).where(_reserved >= count)
        return {row.material_id: row.reserved for row in conn.execute(query)}


def most(store: Store) -> int:
    """Return the highest count of any material."""
    with store.log.reading() as conn:
        return conn.scalar(select(func.max(_reserved))) or 0
