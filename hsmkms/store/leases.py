"""Count encryptions per material in ``log.db``. Counts outlive the key: a re-imported material is the same key."""

from pathlib import Path

from sqlalchemy import Connection, exists, func, select, update

from hsmkms.store import files, upserts
from hsmkms.store.engine import Store
from hsmkms.store.log_schema import encryption_count
from hsmkms.store.sqlite.database import FileDatabase

_reserved = encryption_count.c.reserved


def reserve(store: Store, material_id: str, want: int, limit: int) -> tuple[int, int]:
    """Reserve encryptions before they happen, as many as wanted or as are left below the limit of the material.

    Returns (used before, granted), the latter 0 if none is left. One statement decides and counts, so that processes of
    any number of nodes never get the same ones, and none waits for another one's transaction.
    """
    return store.log.run(lambda tx: _reserve(tx, material_id, want, limit))


def _reserve(tx: Connection, material_id: str, want: int, limit: int) -> tuple[int, int]:
    granted = min(want, limit)
    while granted > 0:
        taken = upserts.insert(tx, encryption_count).values(material_id=material_id, reserved=granted)
        taken = taken.on_conflict_do_update(
            index_elements=[encryption_count.c.material_id],
            set_={"reserved": _reserved + granted},
            where=_reserved + granted <= limit,
        )
        used = tx.execute(taken.returning(_reserved)).scalar()
        if used is not None:
            return used - granted, granted
        # Fewer again if another process takes some in between, so that this ends.
        granted = min(granted - 1, limit - _total(tx, material_id))
    return _total(tx, material_id), 0


def give_back(store: Store, material_id: str, unused: int) -> None:
    """Give back reserved encryptions that were certainly not used."""
    with store.log.atomic() as tx:
        counted = update(encryption_count).where(encryption_count.c.material_id == material_id)
        tx.execute(counted.values(reserved=_reserved - unused))


def total(store: Store, material_id: str) -> int:
    """Return the encryptions counted so far: at least as many as were made."""
    with store.log.reading() as conn:
        return _total(conn, material_id)


def _total(conn: Connection, material_id: str) -> int:
    return conn.scalar(select(_reserved).where(encryption_count.c.material_id == material_id)) or 0


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
    row = {"material_id": material_id, "reserved": count}
    store.log.run(lambda tx: upserts.put(tx, encryption_count, [row], unless_newer=_reserved))


def beyond(store: Store, count: int) -> dict[str, int]:
    """Return the materials with at least ``count`` encryptions, with their counts."""
    with store.log.reading() as conn:
        query = select(encryption_count.c.material_id, _reserved).where(_reserved >= count)
        return {row.material_id: row.reserved for row in conn.execute(query)}


def most(store: Store) -> int:
    """Return the highest count of any material."""
    with store.log.reading() as conn:
        return conn.scalar(select(func.max(_reserved))) or 0
