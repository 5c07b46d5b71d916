"""Find and mend the differences between the database and the tokens.

An interrupted operation leaves an intent without an object, or an object that was never reported; after the restore of
an older database, keys in daily use look like orphans. So adoption comes before removal: an object that hsmkms has
labelled can be rebuilt from its label and CKA_ID, as a Disabled key. Removal needs the operator's confirmation for each
object and a grace period since it was first seen, and is refused for an object first seen after a restore. Absence
counts only in a session in which the installation's own key is visible.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from msgspec import Struct

from hsmkms.errors import KMSInvalidStateException, TokenUnavailableError, ValidationException
from hsmkms.hsm.objects.backing_keys import SYMMETRIC
from hsmkms.hsm.objects.objects import TokenObject
from hsmkms.model.cipher_format import mac_key_id
from hsmkms.model.enums import KeyState
from hsmkms.model.permit import OperatorAct
from hsmkms.rules.material import LabelParts, material_id, parse_label
from hsmkms.service.keys import destruction
from hsmkms.service.keys import rotate as rotating
from hsmkms.service.keys.installation_keys import witness
from hsmkms.service.operator.adoption import adopt, check_genuine
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.permits import own_permit
from hsmkms.store import deletion, installation, keys, leases, materials, objects, rotation
from hsmkms.store.engine import Connection
from hsmkms.store.installation import TokenRow
from hsmkms.store.installation_lock import exclusive
from hsmkms.store.objects import BackingObject
from hsmkms.store.rotation import Unfinished
from hsmkms.store.statuses import Lifecycle, ObjectStatus

_LOCK_SECONDS: Final = 60.0

UNKNOWN_USE: Final = 2**31
"""Encryptions assumed for an adopted material: its count is unknown, so half of its budget counts as used."""


class Kind(StrEnum):
    """The kinds of differences."""

    UNFINISHED = "unfinished"
    """A creation, rotation or import was interrupted before its object was created; no client got a response.

    Of an object that consists of two (hsm/objects/cbc_pairs.py, key pairs) one may be on the token.
    """
    UNACKNOWLEDGED = "unacknowledged"
    """A creation, rotation or import was interrupted after its object was created; no client got a response."""
    ORPHAN = "orphan"
    """An object of this installation has no row: the database is older than the token."""
    MISSING = "missing"
    """A backing key in use is not on the token."""
    DUPLICATE = "duplicate"
    """Several objects have one CKA_ID: it cannot be determined which is the key."""
    DOOMED = "doomed"
    """An object whose destruction was decided and has not been done yet."""
    RETURNED = "returned"
    """An object that was destroyed is on the token again: the token was restored from a backup."""
    AWAY = "token away"
    """A former home cannot be reached: nothing is known about its objects."""


REMEDIES: Final = {
    Kind.UNFINISHED: "forget the intent: no complete key is on the token",
    Kind.UNACKNOWLEDGED: "adopt it (as a Disabled key, if its key is new), or remove it",
    Kind.ORPHAN: "adopt it as a Disabled key, or remove it",
    Kind.MISSING: "none here: restore the token's own backup; imported material can be deleted and imported again",
    Kind.DUPLICATE: "none here: remove the wrong object with the token's own tool",
    Kind.DOOMED: "remove it, or leave it to `hsmkms maintain`",
    Kind.RETURNED: "remove it again",
    Kind.AWAY: "bring the token back, or name it as a [[token]] of the configuration",
}
_ONLY_A_PART: Final = "remove it: it is only a part of a key, which is of no use"
MENDABLE: Final = frozenset({Kind.UNFINISHED, Kind.UNACKNOWLEDGED, Kind.ORPHAN})
REMOVABLE: Final = frozenset({Kind.UNACKNOWLEDGED, Kind.ORPHAN, Kind.DOOMED, Kind.RETURNED})


_ENDED: Final = frozenset({ObjectStatus.DESTROYING, ObjectStatus.DESTROYED})


class Finding(Struct, frozen=True, kw_only=True):
    """One difference, on a token (``token_id``: its id in the database).

    ``cka_id`` is in hex; ``first_seen`` is when a reconcile first saw the object without a live key.
    """

    kind: Kind
    token_id: str
    key_id: str
    region: str | None
    sequence: int
    cka_id: str
    label: str
    first_seen: datetime | None
    remedy: str


class Mended(StrEnum):
    """How a finding was mended."""

    FORGOTTEN = "intent forgotten"
    ADOPTED = "adopted as a Disabled key"
    ADDED = "added to its key as a further backing key"
    DOOMED = "to be destroyed by `hsmkms maintain`"
    REMOVED = "removed from the token"
    GONE = "nothing to do any more"


class _Object(Struct, frozen=True):
    """An object on the token with this installation's label."""

    cka_id: bytes
    label: str
    parts: LabelParts


