"""Replace a damaged or lost ``log.db`` by a new one.

The counts of encryptions are lost with the old one, and AES-GCM has a limit. So the new one has a flag in its header
(its ``user_version``) that earlier counts are unknown, until the control plane has recorded it: from then on each
generated key gets a new backing key before it encrypts next, as after a restored backup.
"""

from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Final

from hsmkms.atomic_write import sync_folder
from hsmkms.errors import HsmKmsError, StoreError
from hsmkms.store import files, migrate
from hsmkms.store.database import Database
from hsmkms.store.sqlite import connections, faults
from hsmkms.store.sqlite.database import FileDatabase

UNKNOWN_BEFORE: Final = 1
"""The flag, a value of ``user_version``."""


def damage(folder: Path) -> str | None:
    """Return what is wrong with ``log.db``, or None."""
    path = folder / files.LOG.name
    try:
        connections.check(folder, files.LOG)
        connections.check_pages(path)
    except HsmKmsError as exc:
        return str(exc)
    return None


def renew(folder: Path, now: datetime) -> Path | None:
    """Replace ``log.db`` by a new one; return the new path of the old one, if there was one.

    No process may have it open. After an interruption, call it again.
    """
    path = folder / files.LOG.name
    draft = path.with_name(f".{path.name}-renewed")
    try:
        draft.unlink(missing_ok=True)
        connections.make_empty(draft)
        migrate.fill(draft, files.LOG)
        with faults.translated(draft), closing(connections.connect(draft)) as connection:
            connection.execute(f"PRAGMA user_version = {UNKNOWN_BEFORE}")
        kept = _set_aside(path, now)
        draft.rename(path)
        sync_folder(folder)
    except OSError as exc:
        raise StoreError(f"{path} cannot be renewed: {exc.strerror}") from exc
    return kept


def is_unknown_before(log: Database) -> bool:
    """Return True if the loss of counts is not yet recorded in the control plane."""
    if not isinstance(log, FileDatabase):
        return False
    with log.reading() as conn:
        return bool(conn.exec_driver_sql("PRAGMA user_version").scalar() == UNKNOWN_BEFORE)


def settle(log: Database) -> None:
    """Clear the flag, once the loss of counts is recorded in the control plane."""
    with log.atomic() as tx:
        tx.exec_driver_sql("PRAGMA user_version = 0")


def _set_aside(path: Path, now: datetime) -> Path | None:
    """Rename the old database and its WAL, which holds a part of its data; return the new path."""
    kept = path.with_name(f"{path.name}.damaged-{now:%Y%m%dT%H%M%SZ}")
    for suffix in ("", "-wal"):
        old = path.with_name(path.name + suffix)
        if old.exists():
            old.replace(kept.with_name(kept.name + suffix))
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
    return kept if kept.exists() else None
