"""Restore a backup into a staging folder, verify everything there, and then rename it into place.

No database is opened, and nothing that the backup names is loaded, before its origin is proven or the operator has
waived the proof; and its configuration is used only if the operator has none, and has confirmed what it would load and
run.

The database is moved last, so that an interrupted restore does not look like an installation; the next restore removes
its leftovers, and nothing else (restore_moves.py). One on a server is filled last, in one transaction.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from hsmkms.errors import BindingError, StoreError, TokenUnavailableError
from hsmkms.hsm.ports import Device
from hsmkms.process import exclusive
from hsmkms.service.audit.administration import AuditAdministration
from hsmkms.service.audit.freshness import Freshness
from hsmkms.service.audit.sealing import Contradiction, Sealer
from hsmkms.service.backup import origin as backup_origin
from hsmkms.service.backup import restore_moves, restore_remains, unsealing
from hsmkms.service.backup.age_keys import PrivateKeys
from hsmkms.service.backup.create import NeededObject, needed_objects
from hsmkms.service.backup.origin import Proof
from hsmkms.service.backup.signature import VerifyingKey
from hsmkms.service.backup.unsealing import Unseal, Unsealed
from hsmkms.service.keys.installation_keys import witness
from hsmkms.service.operations import deletion
from hsmkms.service.runtime import binding, open_processes
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.ports import Checkpoint, no_checkpoint
from hsmkms.store import audit_files, files, installation, migrate, node_id, nodes
from hsmkms.store.engine import Connection

if TYPE_CHECKING:
    from hsmkms.store.postgresql.target import Target

LOCK: Final = "init.lock"
"""The lock file of `hsmkms init`, which would create databases in the same place."""

LOCK_SECONDS: Final = 60.0

OpenCore = Callable[[Path], Core]
"""Opens an installation in the given data folder; BindingError if the token does not belong to it."""

_UNPROVEN: Final = (
    "{}. Nothing was restored: anyone who can write to the place where the backup was kept may have made it. Give {}"
    "--unproven if you know by other means that it is yours"
)
_IF_SIGNED: Final = "--signed-by PUBLIC.pem if you have signed it, or "


class Order(Struct, frozen=True, kw_only=True):
    """The operator's inputs and permissions for a restore: see `hsmkms restore`."""

    keys: PrivateKeys | None = None
    signed_by: VerifyingKey | None = None
    unproven: bool = False
    accept_rollback: bool = False
    accept_clone: str | None = None
    """Label or serial of a token that is accepted though it is a clone."""


class Configured(Struct, frozen=True, kw_only=True):
    """What a configuration gives a restore: devices and openers; ``file``: its text, if it came from the backup.

    ``open_staged`` opens databases in files of a folder, ``open_restored`` the installation in its place. ``server``:
    the database that the configuration names, if that is on a server.
    """

    devices: Sequence[Device]
    open_staged: OpenCore
    open_restored: Callable[[], Core]
    file: bytes | None = None
    server: "Target | None" = None


Configure = Callable[[Unsealed, str | None], Configured]
"""Loads a configuration and opens its tokens: the operator's, or the backup's if the operator accepts it.

Called with the unpacked backup, and the fingerprint of its verified signature (None without one).
"""


class Restored(Struct, frozen=True, kw_only=True):
    """Result of a restore. ``missing``: objects that the token does not have; ``rollback``: why it is an older state.

    ``migrated``: the applied revisions, if an older program made the backup. ``proof``: the proofs of its origin; see
    ``backup_origin.Proof``. ``postponed``: ARNs of keys whose deletion was near, and may have been cancelled after the
    backup: they got a new waiting period. ``set_aside``: the folder with what the lost installation had left in its
    place.
    """

    installation: str
    account: str
    backup_created_at: datetime
    restored_at: datetime
    folder: str
    proof: str
    migrated: list[str]
    missing: list[NeededObject]
    rollback: str | None
    postponed: list[str]
    set_aside: str | None = None


def restore(
    file: Path,
    target: Path,
    order: Order,
    unseal: Unseal,
    configure: Configure,
    reached: Checkpoint = no_checkpoint,
    *,
    server: "Target | None" = None,
) -> Restored:
    """Restore a backup into the data folder ``target``, which must hold no databases and no other's audit log.

    ``server``: where the database goes, if that is known already; it must be empty.

    Raises StoreError (damaged, unproven, older than the token's notes, or the target is not empty), BindingError
    (another token, another private key), MigrationError (made by a newer program), ConfigurationError (processes of the
    old installation still run), and the errors of ``configure``. Then nothing was changed.
    """
    files.make_folder(target)
    with exclusive(target / LOCK, LOCK_SECONDS):
        restore_moves.remove_leftovers(target, server)
        restore_moves.require_empty(target, server)
        open_processes.require_none(target)  # of the old installation, whose files were moved away under them
        staging = Path(tempfile.mkdtemp(prefix=restore_moves.STAGING, dir=target))
        try:
            # 1. Read everything, once.
            unsealed = unsealing.read(file, order.keys, unseal, staging)
            restore_remains.require_own(target, unsealed.about.installation)
            signature = _signature(unsealed, order)
            reached("restore 1: unpacked")

            # 2. Open the token, and verify the origin.
            configured = configure(unsealed, signature)
            proof = _proof(unsealed, signature, configured.devices, order)
            _set_node(staging, target, configured)
            reached("restore 2: proven")

            # 3. Check that it belongs to this token and is not older than the token's notes; record the restore.
            migrated = migrate.upgrade(staging)
            restored = _prepare(configured, staging, unsealed, target, migrated, proof, order)
            reached("restore 3: prepared")

            # 4. Set aside what the lost installation left, and move the files into place, the database last.
            aside = restore_moves.move(
                staging, target, configured.server, configured.file, restored.restored_at, reached
            )
            restored = replace(restored, set_aside=str(aside) if aside is not None else None)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

        # 5. Seal, so that the audit log continues from here.
        _seal(configured.open_restored(), accept=restored.rollback is not None)
    return restored


