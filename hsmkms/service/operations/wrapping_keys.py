"""Create and destroy wrapping keys: a limited number, valid for 24 hours each.

Users' requests create them and they take room on the token, so their number is limited, per KMS key and in total. The
limit does not refuse requests: a new wrapping key replaces an older one, preferably a used one. Otherwise one of the
principal who has most of them is replaced, so that no principal can keep others from importing.
"""

import uuid
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from hsmkms.errors import KMSInternalException, KMSInvalidStateException
from hsmkms.model.ids import key_arn
from hsmkms.model.permit import Permit
from hsmkms.model.records import KeyRecord
from hsmkms.rules import importing as rules
from hsmkms.rules import material
from hsmkms.rules.rotation import UNDER_WAY
from hsmkms.service.keys import destruction
from hsmkms.service.keys.backing import ATTEMPTS, HOME_MOVED, NOTHING_WAS_MADE
from hsmkms.service.pipeline import Call
from hsmkms.service.runtime.core import Core
from hsmkms.store import installation, materials
from hsmkms.store.deletion import Doomed
from hsmkms.store.materials import WrappingKeyRow
from hsmkms.store.statuses import ObjectPurpose, ObjectStatus


def make(call: Call, record: KeyRecord, bits: int) -> tuple[WrappingKeyRow, bytes]:
    """Create a wrapping key for a KMS key; return its row, and the public key as DER SubjectPublicKeyInfo.

    If the home moves to another token meanwhile, it is created there.
    """
    for _ in range(ATTEMPTS):
        row = _intended(call, record)
        public_key = _make(call, row, bits)
        if public_key is not None:
            return row, public_key
        call.core.tokens.may_have_moved()
    raise KMSInternalException(HOME_MOVED)


def _intended(call: Call, record: KeyRecord) -> WrappingKeyRow:
    return WrappingKeyRow(
        token_id=call.core.tokens.home_id,
        cka_id=uuid.uuid4().bytes,
        key_id=record.key_id,
        region=record.region,
        created_at=call.now,
        valid_to=call.now + rules.VALID_FOR,
        used_at=None,
        made_by=call.caller.principal,
        status=ObjectStatus.INTENDED,
    )


def _make(call: Call, row: WrappingKeyRow, bits: int) -> bytes | None:
    """Run the steps; return the public key, or None if the home has moved meanwhile: then everything was undone."""
    core = call.core
    device = core.tokens.of(row.token_id)
    device.connection.ready_to_make()
    label = material.wrapping_label(core.installation.short_id)

    # 1. Intent, and the choice of replaced wrapping keys.
    with core.audited_and_sealed() as tx:
        replaced = _replaced(materials.wrapping_keys(tx), row, call.now)
        for each in replaced:
            materials.doom_wrapping_key(tx, each.token_id, each.cka_id)
        materials.insert_wrapping_key(tx, row, label)
    core.reached("wrapping-key 1: intent")

    # 2. Device: destroy the replaced ones to make room, then generate the key pair, whose private half stays there.
    _destroy_all(call, replaced, row)
    try:
        public_key = device.imports.generate_wrapping_key(call.new_objects(row.cka_id), row.cka_id, label, bits)
    except NOTHING_WAS_MADE:
        _forget(core, row)
        raise
    core.reached("wrapping-key 2: device")

    # 3. Result, unless the key was deleted meanwhile.
    with core.audited_and_sealed() as tx:
        moved = not installation.is_home(tx, row.token_id)
        completed = not moved and materials.arrive(tx, row.token_id, row.cka_id)
        if moved:
            materials.doom_wrapping_key(tx, row.token_id, row.cka_id)
    if moved:
        destruction.discard(core, row.token_id, row.cka_id)
        return None
    if not completed:
        device.imports.destroy_wrapping_key(call.new_objects(row.cka_id), row.cka_id)
        arn = key_arn(core.installation.account, row.region, row.key_id)
        raise KMSInvalidStateException(f"{arn} was deleted meanwhile.")
    core.reached("wrapping-key 3: result")
    return public_key


