"""Restoring a backup: into a folder beside its target, where everything is proven, and then by renames.

The database takes its place last, so that an interrupted restore is no installation; the next one removes what it has
left. A mark in the target says that files of a restore may lie there.
"""

import shutil
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

from msgspec import Struct

from hsmkms.errors import StoreError, TokenUnavailableError
from hsmkms.process import exclusive
from hsmkms.service import clones
from hsmkms.service.audit_desk import AuditDesk
from hsmkms.service.backup import CONFIGURATION, NeededObject, needed_objects
from hsmkms.service.backup_keys import Header, read_header
from hsmkms.service.core import Checkpoint, Core, no_checkpoint
from hsmkms.service.installation_keys import witness
from hsmkms.service.sealing import Contradiction, Sealer
from hsmkms.store import audit_files, files, installation, migrate, snapshot
from hsmkms.store.engine import Connection
from hsmkms.store.sealed_stream import SealedReader
from hsmkms.store.sealed_stream import read_header as read_raw_header

LOCK: Final = "init.lock"
"""The same as that of `hsmkms init`, which would make databases in the same place."""

LOCK_SECONDS: Final = 60.0
_STAGING: Final = ".restore-"
_MARK: Final = ".restore-unfinished"
_FILES: Final = (snapshot.AUDIT, files.LOG.name, files.META.name)
"""In the order in which they take their places: where meta.db is, everything is."""

Unseal = Callable[[Header], bytes]
"""Makes the key of the file of its header."""

OpenCore = Callable[[Path], Core]
"""Opens an installation whose data folder is the given one; BindingError where the token is not its own."""


class Restored(Struct, frozen=True, kw_only=True):
    """What was restored. ``missing``: objects that the token does not have; ``rollback``: why it is an older state.

    ``migrated``: the revisions that the databases were brought to, where the backup was made by an older program.
    """

    installation: str
    account: str
    backup_created_at: datetime
    restored_at: datetime
    folder: str
    migrated: list[str]
    missing: list[NeededObject]
    rollback: str | None


def header_of(file: Path) -> Header:
    """What a backup says of itself, unproven. StoreError for what is no backup."""
    try:
        with file.open("rb") as opened:
            return read_header(read_raw_header(opened))
    except OSError as exc:
        raise _unreadable(file, exc) from exc


def configuration_of(file: Path, unseal: Unseal) -> bytes | None:
    """The configuration in a backup, proven with all the rest; None if it has none."""
    with tempfile.TemporaryDirectory(prefix="hsmkms-restore-") as place:
        return _unpack(file, unseal, Path(place)).get(CONFIGURATION)


def restore(
    file: Path,
    target: Path,
    unseal: Unseal,
    open_core: OpenCore,
    *,
    accept_rollback: bool,
    reached: Checkpoint = no_checkpoint,
) -> Restored:
    """Restore a backup into the data folder ``target``, which must hold no databases and no audit log.

    Raises StoreError (damaged, or older than what the token remembers, or the target is not empty), BindingError
    (another token, another private key), MigrationError (the backup is of a newer program). Then nothing was changed.
    """
    files.make_folder(target)
    with exclusive(target / LOCK, LOCK_SECONDS):
        remove_leftovers(target)
        require_empty(target)
        staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=target))
        try:
            # 1. Everything is read and proven.
            header = header_of(file)
            _unpack(file, unseal, staging)
            migrated = migrate.upgrade(staging)
            reached("restore 1: unpacked")

            # 2. It belongs to this token, and is not older than what that remembers; the restore is written down.
            restored = _prepare(open_core(staging), header, target, migrated, accept_rollback=accept_rollback)
            reached("restore 2: prepared")

            # 3. The files take their places, the database last.
            _move(staging, target, reached)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

        # 4. The audit log goes on from here.
        _seal(open_core(target), accept=restored.rollback is not None)
    return restored


def remove_leftovers(target: Path) -> None:
    """Remove what an interrupted restore has left: a half one is none."""
    for left in target.glob(f"{_STAGING}*"):
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else None
    mark = target / _MARK
    if not mark.exists():
        return
    if not (target / files.META.name).exists():
        (target / files.LOG.name).unlink(missing_ok=True)
        shutil.rmtree(target / snapshot.AUDIT, ignore_errors=True)
    mark.unlink()


