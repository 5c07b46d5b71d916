"""Compute the rotation report: the posture of every key, from one read of the databases."""

from datetime import datetime

from msgspec import Struct

from hsmkms.model.enums import KeyManager, KeySpec, KeyState, Origin, RotationType, TrackedOperation
from hsmkms.model.records import KeyRecord
from hsmkms.rules import budget, posture, rotation, states
from hsmkms.rules.posture import Posture
from hsmkms.service.runtime import last_use
from hsmkms.service.runtime.core import Core
from hsmkms.store import aliases, keys, leases
from hsmkms.store.usage import LastUse


class KeyPosture(Struct, frozen=True, kw_only=True):
    """The report on one key. Ages are in whole days; ``encryptions`` counts those of the current key material.

    ``problem``: whether the posture calls for action.
    """

    key_id: str
    region: str
    aliases: list[str]
    posture: Posture
    problem: bool
    reason: str
    next_rotation: datetime | None
    last_rotation: datetime | None
    last_used: datetime | None
    last_operation: TrackedOperation | None
    age_days: int
    material_age_days: int | None
    backing_keys: int
    rotation_period_days: int | None
    on_demand_left: int
    encryptions: int
    budget_percent: float
    expires_at: datetime | None
    deletion_date: datetime | None
    key_spec: KeySpec
    origin: Origin
    key_manager: KeyManager
    key_state: KeyState


def rotation_report(core: Core, region: str | None = None) -> list[KeyPosture]:
    """Report on all keys, or those of one region, the worst first."""
    uses = core.uses.all()
    counts = leases.beyond(core.store, 1)
    now = core.clock()
    rows = []
    with core.store.reading() as conn:
        for each in (region,) if region is not None else core.installation.regions:
            names = aliases.names_by_key(conn, each)
            for record in keys.every(conn, each, core.tokens.home_id):
                use = last_use.of_this_key(uses.get((record.key_id, record.region)), record)
                rows.append(_row(core, record, names[record.key_id], use, counts, now))
    order = list(Posture)
    return sorted(rows, key=lambda row: (order.index(row.posture), row.region, row.key_id))


def _row(
    core: Core, record: KeyRecord, names: list[str], use: LastUse | None, counts: dict[str, int], now: datetime
) -> KeyPosture:
    verdict = posture.judge(record, core.rotation, now)
    current = record.current
    status = rotation.shown_status(record, core.rotation, now)
    used = counts.get(current.material_id, 0) if current is not None else 0
    on_demand = sum(each.rotation_type is RotationType.ON_DEMAND for each in record.materials)
    dates = [each.rotation_date for each in record.materials if each.rotation_date is not None]
    return KeyPosture(
        key_id=record.key_id,
        region=record.region,
        aliases=names,
        posture=verdict.posture,
        problem=verdict.posture in posture.PROBLEMS,
        reason=verdict.reason,
        next_rotation=status[1] if status is not None else None,
        last_rotation=max(dates, default=None),
        last_used=use.used_at if use is not None else None,
        last_operation=use.operation if use is not None else None,
        age_days=(now - record.creation_date).days,
        material_age_days=(now - current.created_at).days if current is not None else None,
        backing_keys=sum(not states.lapsed(each, now) for each in record.materials),
        rotation_period_days=status[0] if status is not None else None,
        on_demand_left=rotation.MAX_ON_DEMAND - on_demand,
        encryptions=used,
        budget_percent=round(100 * used / budget.LIMIT, 3),
        expires_at=states.expires_at(record),
        deletion_date=record.deletion_date,
        key_spec=record.spec,
        origin=record.origin,
        key_manager=record.manager,
        key_state=states.effective_state(record, now),
    )
