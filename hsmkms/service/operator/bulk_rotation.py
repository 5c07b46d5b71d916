"""Rotate all keys whose key material is old, one by one, with evidence: key material and dates before and after.

A rotated key has new key material, so it is not old any more: after an interruption the same run does the rest.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from msgspec import Struct

from hsmkms.errors import DependencyTimeoutException, HsmKmsError, SetupError, TokenUnavailableError
from hsmkms.model.caller import local_root
from hsmkms.model.enums import Operation
from hsmkms.model.records import KeyRecord, MaterialRecord
from hsmkms.model.rotation import RotateKeyOnDemandRequest
from hsmkms.rules import kinds, rotation
from hsmkms.rules.iam import managed
from hsmkms.service.operations.rotation import rotate_key_on_demand
from hsmkms.service.pipeline import run_audited
from hsmkms.service.runtime.core import Core
from hsmkms.store import aliases, keys

STOPPING: Final = (DependencyTimeoutException, SetupError, TokenUnavailableError)
"""Errors of the token or the installation, not of the key."""


class Material(Struct, frozen=True, kw_only=True):
    """Key material: its id, and when it was created and became current (None: with the key)."""

    key_material_id: str
    created_at: datetime
    rotation_date: datetime | None


class OldKey(Struct, frozen=True, kw_only=True):
    """A key with old key material. ``obstacle``: why it cannot be rotated, or None."""

    key_id: str
    region: str
    arn: str
    aliases: list[str]
    current: Material
    obstacle: str | None


class Rotated(Struct, frozen=True, kw_only=True):
    """Evidence of one rotation: the key material that encrypted before and that which does now.

    ``request_id`` names the record in the audit log. ``fault``: why the key was not rotated; ``after`` is None then.
    """

    key_id: str
    region: str
    arn: str
    aliases: list[str]
    before: Material
    after: Material | None
    request_id: str
    fault: str | None


class Run(Struct, frozen=True, kw_only=True):
    """The rotations of a run, in its order; ``stopped_by``: the error that ended it early, whatever the key."""

    rotations: list[Rotated]
    stopped_by: HsmKmsError | None = None


def find(core: Core, before: datetime, region: str | None = None) -> list[OldKey]:
    """Return the keys of all regions, or of one, whose current key material was created before then, the oldest first.

    Replicas are left out: they rotate with their primary key.
    """
    found = []
    with core.store.reading() as conn:
        for each in (region,) if region is not None else core.installation.regions:
            names = aliases.names_by_key(conn, each)
            for record in keys.every(conn, each, core.tokens.home_id):
                current = record.current
                if current is not None and current.created_at < before and not record.is_replica:
                    found.append(_old_key(core, record, current, names[record.key_id]))
    return sorted(found, key=lambda key: (key.current.created_at, key.region, key.key_id))


def rotate_all(
    core: Core, old_keys: Sequence[OldKey], advance: Callable[[], None], is_stopped: Callable[[], bool]
) -> Run:
    """Rotate keys on demand, as the account's root; call ``advance`` after each, and stop when ``is_stopped``."""
    rotations = []
    for each in old_keys:
        if is_stopped():
            break
        try:
            rotations.append(_rotate(core, each))
        except STOPPING as exc:
            return Run(rotations=rotations, stopped_by=exc)
        advance()
    return Run(rotations=rotations)


def _rotate(core: Core, key: OldKey) -> Rotated:
    root = local_root(core.installation.account, key.region)
    fault, after = None, None
    try:
        run_audited(
            core,
            Operation.ROTATE_KEY_ON_DEMAND,
            rotate_key_on_demand,
            RotateKeyOnDemandRequest(key_id=key.key_id),
            root,
        )
        with core.store.reading() as conn:
            record = keys.fetch(conn, key.region, key.key_id, core.tokens.home_id)
        if record is not None and record.current is not None:
            after = _material(record.current)
    except STOPPING:
        raise
    except HsmKmsError as exc:
        fault = f"{exc.code}: {exc}"
    return Rotated(
        key_id=key.key_id,
        region=key.region,
        arn=key.arn,
        aliases=key.aliases,
        before=key.current,
        after=after,
        request_id=root.request_id,
        fault=fault,
    )


def _old_key(core: Core, record: KeyRecord, current: MaterialRecord, names: list[str]) -> OldKey:
    return OldKey(
        key_id=record.key_id,
        region=record.region,
        arn=record.arn,
        aliases=names,
        current=_material(current),
        obstacle=_obstacle(core, record),
    )


def _material(material: MaterialRecord) -> Material:
    return Material(
        key_material_id=material.material_id,
        created_at=material.created_at,
        rotation_date=material.rotation_date,
    )


def _obstacle(core: Core, record: KeyRecord) -> str | None:
    """Return the error with which RotateKeyOnDemand would refuse, or None."""
    operation, now = Operation.ROTATE_KEY_ON_DEMAND, core.clock()
    try:
        managed.check_use(operation, record, local_root(core.installation.account, record.region))
        kinds.ADMIT[operation](operation, record, now)
        rotation.check_on_demand(record, core.rotation, now)
    except HsmKmsError as exc:
        return f"{exc.code}: {exc}"
    return None
