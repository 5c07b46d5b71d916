"""Move an installation to another token. No key can leave the old token, so new ones are created on the new token.

The new token becomes the home: the installation's own keys get a version there, and each generated symmetric key is
rotated, so that it encrypts there from then on. The old token stays attached for what needs it: older ciphertext, key
pairs and HMAC keys, which never move, and imported material until it is imported again. No more keys are created on it.
Every step can be repeated, and an interrupted migration is finished by running it again.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from hsmkms.errors import (
    BindingError,
    CloneError,
    ConfigurationError,
    ConflictException,
    HsmKmsError,
    KMSInvalidStateException,
    TokenUnfitError,
)
from hsmkms.hsm.ports import Device
from hsmkms.model.cipher_format import new_cka_id
from hsmkms.model.enums import KeySpec, KeyState, MaterialState, Origin, RotationType
from hsmkms.model.own_keys import KeyPurpose
from hsmkms.model.permit import OperatorAct
from hsmkms.model.records import KeyRecord
from hsmkms.rules.rotation import rotates
from hsmkms.service.audit.seal_notes import SealNotes
from hsmkms.service.audit.sealing import Sealer
from hsmkms.service.keys import rotate as rotating
from hsmkms.service.keys.installation_keys import begin_anew, take_back
from hsmkms.service.operator import key_rotation, older_material
from hsmkms.service.operator.nodes import Nodes
from hsmkms.service.runtime import binding, seal_keys
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.permits import own_permit
from hsmkms.store import installation, keys, leases, objects, rotation
from hsmkms.store.engine import Connection
from hsmkms.store.installation import InstallationKeyRow, TokenRow
from hsmkms.store.installation_lock import exclusive, require

log = logging.getLogger("hsmkms.service")

_LOCK: Final = "migration"
_LOCK_SECONDS: Final = 60.0

_PATIENCE_SECONDS: Final = 20.0
"""How long a migration waits after its last key for rotations by other processes. An interrupted rotation counts as in
progress for ten minutes: it is reported, and the next migration finishes it."""
_PAUSE_SECONDS: Final = 0.1


class Stays(StrEnum):
    """Why a key still needs a former home token, and what can be done about it."""

    PAIR = (
        "key pairs never move: keep the token, or create a new key, move its aliases and users to it, and schedule "
        "the deletion of this one"
    )
    HMAC = (
        "HMAC keys never move: keep the token, or create a new key, move its aliases and users to it, and schedule "
        "the deletion of this one"
    )
    IMPORTED = "imported: delete-imported-key-material, then import the same material again, or keep the token"
    NEXT_USE = "not Enabled now: it is rotated before its next encryption"
    WAITING = "still to be rotated: run migrate-token again"
    DELETION = "to be deleted: the token is needed until then"
    OLDER = (
        "older ciphertext: re-encrypt what it has encrypted (re-encrypt-files, ReEncrypt), or keep the token; "
        "once nothing needs it, forget-token --abandon-older-material"
    )
    UNUSED = "older material that has encrypted nothing: forget-token --abandon-older-material"


class Waiting(Struct, frozen=True, kw_only=True):
    """A generated key that still encrypts on a former home token."""

    key_id: str
    region: str


class Moved(Struct, frozen=True, kw_only=True):
    """The outcome for one key: ``fault`` says why it was not rotated, and is None if it was."""

    key_id: str
    region: str
    fault: str | None


class Left(Struct, frozen=True, kw_only=True):
    """A key that needs a former home token; ``token`` is the label of that token.

    ``encryptions``: how many its older material there has made at most; None if unknown, and for other reasons.
    """

    key_id: str
    region: str
    key_spec: KeySpec
    token: str
    reason: Stays
    encryptions: int | None = None


class TokenStanding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A token of the installation. ``objects``: the backing and wrapping keys that should be on it.

    ``away``: why it cannot be used now, or None. ``member_in_use``: the serial of the member of its HA group that is in
    use; absent without a group, or while the token is away.
    """

    token_id: str
    label: str
    serial: str
    home: bool
    objects: int
    away: str | None
    member_in_use: str | None = None


def standings(core: Core) -> list[TokenStanding]:
    """Return the standing of each token of the installation, oldest first."""
    with core.store.reading() as conn:
        count = Counter(token_id for token_id, *_ in objects.present(conn))
    return [_standing(core, row, count[row.id]) for row in core.tokens.rows()]


def _standing(core: Core, row: TokenRow, count: int) -> TokenStanding:
    away = fault_of(core, row)
    return TokenStanding(
        token_id=row.id,
        label=row.label,
        serial=row.serial,
        home=row.id == core.tokens.home_id,
        objects=count,
        away=away,
        member_in_use=core.tokens.of(row.id).connection.member if away is None else None,
    )


def fault_of(core: Core, row: TokenRow) -> str | None:
    """Return why a token cannot be used now, or None."""
    try:
        core.tokens.of(row.id).connection.ready()
    except HsmKmsError as exc:
        return str(exc)
    return None


# -- another home ---------------------------------------------------------------------------------------------------


