"""Keys of the installation itself on the token, each made when it is first needed.

Each purpose has versions: the newest is used, and the older ones verify what they have made.
"""

import hmac
import uuid
from collections.abc import Callable, Iterator
from typing import Final

from hsmkms.errors import HsmKmsError, ObjectLostError, TokenUnavailableError
from hsmkms.model.own_keys import KeyPurpose
from hsmkms.model.permit import OperatorAct, Permit
from hsmkms.process import exclusive
from hsmkms.rules.audit import seal as audit_seal
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.permits import own_permit
from hsmkms.store import audit_files, installation, users
from hsmkms.store.installation import InstallationKeyRow

_LOCK_SECONDS: Final = 60.0


def sealing_key(core: Core, purpose: str) -> InstallationKeyRow:
    """The newest HMAC key of a purpose; made at its first use, in the same steps as at init."""

    def make(key: InstallationKeyRow, label: str) -> None:
        core.tokens.of(key.token_id).generate_mac_key(own_permit(OperatorAct.SEAL, key.cka_id), key.cka_id, label)

    return _newest(core, purpose, make)


def encryption_key(core: Core, purpose: str, act: OperatorAct) -> InstallationKeyRow:
    """The newest AES-256 key of a purpose; made at its first use."""

    def make(key: InstallationKeyRow, label: str) -> None:
        core.tokens.of(key.token_id).generate_backing_key(own_permit(act, key.cka_id), key.cka_id, label)

    return _newest(core, purpose, make)


def versions(core: Core, purpose: str, token_id: str | None = None) -> list[InstallationKeyRow]:
    """All versions of a purpose's key, on all tokens or on one, oldest first; the newest may not be there yet."""
    with core.store.reading() as conn:
        return installation.versions(conn, purpose, token_id)


def macs(core: Core, permit: Callable[[bytes], Permit], message: bytes) -> Iterator[bytes]:
    """What the installation's MAC key makes of a message: the newest version first, which is the one to use.

    ``permit``: leave for an object. Versions on tokens that are away are left out. Raises ObjectLostError or
    TokenUnavailableError if none is there.
    """
    lost: HsmKmsError | None = ObjectLostError("the installation has no MAC key")
    for key in reversed(versions(core, KeyPurpose.MAC)):
        try:
            device = core.tokens.of(key.token_id)
            ours = device.is_labelled(key.cka_id, key.label(core.installation.id))
            made = device.mac(permit(key.cka_id), key.cka_id, message) if ours else None
        except (ObjectLostError, TokenUnavailableError) as exc:
            lost = lost and exc
            continue
        if made is not None:  # else the row was put there by hand, with the id of a key that users can use
            lost = None
            yield made
    if lost is not None:
        raise lost


def is_mac(core: Core, permit: Callable[[bytes], Permit], message: bytes, mac: bytes) -> bool:
    """True if some version of the installation's MAC key makes that MAC of the message. Raises as ``macs`` does."""
    return any(hmac.compare_digest(each, mac) for each in macs(core, permit, message))


def witness(core: Core, token_id: str | None = None) -> bytes:
    """CKA_ID of the MAC key on a token, or on the home: of the version known so far, or else of one that is there."""
    token_id = token_id or core.tokens.home_id
    device, known = core.tokens.of(token_id), core.witnesses.get(token_id)
    if known is not None and device.holds(known):
        return known
    with core.store.reading() as conn:
        there = installation.versions(conn, KeyPurpose.MAC, token_id)
    for key in reversed(there):
        if device.holds(key.cka_id):
            core.witnesses[token_id] = key.cka_id
            return key.cka_id
    return known or b""


def label_of(core: Core, key: InstallationKeyRow) -> str:
    """How an installation key is labelled on the token."""
    return key.label(core.installation.id)[: core.tokens.of(key.token_id).profile.label_bytes]


def was_made(core: Core, key: InstallationKeyRow) -> bool:
    """True if a version was on its token: then one that is not there any more was lost, and is never made again.

    Of rows that an older program wrote, the newest of a purpose alone may tell of one that is only intended.
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
    """What is wrong, and what is to be done, where a version is not on its token any more."""
    return ObjectLostError(
        f"the installation's own key {key.purpose!r}, version {key.version}, is not on its token any more: put the "
        "token that has it, or a newer backup of it, back; if it is lost for good, `hsmkms renew-installation-keys` "
        "makes a new version and tells what is lost with this one"
    )


def sealed_versions(core: Core) -> set[int]:
    """The versions of the key that some seal of the audit log says it was made with, unproven."""
    path = core.audit.folder / audit_files.SEALS
    lines = path.read_bytes().splitlines() if path.exists() else []
    return {found.seal.key_version for found in map(audit_seal.read, lines) if found is not None}


def _versions_used(core: Core, purpose: str) -> set[int]:
    with core.store.reading() as conn:
        secrets = {each.key_version for each in users.all_access_keys(conn)}
    used: dict[str, set[int]] = {KeyPurpose.AUDIT_SEAL: sealed_versions(core), KeyPurpose.SECRETS: secrets}
    return used.get(purpose, set())


def _newest(core: Core, purpose: str, make: Callable[[InstallationKeyRow, str], None]) -> InstallationKeyRow:
    known = versions(core, purpose)
    if known and known[-1].made_at is not None and _is_there(core, known[-1]):
        return known[-1]
    with exclusive(core.store.folder / f"{purpose}.lock", _LOCK_SECONDS):
        first = _intended(core, purpose)
        # Where the home moved while the first version was made on the token that was left, the next one is made there.
        return _made(core, first, make) or _made(core, _intended(core, purpose, first), make) or first


def _intended(core: Core, purpose: str, left: InstallationKeyRow | None = None) -> InstallationKeyRow:
    """The newest version of a purpose, on its token or not; a first one, or one that follows ``left``, if need be."""
    core.tokens.may_have_moved()
    home_id = core.tokens.home_id
    with core.store.atomic() as tx:
        known = installation.versions(tx, purpose)
        if known and (left is None or known[-1].version != left.version):
            return known[-1]
        version = installation.next_version(tx, purpose)
        return installation.insert_installation_key(tx, purpose, version, home_id, uuid.uuid4().bytes, core.clock())


def _made(
    core: Core, key: InstallationKeyRow, make: Callable[[InstallationKeyRow, str], None]
) -> InstallationKeyRow | None:
    """The key, on its token; None if that was left while it was being made. ObjectLostError if it was lost."""
    there = _is_there(core, key)
    if not there:
        if was_made(core, key):
            raise lost(key)
        make(key, label_of(core, key))
    with core.store.atomic() as tx:
        made = installation.note_made(tx, key, core.clock())
        return made if there or installation.is_home(tx, key.token_id) else None


def _is_there(core: Core, key: InstallationKeyRow) -> bool:
    return core.tokens.of(key.token_id).holds(key.cka_id)
