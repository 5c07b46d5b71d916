"""Import and delete key material: import parameters, import, and deletion.

Material is unwrapped on the token, never here. First session copies of the material show its length, or its public key,
and its material id; then the rules decide, and only then is it unwrapped into a token object.
"""

import logging
import uuid
from datetime import datetime
from typing import Final

from hsmkms.errors import (
    ExpiredImportTokenException,
    InvalidImportTokenException,
    KMSInvalidStateException,
    NotFoundException,
    ObjectLostError,
    RejectedDataError,
    RejectedMaterialError,
)
from hsmkms.hsm.imports.unwrapping import WrappedMaterial
from hsmkms.hsm.objects.backing_keys import SYMMETRIC
from hsmkms.hsm.ports import Device
from hsmkms.model.enums import KeySpec, KeyState, WrappingAlgorithm, WrappingKeySpec
from hsmkms.model.importing import (
    DeleteImportedKeyMaterialRequest,
    DeleteImportedKeyMaterialResponse,
    GetParametersForImportRequest,
    GetParametersForImportResponse,
    ImportKeyMaterialRequest,
    ImportKeyMaterialResponse,
)
from hsmkms.model.permit import Permit
from hsmkms.model.records import KeyRecord, MaterialRecord
from hsmkms.rules import import_token, multi_region, states
from hsmkms.rules import importing as rules
from hsmkms.rules.constraints import word
from hsmkms.rules.import_token import Claims
from hsmkms.rules.importing import Choice, Expiry
from hsmkms.rules.states import Event
from hsmkms.service.keys import destruction
from hsmkms.service.keys import expiry as lapses
from hsmkms.service.keys import rotate as rotating
from hsmkms.service.keys.backing import NOTHING_WAS_MADE, label_of, record_quirks
from hsmkms.service.keys.installation_keys import is_mac, macs
from hsmkms.service.operations import wrapping_keys
from hsmkms.service.pipeline import Call
from hsmkms.store import installation, keys, materials, rotation
from hsmkms.store.engine import Connection
from hsmkms.store.materials import WrappingKeyRow

log = logging.getLogger("hsmkms.service")

_CHANGED_BY_IMPORT: Final = frozenset({KeyState.PENDING_IMPORT, KeyState.ENABLED, KeyState.DISABLED})
_GONE: Final = (
    "The wrapping key of this import token does not exist any more: newer ones replaced it. Get new parameters with "
    "GetParametersForImport."
)


def get_parameters_for_import(call: Call, request: GetParametersForImportRequest) -> GetParametersForImportResponse:
    """Create a wrapping key and its import token, both valid for 24 hours."""
    key, _ = call.key(request.key_id)
    algorithm = word(WrappingAlgorithm, request.wrapping_algorithm, "wrappingAlgorithm")
    spec = word(WrappingKeySpec, request.wrapping_key_spec, "wrappingKeySpec")
    if key.record.kind == SYMMETRIC:
        call.core.device.imports.check_import(SYMMETRIC)
    rules.check_algorithm(algorithm, call.core.device.imports.wrapping_algorithms())
    rules.check_combination(key.record.spec, algorithm, spec)
    row, public_key = wrapping_keys.make(call, key.record, rules.WRAPPING_KEY_BITS[spec])
    claims = Claims(row.key_id, row.region, row.cka_id, algorithm, row.valid_to)
    signed = import_token.signed_part(claims)
    return GetParametersForImportResponse(
        key_id=key.record.arn,
        import_token=signed + next(macs(call.core, call.new_objects, signed)),
        public_key=public_key,
        parameters_valid_to=row.valid_to,
    )