def settle(core: Core, device: Device) -> TokenRow:
    """Make an open token the home, with the installation's own keys; return its row.

    For the home itself this finishes an interrupted migration. ``device`` is closed with the core's other tokens.
    Raises BindingError for a former home or a clone, ConfigurationError if a running process cannot reach the token,
    TokenUnfitError for a token that cannot do all that hsmkms needs; then nothing was changed.
    """
    with exclusive(core.store, _LOCK, _LOCK_SECONDS):
        known = check_target(core, device)
        if known is None:
            _require_followers(core, device)
            _require_fit(device)
            known = _bind(core, device)
        else:
            core.tokens.add(known.id, device)
        core.reached("migrate 3: bound")
        key_rotation.come_home(core)
        core.reached("migrate 4: own keys")
        if core.audit.used:
            core.audit.tidy()
            Sealer(core).seal()
        core.reached("migrate 5: sealed")
        Sealer(core).leave()
        core.reached("migrate 6: left")
    device.imports.try_refused_material()
    return known


def interrupted(core: Core) -> list[TokenRow]:
    """Return the former homes without a mark of the migration: it was interrupted, or they were away then."""
    return SealNotes(core).unmarked()


def check_target(core: Core, device: Device) -> TokenRow | None:
    """Return the home's row if the device is the home, None for a token that the installation was never on.

    Raises BindingError for a former home or a clone.
    """
    try:
        known = _recognised(core, device)
    except CloneError as exc:
        raise CloneError(
            f"{exc}. A migration to it would move nothing: to use it as another token, initialise it with its own "
            "tool, so that it has no keys of this installation, and migrate then"
        ) from exc
    if known is not None and known.id != core.tokens.home_id:
        raise BindingError(
            f"the token {known.label!r} is a former home of the installation, which cannot become the home again: "
            "migrate to a token that the installation was never on"
        )
    return known


def _recognised(core: Core, device: Device) -> TokenRow | None:
    row, _ = binding.expected(core.store)
    return next((each for each in core.tokens.rows() if binding.recognise(core.store, device, row, each)), None)


def _require_followers(core: Core, device: Device) -> None:
    others = core.tokens.others_without(device)
    if others:
        pids = ", ".join(map(str, others))
        raise ConfigurationError(
            f"processes that have the installation open cannot reach the token {device.profile.label!r} (pid {pids}): "
            "name it as a [[token]] of their configuration and restart them first"
        )
    nodes = Nodes(core)
    lacking = nodes.without_token(device.profile.label, device.connection.members)
    if lacking:
        raise ConfigurationError(
            f"servers of other nodes cannot reach the token {device.profile.label!r}: {'; '.join(lacking)}. Name it as "
            "a [[token]] of their configuration and restart them first"
        )
    silent = nodes.silent()
    if silent:
        log.warning(
            "no server runs on %s: name the token %r in their configuration before they are started again",
            "; ".join(silent),
            device.profile.label,
        )


def _require_fit(device: Device) -> None:
    failed = [each for each in device.connection.checks(needed_only=True) if not each.passed]
    if failed:
        names = ", ".join(each.name for each in failed)
        raise TokenUnfitError(f"that token fails what hsmkms needs ({names}): `hsmkms token-check --token` shows more")


def _bind(core: Core, device: Device) -> TokenRow:
    # 1. Intent: the token, and the CKA_ID of its key.
    with core.store.atomic() as tx:
        row = _begun(tx, device) or binding.insert_token(tx, device, core.clock)
        intended = _intended_for(tx, row)
        key = intended or _insert_key(tx, core, row)
    if intended is not None:
        key = begin_anew(core, intended, device)
    core.reached("migrate 1: intent")

    # 2. Device.
    permit = own_permit(OperatorAct.INITIALISE, key.cka_id)
    if not device.keys.holds(key.cka_id):
        label = key.label(core.installation.id)[: device.profile.label_bytes]
        require(core.store)
        device.own.generate_mac_key(permit, key.cka_id, label)
    core.reached("migrate 2: device")

    # 3. Result: from here on it is the home. Until the rows are sealed by its key, the seals of the older key apply.
    try:
        binding.bind(core.store, device, row.id, key.cka_id, core.clock())
    except ConflictException:
        take_back(core, key, device)
        raise
    core.tokens.settle(row.id, device)
    core.witnesses[row.id] = key.cka_id
    core.seals.rekey(seal_keys.key_from(device, core.installation, key.cka_id))
    return row


def _begun(tx: Connection, device: Device) -> TokenRow | None:
    """Return the row of an interrupted attempt with this token, or None."""
    names = (device.profile.label, device.profile.serial)
    for row in installation.tokens(tx):
        if row.response is None and (row.label, row.serial) == names:
            return row
    return None


def _intended_for(tx: Connection, row: TokenRow) -> InstallationKeyRow | None:
    """Return the MAC key of an interrupted attempt on that token, if it still is the newest version."""
    next_version = installation.next_version(tx, KeyPurpose.MAC)
    intended = installation.versions(tx, KeyPurpose.MAC, row.id)
    return intended[-1] if intended and intended[-1].version == next_version - 1 else None


