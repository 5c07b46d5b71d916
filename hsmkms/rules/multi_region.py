"""Rules for sets of multi-Region keys: operations reserved for the primary key, or refused for a replica.

Shared by all keys of a set: id, materials, origin, spec, usage, rotation. Each has its own: description, policy, tags,
aliases, grants, state, and the presence and expiry of imported material. Source: AWS KMS Developer Guide,
"Multi-Region keys in AWS KMS".
"""

from hsmkms.errors import AlreadyExistsException, UnsupportedOperationException, ValidationException
from hsmkms.model.enums import KeyState, Origin
from hsmkms.model.records import KeyRecord, MaterialRecord
from hsmkms.rules.states import Event, next_state


def require_primary(key: KeyRecord) -> None:
    """Raise UnsupportedOperationException unless the key is the primary one of a set of multi-Region keys."""
    if not key.multi_region or key.is_replica:
        raise UnsupportedOperationException(f"{key.arn} is not a multi-region primary key.")


def refuse_replica(key: KeyRecord) -> None:
    """Raise UnsupportedOperationException for a replica: shared properties are changed on the primary key."""
    if key.is_replica:
        require_primary(key)


def check_free(key: KeyRecord, region: str, arn: str) -> None:
    """Raise AlreadyExistsException if the set has a key in the region, even one that is pending deletion.

    ``arn``: the ARN of the key there.
    """
    if region in key.regions:
        raise AlreadyExistsException(
            f"{arn} already exists: a set of multi-Region keys has one key in each region. If it is pending deletion, "
            "cancel that, or wait until it is gone."
        )


def check_other(key: KeyRecord, region: str) -> None:
    """Raise UnsupportedOperationException if the new primary region is the present one."""
    if region == key.region:
        raise UnsupportedOperationException(
            f"{key.arn} is the primary key of its set already: PrimaryRegion names the region of a replica."
        )


def check_description(key: KeyRecord, known: MaterialRecord | None, description: str | None) -> None:
    """Raise ValidationException if an import into a replica would change the set's description of the material."""
    if key.is_replica and known is not None and description not in (None, known.description):
        raise ValidationException(
            f"KeyMaterialDescription is shared by all keys of the set and is set on the primary key in "
            f"{key.primary_region}: leave it out."
        )


def state_of_new_replica(key: KeyRecord) -> KeyState:
    """Return the initial state of a new replica of the key."""
    generated = key.origin is Origin.AWS_KMS
    return next_state(KeyState.CREATING, Event.REPLICA_READY if generated else Event.REPLICA_READY_WITHOUT_MATERIAL)


def waits_for_replicas(key: KeyRecord) -> bool:
    """Return True if the key can be deleted only after its replicas."""
    return not key.is_replica and bool(key.replica_regions)
