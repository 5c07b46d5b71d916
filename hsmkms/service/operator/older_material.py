"""Show the older key material that a former home token still holds, and destroy it at the operator's word.

Only ciphertext needs older material of a generated key: the rotation has moved encryption to the home. Whether any such
ciphertext is left only the operator can know; what hsmkms knows is how often the material has encrypted (the counts
are never too low, but are unknown before the restore of a backup) and, from the audit log, when it last decrypted.
"""

from collections.abc import Collection
from datetime import datetime

from msgspec import Struct

from hsmkms.errors import ConfigurationError, HsmKmsError
from hsmkms.model.enums import MaterialState, Origin
from hsmkms.model.permit import OperatorAct
from hsmkms.model.records import KeyRecord, MaterialRecord
from hsmkms.service.audit import reading
from hsmkms.service.keys import destruction
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.permits import own_permit
from hsmkms.store import keys, leases, materials
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


class Destroyed(Struct, frozen=True, kw_only=True):
    """The outcome for one material: ``fault`` says why it is destroyed later, by `hsmkms maintain`, or is None."""

    key_id: str
    material_id: str
    fault: str | None


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


def find(core: Core, row: TokenRow, *, search_log: bool) -> list[OlderMaterial]:
    """Return the older material on a former home token; ``search_log``: read the whole audit log for its last use.

    Raises ConfigurationError for the home.
    """
    if row.id == core.tokens.home_id:
        raise ConfigurationError(f"the token {row.label!r} is the home: only a former home holds material to destroy")
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


def destroy(core: Core, row: TokenRow, material_ids: Collection[str]) -> list[Destroyed]:
    """Destroy older material on a former home token.

    danger: ciphertext that needs it cannot be decrypted any more, and this cannot be undone. Material that is not older
    material of that token (any more) is left. What the token cannot do now `hsmkms maintain` does later.
    """
    chosen = [each for each in find(core, row, search_log=False) if each.material_id in material_ids]
    return [_destroy_one(core, row, each) for each in chosen]


def _destroy_one(core: Core, row: TokenRow, material: OlderMaterial) -> Destroyed:
    # 1. Intent: lost in every region, with the object marked for destruction.
    with core.audited_and_sealed() as tx:
        for region in material.regions:
            record = keys.fetch(tx, region, material.key_id)
            fresh = record.material(material.material_id) if record is not None else None
            if record is None or fresh is None or not is_older(record, fresh, row.id):
                continue
            materials.lose(tx, material.key_id, region, material.material_id)
            details = {"keyId": material.key_id, "keyMaterialId": material.material_id, "label": row.label}
            core.audit.event("DestroyOlderKeyMaterial", region, record.arn, details)
    core.reached("destroy-older 1: intent")

    # 2. and 3. Device and result.
    fault = None
    try:
        for each in destruction.of_key(core, material.key_id):
            destruction.destroy(core, each, own_permit(OperatorAct.MAINTAIN, each.cka_id))
    except HsmKmsError as exc:
        fault = f"{exc.code}: {exc}"
    return Destroyed(key_id=material.key_id, material_id=material.material_id, fault=fault)
