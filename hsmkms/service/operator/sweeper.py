"""Everything that is due: expiry, interrupted work, rotation, wrapping keys, deletion, destruction.

One procedure for timer, server and operator. Each step is judged again when it is done, so a step that somebody else
has done, or that was taken back, is left out. What fails stays due, is reported, and hinders nothing else. Many
processes may run it: one works, the others are told so.
"""

import logging
import uuid
from collections.abc import Callable, Container, Iterable, Iterator
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Final

from msgspec import Struct

from hsmkms.errors import (
    ConflictException,
    HsmKmsError,
    KMSInvalidStateException,
    NotFoundException,
    TokenUnavailableError,
)
from hsmkms.model.enums import RotationType
from hsmkms.model.permit import OperatorAct
from hsmkms.rules import budget
from hsmkms.rules import rotation as rules
from hsmkms.service.keys import destruction
from hsmkms.service.keys import expiry as lapses
from hsmkms.service.keys import rotate as rotating
from hsmkms.service.operations import deletion, wrapping_keys
from hsmkms.service.runtime import clock
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.permits import own_permit
from hsmkms.store import deletion as stored_deletion
from hsmkms.store import leases, materials, sweeper
from hsmkms.store import rotation as stored_rotation
from hsmkms.store.deletion import Doomed
from hsmkms.store.materials import WrappingKeyRow
from hsmkms.store.rotation import Candidate
from hsmkms.store.schema import ObjectStatus

log = logging.getLogger("hsmkms.service")

TURN: Final = timedelta(minutes=5)
"""How long a process that died keeps the others from going on."""


class StepKind(StrEnum):
    """What can be due, in the order in which it is done."""

    EXPIRY = "expiry"
    """Imported key material whose ValidTo has come."""
    RECOVERY = "recovery"
    """A rotation or an import that was interrupted."""
    ROTATION = "rotation"
    WRAPPING_KEY = "wrapping key"
    """One whose 24 hours are over."""
    DELETION = "deletion"
    """A key whose waiting period is over."""
    DESTRUCTION = "destruction"
    """An object that is of no use any more."""


class StepOutcome(StrEnum):
    """What became of a step."""

    DUE = "due"
    """It was not asked to be done (a dry run)."""
    DONE = "done"
    HELD = "held"
    """It waits for a clock that can be trusted, for the token, or for somebody else who is at it."""
    FAILED = "failed"
    GONE = "gone"
    """Somebody else did it, or it was taken back."""


class Step(Struct, frozen=True, kw_only=True):
    """One thing that is or was due. ``why`` says since when or what for, ``detail`` what hindered it."""

    kind: StepKind
    key_id: str | None
    region: str | None
    why: str
    outcome: StepOutcome
    detail: str | None = None


class Report(Struct, frozen=True, kw_only=True):
    """What a sweep found and did. ``busy``: another process is at it; ``doubt``: why the clock is not trusted."""

    steps: list[Step]
    busy: bool = False
    doubt: str | None = None


class _Due(Struct, frozen=True, kw_only=True):
    """A step that has not been done yet."""

    kind: StepKind
    key_id: str | None
    region: str | None
    why: str
    act: Callable[[], object]


_HOLDS: Final = frozenset(StepKind) - {StepKind.EXPIRY}
"""What waits while the clock cannot be trusted: all that changes the token."""


def maintain(core: Core, *, dry_run: bool = False) -> Report:
    """Do what is due, or only tell it."""
    if dry_run:
        return Report(steps=[_step(each, StepOutcome.DUE) for each in _all_due(core)], doubt=clock.doubt(core))
    holder = uuid.uuid4().hex
    if not sweeper.take_turn(core.store, holder, core.clock(), TURN):
        return Report(steps=[], busy=True)
    try:
        return _sweep(core, holder)
    finally:
        sweeper.end_turn(core.store, holder)


