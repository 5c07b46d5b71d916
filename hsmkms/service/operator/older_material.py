"""Show the older key material that a former home token still holds, and abandon it when the token is forgotten.

Only ciphertext needs older material of a generated key: the rotation has moved encryption to the home. Whether any such
ciphertext is left only the operator can know; what hsmkms knows is how often the material has encrypted (the counts
are never too low, but are unknown before the restore of a backup) and, from the audit log, when it last decrypted.
"""

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from hsmkms.errors import ConfigurationError
from hsmkms.model.enums import MaterialState, Origin
from hsmkms.model.records import KeyRecord, MaterialRecord
from hsmkms.service.audit import reading
from hsmkms.service.runtime.core import Core
from hsmkms.store import keys, leases, materials, objects
from hsmkms.store.engine import Connection
from hsmkms.store.installation import TokenRow


class OlderMaterial(Struct, frozen=True, kw_only=True):
    """Older material of a generated key on a former home token.

    ``encryptions``: how many it has made at most, or None if that is unknown since it is older than a restored backup.
    ``last_use``: the time of the last record of the audit log that names it, or None. ``regions``: all of the key.
    """

    key_id: str
    regions: list[str]
    material_id: str
    created_at: datetime
    encryptions: int | None
    last_use: str | None = None


def is_older(record: KeyRecord, material: MaterialRecord, token_id: str) -> bool:
    """Return True for material of a generated key that is on the token, and only decrypts."""
    return (
        record.origin is Origin.AWS_KMS
        and material.present
        and material.state is MaterialState.NON_CURRENT
        and material.token_id == token_id
    )


def encryptions(core: Core, material: MaterialRecord, counts: dict[str, int]) -> int | None:
    """Return how many encryptions the material has made at most; None if its count is unknown."""
    restored_at = core.installation.restored_at
    if restored_at is not None and material.created_at < restored_at:
        return None
    return counts.get(material.material_id, 0)


def find(core: Core, row: TokenRow, *, search_log: bool = False) -> list[OlderMaterial]:
    """Return the older material on a former home token; ``search_log``: read the whole audit log for its last use.

    Raises ConfigurationError for the home.
    """
    if row.id == core.tokens.home_id:
        raise ConfigurationError(f"the token {row.label!r} is the home: only a former home holds material to abandon")
    counts = leases.beyond(core.store, 1)
    found: dict[str, OlderMaterial] = {}
    with core.store.reading() as conn:
        for region in core.installation.regions:
            for record in keys.every(conn, region, core.tokens.home_id):
                for each in record.materials:
                    if not is_older(record, each, row.id):
                        continue
                    known = found.get(each.material_id)
                    found[each.material_id] = OlderMaterial(
                        key_id=record.key_id,
                        regions=[*(known.regions if known is not None else ()), region],
                        material_id=each.material_id,
                        created_at=each.created_at,
                        encryptions=encryptions(core, each, counts),
                    )
    uses = reading.last_uses(core.audit.folder, found) if search_log else {}
    return [_with_use(each, uses) for each in sorted(found.values(), key=lambda each: each.created_at)]


def _with_use(material: OlderMaterial, uses: dict[str, str]) -> OlderMaterial:
    members = {name: getattr(material, name) for name in material.__struct_fields__}
    return OlderMaterial(**members | {"last_use": uses.get(material.material_id)})


def abandon(core: Core, tx: Connection, row: TokenRow, found: Sequence[OlderMaterial]) -> None:
    """Record that nothing needs older material any more: ciphertext that does is refused from then on.

    The keys on the token are left as they are: with a backup of the database from before, they work again.
    """
    for each in found:
        for region in each.regions:
            record = keys.fetch(tx, region, each.key_id)
            fresh = record.material(each.material_id) if record is not None else None
            if record is None or fresh is None or not is_older(record, fresh, row.id):
                raise ConfigurationError(f"the material {each.material_id} has changed meanwhile: run it again")
            materials.lose(tx, each.key_id, region, each.material_id)
            details = {"keyId": each.key_id, "keyMaterialId": each.material_id, "label": row.label}
            core.audit.event("AbandonOlderKeyMaterial", region, record.arn, details)
    objects.end_all(tx, row.id)