def import_key_material(call: Call, request: ImportKeyMaterialRequest) -> ImportKeyMaterialResponse:
    """Import or reimport key material, or change its expiry."""
    core = call.core
    key, _ = call.key(request.key_id)
    rules.check_members(key.record, request.import_type, request.key_material_id, request.key_material_description)
    expiry = rules.expiry(request.expiration_model, request.valid_to, core.imports, call.now)
    row, wrapped = _wrapped(call, key.record, request)
    wrapping_keys.note_use(core, row, call.now)
    cka_id = uuid.uuid4().bytes
    permit = call.new_objects(wrapped.wrapping_key, cka_id)
    device = core.tokens.of(row.token_id)
    names = _names(device, permit, wrapped, key.record)
    for each in rotating.interrupted(core, key.record.key_id):
        rotating.finish(core, each)

    # 1. Intent; or the whole operation, if the material is on the token already.
    with call.audited_and_sealed_resolved(key.record) as (tx, record):
        choice = rules.choose(record, names, request.import_type, request.key_material_id, core.rotation)
        multi_region.check_description(record, choice.known, request.key_material_description)
        arrival = _Arrival(call, request, choice, expiry, wrapped, row.token_id)
        label = label_of(core, row.token_id, record.key_id, record.region, _sequence(tx, record, choice))
        present = choice.known is not None and materials.is_on_token(tx, choice.material_id)
        if present:
            arrival.settle(tx, record)
        elif not installation.is_home(tx, row.token_id):  # nothing is imported into a former home
            raise ExpiredImportTokenException(_GONE)
        else:
            _intend(tx, arrival, record, cka_id, label)
    core.reached("import 1: intent")
    if not present:
        # 2. and 3.
        _unwrap(arrival, record, permit, cka_id, label)
    log.info("imported key material %s into key %s", choice.material_id, record.key_id)
    return ImportKeyMaterialResponse(key_id=record.arn, key_material_id=_shown(record, choice.material_id))


def delete_imported_key_material(
    call: Call, request: DeleteImportedKeyMaterialRequest
) -> DeleteImportedKeyMaterialResponse:
    """Destroy imported material at once; the same material can be imported again."""
    with call.audited_and_sealed(request.key_id) as (tx, record):
        rules.check_members(record, material_id=request.key_material_id)
        target = _target(record, request.key_material_id)
        if target is not None and target.present:
            lapses.lose(tx, record.key_id, record.region, target.material_id)
            log.info("deleted key material %s of key %s", target.material_id, record.key_id)
    call.core.reached("delete-material 1: intent")
    gone = target.cka_id if target is not None else b""
    for each in destruction.of_key(call.core, record.key_id, gone):
        destruction.destroy(call.core, each, call.new_objects(each.cka_id))
    return DeleteImportedKeyMaterialResponse(
        key_id=record.arn, key_material_id=_shown(record, target.material_id) if target is not None else None
    )


def _shown(record: KeyRecord, material_id: str) -> str | None:
    """Return a material's id if the API reports it, which is only for symmetric encryption keys."""
    return material_id if record.spec is KeySpec.SYMMETRIC_DEFAULT else None


# -- import -----------------------------------------------------------------------------------------------------


class _Arrival:
    """Records the result of an import, or of a change of expiry of material that is present."""

    def __init__(
        self,
        call: Call,
        request: ImportKeyMaterialRequest,
        choice: Choice,
        expiry: Expiry,
        wrapped: WrappedMaterial,
        token_id: str,
    ) -> None:
        self.call = call
        self.request = request
        self.choice = choice
        self.expiry = expiry
        self.wrapped = wrapped
        self.token_id = token_id

    def settle(self, tx: Connection, record: KeyRecord) -> None:
        """Write presence, expiry and description, then the key's state."""
        core, now = self.call.core, self.call.now
        lapses.write_in(core, tx, record, now)
        materials.set_present(
            tx,
            record.key_id,
            record.region,
            self.choice.material_id,
            self.expiry.model,
            self.expiry.valid_to,
            self.request.key_material_description,
            host_unwrapped=not core.tokens.of(self.token_id).imports.on_device(self.wrapped.algorithm),
        )
        _follow(tx, record, self.choice, now)


def _unwrap(arrival: _Arrival, record: KeyRecord, permit: Permit, cka_id: bytes, label: str) -> None:
    """Run steps 2 and 3 of an import whose material is not on the token."""
    core, token_id = arrival.call.core, arrival.token_id
    device = core.tokens.of(token_id)

    # 2. Device: unwrap into a token object, read back and compare.
    try:
        device.imports.unwrap_backing_key(permit, arrival.wrapped, cka_id, label, record.kind)
    except (*NOTHING_WAS_MADE, RejectedDataError, RejectedMaterialError, ObjectLostError) as exc:
        with core.audited_and_sealed() as tx:
            rotation.drop(tx, token_id, cka_id)
        if isinstance(exc, ObjectLostError):
            raise ExpiredImportTokenException(_GONE) from exc
        raise
    core.reached("import 2: device")

    # 3. Result, unless the key was deleted meanwhile.
    with core.audited_and_sealed() as tx:
        fresh = keys.fetch(tx, record.region, record.key_id)
        moved = not installation.is_home(tx, token_id)
        if moved:
            materials.doom(tx, token_id, cka_id)
        arrived = fresh is not None and not moved and materials.arrive(tx, token_id, cka_id)
        if fresh is not None and arrived:
            arrival.settle(tx, fresh)
            record_quirks(core, fresh, token_id, arrival.choice.material_id, imported=True)
    if moved:
        destruction.discard(core, token_id, cka_id)
        raise ExpiredImportTokenException(_GONE)
    if not arrived:
        device.keys.destroy(permit, cka_id)
        raise KMSInvalidStateException(
            f"The import into {record.arn} was overtaken by another change: look at the key."
        )
    core.reached("import 3: result")


