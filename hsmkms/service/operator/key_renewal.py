"""Replace the installation's own keys by new ones at home, after a token with some of them was lost permanently.

A migration that was interrupted after the new token was bound needs the old one, since no key can be read: without it
the stored secrets, the seals and the backups that were made with the old one's keys are lost. So is everything made
with a key that the accepted clone of a token lacks. Every step can be repeated.
"""

from typing import Final

from msgspec import Struct

from hsmkms.errors import ConfigurationError, HsmKmsError, ObjectLostError, TokenUnavailableError
from hsmkms.model.own_keys import KeyPurpose
from hsmkms.service.audit.freshness import Freshness
from hsmkms.service.audit.sealing import Sealer
from hsmkms.service.audit.verification import verify
from hsmkms.service.keys.installation_keys import new_cka_id_for, versions, witness
from hsmkms.service.operator import key_rotation
from hsmkms.service.runtime import seal_keys
from hsmkms.service.runtime.core import Core
from hsmkms.store import installation, users
from hsmkms.store.installation import InstallationKeyRow
from hsmkms.store.installation_lock import exclusive

_LOCK: Final = "installation-keys"
_LOCK_SECONDS: Final = 60.0


class Loss(Struct, frozen=True, kw_only=True):
    """Which of the installation's own keys are unavailable now, and what is lost if they are replaced.

    ``purposes``: those of the keys; ``tokens``: labels of the tokens that cannot be reached; ``access_keys``: ids of
    access keys whose secrets cannot be read, and which are deleted. ``rows``: the seals of the database cannot be
    proven; ``log``: those of the audit log; both are accepted as they are. ``contradiction``: how they contradict the
    newest seal, proven or not.
    """

    purposes: list[KeyPurpose]
    tokens: list[str]
    access_keys: list[str]
    rows: bool
    log: bool
    contradiction: str | None

    @property
    def nothing(self) -> bool:
        """True if all keys are available."""
        return not (self.purposes or self.access_keys or self.rows or self.log)


def find(core: Core) -> Loss:
    """Find what is unavailable. ConfigurationError if nothing is; it names the commands for interrupted work."""
    lost_keys = [each for purpose in KeyPurpose for each in versions(core, purpose) if _is_lost(core, each)]
    loss = Loss(
        purposes=[purpose for purpose in KeyPurpose if _needs_renewal(core, purpose)],
        tokens=[row.label for row in core.tokens.rows() if _is_away(core, row.id)],
        access_keys=_unreadable(core, {each.version for each in lost_keys if each.purpose == KeyPurpose.SECRETS}),
        rows=not _rows_proven(core),
        log=not _log_proven(core),
        contradiction=Sealer(core).unproven_contradiction(),
    )
    if loss.nothing:
        raise ConfigurationError(
            "nothing is lost: all of the installation's own keys are available. An interrupted migration is finished "
            "by `hsmkms migrate-token`, an interrupted rotation by `hsmkms rotate-installation-keys`"
        )
    return loss


def renew(core: Core, loss: Loss) -> None:
    """Replace the lost keys by new ones.

    danger: the access keys are deleted, the database and the audit log are accepted as they are now, and backups that
    were sealed by a lost key can never be opened.
    """
    with exclusive(core.store, _LOCK, _LOCK_SECONDS):
        # A home that is an older copy of itself is accepted: the operator has seen what contradicts it.
        log = loss.log or bool(core.older)
        Freshness(core).accept()

        # 1. The seals of the database, without which nothing can be written.
        if loss.rows:
            core.seals.seal_afresh(seal_keys.key_from(core.device, core.installation, witness(core)))
        core.reached("renew 1: rows")

        # 2. The keys.
        for purpose in loss.purposes:
            _renew(core, purpose)
        core.reached("renew 2: keys")

        # 3. The access keys whose secrets the lost keys encrypted.
        for each in loss.access_keys:
            with core.store.atomic() as tx:
                users.delete_access_key(tx, each)
        core.reached("renew 3: access keys")

        # 4. The audit log is accepted as it is, and continues.
        if log:
            core.audit.tidy()
            verdict = verify(core, (), lambda _read, _size: None)  # what only the lost key could prove is accepted too
            Sealer(core).accept((*verdict.accepted, *verdict.faults, *verdict.unproven))


def _renew(core: Core, purpose: str) -> None:
    """Create a new version at home; delete the rows of versions that should be on the home and are not."""
    home_id = core.tokens.home_id
    lost = [each for each in versions(core, purpose, home_id) if _is_lost(core, each)]
    with core.store.atomic() as tx:
        version = installation.next_version(tx, purpose)
        for each in lost:
            installation.delete_installation_key(tx, each)
        cka_id = new_cka_id_for(core, purpose)
        installation.insert_installation_key(tx, purpose, version, home_id, cka_id, core.clock())
    key = key_rotation.make(core, purpose)
    if purpose == KeyPurpose.MAC:  # the token is an older copy, identified by an older version
        key_rotation.move(core, key)


def _needs_renewal(core: Core, purpose: str) -> bool:
    """Return True if the newest version is unavailable, and no interrupted rotation would still create it."""
    known = versions(core, purpose)
    if not known or not (key_rotation.is_lost(core, known[-1]) or all(_is_lost(core, each) for each in known)):
        return False
    return key_rotation.possible(core, purpose)


def _is_lost(core: Core, key: InstallationKeyRow) -> bool:
    try:
        return not core.tokens.of(key.token_id).keys.holds(key.cka_id)
    except TokenUnavailableError:
        return True


def _is_away(core: Core, token_id: str) -> bool:
    try:
        core.tokens.of(token_id).connection.ready()
    except HsmKmsError:
        return True
    return False


def _unreadable(core: Core, lost_versions: set[int]) -> list[str]:
    known = {each.version for each in versions(core, KeyPurpose.SECRETS)}
    with core.store.reading() as conn:
        rows = users.all_access_keys(conn)
    return [each.access_key_id for each in rows if each.key_version in lost_versions or each.key_version not in known]


def _rows_proven(core: Core) -> bool:
    """Return True if the database is sealed by an available version of the MAC key, or not sealed at all."""
    for each in reversed(versions(core, KeyPurpose.MAC)):
        try:
            key = seal_keys.key_from(core.tokens.of(each.token_id), core.installation, each.cka_id)
        except (ObjectLostError, TokenUnavailableError):
            continue
        if core.seals.sealed_with(key):
            return True
    return core.seals.root() is None


def _log_proven(core: Core) -> bool:
    """Return True unless the key that made the newest seal of the audit log is unavailable."""
    sealer = Sealer(core)
    last = sealer.last()
    try:
        return last is None or sealer.proves(last.message, last.mac, last.seal.key_version) or True
    except (ObjectLostError, TokenUnavailableError):
        return False
