"""Define the key states: the effective state, the operations that it admits, and the transitions.

Theory: a key's stored state changes by events only (``TRANSITIONS``). One change needs no event: imported material
expires at its own instant, so ``effective_state`` computes PendingImport from the record and the time, whether or not
it has been stored. Every operation on an existing key looks up ``ADMISSION`` with the effective state; a cell holds
allow, or an error. Whatever depends on more than the state (origin, usage, the role of a multi-Region key) is decided
by the rules of that subject; where a cell of AWS's table depends on the origin alone, the cell allows.

Source: AWS KMS Developer Guide, "Key states of AWS KMS keys". Operations without an existing key are not in the table.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import Enum, auto
from typing import Final

from hsmkms.errors import (
    ApiError,
    DisabledException,
    KMSInvalidStateException,
    MisuseError,
    UnsupportedOperationException,
)
from hsmkms.model.enums import KeyState, MaterialState, Operation, Origin
from hsmkms.model.records import KeyRecord, MaterialRecord


class Outcome(Enum):
    """Cell of the admission table: allow, or an error."""

    ALLOW = auto()
    DISABLED = auto()
    PENDING_DELETION = auto()
    NOT_PENDING_DELETION = auto()
    PENDING_IMPORT = auto()
    ORIGIN_NOT_VALID = auto()
    CUSTOM_STORE = auto()
    UNAVAILABLE = auto()
    CREATING = auto()
    UPDATING = auto()


REFUSALS: Final[Mapping[Outcome, tuple[type[ApiError], str]]] = {
    Outcome.DISABLED: (DisabledException, "{arn} is disabled."),
    # AWS documents two errors for cryptography here; this one lets a client distinguish it from Disabled.
    Outcome.PENDING_DELETION: (
        KMSInvalidStateException,
        "{arn} is pending deletion (or pending replica deletion).",
    ),
    Outcome.NOT_PENDING_DELETION: (
        KMSInvalidStateException,
        "{arn} is not pending deletion (or pending replica deletion).",
    ),
    Outcome.PENDING_IMPORT: (KMSInvalidStateException, "{arn} is pending import."),
    Outcome.ORIGIN_NOT_VALID: (
        UnsupportedOperationException,
        "{arn} origin is {origin} which is not valid for this operation.",
    ),
    Outcome.CUSTOM_STORE: (
        UnsupportedOperationException,
        "{arn} is in a custom key store which is not valid for this operation.",
    ),
    Outcome.UNAVAILABLE: (KMSInvalidStateException, "{arn} is unavailable."),
    Outcome.CREATING: (KMSInvalidStateException, "{arn} is creating."),
    Outcome.UPDATING: (KMSInvalidStateException, "{arn} is updating."),
}
"""Each refusal's error and message; ``arn`` and ``origin`` are the key's."""

_COLUMNS: Final = (
    KeyState.ENABLED,
    KeyState.DISABLED,
    KeyState.PENDING_DELETION,
    KeyState.PENDING_IMPORT,
    KeyState.UNAVAILABLE,
    KeyState.CREATING,
    KeyState.UPDATING,
)


def _row(*outcomes: Outcome) -> Mapping[KeyState, Outcome]:
    """Build one row of the table; PendingReplicaDeletion shares the column of PendingDeletion."""
    row = dict(zip(_COLUMNS, outcomes, strict=True))
    return {**row, KeyState.PENDING_REPLICA_DELETION: row[KeyState.PENDING_DELETION]}


_OK: Final = Outcome.ALLOW
_DISABLED: Final = Outcome.DISABLED
_DELETION: Final = Outcome.PENDING_DELETION
_NOT_DELETION: Final = Outcome.NOT_PENDING_DELETION
_IMPORT: Final = Outcome.PENDING_IMPORT
_ORIGIN: Final = Outcome.ORIGIN_NOT_VALID
_STORE: Final = Outcome.CUSTOM_STORE
_UNAVAILABLE: Final = Outcome.UNAVAILABLE
_CREATING: Final = Outcome.CREATING
_UPDATING: Final = Outcome.UPDATING

# Columns: Enabled, Disabled, PendingDeletion, PendingImport, Unavailable, Creating, Updating.
_ALWAYS: Final = _row(_OK, _OK, _OK, _OK, _OK, _OK, _OK)
_METADATA: Final = _row(_OK, _OK, _DELETION, _OK, _OK, _OK, _OK)
_CRYPTO: Final = _row(_OK, _DISABLED, _DELETION, _IMPORT, _UNAVAILABLE, _CREATING, _OK)
_KEY_PAIR: Final = _row(_OK, _DISABLED, _DELETION, _IMPORT, _STORE, _CREATING, _OK)
_SWITCH: Final = _row(_OK, _OK, _DELETION, _IMPORT, _OK, _CREATING, _UPDATING)
_ROTATION_SETTING: Final = _row(_OK, _DISABLED, _DELETION, _ORIGIN, _STORE, _CREATING, _OK)
_ROTATION: Final = _row(_OK, _DISABLED, _DELETION, _IMPORT, _STORE, _CREATING, _OK)

ADMISSION: Final[Mapping[Operation, Mapping[KeyState, Outcome]]] = {
    Operation.CANCEL_KEY_DELETION: _row(
        _NOT_DELETION, _NOT_DELETION, _OK, _NOT_DELETION, _NOT_DELETION, _NOT_DELETION, _NOT_DELETION
    ),
    Operation.CREATE_ALIAS: _METADATA,
    Operation.CREATE_GRANT: _row(_OK, _DISABLED, _DELETION, _IMPORT, _OK, _CREATING, _OK),
    Operation.DECAPSULATE: _CRYPTO,
    Operation.DECRYPT: _CRYPTO,
    Operation.DELETE_ALIAS: _ALWAYS,
    Operation.DELETE_IMPORTED_KEY_MATERIAL: _row(_OK, _OK, _OK, _OK, _ORIGIN, _CREATING, _UPDATING),
    Operation.DERIVE_SHARED_SECRET: _CRYPTO,
    Operation.DESCRIBE_KEY: _ALWAYS,
    Operation.DISABLE_KEY: _SWITCH,
    Operation.DISABLE_KEY_ROTATION: _ROTATION_SETTING,
    Operation.ENABLE_KEY: _SWITCH,
    Operation.ENABLE_KEY_ROTATION: _ROTATION_SETTING,
    Operation.ENCAPSULATE: _CRYPTO,
    Operation.ENCRYPT: _CRYPTO,
    Operation.GENERATE_DATA_KEY: _CRYPTO,
    Operation.GENERATE_DATA_KEY_PAIR: _KEY_PAIR,
    Operation.GENERATE_DATA_KEY_PAIR_WITHOUT_PLAINTEXT: _KEY_PAIR,
    Operation.GENERATE_DATA_KEY_WITHOUT_PLAINTEXT: _CRYPTO,
    Operation.GENERATE_MAC: _CRYPTO,
    Operation.GET_KEY_LAST_USAGE: _ALWAYS,
    Operation.GET_KEY_POLICY: _ALWAYS,
    Operation.GET_KEY_ROTATION_STATUS: _row(_OK, _OK, _OK, _ORIGIN, _STORE, _OK, _OK),
    Operation.GET_PARAMETERS_FOR_IMPORT: _row(_OK, _OK, _DELETION, _OK, _ORIGIN, _CREATING, _UPDATING),
    Operation.GET_PUBLIC_KEY: _row(_OK, _OK, _DELETION, _OK, _UNAVAILABLE, _CREATING, _OK),
    Operation.IMPORT_KEY_MATERIAL: _row(_OK, _OK, _DELETION, _OK, _ORIGIN, _CREATING, _OK),
    Operation.LIST_ALIASES: _ALWAYS,
    Operation.LIST_GRANTS: _ALWAYS,
    Operation.LIST_KEY_POLICIES: _ALWAYS,
    Operation.LIST_KEY_ROTATIONS: _row(_OK, _OK, _OK, _OK, _STORE, _OK, _OK),
    Operation.LIST_RESOURCE_TAGS: _ALWAYS,
    Operation.PUT_KEY_POLICY: _ALWAYS,
    Operation.RE_ENCRYPT: _CRYPTO,
    Operation.REPLICATE_KEY: _row(_OK, _DISABLED, _DELETION, _IMPORT, _UNAVAILABLE, _CREATING, _UPDATING),
    Operation.RETIRE_GRANT: _ALWAYS,
    Operation.REVOKE_GRANT: _ALWAYS,
    Operation.ROTATE_KEY_ON_DEMAND: _ROTATION,
    Operation.SCHEDULE_KEY_DELETION: _row(_OK, _OK, _DELETION, _OK, _OK, _OK, _UPDATING),
    Operation.SIGN: _CRYPTO,
    Operation.TAG_RESOURCE: _METADATA,
    Operation.UNTAG_RESOURCE: _METADATA,
    # The old target may be pending deletion; rules.aliases refuses a new target that is.
    Operation.UPDATE_ALIAS: _ALWAYS,
    Operation.UPDATE_KEY_DESCRIPTION: _METADATA,
    Operation.UPDATE_PRIMARY_REGION: _CRYPTO,
    Operation.VERIFY: _CRYPTO,
    Operation.VERIFY_MAC: _CRYPTO,
}


class Event(Enum):
    """Events that change a stored state.

    Loss or import of material that only waits for a rotation is not an event: the state does not change.
    """

    ENABLE = auto()
    DISABLE = auto()
    IMPORT_COMPLETE = auto()
    """Material was imported, and every permanently associated material is present now."""
    IMPORT_PARTIAL = auto()
    """Material was imported, but another permanently associated one is still missing."""
    MATERIAL_LOST = auto()
    """A permanently associated material was deleted or has expired."""
    SCHEDULE_DELETION = auto()
    SCHEDULE_DELETION_WITH_REPLICAS = auto()
    LAST_REPLICA_GONE = auto()
    CANCEL_DELETION = auto()
    REPLICA_READY = auto()
    REPLICA_READY_WITHOUT_MATERIAL = auto()


TRANSITIONS: Final[Mapping[tuple[KeyState, Event], KeyState]] = {
    (KeyState.ENABLED, Event.ENABLE): KeyState.ENABLED,
    (KeyState.DISABLED, Event.ENABLE): KeyState.ENABLED,
    (KeyState.ENABLED, Event.DISABLE): KeyState.DISABLED,
    (KeyState.DISABLED, Event.DISABLE): KeyState.DISABLED,
    (KeyState.PENDING_IMPORT, Event.IMPORT_COMPLETE): KeyState.ENABLED,
    (KeyState.ENABLED, Event.IMPORT_COMPLETE): KeyState.ENABLED,
    (KeyState.DISABLED, Event.IMPORT_COMPLETE): KeyState.DISABLED,
    (KeyState.PENDING_IMPORT, Event.IMPORT_PARTIAL): KeyState.PENDING_IMPORT,
    (KeyState.ENABLED, Event.MATERIAL_LOST): KeyState.PENDING_IMPORT,
    (KeyState.DISABLED, Event.MATERIAL_LOST): KeyState.PENDING_IMPORT,
    (KeyState.PENDING_IMPORT, Event.MATERIAL_LOST): KeyState.PENDING_IMPORT,
    (KeyState.PENDING_DELETION, Event.MATERIAL_LOST): KeyState.PENDING_DELETION,
    (KeyState.PENDING_REPLICA_DELETION, Event.MATERIAL_LOST): KeyState.PENDING_REPLICA_DELETION,
    (KeyState.ENABLED, Event.SCHEDULE_DELETION): KeyState.PENDING_DELETION,
    (KeyState.DISABLED, Event.SCHEDULE_DELETION): KeyState.PENDING_DELETION,
    (KeyState.PENDING_IMPORT, Event.SCHEDULE_DELETION): KeyState.PENDING_DELETION,
    (KeyState.CREATING, Event.SCHEDULE_DELETION): KeyState.PENDING_DELETION,
    (KeyState.ENABLED, Event.SCHEDULE_DELETION_WITH_REPLICAS): KeyState.PENDING_REPLICA_DELETION,
    (KeyState.DISABLED, Event.SCHEDULE_DELETION_WITH_REPLICAS): KeyState.PENDING_REPLICA_DELETION,
    (KeyState.PENDING_IMPORT, Event.SCHEDULE_DELETION_WITH_REPLICAS): KeyState.PENDING_REPLICA_DELETION,
    (KeyState.PENDING_REPLICA_DELETION, Event.LAST_REPLICA_GONE): KeyState.PENDING_DELETION,
    (KeyState.PENDING_DELETION, Event.CANCEL_DELETION): KeyState.DISABLED,
    (KeyState.PENDING_REPLICA_DELETION, Event.CANCEL_DELETION): KeyState.DISABLED,
    (KeyState.CREATING, Event.REPLICA_READY): KeyState.ENABLED,
    (KeyState.CREATING, Event.REPLICA_READY_WITHOUT_MATERIAL): KeyState.PENDING_IMPORT,
}

# Plain names: an attribute lookup on the enum class costs more than the rest of admit().
_EXTERNAL: Final = Origin.EXTERNAL
_CURRENT: Final = MaterialState.CURRENT
_LAPSING: Final = frozenset({KeyState.ENABLED, KeyState.DISABLED})
_ASSOCIATED: Final = frozenset({MaterialState.CURRENT, MaterialState.NON_CURRENT})


def lapsed(material: MaterialRecord, now: datetime) -> bool:
    """Return True if the material is not on the token, or has expired."""
    return not material.present or (material.valid_to is not None and material.valid_to <= now)


def unwritten_lapses(key: KeyRecord, now: datetime) -> list[MaterialRecord]:
    """Return expired materials that the record still shows as present."""
    return [each for each in key.materials if each.present and lapsed(each, now)]


def expires_at(key: KeyRecord) -> datetime | None:
    """Return when the key becomes unusable: the earliest ValidTo of its associated materials, or None."""
    ends = (each.valid_to for each in associated(key))
    return min((each for each in ends if each is not None), default=None)


def associated(key: KeyRecord) -> list[MaterialRecord]:
    """Return the permanently associated materials: all that are current or ever were."""
    return [each for each in key.materials if each.state in _ASSOCIATED]


def effective_state(key: KeyRecord, now: datetime) -> KeyState:
    """Return the state at ``now``.

    An EXTERNAL key is usable only while it has a current material and all permanently associated ones are present. So a
    key that never had material is PendingImport, even if the cancellation of a deletion stored Disabled.
    """
    if key.origin is _EXTERNAL and key.state in _LAPSING and lacks_material(key, now):
        return KeyState.PENDING_IMPORT
    return key.state


def lacks_material(key: KeyRecord, now: datetime) -> bool:
    """Return True if an EXTERNAL key has no current material, or if one that ever was current is missing."""
    needed = associated(key)
    has_current = any(material.state is _CURRENT for material in needed)
    return not has_current or any(lapsed(material, now) for material in needed)


def admit(operation: Operation, key: KeyRecord, now: datetime) -> None:
    """Raise the operation's error if the key's state at ``now`` does not allow it."""
    state = key.state if key.origin is not _EXTERNAL else effective_state(key, now)
    outcome = ADMISSION[operation][state]
    if outcome is not _OK:
        error, template = REFUSALS[outcome]
        raise error(template.format(arn=key.arn, origin=key.origin))


def next_state(state: KeyState, event: Event) -> KeyState:
    """Return the state after the event. MisuseError for an impossible event, since admission is checked first."""
    try:
        return TRANSITIONS[state, event]
    except KeyError as exc:
        raise MisuseError(f"the event {event.name} cannot happen to a key in state {state}") from exc