def _signature(unsealed: Unsealed, order: Order) -> str | None:
    """Verify the required signature, if any; return its key. StoreError if it is missing, or no proof is possible."""
    if order.signed_by is not None:
        if unsealed.manifest is None:
            raise StoreError("the backup was made by a version without signatures, and --signed-by asks for one")
        return backup_origin.check_signature(unsealed.kept, order.signed_by)
    if unsealed.manifest is None and not unsealed.sealed_by_token and not order.unproven:
        fault = "the backup was made by a version without proofs, and is sealed to a public key, which anyone can do"
        raise StoreError(_UNPROVEN.format(fault, ""))
    return None


def _proof(unsealed: Unsealed, signature: str | None, devices: Sequence[Device], order: Order) -> Proof:
    """Verify the origin. StoreError or BindingError if nothing proves it, and a proof is required."""
    if unsealed.manifest is None:
        return Proof(sealed_by_token=unsealed.sealed_by_token)
    try:
        backup_origin.check_token(unsealed.manifest, unsealed.kept, devices)
    except (StoreError, BindingError) as exc:
        if signature is None and not order.unproven:
            raise type(exc)(_UNPROVEN.format(exc, _IF_SIGNED)) from exc
        return Proof(signature=signature)
    return Proof(token=True, signature=signature)


def _prepare(
    configured: Configured,
    staging: Path,
    unsealed: Unsealed,
    target: Path,
    migrated: list[str],
    proof: Proof,
    order: Order,
) -> Restored:
    core, about = configured.open_staged(staging), unsealed.about
    try:
        if core.installation.id != about.installation:
            raise StoreError("the backup holds another installation than it says: it was not made by this program")
        rollback = _rollback(core)
        if rollback is not None and not order.accept_rollback:
            raise StoreError(
                f"the backup is older than what its token remembers ({rollback}): keys, policies and users are as they "
                "were then. Take the newest backup, or give --accept-rollback; the audit log will record it"
            )
        now = core.clock()
        missing = _missing(core)
        details = {"backupCreatedAt": f"{about.created_at:%Y-%m-%dT%H:%M:%SZ}", "rollback": rollback or ""}
        details |= {"proof": str(proof), "sha256": unsealed.sha256}
        with core.audit.acting("RestoreBackup", core.installation.default_region, details), core.store.atomic() as tx:
            installation.set_restored(tx, now)
            if configured.server is None:
                nodes.remove_all(tx)
            else:
                node = nodes.of_folder(staging, now)
                nodes.register_if_new(tx, replace(node, folder=str(target.absolute())))
            _accept_clones(core, tx)
        postponed = deletion.postpone(core)
        core.audit.close()
        return Restored(
            installation=core.installation.id,
            account=core.installation.account,
            backup_created_at=about.created_at,
            restored_at=now,
            folder=str(target),
            proof=str(proof),
            migrated=migrated,
            missing=missing,
            rollback=rollback,
            postponed=postponed,
        )
    finally:
        _close(core)


def _set_node(staging: Path, target: Path, configured: Configured) -> None:
    """Give the restored folder the id of the node whose audit log it goes on with.

    StoreError if the folder is another node.
    """
    own, of_log = node_id.read(target), restore_remains.node_of_log(staging / audit_files.FOLDER)
    if of_log is not None and own not in (None, of_log):
        raise StoreError(
            f"the backup has the audit log of node {of_log}, and {target} is node {own}: restore it into the folder "
            "of that node, or into a new one"
        )
    if own is not None or of_log is not None:
        node_id.write(staging, own or of_log or "")
    elif configured.server is not None:
        node_id.read_or_make(staging)


def _accept_clones(core: Core, tx: Connection) -> None:
    """Record label and serial of each token that is open as a clone, which the operator accepts."""
    for row in core.tokens.rows():
        try:
            device = core.tokens.of(row.id)
        except TokenUnavailableError:
            continue  # it is not open, so it is not accepted
        if binding.is_clone(device, row):
            installation.rename_token(tx, row.id, device.profile.label, device.profile.serial)
            Freshness(core).take(row.id)
            details = {"serial": device.profile.serial}
            core.audit.event("AcceptClone", core.installation.default_region, "", details)


def _rollback(core: Core) -> str | None:
    """Return how the restored state contradicts the token's notes, or None."""
    try:
        Sealer(core).check()
    except Contradiction as exc:
        return str(exc).partition(": run ")[0]
    return None


def _missing(core: Core) -> list[NeededObject]:
    present = {cka_id for row in core.tokens.rows() for cka_id in _present(core, row.id)}
    with core.store.reading() as conn:
        return [each for each in needed_objects(core, conn) if each.cka_id not in present]


def _present(core: Core, token_id: str) -> set[str]:
    """Return the CKA_IDs on a token, in hex; empty for a former home that is away."""
    try:
        return {each.cka_id.hex() for each in core.tokens.of(token_id).keys.inventory(witness(core, token_id))}
    except TokenUnavailableError:
        if token_id == core.tokens.home_id:
            raise
        return set()


def _seal(core: Core, *, accept: bool) -> None:
    try:
        if accept:
            AuditAdministration(core).accept()
        else:
            Sealer(core).seal()
        core.audit.close()
    finally:
        _close(core)


def _close(core: Core) -> None:
    core.cache.close()
    core.store.close()
    core.tokens.close()