# -- finding ----------------------------------------------------------------------------------------------------


def find(core: Core) -> list[Finding]:
    """Compare the database with all tokens. Objects without a live key are recorded as seen; nothing else is changed.

    Raises TokenUnavailableError if the installation's own key is not visible on the home: then nothing is known.
    """
    return [finding for row in core.tokens.rows() for finding in _of_token_or_away(core, row)]


def _of_token_or_away(core: Core, row: TokenRow) -> list[Finding]:
    """Compare the database with one token; for a former home that is away, the only finding is that it is."""
    try:
        return _of_token(core, row.id)
    except TokenUnavailableError:
        if row.id == core.tokens.home_id:
            raise
        return [
            Finding(
                kind=Kind.AWAY,
                token_id=row.id,
                key_id="",
                region=None,
                sequence=0,
                cka_id="",
                label=row.label,
                first_seen=None,
                remedy=REMEDIES[Kind.AWAY],
            )
        ]


def _of_token(core: Core, token_id: str) -> list[Finding]:
    # Rows before the token, so that a key that is created in between cannot look missing.
    with core.store.reading() as conn:
        rows, going = objects.all_of_token(conn, token_id), _doomed(conn, token_id)
    inventory = core.tokens.of(token_id).keys.inventory(witness(core, token_id))
    count = Counter(each.cka_id for each in inventory if each.is_key)
    # A public half is part of its key; without one, it was left by a crash.
    candidates = [each for each in inventory if each.is_key or not count[each.cka_id]]
    labelled = [each for each in (_labelled(core, candidate) for candidate in candidates) if each is not None]
    with core.store.atomic() as tx:
        known, doomed = objects.all_of_token(tx, token_id), _doomed(tx, token_id)
        labelled = [
            each for each in labelled if not _ended(each.cka_id, rows, known) and each.cka_id not in going - doomed
        ]
        first_seen, seen_before = {}, objects.first_seen(tx, token_id)
        for each in labelled:
            if not _is_live(known.get(each.cka_id)):
                first_seen[each.cka_id] = objects.note_seen(tx, token_id, each.cka_id, core.clock())
            elif each.cka_id in seen_before:
                objects.forget_seen(tx, token_id, each.cka_id)
    # Rows that have changed while the token was read prove nothing.
    others = {cka_id: row for cka_id, row in rows.items() if cka_id not in first_seen and known.get(cka_id) == row}
    kinds = {each.cka_id: _kind(known.get(each.cka_id), each.cka_id in doomed, count[each.cka_id]) for each in labelled}
    return [*_of_objects(token_id, labelled, kinds, first_seen, count), *_of_rows(token_id, others, count)]


def _doomed(conn: Connection, token_id: str) -> set[bytes]:
    return {each.cka_id for each in deletion.doomed(conn) if each.token_id == token_id}


def _ended(cka_id: bytes, before: Mapping[bytes, BackingObject], now: Mapping[bytes, BackingObject]) -> bool:
    """Return True for an object that was destroyed between the two readings of the rows, while the token was read."""
    now_row, row = now.get(cka_id), before.get(cka_id)
    gone = now_row is not None and now_row.status is ObjectStatus.DESTROYED
    return gone and row is not None and row.status is not ObjectStatus.DESTROYED


def _labelled(core: Core, candidate: TokenObject) -> _Object | None:
    """Parse the label of an object; None if it is not one of this installation."""
    parts = parse_label(candidate.label)
    if parts is None or parts.installation != core.installation.short_id:
        return None
    return _Object(candidate.cka_id, candidate.label, parts)


def _is_live(row: BackingObject | None) -> bool:
    return row is not None and row.status is ObjectStatus.PRESENT and row.lifecycle is Lifecycle.LIVE


