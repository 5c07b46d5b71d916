"""Manage the installation's own keys on the token, each created when it is first needed.

Each purpose has versions: the newest is used, and older ones still verify or decrypt their own results.
"""

import hmac
from collections.abc import Callable, Iterator
from typing import Final

from hsmkms.errors import ConflictException, HsmKmsError, ObjectLostError, TokenUnavailableError
from hsmkms.hsm.ports import Device
from hsmkms.model.cipher_format import new_cka_id
from hsmkms.model.own_keys import KeyPurpose
from hsmkms.model.permit import OperatorAct, Permit
from hsmkms.rules.audit import seal as audit_seal
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.permits import own_permit
from hsmkms.store import audit_files, installation, users
from hsmkms.store.installation import InstallationKeyRow
from hsmkms.store.installation_lock import exclusive, require

_ENCRYPTING: Final = (KeyPurpose.SECRETS, KeyPurpose.BACKUP)
_LOCK_SECONDS: Final = 60.0


def sealing_key(core: Core, purpose: str) -> InstallationKeyRow:
    """Return the newest HMAC key of a purpose; created at its first use, in the same steps as at init."""

    def make(key: InstallationKeyRow, label: str) -> None:
        core.tokens.of(key.token_id).own.generate_mac_key(own_permit(OperatorAct.SEAL, key.cka_id), key.cka_id, label)

    return newest_key(core, purpose, make)


def encryption_key(core: Core, purpose: str, act: OperatorAct) -> InstallationKeyRow:
    """Return the newest AES-256 key of a purpose; created at its first use."""

    def make(key: InstallationKeyRow, label: str) -> None:
        core.tokens.of(key.token_id).keys.generate_backing_key(own_permit(act, key.cka_id), key.cka_id, label)

    return newest_key(core, purpose, make)


def versions(core: Core, purpose: str, token_id: str | None = None) -> list[InstallationKeyRow]:
    """Return all versions of a purpose's key, on all tokens or on one, oldest first; the newest may be an intent."""
    with core.store.reading() as conn:
        return installation.versions(conn, purpose, token_id)


def macs(core: Core, permit: Callable[[bytes], Permit], message: bytes) -> Iterator[bytes]:
    """Yield the message's MACs by all versions of the installation's MAC key, the newest, to be used, first.

    ``permit`` makes the permit for a CKA_ID. Versions on tokens that are away are left out. Raises ObjectLostError or
    TokenUnavailableError if no version is available.
    """
    lost: HsmKmsError | None = ObjectLostError("the installation has no MAC key")
    for key in reversed(versions(core, KeyPurpose.MAC)):
        try:
            device = core.tokens.of(key.token_id)
            labelled = device.keys.is_labelled(key.cka_id, key.label(core.installation.id))
            mac = device.own.mac(permit(key.cka_id), key.cka_id, message) if labelled else None
        except (ObjectLostError, TokenUnavailableError) as exc:
            lost = lost and exc
            continue
        if mac is not None:  # otherwise the row was forged, with the CKA_ID of a key that users can use
            lost = None
            yield mac
    if lost is not None:
        raise lost


def is_mac(core: Core, permit: Callable[[bytes], Permit], message: bytes, mac: bytes) -> bool:
    """Return True if a version of the installation's MAC key makes that MAC of the message. Raises like ``macs``."""
    return any(hmac.compare_digest(each, mac) for each in macs(core, permit, message))


def witness(core: Core, token_id: str | None = None) -> bytes:
    """Return the CKA_ID of a MAC key on a token (default: the home): the cached version, or else one present there."""
    token_id = token_id or core.tokens.home_id
    device, known = core.tokens.of(token_id), core.witnesses.get(token_id)
    if known is not None and device.keys.holds(known):
        return known
    with core.store.reading() as conn:
        candidates = installation.versions(conn, KeyPurpose.MAC, token_id)
    for key in reversed(candidates):
        if device.keys.holds(key.cka_id):
            core.witnesses[token_id] = key.cka_id
            return key.cka_id
    return known or b""


def label_of(core: Core, key: InstallationKeyRow) -> str:
    """Return an installation key's label on the token."""
    return key.label(core.installation.id)[: core.tokens.of(key.token_id).profile.label_bytes]


def was_made(core: Core, key: InstallationKeyRow) -> bool:
    """Return True if a version was once on its token: if it is absent now, it was lost, and is never recreated.

    Of rows written by an older program, only the newest of a purpose can be an intent.
    """
    if key.made_at is not None or key != versions(core, key.purpose)[-1]:
        return True
    return key.version in _versions_used(core, key.purpose)


def require_made(core: Core, purpose: str) -> None:
    """Raise ObjectLostError if the newest version of a purpose's key was lost."""
    known = versions(core, purpose)
    if known and not _is_there(core, known[-1]) and was_made(core, known[-1]):
        raise lost(known[-1])


