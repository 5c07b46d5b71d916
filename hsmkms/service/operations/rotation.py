"""The operations about rotation. ``rules/rotation.py`` says when a key is due, ``keys/rotate.py`` how it rotates."""

from datetime import datetime

from hsmkms.model.enums import (
    ImportState,
    IncludeKeyMaterial,
    Operation,
    Origin,
    RotationType,
)
from hsmkms.model.records import KeyRecord, MaterialRecord
from hsmkms.model.rotation import (
    DisableKeyRotationRequest,
    EnableKeyRotationRequest,
    GetKeyRotationStatusRequest,
    GetKeyRotationStatusResponse,
    ListKeyRotationsRequest,
    ListKeyRotationsResponse,
    RotateKeyOnDemandRequest,
    RotateKeyOnDemandResponse,
    RotationsListEntry,
)
from hsmkms.rules import paging, states
from hsmkms.rules import rotation as rules
from hsmkms.service.keys import rotate as rotating
from hsmkms.service.pipeline import Call, repeated
from hsmkms.store import rotation as stored


@repeated
def enable_key_rotation(call: Call, request: EnableKeyRotationRequest) -> None:
    """Enable automatic rotation, or change its period if users may choose it."""
    policy = call.core.rotation
    with call.audited_and_sealed(request.key_id) as (tx, record):
        setting = rules.enabled(record, policy, request.rotation_period_in_days, call.now)
        if setting != record.rotation:
            stored.set_setting(tx, record.key_id, setting)


@repeated
def disable_key_rotation(call: Call, request: DisableKeyRotationRequest) -> None:
    """Disable automatic rotation; the current backing key stays."""
    with call.audited_and_sealed(request.key_id) as (tx, record):
        if record.rotation is not None:
            stored.set_setting(tx, record.key_id, None)


def get_key_rotation_status(call: Call, request: GetKeyRotationStatusRequest) -> GetKeyRotationStatusResponse:
    """Return whether the key rotates automatically, and when next."""
    key, _ = call.key(request.key_id)
    status = rules.shown_status(key.record, call.core.rotation, call.now)
    days, due = status or (None, None)
    return GetKeyRotationStatusResponse(
        key_rotation_enabled=status is not None,
        key_id=key.record.arn,
        rotation_period_in_days=days,
        next_rotation_date=due,
        on_demand_rotation_start_date=_running_since(call, key.record),
    )


def rotate_key_on_demand(call: Call, request: RotateKeyOnDemandRequest) -> RotateKeyOnDemandResponse:
    """Rotate now; the dates of the automatic rotation stay as they are."""
    key, _ = call.key(request.key_id)
    policy = call.core.rotation

    def judge(record: KeyRecord) -> None:
        states.admit(call.operation, record, call.now)
        rules.check_on_demand(record, policy, call.now)

    judge(key.record)
    if key.record.origin is Origin.AWS_KMS:
        rotating.rotate(call.core, key.record.key_id, call.region, RotationType.ON_DEMAND, judge)
    else:
        _switch_imported(call, key.record)
    return RotateKeyOnDemandResponse(key_id=key.record.arn)


def list_key_rotations(call: Call, request: ListKeyRotationsRequest) -> ListKeyRotationsResponse:
    """List the key's rotations, or all its key materials, oldest first."""
    key, _ = call.key(request.key_id)
    record = key.record
    size = paging.page_size(Operation.LIST_KEY_ROTATIONS, request.limit)
    after = paging.after_number(Operation.LIST_KEY_ROTATIONS, request.marker) or 0
    all_of_them = request.include_key_material == IncludeKeyMaterial.ALL_KEY_MATERIAL
    wanted = [
        each for each in record.materials if each.sequence > after and (all_of_them or each.rotation_date is not None)
    ]
    page, marker = paging.cut(Operation.LIST_KEY_ROTATIONS, wanted, size, lambda material: str(material.sequence))
    return ListKeyRotationsResponse(
        rotations=[_entry(record, each, call.now) for each in page], truncated=marker is not None, next_marker=marker
    )


def _switch_imported(call: Call, seen: KeyRecord) -> None:
    """Make the pending imported material current: the token is not involved, so it is one transaction."""
    with call.audited_and_sealed_resolved(seen) as (tx, record):
        rules.check_on_demand(record, call.core.rotation, call.now)
        waiting = rules.pending(record)
        if waiting is not None:  # guaranteed by check_on_demand
            kind = RotationType.ON_DEMAND
            stored.switch(tx, record.key_id, record.region, waiting.material_id, kind, call.now)


def _running_since(call: Call, record: KeyRecord) -> datetime | None:
    with call.core.store.reading() as conn:
        begun = stored.unfinished(conn, record.key_id)
    return next((each.created_at for each in begun if each.rotation_type is RotationType.ON_DEMAND), None)


def _entry(record: KeyRecord, material: MaterialRecord, now: datetime) -> RotationsListEntry:
    imported = record.origin is Origin.EXTERNAL
    there = not states.lapsed(material, now)
    return RotationsListEntry(
        key_id=record.key_id,
        key_material_id=material.material_id,
        key_material_description=material.description,
        import_state=(ImportState.IMPORTED if there else ImportState.PENDING_IMPORT) if imported else None,
        key_material_state=material.state,
        expiration_model=material.expiration_model if there else None,
        valid_to=material.valid_to if there else None,
        rotation_date=material.rotation_date,
        rotation_type=material.rotation_type if material.rotation_date is not None else None,
    )
