"""Destroy objects on the token that the database has marked for destruction.

The mark (intent) is written by its cause: the deletion of a key, the loss of imported material, or the end of a
wrapping key. This module does the rest, device and then result, and can be repeated.
"""

import logging
from collections.abc import Callable

from hsmkms.errors import HsmKmsError
from hsmkms.hsm.ports import Device
from hsmkms.model.permit import OperatorAct, Permit
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.permits import own_permit
from hsmkms.store import deletion, materials, objects
from hsmkms.store.deletion import Doomed
from hsmkms.store.sealed_rows import object_subject
from hsmkms.store.statuses import ObjectPurpose, ObjectStatus

log = logging.getLogger("hsmkms.service")


def of_key(core: Core, key_id: str, object_id: bytes = b"") -> list[Doomed]:
    """Return a key's objects marked for destruction; with ``object_id``, also that object, even without a key."""
    with core.store.reading() as conn:
        doomed = deletion.doomed(conn)
    return [each for each in doomed if each.key_id == key_id or each.cka_id == object_id]


def destroy(core: Core, doomed: Doomed, permit: Permit) -> bool:
    """Destroy an object marked for destruction; False if it was not on the token any more.

    danger: this cannot be undone. After an interruption it is repeated. KMSInternalException if the mark was edited
    into the database.
    """
    with core.store.reading() as conn:
        subject = object_subject(conn, doomed.token_id, doomed.cka_id)
        core.seals.check(conn, *([subject] if subject is not None else []))
    core.reached("destroy 1: intent")

    # 2. Device.
    was_there = _PROCEDURES[doomed.purpose](core.tokens.of(doomed.token_id), permit, doomed.cka_id)
    core.reached("destroy 2: device")

    # 3. Result.
    with core.audited_and_sealed() as tx:
        if doomed.purpose is ObjectPurpose.WRAPPING_KEY:
            materials.forget_wrapping_key(tx, doomed.token_id, doomed.cka_id)
        elif doomed.material_id is None:
            objects.forget_doomed(tx, doomed.token_id, doomed.cka_id)
        else:
            objects.set_status(tx, doomed.token_id, doomed.cka_id, ObjectStatus.DESTROYED)
        objects.forget_seen(tx, doomed.token_id, doomed.cka_id)
        details = {"keyId": doomed.key_id, "purpose": doomed.purpose, "ckaId": doomed.cka_id.hex()}
        core.audit.event("DestroyTokenObject", core.installation.default_region, "", details)
    core.reached("destroy 3: result")
    log.info(
        "destroyed the %s %s of key %s",
        doomed.purpose.replace("_", " ").lower(),
        doomed.cka_id.hex(),
        doomed.key_id or "(none)",
    )
    return was_there


def discard(core: Core, token_id: str, cka_id: bytes) -> None:
    """Destroy an object that was marked because its token was left, or its creation was overtaken by a change.

    If the token cannot be reached now, `hsmkms maintain` does it later.
    """
    with core.store.reading() as conn:
        doomed = [each for each in deletion.doomed(conn) if (each.token_id, each.cka_id) == (token_id, cka_id)]
    try:
        for each in doomed:
            destroy(core, each, own_permit(OperatorAct.MAINTAIN, cka_id))
    except HsmKmsError as exc:
        log.warning("the object %s is to be destroyed later: %s", cka_id.hex(), exc)


_PROCEDURES: dict[ObjectPurpose, Callable[[Device, Permit, bytes], bool]] = {
    ObjectPurpose.BACKING_KEY: lambda device, permit, cka_id: device.keys.destroy(permit, cka_id),
    ObjectPurpose.WRAPPING_KEY: lambda device, permit, cka_id: device.imports.destroy_wrapping_key(permit, cka_id),
}