def find(core: Core, cka_id: bytes) -> WrappingKeyRow | None:
    """Return a wrapping key that is on a token, whether or not it is still valid, or None."""
    with core.store.reading() as conn:
        rows = materials.wrapping_keys(conn)
    return next((each for each in rows if each.cka_id == cka_id and each.status is ObjectStatus.PRESENT), None)


def note_use(core: Core, row: WrappingKeyRow, now: datetime) -> None:
    """Record that material was sent under the wrapping key, valid or not: it may be replaced from now on."""
    with core.audited_and_sealed() as tx:
        materials.set_used(tx, row.token_id, row.cka_id, now)


def destroy(core: Core, row: WrappingKeyRow, permit: Permit) -> None:
    """Destroy a wrapping key before its key is deleted: intent, device, result."""
    with core.audited_and_sealed() as tx:
        materials.doom_wrapping_key(tx, row.token_id, row.cka_id)
    _destroy(core, row, permit)


def _destroy(core: Core, row: WrappingKeyRow, permit: Permit) -> None:
    doomed = Doomed(
        token_id=row.token_id,
        cka_id=row.cka_id,
        purpose=ObjectPurpose.WRAPPING_KEY,
        key_id=row.key_id,
        material_id=None,
    )
    destruction.destroy(core, doomed, permit)


def is_over(row: WrappingKeyRow, now: datetime) -> bool:
    """Return True if the key's 24 hours are over, or its creation was interrupted."""
    interrupted = row.status is ObjectStatus.INTENDED and now - row.created_at > UNDER_WAY
    return row.valid_to <= now or interrupted


def _destroy_all(call: Call, replaced: Sequence[WrappingKeyRow], new: WrappingKeyRow) -> None:
    """Destroy the replaced wrapping keys; if that fails, remove the intent of the new one."""
    try:
        for each in replaced:
            _destroy(call.core, each, call.new_objects(each.cka_id))
    except BaseException:
        _forget(call.core, new)
        raise


def _forget(core: Core, row: WrappingKeyRow) -> None:
    with core.audited_and_sealed() as tx:
        materials.forget_wrapping_key(tx, row.token_id, row.cka_id)


def _replaced(rows: Sequence[WrappingKeyRow], new: WrappingKeyRow, now: datetime) -> list[WrappingKeyRow]:
    """Choose the wrapping keys to replace: all that are over, and one more if the limit is reached."""
    over = [each for each in rows if is_over(each, now)]
    left = [each for each in rows if each not in over and each.status is not ObjectStatus.DESTROYING]
    of_key = [each for each in left if (each.key_id, each.region) == (new.key_id, new.region)]
    if len(of_key) >= rules.MAX_LIVE_PER_KEY:
        done = [each for each in of_key if each.used_at is not None]
        return over + _first_to_go(done or _of_who_has_most(of_key, new.made_by))
    if len(left) >= rules.MAX_LIVE:
        return over + _first_to_go(_of_who_has_most(left, new.made_by))
    return over


def _first_to_go(rows: Sequence[WrappingKeyRow]) -> list[WrappingKeyRow]:
    """Return the one that was used first, else the oldest on the token; empty if all are still being created."""
    used = sorted((each for each in rows if each.used_at is not None), key=lambda each: each.used_at or each.created_at)
    return used[:1] or [each for each in rows if each.status is ObjectStatus.PRESENT][:1]


def _of_who_has_most(rows: Sequence[WrappingKeyRow], principal: str | None) -> list[WrappingKeyRow]:
    """Return the wrapping keys of the principal with the most; on a tie with the caller, the caller's."""
    counts = Counter(each.made_by for each in rows)
    most = max(counts.values())
    owner = principal if counts[principal] == most else next(each for each in counts if counts[each] == most)
    return [each for each in rows if each.made_by == owner]
