"""Immutable records of KMS keys, aliases and grants, as the store returns them.

A record is one KMS key in one region: the properties shared by all regions of a multi-Region key, those of the
region, and the key's materials. ``version`` grows with every change of the record; all datetimes are aware and UTC.
"""

from collections.abc import Mapping
from datetime import datetime

from msgspec import Struct

from hsmkms.model.enums import (
    ExpirationModel,
    KeyManager,
    KeySpec,
    KeyState,
    KeyUsage,
    MaterialState,
    Origin,
    RotationType,
)


class MaterialRecord(Struct, frozen=True, kw_only=True):
    """One backing key: a version of a KMS key's material, and the token object that holds it.

    ``material_id`` is its id in the API (64 lower-case hex digits), ``sequence`` counts from 1 in the order of
    creation, ``cka_id`` is the CKA_ID of the object (16 bytes) on the token ``token_id``. ``description`` and
    ``host_unwrapped`` (it has been in an hsmkms process in plaintext) apply to imported material only.
    """

    material_id: str
    sequence: int
    state: MaterialState
    created_at: datetime
    token_id: str
    cka_id: bytes
    present: bool = True
    expiration_model: ExpirationModel | None = None
    valid_to: datetime | None = None
    rotation_date: datetime | None = None
    rotation_type: RotationType | None = None
    description: str | None = None
    host_unwrapped: bool = False


class RotationSetting(Struct, frozen=True, kw_only=True):
    """Automatic rotation; counts from ``anchor``. Without ``period_days``, the operator's setting applies."""

    anchor: datetime
    period_days: int | None = None


class KeyRecord(Struct, frozen=True, kw_only=True):
    """A KMS key in one region.

    ``state`` is the stored state; ``rules.states.effective_state`` gives the state at a point in time.
    ``primary_region`` and ``regions`` (all regions of the set, sorted) are set for multi-Region keys only.
    """

    key_id: str
    region: str
    arn: str
    spec: KeySpec
    usage: KeyUsage
    origin: Origin
    manager: KeyManager
    multi_region: bool
    state: KeyState
    description: str
    policy: str
    creation_date: datetime
    version: int
    deletion_date: datetime | None = None
    pending_window_days: int | None = None
    rotation: RotationSetting | None = None
    materials: tuple[MaterialRecord, ...] = ()
    primary_region: str | None = None
    regions: tuple[str, ...] = ()

    @property
    def is_replica(self) -> bool:
        """True for a multi-Region key that is not the primary one of its set."""
        return self.multi_region and self.region != self.primary_region

    @property
    def replica_regions(self) -> tuple[str, ...]:
        """The regions of the set's replicas, sorted."""
        return tuple(each for each in self.regions if each != self.primary_region)

    @property
    def kind(self) -> tuple[KeySpec, KeyUsage]:
        """Spec and usage, which decide how its backing keys are generated."""
        return self.spec, self.usage

    @property
    def current(self) -> MaterialRecord | None:
        """The material that encrypts now, or None before the first import."""
        for material in reversed(self.materials):
            if material.state is MaterialState.CURRENT:
                return material
        return None

    def material(self, material_id: str) -> MaterialRecord | None:
        """Return the material with that id, or None."""
        for material in self.materials:
            if material.material_id == material_id:
                return material
        return None


class AliasRecord(Struct, frozen=True, kw_only=True):
    """An alias in one region. ``name`` begins with ``alias/``."""

    name: str
    region: str
    arn: str
    target_key_id: str
    creation_date: datetime
    last_updated_date: datetime


class GrantRecord(Struct, frozen=True, kw_only=True):
    """A grant on a key in one region. ``name`` is empty if it has none.

    Principals are ARNs, or names of services of AWS. ``source_arn``: the resource for which alone such a service may
    use the grant.
    """

    grant_id: str
    key_id: str
    region: str
    name: str
    grantee: str
    retiring: str | None
    operations: tuple[str, ...]
    context_equals: Mapping[str, str] | None
    context_subset: Mapping[str, str] | None
    source_arn: str | None = None
    creation_date: datetime