def require_empty(target: Path) -> None:
    """Raise StoreError if the folder holds anything that a restore would replace."""
    for database in files.DATABASES:
        for each in target.glob(f"{database.name}*"):
            raise _not_empty(each)
    audit = target / snapshot.AUDIT
    if audit.is_dir() and any(audit.iterdir()):
        raise _not_empty(audit)


def _unpack(file: Path, unseal: Unseal, place: Path) -> dict[str, bytes]:
    try:
        with file.open("rb") as opened:
            reader = SealedReader(opened, lambda header: unseal(read_header(header)))
            others = snapshot.unpack(reader, place)
            reader.drain()
    except OSError as exc:
        raise _unreadable(file, exc) from exc
    return others


def _prepare(core: Core, header: Header, target: Path, migrated: list[str], *, accept_rollback: bool) -> Restored:
    try:
        if core.installation.id != header.installation:
            raise StoreError("the backup holds another installation than its header says: it is not one of ours")
        rollback = _rollback(core)
        if rollback is not None and not accept_rollback:
            raise StoreError(
                f"the backup is older than what its token remembers ({rollback}): keys, policies and users are as they "
                "were then. Take the newest backup, or give --accept-rollback; the audit log will tell of it"
            )
        now = core.clock()
        missing = _missing(core)
        details = {"backupCreatedAt": f"{header.created_at:%Y-%m-%dT%H:%M:%SZ}", "rollback": rollback or ""}
        with core.audit.acting("RestoreBackup", core.installation.default_region, details), core.store.atomic() as tx:
            installation.set_restored(tx, now)
            _accept_clones(core, tx)
        core.audit.close()
        return Restored(
            installation=core.installation.id,
            account=core.installation.account,
            backup_created_at=header.created_at,
            restored_at=now,
            folder=str(target),
            migrated=migrated,
            missing=missing,
            rollback=rollback,
        )
    finally:
        _close(core)


def _accept_clones(core: Core, tx: Connection) -> None:
    """Record the clones that the operator accepts in the place of tokens, each in the audit log."""
    for serial in clones.accept_all(core, tx):
        core.audit.event("AcceptClone", core.installation.default_region, "", {"serial": serial})


def _rollback(core: Core) -> str | None:
    """How the state contradicts what the token remembers, or None."""
    try:
        Sealer(core).check()
    except Contradiction as exc:
        return str(exc).partition(": run ")[0]
    return None


def _missing(core: Core) -> list[NeededObject]:
    there = {cka_id for row in core.tokens.rows() for cka_id in _present(core, row.id)}
    with core.store.reading() as conn:
        return [each for each in needed_objects(core, conn) if each.cka_id not in there]


def _present(core: Core, token_id: str) -> set[str]:
    """The CKA_IDs on a token; none of one that the installation has left and that is away."""
    try:
        return {each.cka_id.hex() for each in core.tokens.of(token_id).inventory(witness(core, token_id))}
    except TokenUnavailableError:
        if token_id == core.tokens.home_id:
            raise
        return set()


def _move(staging: Path, target: Path, reached: Checkpoint) -> None:
    try:
        (target / _MARK).touch(mode=files.FILE_MODE)
        audit_files.sync_folder(target)
        for name in _FILES:
            for journal in staging.glob(f"{name}-wal"):
                raise StoreError(f"{journal} was not closed: nothing was restored; try again")
            (staging / name).rename(target / name)
            audit_files.sync_folder(target)
            reached(f"restore 3: {name}")
        (target / _MARK).unlink()
    except OSError as exc:
        raise StoreError(f"the backup cannot be restored into {target}: {exc.strerror}") from exc


def _seal(core: Core, *, accept: bool) -> None:
    try:
        if accept:
            AuditDesk(core).accept()
        else:
            Sealer(core).seal()
        core.audit.close()
    finally:
        _close(core)


def _close(core: Core) -> None:
    core.cache.close()
    core.store.close()
    core.tokens.close()


def _not_empty(found: Path) -> StoreError:
    return StoreError(
        f"there is {found} already: a restore replaces nothing. Move what belongs to the old installation away, "
        "or choose another --data-dir"
    )


def _unreadable(file: Path, error: OSError) -> StoreError:
    return StoreError(f"the backup {file} cannot be read: {error.strerror}")
