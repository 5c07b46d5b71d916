"""Store row seals: one for each subject, and the roots of the newest changes."""

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import Connection, delete, func, select

from hsmkms.store import changes, seal_engine
from hsmkms.store.schema import row_seal, store_root

NOTED: Final = "seal:"
"""Prefix of change log subjects for new seals; subjects without it have other readers."""

_GONE: Final = "gone"
"""Stored in place of a region: after that change the subject has no rows left."""

# SQL text: these run at each read or change of a record, and SQLAlchemy's expressions would take most of the time.
# They are read with the types that are stored, since those can be changed by hand as well.
_SEAL: Final = "SELECT epoch, mac FROM row_seal WHERE subject = :subject"
_SEALS: Final = "SELECT subject, epoch, mac FROM row_seal"
_CHANGES: Final = (
    "SELECT epoch, region, subject FROM change_log WHERE epoch IN "
    "(SELECT max(epoch) FROM change_log WHERE subject >= :first AND subject < :end GROUP BY subject)"
)
_DROP: Final = "DELETE FROM row_seal WHERE subject = :subject"
_PUT: Final = (
    "INSERT INTO row_seal (subject, epoch, mac) VALUES (:subject, :epoch, :mac) "
    "ON CONFLICT (subject) DO UPDATE SET epoch = excluded.epoch, mac = excluded.mac"
)
_PUT_ROOT: Final = "INSERT INTO store_root (number, nonce, value) VALUES (:number, :nonce, :value)"
_ROOT: Final = "SELECT number, nonce, value FROM store_root WHERE number = :number"
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
    return _seal(*found[0]) if found else None


def every(conn: Connection) -> dict[str, SealRow]:
    """Return all seals by subject."""
    return {_name(row[0]): _seal(row[1], row[2]) for row in seal_engine.of(conn).rows(conn, _SEALS)}


def note(tx: Connection, subject: str, *, gone: bool = False) -> int:
    """Record in the change log that a subject is sealed again, or has no rows left; return the epoch."""
    return changes.note(tx, _GONE if gone else "", f"{NOTED}{subject}")


def newest_changes(conn: Connection) -> dict[str, Change]:
    """Return the last recorded change of each subject."""
    rows = seal_engine.of(conn).rows(conn, _CHANGES, {"first": NOTED, "end": f"{NOTED}\U0010ffff"})
    return {_name(row[2]).removeprefix(NOTED): Change(row[0], row[1] == _GONE) for row in rows}


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
    return root_row(*found[0]) if found else None


def root(conn: Connection, number: int) -> RootRow | None:
    """Return the root of that number, or None if there is none (any more)."""
    found = seal_engine.of(conn).rows(conn, _ROOT, {"number": number})
    return root_row(*found[0]) if found else None


def oldest_root(conn: Connection) -> int:
    """Return the number of the oldest kept root; 0 if there is none."""
    return conn.scalar(select(func.min(store_root.c.number))) or 0


def put_root(tx: Connection, row: RootRow) -> None:
    """Insert the root over the store's present state; the last few thousand roots are kept."""
    seal_engine.of(tx).run(tx, _PUT_ROOT, {"number": row.number, "nonce": row.nonce, "value": row.value})
    if row.number % _PRUNE_EVERY == 0:
        tx.execute(delete(store_root).where(store_root.c.number <= row.number - _KEPT_ROOTS))


def root_row(number: int, nonce: object, value: object) -> RootRow:
    """Return a root as it is stored."""
    return RootRow(number, binary(nonce), binary(value))


def binary(value: Any) -> bytes:  # noqa: ANN401 - whatever is stored
    """Return a stored byte string; b"", which proves nothing, for a value of another type."""
    return value if isinstance(value, bytes) else b""


def _seal(epoch: object, mac: object) -> SealRow:
    """Return a seal as it is stored; one that fits no rows if the types are not those of a seal."""
    return SealRow(epoch, binary(mac)) if isinstance(epoch, int) else SealRow(0, b"")


def _name(subject: object) -> str:
    """Return a stored subject; a name that no subject has for a value that is not a text."""
    return subject if isinstance(subject, str) else repr(subject)
