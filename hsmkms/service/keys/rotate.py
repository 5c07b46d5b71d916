"""Rotate a generated key in steps, for all callers.

Intent, device, result, as for a new key. Until the result is written the old backing key encrypts, and afterwards it
still decrypts. The intent keeps other processes from rotating the same key; ten minutes after it was written it counts
as interrupted, and the next rotation finishes it.
"""

import logging
from collections.abc import Callable

from msgspec.structs import replace

from hsmkms.errors import ConflictException, HsmKmsError, KMSInvalidStateException, NotFoundException
from hsmkms.model.enums import KeyState, MaterialState, RotationType
from hsmkms.model.ids import key_arn
from hsmkms.model.permit import OperatorAct
from hsmkms.model.records import KeyRecord
from hsmkms.rules import rotation as rules
from hsmkms.service.keys import destruction
from hsmkms.service.keys.backing import ATTEMPTS, HOME_MOVED, NOTHING_WAS_MADE, generated, label_of, record_quirks
from hsmkms.service.runtime import clock
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.permits import own_permit
from hsmkms.store import installation, keys, materials, objects, rotation
from hsmkms.store.rotation import Unfinished
from hsmkms.store.statuses import ObjectStatus

log = logging.getLogger("hsmkms.service")

Judge = Callable[[KeyRecord], None]
"""Raises if a key must not be rotated, given its present record."""


def rotate(core: Core, key_id: str, region: str, kind: RotationType, judge: Judge) -> None:
    """Give the key a new current backing key.

    ConflictException if another process is rotating it. An interrupted rotation is finished first; one of the same kind
    counts as this one.
    """
    core.device.connection.ready_to_make()  # before the intent, which would be left behind if the token is away
    if any(finish(core, each) is kind for each in interrupted(core, key_id)):
        return
    for _ in range(ATTEMPTS):
        if _rotate(core, key_id, region, kind, judge):
            return
        core.tokens.may_have_moved()
    raise ConflictException(HOME_MOVED)


def _rotate(core: Core, key_id: str, region: str, kind: RotationType, judge: Judge) -> bool:
    """Run the steps of a rotation; False if the home has moved meanwhile: then everything was undone."""
    # 1. Intent: the material, which records do not include yet.
    with core.audited_and_sealed() as tx:
        record = keys.fetch(tx, region, key_id)
        if record is None:
            raise NotFoundException(f"Key '{key_arn(core.installation.account, region, key_id)}' does not exist")
        judge(record)
        if rotation.unfinished(tx, key_id):
            raise rules.under_way(record)
        sequence = rotation.next_sequence(tx, key_id)
        new = generated(core, key_id, record.kind, sequence, MaterialState.PENDING_ROTATION)
        label = label_of(core, new.token_id, key_id, region, new.sequence)
        keys.insert_material(tx, key_id, replace(new, rotation_type=kind), label)
    core.reached("rotate 1: intent")

    # 2. Device: the backing key, read back and compared.
    permit = own_permit(OperatorAct.MAINTAIN, new.cka_id)
    try:
        core.tokens.of(new.token_id).keys.generate_backing_key(permit, new.cka_id, label)
    except NOTHING_WAS_MADE:
        with core.audited_and_sealed() as tx:
            rotation.drop(tx, new.token_id, new.cka_id)
        raise
    core.reached("rotate 2: device")

    # 3. Result: the new backing key is current, the old one decrypts.
    with core.audited_and_sealed() as tx:
        moved = not installation.is_home(tx, new.token_id)
        if moved:
            materials.doom(tx, new.token_id, new.cka_id)
        switched = not moved and rotation.switch(tx, key_id, region, new.material_id, kind, core.clock())
        object_row = objects.fetch(tx, new.token_id, new.cka_id)
        if switched:
            _record_rotation(core, record, new.material_id, kind)
            record_quirks(core, record, new.token_id, new.material_id)
    if moved:
        destruction.discard(core, new.token_id, new.cka_id)
        return False
    if not switched and (object_row is None or object_row.status is not ObjectStatus.PRESENT):
        core.tokens.of(new.token_id).keys.destroy(permit, new.cka_id)
        raise ConflictException(f"The rotation of {record.arn} was overtaken by another change: look at the key again.")
    core.reached("rotate 3: result")
    log.info("rotated key %s (%s): its key material is %s from now on", key_id, kind, new.material_id)
    return True


def rotate_if_due(core: Core, key_id: str, region: str) -> None:
    """Run an overdue rotation; errors are logged only, and the rotation stays due."""
    _rotate_or_log(core, key_id, region, lambda fresh: must_be_due(core, fresh))


def rotate_early(core: Core, key_id: str, region: str, material_id: str) -> None:
    """Rotate generated material that has made many encryptions, unless it is not current any more."""
    log.warning("key material %s of key %s has used half of its encryptions: rotating the key", material_id, key_id)
    _rotate_or_log(core, key_id, region, lambda fresh: must_be_current(fresh, material_id))


def rotate_restored(core: Core, key_id: str, region: str, material_id: str) -> None:
    """Rotate generated material that is older than the last restore, since its number of encryptions is unknown."""
    _rotate_or_log(core, key_id, region, lambda fresh: must_be_current(fresh, material_id))


