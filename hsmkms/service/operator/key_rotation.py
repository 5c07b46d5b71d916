"""Rotate the installation's own keys: create a new version on the token, while older versions still verify.

What an older version protects is moved to the newest where possible: stored secrets are re-encrypted, the database is
sealed again, and the token is identified by the newest. Every step can be repeated, and an interrupted rotation is
finished by the next one, which then creates no further version.

Older versions stay, since backups from before the rotation need them. At the operator's request they are destroyed, as
far as nothing else needs them.
"""

import logging
from collections.abc import Callable, Mapping
from enum import StrEnum
from importlib import metadata
from typing import Final

from msgspec import Struct

from hsmkms.errors import TokenUnavailableError, UnsupportedOperationException
from hsmkms.model.own_keys import KeyPurpose
from hsmkms.model.permit import OperatorAct
from hsmkms.rules.importing import VALID_FOR
from hsmkms.service.audit import sealing
from hsmkms.service.keys.installation_keys import (
    encryption_key,
    new_cka_id_for,
    require_made,
    sealing_key,
    versions,
    was_made,
)
from hsmkms.service.keys.report_keys import kind_for, signing_key
from hsmkms.service.operator.credentials import Credentials
from hsmkms.service.operator.nodes import Nodes
from hsmkms.service.runtime import binding, seal_keys
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.permits import own_permit
from hsmkms.store import installation
from hsmkms.store.installation import InstallationKeyRow
from hsmkms.store.installation_lock import exclusive, require

log = logging.getLogger("hsmkms.service")

_LOCK: Final = "installation-keys"
_LOCK_SECONDS: Final = 60.0
_ELSEWHERE: Final = "it is on a former home token, which is left unchanged"
_FOR_BACKUPS: Final = "backups from before the rotation need it: --destroy-older destroys it"


class Outcome(StrEnum):
    """The outcome for one purpose."""

    ROTATED = "rotated"
    KEPT = "no further version was created"
    FINISHED = "an interrupted rotation was finished"
    UNUSED = "not created yet, since nothing has needed it"
    UNSUPPORTED = "not rotated, since the home token cannot make such a key"


class OlderVersion(Struct, frozen=True, kw_only=True):
    """An older version of a key: why it is kept, or None if it was destroyed."""

    version: int
    kept: str | None


class RotatedKey(Struct, frozen=True, kw_only=True):
    """The key of a purpose after its rotation; ``version`` is 0 where there is none."""

    purpose: str
    version: int
    outcome: Outcome
    older: list[OlderVersion]


def _by_every_token(_: Core) -> bool:
    return True


class _Kind(Struct, frozen=True):
    """The procedures for the key of one purpose.

    ``make`` creates the newest version on its token if necessary; ``is_moved``: whether everything that can be moved to
    a version is; ``move`` moves it. ``needed``, called with an older version and the newest, returns why the older one
    must not be destroyed, or None. ``possible``: whether the home can make such a key at all.
    """

    make: Callable[[Core], InstallationKeyRow]
    is_moved: Callable[[Core, InstallationKeyRow], bool]
    move: Callable[[Core, InstallationKeyRow], None]
    needed: Callable[[Core, InstallationKeyRow, InstallationKeyRow], str | None]
    possible: Callable[[Core], bool] = _by_every_token


def rotate(core: Core, purpose: str, *, destroy_older: bool = False) -> RotatedKey:
    """Rotate the key of a purpose, or finish its interrupted rotation.

    ``destroy_older``: create no further version, but destroy the older ones that nothing here needs. danger: no backup
    from before the rotation can be restored afterwards.
    """
    with exclusive(core.store, _LOCK, _LOCK_SECONDS):
        known = versions(core, purpose)
        if not known:
            return RotatedKey(purpose=purpose, version=0, outcome=Outcome.UNUSED, older=[])
        require_made(core, purpose)
        if not destroy_older and not possible(core, purpose):
            return RotatedKey(purpose=purpose, version=known[-1].version, outcome=Outcome.UNSUPPORTED, older=[])
        _warn_of_other_versions(core)
        outcome = _outcome(core, known[-1], destroy_older=destroy_older)
        newest = known[-1] if outcome is Outcome.KEPT else _advance(core, known[-1])
        older = [_retire(core, each, newest, destroy=destroy_older) for each in versions(core, purpose)[:-1]]
    return RotatedKey(purpose=purpose, version=newest.version, outcome=outcome, older=older)