def _insert_key(tx: Connection, core: Core, row: TokenRow) -> InstallationKeyRow:
    """Insert the next version of the MAC key, on that token."""
    next_version = installation.next_version(tx, KeyPurpose.MAC)
    return installation.insert_installation_key(tx, KeyPurpose.MAC, next_version, row.id, new_cka_id(), core.clock())


# -- keys -----------------------------------------------------------------------------------------------------------


def waiting(core: Core, home_id: str) -> list[Waiting]:
    """Return the generated keys that are Enabled and encrypt on another token than ``home_id``."""
    with core.store.reading() as conn:
        rows = rotation.encrypting_elsewhere(conn, home_id)
    return [Waiting(key_id=key_id, region=region) for key_id, region in rows]


def move_keys(core: Core, advance: Callable[[], None]) -> list[Moved]:
    """Rotate every waiting key onto the home; call ``advance`` after each.

    A key that cannot be rotated now is left as it is; one that another process is rotating is tried again at the end.
    """
    faults: dict[Waiting, str | None] = {}
    busy = []
    for each in waiting(core, core.tokens.home_id):
        try:
            faults[each] = _move(core, each)
        except ConflictException:
            core.reached("migrate: a rotation is under way")
            busy.append(each)
            continue
        advance()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for each in busy:
        faults[each] = _move_when_free(core, each, deadline)
        advance()
    return [Moved(key_id=each.key_id, region=each.region, fault=fault) for each, fault in faults.items()]


def _move_when_free(core: Core, key: Waiting, deadline: float) -> str | None:
    while True:
        try:
            return _move(core, key)
        except ConflictException as exc:
            if time.monotonic() >= deadline:
                return f"{exc.code}: {exc}"
        time.sleep(_PAUSE_SECONDS)


def _move(core: Core, key: Waiting) -> str | None:
    """Rotate a key onto the home; return the error's text, or None. ConflictException if another process rotates it."""
    try:
        rotating.rotate(
            core, key.key_id, key.region, RotationType.AUTOMATIC, lambda fresh: rotating.must_be_elsewhere(core, fresh)
        )
    except KMSInvalidStateException:
        return None  # it was rotated, disabled or scheduled for deletion meanwhile: nothing is left to do
    except ConflictException:
        raise
    except HsmKmsError as exc:
        return f"{exc.code}: {exc}"
    return None


def left(core: Core, home_id: str, *, planned: bool = False) -> list[Left]:
    """Return the keys that need other tokens than ``home_id``: a row for each key and reason.

    ``planned``: as it will be after a migration, whose rotations make the current material of a key older material.
    """
    labels = {row.id: row.label for row in core.tokens.rows()}
    counts = leases.beyond(core.store, 1)
    rows = []
    with core.store.reading() as conn:
        for region in core.installation.regions:
            for stored in keys.every(conn, region, home_id):
                record = _as_rotated(stored) if planned else stored
                for token_id, reason in _reasons(record, home_id):
                    used = _encryptions(core, record, token_id, counts) if reason is Stays.OLDER else None
                    rows.append(
                        Left(
                            key_id=record.key_id,
                            region=region,
                            key_spec=record.spec,
                            token=labels[token_id],
                            reason=Stays.UNUSED if used == 0 else reason,
                            encryptions=used,
                        )
                    )
    return rows


def _encryptions(core: Core, record: KeyRecord, token_id: str, counts: dict[str, int]) -> int | None:
    """Return how many encryptions a key's older material on a token has made at most; None if that is unknown."""
    older = [each for each in record.materials if older_material.is_older(record, each, token_id)]
    used = [older_material.encryptions(core, each, counts) for each in older]
    return None if not used or None in used else sum(each or 0 for each in used)


def _reasons(record: KeyRecord, home_id: str) -> Iterator[tuple[str, Stays]]:
    current = record.current
    if current is not None and current.present and current.token_id != home_id:
        yield current.token_id, _reason(record)
    elsewhere = {each.token_id for each in record.materials if each.present and each is not current} - {home_id}
    for token_id in sorted(elsewhere):
        yield token_id, Stays.IMPORTED if record.origin is Origin.EXTERNAL else Stays.OLDER


def _as_rotated(record: KeyRecord) -> KeyRecord:
    """Return the record of a key that a migration rotates as its rotation leaves it, without the new material."""
    if record.current is None or record.state is not KeyState.ENABLED or not rotates(record):
        return record
    current = replace(record.current, state=MaterialState.NON_CURRENT)
    return replace(record, materials=tuple(current if each is record.current else each for each in record.materials))


def _reason(record: KeyRecord) -> Stays:
    """Return why a key's current material is on a former home."""
    if record.state in (KeyState.PENDING_DELETION, KeyState.PENDING_REPLICA_DELETION):
        return Stays.DELETION
    if record.origin is Origin.EXTERNAL:
        return Stays.IMPORTED
    if rotates(record):
        return Stays.WAITING if record.state is KeyState.ENABLED else Stays.NEXT_USE
    return Stays.HMAC if record.spec.startswith("HMAC") else Stays.PAIR