def lost(key: InstallationKeyRow) -> ObjectLostError:
    """Return the error for a version that is not on its token any more."""
    return ObjectLostError(
        f"the installation's own key {key.purpose!r}, version {key.version}, is not on its token any more: put the "
        "token that has it, or a newer backup of it, back; if it is lost for good, `hsmkms renew-installation-keys` "
        "creates a new version and shows what is lost with this one"
    )


def sealed_versions(core: Core) -> set[int]:
    """Return the key versions named by the seals of the audit log, not verified."""
    path = core.audit.folder / audit_files.SEALS
    lines = path.read_bytes().splitlines() if path.exists() else []
    return {line.seal.key_version for line in map(audit_seal.read, lines) if line is not None}


def _versions_used(core: Core, purpose: str) -> set[int]:
    with core.store.reading() as conn:
        secrets = {each.key_version for each in users.all_access_keys(conn)}
    used: dict[str, set[int]] = {KeyPurpose.AUDIT_SEAL: sealed_versions(core), KeyPurpose.SECRETS: secrets}
    return used.get(purpose, set())


def newest_key(core: Core, purpose: str, make: Callable[[InstallationKeyRow, str], None]) -> InstallationKeyRow:
    """Return the newest key of a purpose; call ``make`` with its row and label to create it at its first use."""
    known = versions(core, purpose)
    if known and known[-1].made_at is not None and _is_there(core, known[-1]):
        return known[-1]
    with exclusive(core.store, purpose, _LOCK_SECONDS):
        before = versions(core, purpose)
        first = _intended(core, purpose)
        if first in before:
            first = begin_anew(core, first, core.tokens.of(first.token_id))
        # If the home moved while the first version was created on the old token, the next is created on the new home.
        return _made(core, first, make) or _made(core, _intended(core, purpose, first), make) or first


def new_cka_id_for(core: Core, purpose: str) -> bytes:
    """Return the CKA_ID of a new version of a purpose's key, in the ciphertext format of the home if it encrypts."""
    return new_cka_id(core.device.profile.cipher_format) if purpose in _ENCRYPTING else new_cka_id()


def _intended(core: Core, purpose: str, left: InstallationKeyRow | None = None) -> InstallationKeyRow:
    """Return the newest version of a purpose; insert the first one, or one that follows ``left``, if needed."""
    core.tokens.may_have_moved()
    home_id, cka_id = core.tokens.home_id, new_cka_id_for(core, purpose)
    with core.audited_and_sealed() as tx:
        known = installation.versions(tx, purpose)
        if known and (left is None or known[-1].version != left.version):
            return known[-1]
        version = installation.next_version(tx, purpose)
        return installation.insert_installation_key(tx, purpose, version, home_id, cka_id, core.clock())


def _made(
    core: Core, key: InstallationKeyRow, make: Callable[[InstallationKeyRow, str], None]
) -> InstallationKeyRow | None:
    """Create the key on its token if needed; None if the home moved meanwhile. ObjectLostError if it was lost."""
    present = _is_there(core, key)
    if not present:
        if was_made(core, key):
            raise lost(key)
        require(core.store)
        make(key, label_of(core, key))
    try:
        with core.audited_and_sealed() as tx:
            made = installation.note_made(tx, key, core.clock())
            return made if present or installation.is_home(tx, key.token_id) else None
    except ConflictException:
        take_back(core, key, core.tokens.of(key.token_id))
        raise


def begin_anew(core: Core, key: InstallationKeyRow, device: Device) -> InstallationKeyRow:
    """Return an intent that an interrupted creation has left with another CKA_ID, unless its key is there, or was.

    The key may exist where it is not visible now: on a member of the HA group that is not in use; or be made this very
    moment, by a process that was stopped for longer than its lease. A second one of that CKA_ID must not come beside
    it. The new CKA_ID is of the ciphertext format that the token has now. What is visible of the interrupted creation
    is destroyed, the second time after its row is gone: who makes it later sees that, and takes it back.
    """
    if device.keys.holds(key.cka_id) or was_made(core, key):
        return key
    require(core.store)
    permit = own_permit(OperatorAct.MAINTAIN, key.cka_id)
    device.keys.destroy(permit, key.cka_id)
    made_for = device.profile.cipher_format
    cka_id = new_cka_id(made_for) if key.purpose in _ENCRYPTING else new_cka_id()
    with core.audited_and_sealed() as tx:
        installation.delete_installation_key(tx, key)
        anew = installation.insert_installation_key(tx, key.purpose, key.version, key.token_id, cka_id, core.clock())
    core.reached("own key anew: result")
    device.keys.destroy(permit, key.cka_id)
    return anew


def take_back(core: Core, key: InstallationKeyRow, device: Device) -> None:
    """Destroy a key that was made while the lease was lost, unless the process that took over has found and used it."""
    with core.store.reading() as conn:
        known = installation.versions(conn, key.purpose)
    if all(each.cka_id != key.cka_id for each in known):
        device.keys.destroy(own_permit(OperatorAct.MAINTAIN, key.cka_id), key.cka_id)


def _is_there(core: Core, key: InstallationKeyRow) -> bool:
    return core.tokens.of(key.token_id).keys.holds(key.cka_id)
