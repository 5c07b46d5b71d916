"""Making a backup: databases, audit log and configuration in one sealed file, while everybody goes on working."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
from msgspec import Struct

from hsmkms.errors import HsmKmsError, StoreError
from hsmkms.model.permit import OperatorAct
from hsmkms.process import exclusive
from hsmkms.service.backup_keys import Header, PublicKey, Recipient, SealedKey, to_public_key, to_token
from hsmkms.service.core import Core
from hsmkms.service.permits import own_permit
from hsmkms.service.sealing import Sealer
from hsmkms.store import audit_files, files, installation, objects, snapshot
from hsmkms.store.engine import Connection, Database
from hsmkms.store.sealed_stream import KEY_BYTES, SealedWriter

CONFIGURATION: Final = "hsmkms.toml"
INVENTORY: Final = "inventory.json"
CONTAINS: Final = "meta.db, log.db, the audit log, hsmkms.toml, and an inventory of the token objects that they need"
LACKS: Final = (
    "the token's objects (no key is in it: back up the token by its own means), the PIN, "
    "the TLS key, and archived files of the audit log"
)
_LOCK: Final = "backup-file.lock"
_LOCK_SECONDS: Final = 5.0
_WORKPLACE: Final = ".backup-"


class NeededObject(Struct, frozen=True, kw_only=True):
    """An object without which something of a backup does not work. ``cka_id`` in hex, ``token`` as it was labelled."""

    cka_id: str
    label: str
    purpose: str
    token: str
    key_id: str | None = None


class BackupMade(Struct, frozen=True, kw_only=True):
    """What was written. ``recipient``: see ``Header``."""

    file: str
    size: int
    method: str
    recipient: str
    objects: int
    contains: str
    lacks: str


def backup(core: Core, file: Path, public: PublicKey | None, configuration: bytes | None) -> BackupMade:
    """Write a backup to a new file, sealed to ``public``, or by the token. The file is there as a whole, or not at all.

    StoreError if there is such a file, or it cannot be written; DependencyTimeoutException if another backup is made.
    """
    recipient = to_token(core) if public is None else to_public_key(public)
    with exclusive(core.store.folder / _LOCK, _LOCK_SECONDS), _draft(file) as draft, _workplace(core) as place:
        try:
            return _write(core, file, draft, recipient, place, configuration)
        except HsmKmsError as exc:
            details = {"file": str(file)}
            core.audit.event("CreateBackup", core.installation.default_region, "", details, exc)
            raise


def needed_objects(core: Core, conn: Connection) -> list[NeededObject]:
    """The objects that a database needs on its tokens, the installation's own ones first."""
    names = {each.id: each.label for each in installation.tokens(conn)}
    own = [
        NeededObject(
            cka_id=each.cka_id.hex(),
            label=each.label(core.installation.id),
            purpose=f"installation: {each.purpose}",
            token=names[each.token_id],
        )
        for each in installation.installation_keys(conn)
    ]
    return own + [
        NeededObject(
            cka_id=cka_id.hex(),
            label=label,
            purpose=purpose.replace("_", " ").lower(),
            token=names[token_id],
            key_id=key_id,
        )
        for token_id, cka_id, label, purpose, key_id in objects.present(conn)
    ]


def _write(
    core: Core, file: Path, draft: BinaryIO, recipient: Recipient, place: Path, configuration: bytes | None
) -> BackupMade:
    # 1. The key of the file; what seals it may have to be made, and is then in the backup itself.
    key = core.device.random(own_permit(OperatorAct.BACKUP), KEY_BYTES)
    sealed = recipient(key)

    # 2. The record, sealed: the backup tells of itself, and while nothing else happens it is as new as the token knows.
    details = {"file": str(file), "method": sealed.method, "recipient": sealed.recipient}
    with core.audit.acting("CreateBackup", core.installation.default_region, details):
        pass
    if core.audit.used:
        core.audit.tidy()
        Sealer(core).seal()

    # 3. The snapshot, encrypted as it is read.
    with snapshot.taken(core.store.folder, place) as taken:
        needed = _inventory(core, place)
        others = {INVENTORY: msgspec.json.format(msgspec.json.encode(needed))}
        if configuration is not None:
            others[CONFIGURATION] = configuration
        try:
            writer = SealedWriter(draft, msgspec.json.encode(_header(core, sealed)), key)
            taken.write(writer, others)
            writer.finish()
        except OSError as exc:
            raise _unwritable(file, exc) from exc
    return BackupMade(
        file=str(file),
        size=draft.tell(),
        method=sealed.method,
        recipient=sealed.recipient,
        objects=len(needed),
        contains=CONTAINS,
        lacks=LACKS,
    )


def _header(core: Core, sealed: SealedKey) -> Header:
    return Header(
        method=sealed.method,
        recipient=sealed.recipient,
        sealed_key=sealed.sealed,
        help=sealed.help,
        installation=core.installation.id,
        account=core.installation.account,
        created_at=core.clock(),
        contains=CONTAINS,
        lacks=LACKS,
    )


def _inventory(core: Core, place: Path) -> list[NeededObject]:
    """What the copy needs, not what the database needs by now."""
    copy = Database(place / files.META.name)
    try:
        with copy.reading() as conn:
            return needed_objects(core, conn)
    finally:
        copy.close()


@contextmanager
def _workplace(core: Core) -> Iterator[Path]:
    """A folder for copies of the databases, as private as they are; those of killed backups are removed."""
    folder = core.store.folder
    for left in folder.glob(f"{_WORKPLACE}*"):
        shutil.rmtree(left, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory(prefix=_WORKPLACE, dir=folder) as place:
            yield Path(place)
    except OSError as exc:
        raise StoreError(f"there is no room for a copy of the databases in {folder}: {exc.strerror}") from exc


@contextmanager
def _draft(file: Path) -> Iterator[BinaryIO]:
    """The file under a name of its own, which it loses when the block has ended well."""
    if file.exists():
        raise StoreError(f"there is a file {file} already: choose another name, so that no backup replaces another")
    draft = file.with_name(f".{file.name}.part")
    try:
        draft.unlink(missing_ok=True)  # of a backup that was killed: one is made at a time
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, files.FILE_MODE)
    except OSError as exc:
        raise _unwritable(file, exc) from exc
    try:
        with os.fdopen(descriptor, "wb") as opened:
            yield opened
            try:
                opened.flush()
                os.fsync(opened.fileno())
                draft.rename(file)
                audit_files.sync_folder(file.parent)
            except OSError as exc:
                raise _unwritable(file, exc) from exc
    finally:
        draft.unlink(missing_ok=True)


def _unwritable(file: Path, error: OSError) -> StoreError:
    return StoreError(f"the backup {file} cannot be written: {error.strerror}")
