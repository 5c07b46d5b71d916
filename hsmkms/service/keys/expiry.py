"""Record the expiry of imported material when it is first seen.

Expired material is unusable without any record: ``rules.states.effective_state`` computes that. But a clock that is set
back afterwards must not revive it, so the first process that sees the expiry stores it. The objects are destroyed
later, by the sweeper.
"""

import logging
from datetime import datetime

from hsmkms.model.records import KeyRecord
from hsmkms.rules import states
from hsmkms.rules.states import Event
from hsmkms.service.runtime.core import Core
from hsmkms.store import keys, materials
from hsmkms.store.engine import Connection

log = logging.getLogger("hsmkms.service")


def write(core: Core, key_id: str, region: str, now: datetime) -> bool:
    """Store the expiry of a key's expired material; return True if there was any."""
    with core.audited_and_sealed() as tx:
        record = keys.fetch(tx, region, key_id)
        return record is not None and write_in(core, tx, record, now)


def write_in(core: Core, tx: Connection, record: KeyRecord, now: datetime) -> bool:
    """Store the expiry within the caller's transaction; on True the caller must read the record again."""
    lapsed = states.unwritten_lapses(record, now)
    for each in lapsed:
        lose(tx, record.key_id, record.region, each.material_id)
        details = {"keyId": record.key_id, "keyMaterialId": each.material_id}
        core.audit.event("DeleteExpiredKeyMaterial", record.region, record.arn, details)
        log.info("key material %s of key %s has expired", each.material_id, record.key_id)
    return bool(lapsed)


def lose(tx: Connection, key_id: str, region: str, material_id: str) -> None:
    """Remove imported material, after expiry or deletion: mark its object for destruction and change the key's state.

    Material that only waited for its rotation is removed, and the state stays. Material that a replica loses stays in
    the other regions.
    """
    record = keys.fetch(tx, region, key_id)
    material = record.material(material_id) if record is not None else None
    if record is None or material is None:
        return
    pending = material.state in materials.PENDING
    if pending and not record.is_replica:
        materials.forget_pending(tx, material_id)
        return
    materials.lose(tx, key_id, region, material_id)
    if pending:
        return
    lost = keys.fetch(tx, region, key_id)
    if lost is not None:
        keys.set_state(tx, key_id, region, states.next_state(record.state, Event.MATERIAL_LOST), lost.version)