def _warn_of_other_versions(core: Core) -> None:
    others = Nodes(core).of_other_versions(metadata.version("hsmkms"))
    if others:
        log.warning("another version of hsmkms runs on %s: upgrade these nodes soon", "; ".join(others))


def _outcome(core: Core, newest: InstallationKeyRow, *, destroy_older: bool) -> Outcome:
    if not _is_complete(core, newest):
        return Outcome.FINISHED
    return Outcome.KEPT if destroy_older else Outcome.ROTATED


def _is_complete(core: Core, newest: InstallationKeyRow) -> bool:
    return core.tokens.of(newest.token_id).keys.holds(newest.cka_id) and _KINDS[newest.purpose].is_moved(core, newest)


def _advance(core: Core, newest: InstallationKeyRow) -> InstallationKeyRow:
    """Create the next version and move everything to it, or finish doing so with the newest."""
    kind, purpose = _KINDS[newest.purpose], newest.purpose
    exists, complete = core.tokens.of(newest.token_id).keys.holds(newest.cka_id), _is_complete(core, newest)

    # 1. Intent: one more version, or the one that was intended before.
    with core.store.atomic() as tx:
        if not exists:
            installation.set_key_date(tx, newest, core.clock())
        elif complete:
            version, home_id = installation.next_version(tx, purpose), core.tokens.home_id
            cka_id = new_cka_id_for(core, purpose)
            installation.insert_installation_key(tx, purpose, version, home_id, cka_id, core.clock())
    core.reached("rotate-own 1: intent")

    # 2. Device.
    newest = kind.make(core)
    core.reached("rotate-own 2: device")

    # 3. What older versions protect.
    kind.move(core, newest)
    core.reached("rotate-own 3: moved")
    return newest


def possible(core: Core, purpose: str) -> bool:
    """Return True if the home can make a key for a purpose."""
    return _KINDS[purpose].possible(core)


def make(core: Core, purpose: str) -> InstallationKeyRow:
    """Return the newest version of a purpose's key; create it if it is not on its token yet."""
    return _KINDS[purpose].make(core)


def move(core: Core, key: InstallationKeyRow) -> None:
    """Move everything that can be moved to a version of a key."""
    _KINDS[key.purpose].move(core, key)


def come_home(core: Core) -> None:
    """Rotate each key in use until its newest version is on the home and complete."""
    for purpose in KeyPurpose:
        while (known := versions(core, purpose)) and not _is_at_home(core, known[-1]):
            rotate(core, purpose)


def is_at_home(core: Core) -> bool:
    """Return True if the newest version of every key in use is on the home and complete."""
    known = [versions(core, purpose) for purpose in KeyPurpose]
    return all(_is_at_home(core, each[-1]) for each in known if each)


def _is_at_home(core: Core, newest: InstallationKeyRow) -> bool:
    if newest.token_id == core.tokens.home_id:
        return _is_complete(core, newest)
    return not possible(core, newest.purpose)  # then it stays where it is: nothing here needs it


def interrupted(core: Core) -> list[str]:
    """Return the purposes whose rotation was interrupted."""
    newest = [known[-1] for known in (versions(core, each) for each in KeyPurpose) if len(known) > 1]
    return [each.purpose for each in newest if not _is_complete(core, each) and not is_lost(core, each)]


def is_lost(core: Core, key: InstallationKeyRow) -> bool:
    """Return True if a version is unavailable now, and no interrupted rotation would still create it."""
    try:
        return not core.tokens.of(key.token_id).keys.holds(key.cka_id) and was_made(core, key)
    except TokenUnavailableError:
        return True


def lost(core: Core) -> list[str]:
    """Return the purposes whose newest version is unavailable now, and for which the home can make another one."""
    known = [versions(core, each) for each in KeyPurpose]
    newest = [each[-1] for each in known if each]
    return [each.purpose for each in newest if is_lost(core, each) and possible(core, each.purpose)]


