"""Remove a former home token from the installation, once nothing needs it any more.

If the token can be reached, the installation's own keys on it and the notes there are destroyed: afterwards a database
from before the migration cannot be opened with it, nor a backup that it has sealed. If older key material on it is
abandoned, nothing on it is destroyed. After an interruption, repeat it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from hsmkms.errors import ConfigurationError, HsmKmsError
from hsmkms.hsm.ports import Device
from hsmkms.model.own_keys import KeyPurpose
from hsmkms.model.permit import OperatorAct
from hsmkms.service.audit.sealing import Sealer
from hsmkms.service.audit.verification import verify
from hsmkms.service.keys.installation_keys import versions, witness
from hsmkms.service.operator import key_rotation, migration, older_material
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.permits import own_permit
from hsmkms.store import installation, objects
from hsmkms.store.installation import TokenRow
from hsmkms.store.installation_lock import exclusive, require
from hsmkms.store.statuses import ObjectPurpose, ObjectStatus

_LOCK: Final = "migration"
_LOCK_SECONDS: Final = 60.0
_LEFT: Final = "left as it is, with the older key material on it: erase it with the token's own tool"

_NOT_MIGRATED: Final = (
    "the migration from it is not finished (run `hsmkms migrate-token` again; if it is lost for good, "
    "`hsmkms renew-installation-keys`)"
)

_Object = tuple[ObjectPurpose, ObjectStatus]
_KEYS, _WRAPPING = ObjectPurpose.BACKING_KEY, ObjectPurpose.WRAPPING_KEY
_NEEDED_BY: Final = {
    (_KEYS, ObjectStatus.PRESENT): "objects of keys ({}: `hsmkms list-tokens` shows which keys, and what can be done)",
    (_KEYS, ObjectStatus.INTENDED): "interrupted changes ({}: run `hsmkms reconcile`)",
    (_KEYS, ObjectStatus.DESTROYING): "keys that are to be destroyed ({}: run `hsmkms maintain`)",
    (_WRAPPING, ObjectStatus.PRESENT): "wrapping keys of imports ({}: run `hsmkms maintain` after 24 hours)",
    (_WRAPPING, ObjectStatus.INTENDED): "unfinished wrapping keys ({}: run `hsmkms maintain` in 10 minutes)",
    (_WRAPPING, ObjectStatus.DESTROYING): "wrapping keys that are to be destroyed ({}: run `hsmkms maintain`)",
}


class Forgotten(Struct, frozen=True, kw_only=True):
    """A token that was forgotten. ``destroyed``: how many of the installation's own keys on it were destroyed.

    ``away``: why it was left as it is, so that they still exist, or None. ``abandoned``: how many older key materials
    on it were abandoned.
    """

    token_id: str
    label: str
    serial: str
    destroyed: int
    away: str | None
    abandoned: int = 0


def named(core: Core, name: str) -> TokenRow:
    """Return the token of the installation with that label or serial. Raises ConfigurationError."""
    rows = core.tokens.rows()
    fitting = [each for each in rows if name in (each.label, each.serial)]
    if len(fitting) != 1:
        names = ", ".join(f"{each.label!r} (serial {each.serial})" for each in rows)
        raise ConfigurationError(f"name one token of the installation by its label or serial: {names}")
    return fitting[0]


def find(core: Core, name: str, *, abandoning: bool = False) -> TokenRow:
    """Return the token of that label or serial if it may be forgotten, ``abandoning`` older key material on it or not.

    ConfigurationError if it is no token of the installation, or its home, or still needed, with what needs it.
    """
    row = named(core, name)
    if row.id == core.tokens.home_id:
        raise ConfigurationError(
            f"the token {row.label!r} is the home, where keys are created: migrate to another first"
        )
    with core.store.reading() as conn:
        count = Counter(objects.standing(conn, row.id))
    if abandoning:
        count[_KEYS, ObjectStatus.PRESENT] -= len(older_material.find(core, row))
    migrated = key_rotation.is_at_home(core)
    _require_unneeded(row, count, () if migrated else (_NOT_MIGRATED,))
    return row


def forget(core: Core, row: TokenRow, *, abandoning: bool = False) -> Forgotten:
    """Forget a token that ``find`` returned; it is checked again under the lock.

    ``abandoning``: ciphertext that needs older key material on it is refused from then on. The token is left as it is
    then: with a backup from before, it can be used again.
    """
    with exclusive(core.store, _LOCK, _LOCK_SECONDS):
        row = find(core, row.serial or row.label, abandoning=abandoning)
        older = older_material.find(core, row) if abandoning else []
        device, away = _reached(core, row)
        if device is not None:
            _accept_at_home(core, row)
        if older:
            device, away = None, _LEFT

        # 1. Device: the installation's own keys, the one that identifies the token last.
        require(core.store)
        destroyed = _destroy_own(core, row, device) if device is not None else 0
        core.reached("forget 1: device")

        # 2. Result.
        with core.audited_and_sealed() as tx:
            older_material.abandon(core, tx, row, older)
            if abandoning:  # another process may have replicated a key since, with the material that it needs
                _require_unneeded(row, Counter(objects.standing(tx, row.id)))
            for each in installation.installation_keys(tx, row.id):
                installation.delete_installation_key(tx, each)
            objects.move_ended(tx, row.id, core.tokens.home_id)
            installation.unbind_token(tx, row.id)
        core.reached("forget 2: result")
        core.witnesses.pop(row.id, None)
        core.tokens.drop(row.id)
    return Forgotten(
        token_id=row.id,
        label=row.label,
        serial=row.serial,
        destroyed=destroyed,
        away=away,
        abandoned=len(older),
    )


def _require_unneeded(row: TokenRow, objects_on_it: Mapping[_Object, int], besides: Sequence[str] = ()) -> None:
    """Raise ConfigurationError if something needs the token, with what that is."""
    needs = [reason.format(objects_on_it[kind]) for kind, reason in _NEEDED_BY.items() if objects_on_it.get(kind)]
    needs += besides
    if needs:
        raise ConfigurationError(f"the token {row.label!r} is still needed: {'; '.join(needs)}")


def _reached(core: Core, row: TokenRow) -> tuple[Device | None, str | None]:
    fault = migration.fault_of(core, row)
    return (core.tokens.of(row.id), None) if fault is None else (None, fault)


def _accept_at_home(core: Core, row: TokenRow) -> None:
    """Seal the accepted faults of the audit log at home too, if a seal key of that token proves their acceptance.

    ConfigurationError if the log does not verify: new faults must be noticed while its seals can still be proven.
    """
    sealer = Sealer(core)
    its_versions = {each.version for each in versions(core, KeyPurpose.AUDIT_SEAL, row.id)}
    if not sealer.accepted_with() & its_versions:
        return
    core.audit.tidy()
    verdict = verify(core, (), lambda _read, _size: None)
    if verdict.faults:
        raise ConfigurationError("the audit log is not as it was written: run `hsmkms audit verify` first")
    sealer.accept(tuple(verdict.accepted))


def _destroy_own(core: Core, row: TokenRow, device: Device) -> int:
    with core.store.reading() as conn:
        keys = installation.installation_keys(conn, row.id)
    # The key that identifies the token last: without it neither the presence nor the absence of others is proven.
    identifying = witness(core, row.id)
    own = sorted(keys, key=lambda each: (each.purpose == KeyPurpose.MAC, each.cka_id == identifying))
    destroyed = 0
    try:
        Sealer(core).remove_notes(row.id)
        for each in own:
            if each is own[-1]:
                core.tokens.stop_proving(row.id)
            destroy = device.keys.destroy_secret if each is own[-1] else device.keys.destroy
            destroyed += destroy(own_permit(OperatorAct.MAINTAIN, each.cka_id), each.cka_id)
    except HsmKmsError as exc:
        raise ConfigurationError(
            f"the installation's own keys on the token {row.label!r} could not be destroyed ({exc}): run it again"
        ) from exc
    return destroyed