def _kind(row: BackingObject | None, doomed: bool, count: int) -> Kind:  # noqa: FBT001 - three facts of one object
    """Classify an object on the token without a live key; a ``count`` of 0 means that only parts of a key are there."""
    if count > 1:
        return Kind.DUPLICATE
    if doomed:
        return Kind.DOOMED
    if row is None:
        return Kind.ORPHAN
    if not count and _is_intended(row):
        return Kind.UNFINISHED
    return Kind.RETURNED if row.status is ObjectStatus.DESTROYED else Kind.UNACKNOWLEDGED


def _is_intended(row: BackingObject) -> bool:
    return row.lifecycle is Lifecycle.INTENDED or row.status is ObjectStatus.INTENDED


def _of_objects(
    token_id: str,
    labelled: list[_Object],
    kinds: Mapping[bytes, Kind],
    first_seen: Mapping[bytes, datetime],
    count: Mapping[bytes, int],
) -> Iterator[Finding]:
    """Yield the objects on the token without a live key."""
    for each in {each.cka_id: each for each in labelled}.values():
        if each.cka_id in first_seen:
            kind = kinds[each.cka_id]
            yield Finding(
                kind=kind,
                token_id=token_id,
                key_id=each.parts.key_id,
                region=each.parts.region,
                sequence=each.parts.sequence,
                cka_id=each.cka_id.hex(),
                label=each.label,
                first_seen=first_seen[each.cka_id],
                remedy=_remedy(kind, each.cka_id, count[each.cka_id]),
            )


def _of_rows(token_id: str, rows: Mapping[bytes, BackingObject], count: Mapping[bytes, int]) -> Iterator[Finding]:
    """Yield the rows whose object is missing on the token, or is there more than once."""
    for cka_id, row in rows.items():
        unfinished = _is_intended(row)
        if count[cka_id] == 1 or (row.status in _ENDED and not unfinished):
            continue
        kind = Kind.DUPLICATE if count[cka_id] else Kind.UNFINISHED if unfinished else Kind.MISSING
        yield Finding(
            kind=kind,
            token_id=token_id,
            key_id=row.key_id,
            region=row.region,
            sequence=row.sequence,
            cka_id=cka_id.hex(),
            label=row.label,
            first_seen=None,
            remedy=_remedy(kind, cka_id, count[cka_id]),
        )


def _remedy(kind: Kind, cka_id: bytes, count: int) -> str:
    """Return what to do about a finding; of a material of two objects it names the other CKA_ID to look for as well."""
    if kind is Kind.ORPHAN and not count:
        return _ONLY_A_PART
    authenticating_id = mac_key_id(cka_id)
    if authenticating_id is None or kind not in (Kind.MISSING, Kind.DUPLICATE):
        return REMEDIES[kind]
    return f"{REMEDIES[kind]} (the material has an HMAC key too, with CKA_ID {authenticating_id.hex()})"


# -- mending ----------------------------------------------------------------------------------------------------


def mend(core: Core, finding: Finding, *, remove: bool, region: str | None) -> Mended:
    """Mend one difference, if it is still there.

    ``remove``: remove the object from the token instead of adopting it; KMSInvalidStateException before its grace
    period is over, or if it may have come with a restore. ``region`` is for labels that have no room for it.
    """
    with exclusive(core.store, "reconcile", _LOCK_SECONDS):
        return _mend(core, finding, remove=remove, region=region)


def _mend(core: Core, finding: Finding, *, remove: bool, region: str | None) -> Mended:
    if finding not in find(core):
        return Mended.GONE
    if finding.kind not in (REMOVABLE if remove else MENDABLE):
        raise ValidationException(f"a finding of kind {finding.kind} cannot be mended so: {finding.remedy}")
    if remove:
        return _remove(core, finding)
    begun = _begun(core, finding)
    if begun is not None:
        return _finish(core, begun)
    if finding.kind is Kind.UNFINISHED:
        return _forget(core, finding)
    return _adopt(core, finding, region)


def _begun(core: Core, finding: Finding) -> Unfinished | None:
    """Return the interrupted rotation or import of a live key that the finding is about, or None."""
    with core.store.reading() as conn:
        unfinished = rotation.unfinished(conn, finding.key_id)
    return next((each for each in unfinished if each.cka_id.hex() == finding.cka_id), None)


