"""Create a backup: databases, audit log and configuration in one encrypted file, without interrupting service."""

import hashlib
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
from msgspec import Struct

from hsmkms.atomic_write import sync_folder
from hsmkms.errors import HsmKmsError, StoreError
from hsmkms.model.permit import OperatorAct
from hsmkms.process import exclusive
from hsmkms.service.audit.sealing import Sealer
from hsmkms.service.backup import age_envelope
from hsmkms.service.backup import origin as backup_origin
from hsmkms.service.backup import signature as backup_signature
from hsmkms.service.backup.age_keys import Recipient
from hsmkms.service.backup.origin import FORMAT, Manifest, Proof
from hsmkms.service.backup.recipients import Header, SealedKey, seal_to_token
from hsmkms.service.backup.signature import SigningKey
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.permits import own_permit
from hsmkms.store import files, installation, objects, snapshot
from hsmkms.store.archive import Member
from hsmkms.store.engine import Connection, FileDatabase
from hsmkms.store.sealed_stream import KEY_BYTES, SealedWriter

CONFIGURATION: Final = "hsmkms.toml"
INVENTORY: Final = "inventory.json"
CONTAINS: Final = "meta.db, log.db, the audit log, hsmkms.toml, and an inventory of the token objects that they need"
LACKS: Final = (
    "the token's objects (no key is in it: back up the token by its own means), the PIN, "
    "the TLS key, and archived files of the audit log"
)
NEEDS_CONFIGURATION: Final = (
    "nothing but the token opens it, which a configuration must name: keep a copy of that elsewhere"
)
_LOCK: Final = "backup-file.lock"
_LOCK_SECONDS: Final = 5.0
_BLOCK: Final = 65536
_WORKPLACE: Final = ".backup-"


class NeededObject(Struct, frozen=True, kw_only=True):
    """A token object that a backup needs. ``cka_id`` is in hex, ``token`` is the token's label."""

    cka_id: str
    label: str
    purpose: str
    token: str
    key_id: str | None = None


class BackupMade(Struct, frozen=True, kw_only=True):
    """Result of a backup. ``recipients``: the keys it is encrypted to; ``proof``: the proofs of its origin.

    ``sha256``: of the whole file. ``restore``: the commands that restore it, or open it without this program.
    """

    file: str
    size: int
    sha256: str
    method: str
    recipients: list[str]
    proof: str
    objects: int
    contains: str
    lacks: str
    restore: list[str]


class Envelope(Struct, frozen=True, kw_only=True):
    """Encryption of the archive: its method, its recipients, and the function that writes it."""

    method: str
    recipients: list[str]
    write: Callable[[BinaryIO, Iterator[bytes]], None]


def backup(
    core: Core, file: Path, recipients: Sequence[Recipient], configuration: bytes | None, signing_key: SigningKey | None
) -> BackupMade:
    """Write a backup to a new file, sealed to the recipients, or by the token if there are none.

    The file appears complete or not at all. StoreError if it exists or cannot be written;
    DependencyTimeoutException if another backup is in progress.
    """
    envelope = _by_token(core) if not recipients else _to_recipients(recipients)
    with exclusive(core.store.folder / _LOCK, _LOCK_SECONDS), _draft(file) as draft, _workplace(core) as place:
        try:
            return _write(core, file, draft, envelope, place, configuration, signing_key)
        except HsmKmsError as exc:
            details = {"file": str(file)}
            core.audit.event("CreateBackup", core.installation.default_region, "", details, exc)
            raise