def _sweep(core: Core, holder: str) -> Report:
    doubt = clock.doubt(core)
    if doubt is not None:
        log.error("nothing is rotated or destroyed: %s", doubt)
    steps: list[Step] = []
    away: str | None = None
    for each in _all_due(core):
        if not sweeper.take_turn(core.store, holder, core.clock(), TURN):
            log.warning("this process was stopped for so long that another one has taken its turn: it goes on there")
            break
        reason = (doubt or away) if each.kind in _HOLDS else None
        try:
            step = _step(each, StepOutcome.HELD, reason) if reason is not None else _do(core, each)
        except TokenUnavailableError as exc:
            away = str(exc)  # it is not asked again in this sweep
            step = _step(each, StepOutcome.HELD, away)
        steps.append(step)
        log.log(_LEVELS[step.outcome], "%s, key %s (%s): %s%s", *_words(step))
    return Report(steps=steps, doubt=doubt)


def _do(core: Core, due: _Due) -> Step:
    """Do a step. TokenUnavailableError comes out: nothing else that needs the token can be done then."""
    try:
        due.act()
    except (KMSInvalidStateException, NotFoundException) as exc:
        return _step(due, StepOutcome.GONE, str(exc))
    except ConflictException as exc:
        return _step(due, StepOutcome.HELD, str(exc))
    except TokenUnavailableError:
        raise
    except HsmKmsError as exc:
        details = {"keyId": due.key_id, "why": due.why}
        region = due.region or core.installation.default_region
        core.audit.event(_EVENTS[due.kind], region, "", details, exc)
        return _step(due, StepOutcome.FAILED, f"{exc.code}: {exc}")
    return _step(due, StepOutcome.DONE)


def _step(due: _Due, outcome: StepOutcome, detail: str | None = None) -> Step:
    return Step(kind=due.kind, key_id=due.key_id, region=due.region, why=due.why, outcome=outcome, detail=detail)


_EVENTS: Final = {
    StepKind.EXPIRY: "DeleteExpiredKeyMaterial",
    StepKind.RECOVERY: "FinishInterrupted",
    StepKind.ROTATION: "RotateKey",
    StepKind.WRAPPING_KEY: "DestroyTokenObject",
    StepKind.DELETION: "DeleteKey",
    StepKind.DESTRUCTION: "DestroyTokenObject",
}
"""As what a step that failed is recorded; one that is done is recorded where it is done."""

_LEVELS: Final = {
    StepOutcome.DONE: logging.INFO,
    StepOutcome.GONE: logging.INFO,
    StepOutcome.HELD: logging.WARNING,
    StepOutcome.FAILED: logging.ERROR,
}


def _words(step: Step) -> tuple[str, str, str, str, str]:
    detail = f": {step.detail}" if step.detail else ""
    return step.kind, step.key_id or "(none)", step.why, step.outcome, detail


# -- what is due ------------------------------------------------------------------------------------------------


def _all_due(core: Core) -> Iterator[_Due]:
    """Each kind is looked up when the kinds before it are done: what they doom is destroyed in the same sweep."""
    for find in (_expiries, _recoveries, _rotations, _wrapping_keys, _deletions, _destructions):
        yield from find(core)


def _expiries(core: Core) -> list[_Due]:
    now = core.clock()
    with core.store.reading() as conn:
        found = materials.expired(conn, now)
    return [
        _Due(
            kind=StepKind.EXPIRY,
            key_id=key_id,
            region=region,
            why="ValidTo has come",
            act=partial(lapses.write, core, key_id, region, now),
        )
        for key_id, region in found
    ]


def _recoveries(core: Core) -> list[_Due]:
    return [
        _Due(
            kind=StepKind.RECOVERY,
            key_id=each.key_id,
            region=each.region,
            why=f"begun at {each.created_at:%Y-%m-%d %H:%M:%S} UTC and not finished",
            act=partial(rotating.finish, core, each),
        )
        for each in rotating.interrupted(core)
    ]


def _rotations(core: Core) -> list[_Due]:
    """Those that are due by date, then those of other keys whose material has made many encryptions."""
    by_date = _rotations_by_date(core)
    return [*by_date, *_early_rotations(core, {each.key_id for each in by_date})]