def _wrapped(
    call: Call, record: KeyRecord, request: ImportKeyMaterialRequest
) -> tuple[WrappingKeyRow, WrappedMaterial]:
    """Verify the import token; return the wrapping key's row and the wrapped material."""
    signed, mac = import_token.split(request.import_token)
    if not is_mac(call.core, call.new_objects, signed, mac):
        raise InvalidImportTokenException(import_token.DAMAGED)
    claims = import_token.read(signed)
    rules.check_claims(claims, record, call.now)
    row = wrapping_keys.find(call.core, claims.wrapping_key)
    if row is None or row.token_id != call.core.tokens.home_id:  # nothing is imported into a former home
        raise ExpiredImportTokenException(_GONE)
    return row, WrappedMaterial(claims.wrapping_key, claims.algorithm, request.encrypted_key_material)


def _names(device: Device, permit: Permit, wrapped: WrappedMaterial, record: KeyRecord) -> list[str]:
    """Return the ids that the material can have in this key, the preferred one first."""
    key_id = record.key_id
    try:
        outputs = device.imports.fingerprints(permit, wrapped, key_id, record.kind)
    except ObjectLostError as exc:
        raise ExpiredImportTokenException(_GONE) from exc
    return [rules.material_id(prf, key_id, output) for prf, output in outputs.items()]


def _sequence(tx: Connection, record: KeyRecord, choice: Choice) -> int:
    return choice.known.sequence if choice.known is not None else rotation.next_sequence(tx, record.key_id)


def _intend(tx: Connection, arrival: _Arrival, record: KeyRecord, cka_id: bytes, label: str) -> None:
    """Insert the intent of an object of the material."""
    choice, token_id, now = arrival.choice, arrival.token_id, arrival.call.now
    if rotation.unfinished(tx, record.key_id):
        raise KMSInvalidStateException(f"Another import into {record.arn} is under way: try again when it is done.")
    if choice.known is not None:
        materials.insert_object(tx, record.key_id, record.region, choice.material_id, token_id, cka_id, label, now)
        return
    new = MaterialRecord(
        material_id=choice.material_id,
        sequence=_sequence(tx, record, choice),
        state=choice.state,
        created_at=now,
        token_id=token_id,
        cka_id=cka_id,
        present=False,
    )
    keys.insert_material(tx, record.key_id, new, label)


def _follow(tx: Connection, record: KeyRecord, choice: Choice, now: datetime) -> None:
    """Update the key's state after an import: Enabled once all material that was ever current is present.

    ``record``: the key before the import. A key without material was PendingImport, also where the cancellation of a
    deletion stored Disabled.
    """
    fresh = keys.fetch(tx, record.region, record.key_id)
    if fresh is None or choice.state in materials.PENDING or fresh.state not in _CHANGED_BY_IMPORT:
        return
    event = Event.IMPORT_PARTIAL if states.lacks_material(fresh, now) else Event.IMPORT_COMPLETE
    before = KeyState.PENDING_IMPORT if states.lacks_material(record, now) else fresh.state
    keys.set_state(tx, fresh.key_id, fresh.region, states.next_state(before, event), fresh.version)


# -- deletion ---------------------------------------------------------------------------------------------------


def _target(record: KeyRecord, material_id: str | None) -> MaterialRecord | None:
    """Return the material to delete: the named one, else the current one, if the key ever had any."""
    if material_id is None:
        return record.current
    named = record.material(material_id)
    if named is None:
        raise NotFoundException(
            f"{record.arn} has no key material {material_id}: list-key-rotations shows what it has."
        )
    return named