def _finish(core: Core, begun: Unfinished) -> Mended:
    if rotating.finish(core, begun) is not None:
        return Mended.ADDED
    with core.store.reading() as conn:
        doomed = objects.is_doomed(conn, begun.token_id, begun.cka_id)
    return Mended.DOOMED if doomed else Mended.FORGOTTEN


def _forget(core: Core, finding: Finding) -> Mended:
    """Drop the intent of a new key, so that it cannot be completed, and destroy the part of it that was created."""
    cka_id, token_id = bytes.fromhex(finding.cka_id), finding.token_id
    in_parts = core.tokens.of(token_id).keys.is_in_parts(cka_id)
    with core.audited_and_sealed() as tx:
        dropped = keys.drop_intent(tx, finding.key_id, finding.region or "")
        if dropped and in_parts:
            objects.doom(tx, token_id, cka_id, finding.label, core.clock())
    if dropped and in_parts:
        destruction.discard(core, token_id, cka_id)
    return Mended.FORGOTTEN if dropped else Mended.GONE


def _remove(core: Core, finding: Finding) -> Mended:
    if finding.kind is not Kind.DOOMED:  # that was decided already
        _check_grace(core, finding)
    cka_id, token_id = bytes.fromhex(finding.cka_id), finding.token_id
    begun = _begun(core, finding)

    # 1. Intent: from here on it cannot be adopted or completed.
    with core.store.atomic() as tx:
        row = objects.fetch(tx, token_id, cka_id)
        if _is_live(row):
            return Mended.GONE
        if begun is not None:
            materials.doom(tx, token_id, cka_id)  # the key stays, without the interrupted material
        objects.doom(tx, token_id, cka_id, finding.label, core.clock())
    core.reached("remove 1: intent")

    # 2. Device.
    core.tokens.of(token_id).keys.destroy(own_permit(OperatorAct.RECONCILE, cka_id), cka_id)
    core.reached("remove 2: device")

    # 3. Result.
    with core.store.atomic() as tx:
        if row is not None:
            keys.drop_intent(tx, row.key_id, row.region)
        objects.set_status(tx, token_id, cka_id, ObjectStatus.DESTROYED)
        objects.forget_doomed(tx, token_id, cka_id)
        objects.forget_seen(tx, token_id, cka_id)
    core.reached("remove 3: result")
    return Mended.REMOVED


def _check_grace(core: Core, finding: Finding) -> None:
    first_seen = finding.first_seen or core.clock()
    with core.store.reading() as conn:
        row = installation.fetch(conn)
    if row is not None and row.restored_at is not None and first_seen >= row.restored_at:
        raise KMSInvalidStateException(
            f"the object {finding.cka_id} was first seen after the database was restored, so it may be a key in use: "
            "adopt it instead"
        )
    until = first_seen + timedelta(hours=core.grace_hours)
    if core.clock() < until:
        raise KMSInvalidStateException(
            f"the object {finding.cka_id} was first seen at {first_seen:%Y-%m-%d %H:%M:%S} UTC and may be removed from "
            f"{until:%Y-%m-%d %H:%M:%S} UTC on (reconcile.grace_hours): adopt it, or wait"
        )


def _adopt(core: Core, finding: Finding, region: str | None) -> Mended:
    cka_id, token_id = bytes.fromhex(finding.cka_id), finding.token_id
    kind = check_genuine(core, finding)
    where = finding.region or region or core.installation.default_region
    core.tokens.of(token_id).keys.require_replicated(cka_id)  # it may come from before a failover or a restore
    if finding.kind is Kind.ORPHAN and kind == SYMMETRIC:
        # Before the key can be used: after a crash in between its count must not start at zero.
        leases.at_least(core.store, material_id(finding.key_id, cka_id), UNKNOWN_USE)
    with core.store.atomic() as tx:
        if objects.is_doomed(tx, token_id, cka_id):
            return Mended.GONE
        row = objects.fetch(tx, token_id, cka_id)
        if row is None:
            mended = Mended.ADOPTED if adopt(tx, core, finding, kind, where) else Mended.ADDED
        elif keys.complete(tx, row.key_id, row.region, KeyState.DISABLED):
            keys.hand_over(tx, row.key_id)  # for a service's key whose alias was never created
            mended = Mended.ADOPTED
        else:
            mended = Mended.GONE
        objects.forget_seen(tx, token_id, cka_id)
    return mended
