"""Schedule, cancel and execute the deletion of keys; report when a key was last used."""

import logging
from datetime import datetime, timedelta

from hsmkms.errors import KMSInvalidStateException
from hsmkms.model.deletion import (
    CancelKeyDeletionRequest,
    CancelKeyDeletionResponse,
    GetKeyLastUsageRequest,
    GetKeyLastUsageResponse,
    KeyLastUsage,
    ScheduleKeyDeletionRequest,
    ScheduleKeyDeletionResponse,
)
from hsmkms.model.enums import KeyState
from hsmkms.model.ids import key_arn
from hsmkms.model.permit import OperatorAct
from hsmkms.model.records import KeyRecord
from hsmkms.rules import deletion as rules
from hsmkms.rules import multi_region, states
from hsmkms.rules.states import Event
from hsmkms.service.keys import destruction
from hsmkms.service.pipeline import Call, repeated
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.last_use import of_this_key
from hsmkms.service.runtime.permits import own_permit
from hsmkms.store import deletion, keys
from hsmkms.store.engine import Connection

log = logging.getLogger("hsmkms.service")


@repeated
def schedule_key_deletion(call: Call, request: ScheduleKeyDeletionRequest) -> ScheduleKeyDeletionResponse:
    """Begin the waiting period; the key is unusable in every process from the next call on.

    The waiting period of a primary key with replicas begins when the last of them is deleted.
    """
    days = rules.window_days(request.pending_window_in_days)
    with call.audited_and_sealed(request.key_id) as (tx, record):
        waits = multi_region.waits_for_replicas(record)
        date = None if waits else rules.deletion_date(call.now, days)
        event = Event.SCHEDULE_DELETION_WITH_REPLICAS if waits else Event.SCHEDULE_DELETION
        state = states.next_state(record.state, event)
        keys.schedule_deletion(tx, record.key_id, record.region, state, date, days, record.version)
    return ScheduleKeyDeletionResponse(
        key_id=record.arn, deletion_date=date, key_state=state, pending_window_in_days=days
    )


@repeated
def cancel_key_deletion(call: Call, request: CancelKeyDeletionRequest) -> CancelKeyDeletionResponse:
    """Cancel the deletion: the key is Disabled, and otherwise unchanged."""
    with call.audited_and_sealed(request.key_id) as (tx, record):
        state = states.next_state(record.state, Event.CANCEL_DELETION)
        keys.cancel_deletion(tx, record.key_id, record.region, state, record.version)
    return CancelKeyDeletionResponse(key_id=record.arn)


def get_key_last_usage(call: Call, request: GetKeyLastUsageRequest) -> GetKeyLastUsageResponse:
    """Return the last successful cryptographic operation with the key."""
    key, _ = call.key(request.key_id)
    record = key.record
    use = of_this_key(call.core.uses.last(record.key_id, record.region), record)
    usage = KeyLastUsage()
    if use is not None:
        usage = KeyLastUsage(operation=use.operation, timestamp=use.used_at, kms_request_id=use.request_id)
    return GetKeyLastUsageResponse(
        key_id=record.arn,
        key_last_usage=usage,
        tracking_start_date=max(record.creation_date, call.core.uses.tracked_since()),
        key_creation_date=record.creation_date,
    )


def postpone(core: Core) -> list[str]:
    """Give keys whose waiting period is nearly over, or is over, the shortest one again; return their ARNs.

    For databases that may be an older state: a deletion that was cancelled since must not be executed before anyone has
    had time to cancel it again.
    """
    date = rules.deletion_date(core.clock(), rules.SHORTEST_WINDOW_DAYS)
    with core.audited_and_sealed() as tx:
        rows = deletion.postpone(tx, date - timedelta(days=1), date)  # what was postponed just now stays as it is
        postponed = [key_arn(core.installation.account, region, key_id) for key_id, region in rows]
        for arn, (key_id, region) in zip(postponed, rows, strict=True):
            core.audit.event("PostponeKeyDeletion", region, arn, {"keyId": key_id, "deletionDate": date.isoformat()})
    for each in postponed:
        log.warning("the deletion of key %s is postponed to %s: it may have been cancelled since", each, date)
    return postponed


def destroy_key(core: Core, key_id: str, region: str) -> None:
    """Delete a key whose waiting period is over: write the tombstone, then destroy its objects on the token.

    danger: its ciphertext is lost for good. After an interruption behind the tombstone, the next sweep destroys the
    objects. KMSInvalidStateException if the deletion was cancelled meanwhile.
    """
    _require_tokens(core, key_id, region)

    # 1. Intent: the key cannot be found any more. If a primary key waited for this replica, its own period begins.
    with core.audited_and_sealed() as tx:
        record = keys.fetch(tx, region, key_id)
        if record is None or not rules.is_due(record, core.clock()):
            raise KMSInvalidStateException(f"The key {key_id} is not due for deletion any more.")
        deletion.bury(tx, key_id, region)
        _begin_waiting(tx, record, core.clock())
        core.audit.event("DeleteKey", region, record.arn, {"keyId": key_id})
    core.reached("destroy-key 1: intent")
    log.warning("deleted key %s: its waiting period was over at %s", record.arn, record.deletion_date)

    # 2. Device and result, object by object.
    for each in destruction.of_key(core, key_id):
        destruction.destroy(core, each, own_permit(OperatorAct.MAINTAIN, each.cka_id))
    core.reached("destroy-key 2: objects")


def _require_tokens(core: Core, key_id: str, region: str) -> None:
    """Raise TokenUnavailableError while a token that holds material of the key is away."""
    with core.store.reading() as conn:
        record = keys.fetch(conn, region, key_id)
    token_ids = {each.token_id for each in record.materials} if record is not None else set()
    for token_id in token_ids | {core.tokens.home_id}:
        core.tokens.of(token_id).connection.ready()


def _begin_waiting(tx: Connection, gone: KeyRecord, now: datetime) -> None:
    """Begin the waiting period of a primary key whose last replica has just gone, if its deletion was scheduled."""
    primary = keys.fetch(tx, gone.primary_region, gone.key_id) if gone.primary_region is not None else None
    if primary is None or primary.state is not KeyState.PENDING_REPLICA_DELETION or primary.replica_regions:
        return
    state = states.next_state(primary.state, Event.LAST_REPLICA_GONE)
    days = rules.window_days(primary.pending_window_days)
    date = rules.deletion_date(now, days)
    keys.schedule_deletion(tx, primary.key_id, primary.region, state, date, days, primary.version)
    log.info("the waiting period of key %s has begun: its last replica is gone", primary.arn)