def needed_objects(core: Core, conn: Connection) -> list[NeededObject]:
    """List the objects that a database needs on its tokens, the installation's own keys first."""
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
    core: Core,
    file: Path,
    draft: BinaryIO,
    envelope: Envelope,
    place: Path,
    configuration: bytes | None,
    signing_key: SigningKey | None,
) -> BackupMade:
    # 1. Record the backup and seal the log: so the backup contains its own record, and matches the token's newest note.
    signed_by = backup_signature.fingerprint(signing_key.public_key()) if signing_key is not None else None
    details = {"file": str(file), "method": envelope.method, "recipient": ", ".join(envelope.recipients)}
    details["signedBy"] = signed_by or ""
    with core.audit.acting("CreateBackup", core.installation.default_region, details):
        pass
    if core.audit.used:
        core.audit.tidy()
        Sealer(core).seal()

    # 2. Take the snapshot and encrypt it as it is read; the proofs of origin are computed over the data as read.
    with snapshot.taken(core.store, place) as taken:
        needed = _inventory(core, place)
        others = {INVENTORY: msgspec.json.format(msgspec.json.encode(needed))}
        if configuration is not None:
            others[CONFIGURATION] = configuration

        def proofs(members: list[Member]) -> dict[str, bytes]:
            return backup_origin.proofs(core, _manifest(core, envelope, members), signing_key)

        try:
            envelope.write(draft, taken.stream(others, proofs))
        except OSError as exc:
            raise _unwritable(file, exc) from exc
    return BackupMade(
        file=str(file),
        size=draft.tell(),
        sha256=_digest(draft),
        method=envelope.method,
        recipients=envelope.recipients,
        proof=str(Proof(token=True, signature=signed_by)),
        objects=len(needed),
        contains=CONTAINS,
        lacks=LACKS if envelope.method == age_envelope.METHOD else f"{LACKS}; {NEEDS_CONFIGURATION}",
        restore=_restore_commands(file, envelope, signed=signed_by is not None),
    )


def _restore_commands(file: Path, envelope: Envelope, *, signed: bool) -> list[str]:
    name, sealed_to_key = shlex.quote(str(file)), envelope.method == age_envelope.METHOD
    key, signature = " --private-key KEY" if sealed_to_key else "", " --signed-by PUBLIC.pem" if signed else ""
    plain = [f"age --decrypt --identity KEY {name} | tar --extract"] if sealed_to_key else []
    return [f"hsmkms restore {name}{key}{signature}", *plain]


# -- the envelope -----------------------------------------------------------------------------------------------


def _to_recipients(recipients: Sequence[Recipient]) -> Envelope:
    return Envelope(
        method=age_envelope.METHOD,
        recipients=[each.name for each in recipients],
        write=lambda file, blocks: age_envelope.seal(file, recipients, blocks),
    )


def _by_token(core: Core) -> Envelope:
    # The sealing key may have to be created first, so that the backup includes its row.
    key = core.device.ciphers.random(own_permit(OperatorAct.BACKUP), KEY_BYTES)
    sealed = seal_to_token(core, key)

    def write(file: BinaryIO, blocks: Iterator[bytes]) -> None:
        writer = SealedWriter(file, msgspec.json.encode(_header(core, sealed)), key)
        for block in blocks:
            writer.write(block)
        writer.finish()

    return Envelope(method=sealed.method, recipients=[sealed.recipient], write=write)


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


def _manifest(core: Core, envelope: Envelope, members: list[Member]) -> Manifest:
    return Manifest(
        format=FORMAT,
        installation=core.installation.id,
        account=core.installation.account,
        created_at=core.clock(),
        method=envelope.method,
        recipients=envelope.recipients,
        contains=CONTAINS,
        lacks=LACKS,
        files=members,
    )


def _digest(file: BinaryIO) -> str:
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def _inventory(core: Core, place: Path) -> list[NeededObject]:
    """List the objects that the copy needs, which may differ from what the database needs by now."""
    copy = FileDatabase(place / files.META.name)
    try:
        with copy.reading() as conn:
            return needed_objects(core, conn)
    finally:
        copy.close()


@contextmanager
def _workplace(core: Core) -> Iterator[Path]:
    """Create a private folder for copies of the databases; folders left by killed backups are removed."""
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
    """Open the file under a temporary name; it is fsynced and renamed when the block ends without an error."""
    if file.exists():
        raise StoreError(f"there is a file {file} already: choose another name, so that no backup replaces another")
    draft = file.with_name(f".{file.name}.part")
    try:
        draft.unlink(missing_ok=True)  # left by a killed backup: only one runs at a time
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, files.FILE_MODE)
    except OSError as exc:
        raise _unwritable(file, exc) from exc
    try:
        with os.fdopen(descriptor, "w+b") as opened:
            yield opened
            try:
                opened.flush()
                os.fsync(opened.fileno())
                draft.rename(file)
                sync_folder(file.parent)
            except OSError as exc:
                raise _unwritable(file, exc) from exc
    finally:
        draft.unlink(missing_ok=True)


def _unwritable(file: Path, error: OSError) -> StoreError:
    return StoreError(f"the backup {file} cannot be written: {error.strerror}")
