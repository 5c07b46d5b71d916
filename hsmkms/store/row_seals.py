"""Store row seals: one for each subject, and the roots of the newest changes."""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct
from sqlalchemy import Connection, delete, func, select

from hsmkms.store import changes, seal_engine
from hsmkms.store.schema import change_log, row_seal, store_root

NOTED: Final = "seal:"
"""Prefix of change log subjects for new seals; subjects without it have other readers."""

_GONE: Final = "gone"
"""Stored in place of a region: after that change the subject has no rows left."""

# SQL text: these run at each read or change of a record, and SQLAlchemy's expressions would take most of the time.
_SEAL: Final = "SELECT epoch, mac FROM row_seal WHERE subject = :subject"
_DROP: Final = "DELETE FROM row_seal WHERE subject = :subject"
_PUT: Final = (
    "INSERT INTO row_seal (subject, epoch, mac) VALUES (:subject, :epoch, :mac) "
    "ON CONFLICT (subject) DO UPDATE SET epoch = excluded.epoch, mac = excluded.mac"
)
_PUT_ROOT: Final = "INSERT INTO store_root (number, nonce, value) VALUES (:number, :nonce, :value)"
_NEWEST_ROOT: Final = "SELECT number, nonce, value FROM store_root ORDER BY number DESC LIMIT 1"

_KEPT_ROOTS: Final = 4096
_PRUNE_EVERY: Final = 256


class SealRow(Struct, frozen=True):
    """The seal of a subject since an epoch."""

    epoch: int
    mac: bytes


class Change(Struct, frozen=True):
    """The last change of a subject. ``gone``: it has no rows left."""

    epoch: int
    gone: bool


class RootRow(Struct, frozen=True):
    """A stored root."""

    number: int
    nonce: bytes
    value: bytes


def fetch(conn: Connection, subject: str) -> SealRow | None:
    """Return the seal of a subject, or None."""
    found = seal_engine.of(conn).rows(conn, _SEAL, {"subject": subject})
    return SealRow(found[0][0], found[0][1]) if found else None


def every(conn: Connection) -> dict[str, SealRow]:
    """Return all seals by subject."""
    rows = conn.execute(select(row_seal.c.subject, row_seal.c.epoch, row_seal.c.mac))
    return {row.subject: SealRow(row.epoch, row.mac) for row in rows}


def note(tx: Connection, subject: str, *, gone: bool = False) -> int:
    """Record in the change log that a subject is sealed again, or has no rows left; return the epoch."""
    return changes.note(tx, _GONE if gone else "", f"{NOTED}{subject}")


def newest_changes(conn: Connection) -> dict[str, Change]:
    """Return the last recorded change of each subject."""
    newest = (
        select(func.max(change_log.c.epoch))
        .where(change_log.c.subject >= NOTED, change_log.c.subject < f"{NOTED}\U0010ffff")
        .group_by(change_log.c.subject)
    )
    query = select(change_log.c.epoch, change_log.c.region, change_log.c.subject).where(change_log.c.epoch.in_(newest))
    return {row.subject.removeprefix(NOTED): Change(row.epoch, row.region == _GONE) for row in conn.execute(query)}


def put(tx: Connection, seals: Mapping[str, SealRow]) -> None:
    """Store the seals of subjects, in the place of those that they have."""
    rows = [{"subject": subject, "epoch": each.epoch, "mac": each.mac} for subject, each in seals.items()]
    if rows:
        seal_engine.of(tx).run(tx, _PUT, rows)


def drop(tx: Connection, subject: str) -> None:
    """Remove the seal of a subject."""
    seal_engine.of(tx).run(tx, _DROP, {"subject": subject})


def drop_all(tx: Connection) -> None:
    """Remove all seals."""
    tx.execute(delete(row_seal))


def newest_root(conn: Connection) -> RootRow | None:
    """Return the root over the store's present state, or None if it was never sealed."""
    found = seal_engine.of(conn).rows(conn, _NEWEST_ROOT)
    return RootRow(found[0][0], found[0][1], found[0][2]) if found else None


def root(conn: Connection, number: int) -> RootRow | None:
    """Return the root of that number, or None if there is none (any more)."""
    query = select(store_root.c.number, store_root.c.nonce, store_root.c.value).where(store_root.c.number == number)
    row = conn.execute(query).one_or_none()
    return None if row is None else RootRow(row.number, row.nonce, row.value)


def oldest_root(conn: Connection) -> int:
    """Return the number of the oldest kept root; 0 if there is none."""
    return conn.scalar(select(func.min(store_root.c.number))) or 0


def put_root(tx: Connection, row: RootRow) -> None:
    """Insert the root over the store's present state; the last few thousand roots are kept."""
    seal_engine.of(tx).run(tx, _PUT_ROOT, {"number": row.number, "nonce": row.nonce, "value": row.value})
    if row.number % _PRUNE_EVERY == 0:
        tx.execute(delete(store_root).where(store_root.c.number <= row.number - _KEPT_ROOTS))