def _retire(core: Core, old: InstallationKeyRow, newest: InstallationKeyRow, *, destroy: bool) -> OlderVersion:
    elsewhere = _ELSEWHERE if old.token_id != core.tokens.home_id else None
    kept = elsewhere or _KINDS[old.purpose].needed(core, old, newest) or (None if destroy else _FOR_BACKUPS)
    if kept is None:
        # Device, then result: after an interruption it is repeated.
        require(core.store)
        core.tokens.of(old.token_id).keys.destroy(own_permit(OperatorAct.MAINTAIN, old.cka_id), old.cka_id)
        core.reached("rotate-own 4: device")
        with core.store.atomic() as tx:
            installation.delete_installation_key(tx, old)
            details = {"purpose": f"installation: {old.purpose}", "version": old.version, "ckaId": old.cka_id.hex()}
            core.audit.event("DestroyTokenObject", core.installation.default_region, "", details)
    return OlderVersion(version=old.version, kept=kept)


# -- the installation's MAC key ---------------------------------------------------------------------------------


def _is_bound(core: Core, key: InstallationKeyRow) -> bool:
    _, _, cka_id = binding.prove(core.store, core.device)
    return cka_id == key.cka_id and core.seals.sealed_with(_row_key(core, key))


def _bind(core: Core, key: InstallationKeyRow) -> None:
    binding.bind(core.store, core.tokens.of(key.token_id), key.token_id, key.cka_id, core.clock())
    core.reached("rotate-own 3: bound")
    core.seals.rekey(_row_key(core, key))
    core.witnesses[key.token_id] = key.cka_id


def _row_key(core: Core, key: InstallationKeyRow) -> bytes:
    return seal_keys.key_from(core.tokens.of(key.token_id), core.installation, key.cka_id)


def _good_import_tokens(core: Core, _: InstallationKeyRow, newest: InstallationKeyRow) -> str | None:
    until = newest.created_at + VALID_FOR
    if core.clock() < until:
        return f"import tokens and grant tokens from before the rotation are good until {until:%Y-%m-%d %H:%M} UTC"
    return None


# -- the others -------------------------------------------------------------------------------------------------


def _has_sealed(core: Core, old: InstallationKeyRow, _: InstallationKeyRow) -> str | None:
    # The seal note on the token is authenticated by the oldest version there.
    sealer = sealing.Sealer(core)
    if sealer.nodes.has_others():
        return "seals of other nodes' audit logs may have been made with it"
    used = sealer.versions_used()
    oldest = next(each for each in versions(core, old.purpose) if each.token_id == old.token_id)
    return "seals of the audit log were made with it" if old.version in used or old == oldest else None


def _stores_all(core: Core, key: InstallationKeyRow) -> bool:
    return not Credentials(core).secrets_elsewhere(key)


def _move_secrets(core: Core, key: InstallationKeyRow) -> None:
    Credentials(core).move_secrets(key)


def _can_sign(core: Core) -> bool:
    try:
        kind_for(core.device)
    except UnsupportedOperationException:
        return False
    return True


def _always(_: Core, __: InstallationKeyRow) -> bool:
    return True


def _nothing(*_: object) -> None:
    """Do nothing: there is nothing to move, or nothing that needs an older version."""


_KINDS: Final[Mapping[str, _Kind]] = {
    KeyPurpose.MAC: _Kind(lambda core: sealing_key(core, KeyPurpose.MAC), _is_bound, _bind, _good_import_tokens),
    KeyPurpose.AUDIT_SEAL: _Kind(lambda core: sealing_key(core, KeyPurpose.AUDIT_SEAL), _always, _nothing, _has_sealed),
    KeyPurpose.SECRETS: _Kind(
        lambda core: encryption_key(core, KeyPurpose.SECRETS, OperatorAct.CREDENTIALS),
        _stores_all,
        _move_secrets,
        _nothing,
    ),
    KeyPurpose.BACKUP: _Kind(
        lambda core: encryption_key(core, KeyPurpose.BACKUP, OperatorAct.BACKUP), _always, _nothing, _nothing
    ),
    KeyPurpose.REPORT: _Kind(signing_key, _always, _nothing, _nothing, _can_sign),
}
