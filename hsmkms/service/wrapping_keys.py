"""Wrapping keys: a few at a time, for 24 hours each.

They are made at a user's word and take room on the token, so their number is limited, for each key and in all. Where
there is no room, one that has done its work makes way. Until then it stays: a client that repeats an import whose
answer it never got must not be refused.
"""

import uuid
from collections.abc import Sequence
from datetime import datetime

from hsmkms.errors import KMSInternalException, KMSInvalidStateException, LimitExceededException
from hsmkms.model.permit import Permit
from hsmkms.model.records import KeyRecord
from hsmkms.rules import importing as rules
from hsmkms.rules import material
from hsmkms.rules.rotation import UNDER_WAY
from hsmkms.service import destruction
from hsmkms.service.backing import ATTEMPTS, HOME_MOVED, NOTHING_WAS_MADE
from hsmkms.service.core import Core
from hsmkms.service.pipeline import Call
from hsmkms.store import installation, materials
from hsmkms.store.deletion import Doomed
from hsmkms.store.engine import Connection
from hsmkms.store.materials import WrappingKeyRow
from hsmkms.store.schema import ObjectPurpose, ObjectStatus


def make(call: Call, record: KeyRecord, bits: int) -> tuple[WrappingKeyRow, bytes]:
    """Make a wrapping key for a KMS key; its row, and the public key as DER SubjectPublicKeyInfo.

    LimitExceededException where there are as many as may be. Where the home moves meanwhile, it is made there.
    """
    for _ in range(ATTEMPTS):
        row = _intended(call, record)
        public_key = _make(call, record, row, bits)
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
        status=ObjectStatus.INTENDED,
    )


def _make(call: Call, record: KeyRecord, row: WrappingKeyRow, bits: int) -> bytes | None:
    """The public key; None if the home has moved meanwhile: then it is as if nothing had been begun."""
    core = call.core
    device = core.tokens.of(row.token_id)
    device.ready()
    _make_room(call, record)
    label = material.wrapping_label(core.installation.short_id)

    # 1. Intent.
    with core.store.atomic() as tx:
        _check_room(tx, record)
        materials.insert_wrapping_key(tx, row, label)
    core.reached("wrapping-key 1: intent")

    # 2. Device: the key pair, whose private half stays there.
    try:
        public_key = device.generate_wrapping_key(call.new_objects(row.cka_id), row.cka_id, label, bits)
    except NOTHING_WAS_MADE:
        with core.store.atomic() as tx:
            materials.forget_wrapping_key(tx, row.token_id, row.cka_id)
        raise
    core.reached("wrapping-key 2: device")

    # 3. Result, unless the key was deleted meanwhile.
    with core.store.atomic() as tx:
        moved = not installation.is_home(tx, row.token_id)
        completed = not moved and materials.arrive(tx, row.token_id, row.cka_id)
        if moved:
            materials.doom_wrapping_key(tx, row.token_id, row.cka_id)
    if moved:
        destruction.discard(core, row.token_id, row.cka_id)
        return None
    if not completed:
        device.destroy_wrapping_key(call.new_objects(row.cka_id), row.cka_id)
        raise KMSInvalidStateException(f"{record.arn} was deleted meanwhile.")
    core.reached("wrapping-key 3: result")
    return public_key


def find(core: Core, cka_id: bytes) -> WrappingKeyRow | None:
    """A wrapping key that is on a token, whether or not it is still valid."""
    with core.store.reading() as conn:
        rows = materials.wrapping_keys(conn)
    return next((each for each in rows if each.cka_id == cka_id and each.status is ObjectStatus.PRESENT), None)


def note_use(core: Core, row: WrappingKeyRow, now: datetime) -> None:
    """Something was sent under the wrapping key, good or bad: from now on it may make way for another one."""
    with core.store.atomic() as tx:
        materials.set_used(tx, row.token_id, row.cka_id, now)


def destroy(core: Core, row: WrappingKeyRow, permit: Permit) -> None:
    """Destroy a wrapping key before its key is deleted: intent, device, result."""
    with core.store.atomic() as tx:
        materials.doom_wrapping_key(tx, row.token_id, row.cka_id)
    doomed = Doomed(
        token_id=row.token_id,
        cka_id=row.cka_id,
        purpose=ObjectPurpose.WRAPPING_KEY,
        key_id=row.key_id,
        material_id=None,
    )
    destruction.destroy(core, doomed, permit)


def is_over(row: WrappingKeyRow, now: datetime) -> bool:
    """True for one whose 24 hours are over, and for one whose making was interrupted."""
    interrupted = row.status is ObjectStatus.INTENDED and now - row.created_at > UNDER_WAY
    return row.valid_to <= now or interrupted


def _make_room(call: Call, record: KeyRecord) -> None:
    """Destroy what is over, and where that is not enough the one that was used first."""
    with call.core.store.reading() as conn:
        rows = materials.wrapping_keys(conn)
    for each in _dispensable(rows, record, call.now):
        destroy(call.core, each, call.new_objects(each.cka_id))


def _dispensable(rows: Sequence[WrappingKeyRow], record: KeyRecord, now: datetime) -> list[WrappingKeyRow]:
    over = [each for each in rows if is_over(each, now)]
    left = [each for each in rows if each not in over]
    of_key = [each for each in left if (each.key_id, each.region) == (record.key_id, record.region)]
    crowd = of_key if len(of_key) >= rules.MAX_LIVE_PER_KEY else left if len(left) >= rules.MAX_LIVE else []
    used = sorted((each for each in crowd if each.used_at is not None), key=lambda each: each.used_at or now)
    return over + used[:1]


def _check_room(tx: Connection, record: KeyRecord) -> None:
    rows = materials.wrapping_keys(tx)
    of_key = [each for each in rows if (each.key_id, each.region) == (record.key_id, record.region)]
    for count, most, whose in (
        (len(of_key), rules.MAX_LIVE_PER_KEY, record.arn),
        (len(rows), rules.MAX_LIVE, "all keys"),
    ):
        if count >= most:
            raise LimitExceededException(
                f"There are {count} wrapping keys for {whose}, the most that there may be: import with one of them, or "
                f"wait until the oldest expires at {min(each.valid_to for each in rows):%Y-%m-%d %H:%M:%S} UTC."
            )