def _rotations_by_date(core: Core) -> list[_Due]:
    now = core.clock()
    with core.store.reading() as conn:
        found = stored_rotation.candidates(conn, now)
    return [
        _Due(
            kind=StepKind.ROTATION,
            key_id=each.key_id,
            region=each.region,
            why=f"due since {date:%Y-%m-%d %H:%M:%S} UTC",
            act=partial(
                rotating.rotate,
                core,
                each.key_id,
                each.region,
                RotationType.AUTOMATIC,
                partial(rotating.must_be_due, core),
            ),
        )
        for each, date in _dated(core, found)
        if date <= now
    ]


def _dated(core: Core, candidates: Iterable[Candidate]) -> Iterator[tuple[Candidate, datetime]]:
    """Yield each candidate with the date of its next rotation."""
    for each in candidates:
        date = rules.date_after(each.last_automatic, each, core.rotation)
        if date is not None:
            yield each, date


def next_date(core: Core) -> datetime | None:
    """When something is or was due first: a rotation, an expiry, the end of a wrapping key, a deletion."""
    now = core.clock()
    with core.store.reading() as conn:
        dates = [date for _, date in _dated(core, stored_rotation.candidates(conn, now))]
        dates += [each.valid_to for each in materials.wrapping_keys(conn) if each.status is not ObjectStatus.DESTROYING]
        others = (materials.first_expiry(conn), stored_deletion.first(conn))
    return min([*dates, *(each for each in others if each is not None)], default=None)


def _early_rotations(core: Core, by_date: Container[str | None]) -> list[_Due]:
    used = leases.beyond(core.store, budget.ROTATE_AT)
    with core.store.reading() as conn:
        found = stored_rotation.generated_and_current(conn, used)
    return [
        _Due(
            kind=StepKind.ROTATION,
            key_id=key_id,
            region=region,
            why=f"{used[material_id]:,} encryptions under its key material, of the 2^32 that AES-GCM allows",
            act=partial(rotating.rotate, core, key_id, region, RotationType.AUTOMATIC, _current(material_id)),
        )
        for key_id, region, material_id in found
        if key_id not in by_date
    ]


def _current(material_id: str) -> rotating.Judge:
    return lambda record: rotating.must_be_current(record, material_id)


def _end_wrapping_key(core: Core, row: WrappingKeyRow) -> None:
    wrapping_keys.destroy(core, row, own_permit(OperatorAct.MAINTAIN, row.cka_id))


def _destroy(core: Core, doomed: Doomed) -> None:
    destruction.destroy(core, doomed, own_permit(OperatorAct.MAINTAIN, doomed.cka_id))


def _wrapping_keys(core: Core) -> list[_Due]:
    now = core.clock()
    with core.store.reading() as conn:
        rows = materials.wrapping_keys(conn)
    return [
        _Due(
            kind=StepKind.WRAPPING_KEY,
            key_id=each.key_id,
            region=each.region,
            why=f"valid until {each.valid_to:%Y-%m-%d %H:%M:%S} UTC",
            act=partial(_end_wrapping_key, core, each),
        )
        for each in rows
        if each.status is not ObjectStatus.DESTROYING and wrapping_keys.is_over(each, now)
    ]


def _deletions(core: Core) -> list[_Due]:
    with core.store.reading() as conn:
        found = stored_deletion.due(conn, core.clock())
    return [
        _Due(
            kind=StepKind.DELETION,
            key_id=key_id,
            region=region,
            why="its waiting period is over",
            act=partial(deletion.destroy_key, core, key_id, region),
        )
        for key_id, region in found
    ]


def _destructions(core: Core) -> list[_Due]:
    with core.store.reading() as conn:
        found = stored_deletion.doomed(conn)
    return [
        _Due(
            kind=StepKind.DESTRUCTION,
            key_id=each.key_id,
            region=None,
            why=f"the {each.purpose.replace('_', ' ').lower()} {each.cka_id.hex()} is of no use any more",
            act=partial(_destroy, core, each),
        )
        for each in found
    ]
