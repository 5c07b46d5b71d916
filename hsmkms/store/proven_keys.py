"""Build a KMS key's record from its proven rows: the result of ``keys.fetch``, without another query."""

from types import SimpleNamespace
from typing import Any

from hsmkms.model.records import KeyRecord, MaterialRecord
from hsmkms.store import keys
from hsmkms.store.proven_rows import ProvenRows
from hsmkms.store.schema import key, material, material_presence, regional_key, rotation, token_object
from hsmkms.store.statuses import Lifecycle, ObjectStatus


def record(rows: ProvenRows, region: str, account: str) -> KeyRecord | None:
    """Build the record of the key with these rows, or None if it is not live in the region."""
    live = {row.region: row for row in rows.of(regional_key) if row.lifecycle == Lifecycle.LIVE}
    shared = next(iter(rows.of(key)), None)
    if region not in live or shared is None:
        return None
    setting = next(iter(rows.of(rotation)), None)
    columns = {
        **vars(shared),
        **vars(live[region]),  # its creation date is the region's own
        "account": account,
        "anchor": setting and setting.anchor,
        "period_days": setting and setting.period_days,
        "regions": " ".join(live) if shared.multi_region else None,
    }
    return keys.key_record(SimpleNamespace(**columns), _materials(rows, region))


def _materials(rows: ProvenRows, region: str) -> tuple[MaterialRecord, ...]:
    """Return the materials that the region has a row for, by sequence, each with the object that ``fetch`` chooses."""
    presences = {row.material: row for row in rows.of(material_presence) if row.region == region}
    objects: dict[int, Any] = {}
    for row in sorted(rows.of(token_object), key=_rank):
        if row.status != ObjectStatus.INTENDED:
            objects.setdefault(row.material, row)
    return tuple(
        keys.material_record(SimpleNamespace(**vars(objects[row.id]) | vars(presences[row.id]) | vars(row)))
        for row in sorted(rows.of(material), key=lambda row: int(row.sequence))
        if row.id in presences and row.id in objects
    )


def _rank(row: Any) -> tuple[bool, Any, bytes]:  # noqa: ANN401 - a row
    """Sort key for the objects of a material: present ones first, then the oldest."""
    return row.status != ObjectStatus.PRESENT, row.created_at, row.cka_id