def rotate_format(core: Core, key_id: str, region: str, material_id: str) -> None:
    """Rotate generated material in whose format its token cannot encrypt any more."""
    log.warning("the token cannot encrypt any more as key material %s of key %s needs: rotating", material_id, key_id)
    _rotate_or_log(core, key_id, region, lambda fresh: must_be_current(fresh, material_id))


def rotate_elsewhere(core: Core, key_id: str, region: str) -> None:
    """Rotate generated material from a former home to the home."""
    _rotate_or_log(core, key_id, region, lambda fresh: must_be_elsewhere(core, fresh))


# -- what was interrupted ---------------------------------------------------------------------------------------


def interrupted(core: Core, key_id: str | None = None) -> list[Unfinished]:
    """Return unfinished rotations and imports, of one key or all, that are so old that no process works on them."""
    with core.store.reading() as conn:
        unfinished = rotation.unfinished(conn, key_id)
    return [each for each in unfinished if core.clock() - each.created_at > rules.UNDER_WAY]


def finish(core: Core, unfinished: Unfinished) -> RotationType | None:
    """Finish an interrupted rotation; return its kind, or None if it could not be completed (or was an import).

    An object that is present with the right attributes becomes the current backing key, if its key is still Enabled.
    Any other object is marked for destruction, as are those of an interrupted import (which its caller repeats), those
    on a former home, and the parts of a key that was not created completely. If no object was created, the intent is
    removed. TokenUnavailableError if a member of an HA group that could take over lacks the object.
    """
    if unfinished.token_id != core.tokens.home_id:
        with core.audited_and_sealed() as tx:
            materials.doom(tx, unfinished.token_id, unfinished.cka_id)
        return None
    device = core.tokens.of(unfinished.token_id)
    if not device.keys.holds(unfinished.cka_id):
        _drop(core, unfinished, in_parts=device.keys.is_in_parts(unfinished.cka_id))
        return None
    _, deviations = device.keys.attest(unfinished.cka_id)
    kind = unfinished.rotation_type
    if kind is not None:
        device.keys.require_replicated(unfinished.cka_id)
    with core.audited_and_sealed() as tx:
        record = keys.fetch(tx, unfinished.region, unfinished.key_id)
        fit = not deviations and installation.is_home(tx, unfinished.token_id)
        if kind is None or not fit or record is None or record.state is not KeyState.ENABLED:
            materials.doom(tx, unfinished.token_id, unfinished.cka_id)
        elif rotation.switch(tx, unfinished.key_id, unfinished.region, unfinished.material_id, kind, core.clock()):
            _record_rotation(core, record, unfinished.material_id, kind)
            log.info("finished an interrupted rotation of key %s", unfinished.key_id)
            return kind
    return None


def _drop(core: Core, unfinished: Unfinished, *, in_parts: bool) -> None:
    """Remove an intent whose object was not created; ``in_parts``: mark what was created of it for destruction."""
    with core.audited_and_sealed() as tx:
        if in_parts:
            materials.doom(tx, unfinished.token_id, unfinished.cka_id)
        else:
            rotation.drop(tx, unfinished.token_id, unfinished.cka_id)
    made = "only a part of its object" if in_parts else "no object"
    log.info("dropped an interrupted change of key %s: %s had been created", unfinished.key_id, made)


def _record_rotation(core: Core, record: KeyRecord, material_id: str, kind: RotationType) -> None:
    details = {"keyId": record.key_id, "rotationType": kind, "keyMaterialId": material_id}
    core.audit.event("RotateKey", record.region, record.arn, details)


def _rotate_or_log(core: Core, key_id: str, region: str, judge: Judge) -> None:
    """Rotate as a side effect of a request: an error must not make that fail, so it is logged only."""
    try:
        with core.store.reading() as conn:
            record = keys.fetch(conn, region, key_id)
        if record is None:
            return
        judge(record)
        doubt = clock.doubt(core)
        if doubt is None:
            rotate(core, key_id, region, RotationType.AUTOMATIC, judge)
        else:
            log.warning("key %s is due for rotation, which waits: %s", key_id, doubt)
    except (ConflictException, KMSInvalidStateException) as exc:
        log.debug("key %s was not rotated: %s", key_id, exc)
    except HsmKmsError as exc:
        log.warning("key %s could not be rotated now, and stays due: %s", key_id, exc)


def must_be_due(core: Core, record: KeyRecord) -> None:
    """Raise KMSInvalidStateException unless the key's automatic rotation is (still) due."""
    if not rules.is_due(record, core.rotation, core.clock()):
        raise KMSInvalidStateException(f"{record.arn} is not due for rotation any more.")


def must_be_current(record: KeyRecord, material_id: str) -> None:
    """Raise KMSInvalidStateException unless that material is the current one of a key that may rotate."""
    current = record.current
    if not rules.rotates_now(record) or current is None or current.material_id != material_id:
        raise KMSInvalidStateException(f"{record.arn} has other key material by now, or is not enabled.")


def must_be_elsewhere(core: Core, record: KeyRecord) -> None:
    """Raise KMSInvalidStateException unless the key may rotate, and encrypts on a former home."""
    current = record.current
    if not rules.rotates_now(record) or current is None:
        raise KMSInvalidStateException(f"{record.arn} is no key that rotates, or is not enabled.")
    if current.token_id == core.tokens.home_id:
        raise KMSInvalidStateException(f"{record.arn} has key material at home by now.")
