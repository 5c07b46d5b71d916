"""Run all due work: expiry, interrupted work, rotation, wrapping keys, deletion, destruction.

After it the members of HA groups are asked again for what they could not be asked for when it was made.

One procedure for timer, server and operator. Each step is checked again when it is run, so one that another process has
done, or that was cancelled, is skipped. A step that fails stays due, is reported, and does not block the others. Any
number of processes may run it: the holder of the sweeper lease works, the others report busy.
"""

import logging
import uuid
from collections.abc import Callable, Container, Iterable, Iterator
from datetime import datetime
from enum import StrEnum
from functools import cache, partial
from typing import Final

from msgspec import Struct

from hsmkms.errors import (
    ConflictException,
    HsmKmsError,
    KMSInvalidStateException,
    NotFoundException,
    ObjectLostError,
    StoreError,
    TokenUnavailableError,
)
from hsmkms.model.enums import RotationType
from hsmkms.model.permit import OperatorAct
from hsmkms.process import uptime
from hsmkms.rules import budget
from hsmkms.rules import rotation as rules
from hsmkms.service.audit.sealing import Sealer
from hsmkms.service.keys import destruction, expiry
from hsmkms.service.keys import rotate as rotating
from hsmkms.service.operations import deletion, wrapping_keys
from hsmkms.service.operator import group_members
from hsmkms.service.runtime import clock
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.permits import own_permit
from hsmkms.store import deletion as stored_deletion
from hsmkms.store import leases, materials, sweeper
from hsmkms.store import rotation as stored_rotation
from hsmkms.store.deletion import Doomed
from hsmkms.store.materials import WrappingKeyRow
from hsmkms.store.renewal import LEASE, renewed
from hsmkms.store.rotation import Candidate
from hsmkms.store.statuses import ObjectStatus

log = logging.getLogger("hsmkms.service")


class StepKind(StrEnum):
    """The kinds of due work, in the order in which they are run."""

    EXPIRY = "expiry"
    """Imported key material whose ValidTo has passed."""
    RECOVERY = "recovery"
    """A rotation or an import that was interrupted."""
    ROTATION = "rotation"
    WRAPPING_KEY = "wrapping key"
    """A wrapping key whose 24 hours are over."""
    DELETION = "deletion"
    """A key whose waiting period is over."""
    DESTRUCTION = "destruction"
    """An object on a token whose destruction was decided."""


class StepOutcome(StrEnum):
    """The outcome of a step."""

    DUE = "due"
    """Not run, in a dry run."""
    DONE = "done"
    HELD = "held"
    """It waits for a clock and databases that can be trusted, for the token, or for another process at work on it."""
    FAILED = "failed"
    GONE = "gone"
    """Another process did it, or it was cancelled."""


class Step(Struct, frozen=True, kw_only=True):
    """One piece of work that is or was due. ``why``: since when or for what reason; ``detail``: what prevented it."""

    kind: StepKind
    key_id: str | None
    region: str | None
    why: str
    outcome: StepOutcome
    detail: str | None = None


class Report(Struct, frozen=True, kw_only=True):
    """The result of a sweep. ``busy``: another process has the lease; ``doubt``: why the clock is not trusted."""

    steps: list[Step]
    busy: bool = False
    doubt: str | None = None


class _Due(Struct, frozen=True, kw_only=True):
    """A step that has not been run yet; ``act`` runs it."""

    kind: StepKind
    key_id: str | None
    region: str | None
    why: str
    act: Callable[[], object]


_HOLDS: Final = frozenset(StepKind) - {StepKind.EXPIRY}
"""The kinds that wait while the clock cannot be trusted or the token is away: all that change the token."""

_DESTROYS: Final = _HOLDS - {StepKind.ROTATION}
"""The kinds that may destroy keys, by what the databases say: they wait while those contradict the newest seal."""


def maintain(core: Core, *, dry_run: bool = False) -> Report:
    """Run due work, or only list it. Only the holder of the sweeper lease works.

    StoreError if the databases are not the ones that were opened: what is due by a database that was moved away may be
    a key in use by the one in its place.
    """
    core.store.check_in_place()
    core.cache.look()
    if dry_run:
        return Report(steps=[_step(each, StepOutcome.DUE) for each in _all_due(core)], doubt=clock.doubt(core))
    holder = uuid.uuid4().hex
    acquire, asked_at = partial(_acquire, core, holder), uptime()
    if not acquire():
        return Report(steps=[], busy=True)
    try:
        with renewed("the sweeper", acquire, asked_at):
            return _sweep(core, acquire)
    finally:
        sweeper.release_lease(core.store, holder)


def _acquire(core: Core, holder: str) -> bool:
    """Take or renew the sweeper lease."""
    return sweeper.acquire_lease(core.store, holder, core.clock, LEASE)


def _sweep(core: Core, acquire: Callable[[], bool]) -> Report:
    doubt = clock.doubt(core)
    if doubt is not None:
        log.error("nothing is rotated or destroyed: %s", doubt)
    steps: list[Step] = []
    away: str | None = None
    contradiction = cache(partial(_contradiction, core))  # asked only if something is due that may destroy a key
    for each in _all_due(core):
        if not acquire():
            log.warning("this process was stopped for so long that another process has taken over its work")
            break
        reason = (doubt or away) if each.kind in _HOLDS else None
        try:
            if reason is None and each.kind in _DESTROYS:
                reason = contradiction()
            step = _step(each, StepOutcome.HELD, reason) if reason is not None else _do(core, each)
        except TokenUnavailableError as exc:
            away = str(exc)  # the token is not used again in this sweep
            step = _step(each, StepOutcome.HELD, away)
        steps.append(step)
        log.log(_LEVELS[step.outcome], "%s, key %s (%s): %s%s", *_words(step))
    if away is None:
        group_members.check_again(core)
    return Report(steps=steps, doubt=doubt)


def _contradiction(core: Core) -> str | None:
    """Return how log or databases contradict the newest seal, or None: of an older copy nothing is deleted.

    In that copy a key may await its deletion which was cancelled since. A seal that cannot be verified, since its key
    was lost, shows nothing. TokenUnavailableError.
    """
    try:
        Sealer(core).check()
    except StoreError as exc:
        return str(exc)
    except ObjectLostError:
        return None
    return None


def _do(core: Core, due: _Due) -> Step:
    """Run a step. Raises TokenUnavailableError, since then no other step that needs the token can be run either."""
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
"""The event name under which a failed step is recorded; a successful one is recorded by its procedure."""

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
    """Yield due steps. Each kind is looked up after the kinds before it have run: what they doom is then destroyed."""
    for find in (_expiries, _recoveries, _rotations, _wrapping_keys, _deletions, _destructions):
        yield from find(core)


def _expiries(core: Core) -> list[_Due]:
    now = core.clock()
    with core.store.reading() as conn:
        rows = materials.expired(conn, now)
    return [
        _Due(
            kind=StepKind.EXPIRY,
            key_id=key_id,
            region=region,
            why="ValidTo has come",
            act=partial(expiry.write, core, key_id, region, now),
        )
        for key_id, region in rows
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
    """Return the rotations due by date, then those of other keys whose material has made many encryptions."""
    by_date = _rotations_by_date(core)
    return [*by_date, *_early_rotations(core, {each.key_id for each in by_date})]


def _rotations_by_date(core: Core) -> list[_Due]:
    now = core.clock()
    with core.store.reading() as conn:
        candidates = stored_rotation.candidates(conn, now)
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
        for each, date in _dated(core, candidates)
        if date <= now
    ]


def _dated(core: Core, candidates: Iterable[Candidate]) -> Iterator[tuple[Candidate, datetime]]:
    """Yield each candidate with the date of its next rotation."""
    for each in candidates:
        date = rules.date_after(each.last_automatic, each, core.rotation)
        if date is not None:
            yield each, date


def next_date(core: Core) -> datetime | None:
    """Return the date of the first due work: a rotation, an expiry, the end of a wrapping key, a deletion."""
    now = core.clock()
    with core.store.reading() as conn:
        dates = [date for _, date in _dated(core, stored_rotation.candidates(conn, now))]
        dates += [each.valid_to for each in materials.wrapping_keys(conn) if each.status is not ObjectStatus.DESTROYING]
        others = (materials.first_expiry(conn), stored_deletion.first(conn))
    return min([*dates, *(each for each in others if each is not None)], default=None)


def _early_rotations(core: Core, by_date: Container[str | None]) -> list[_Due]:
    used = leases.beyond(core.store, budget.ROTATE_AT)
    with core.store.reading() as conn:
        rows = stored_rotation.generated_and_current(conn, used)
    return [
        _Due(
            kind=StepKind.ROTATION,
            key_id=key_id,
            region=region,
            why=f"{used[material_id]:,} encryptions under its key material, of the 2^32 that are allowed",
            act=partial(rotating.rotate, core, key_id, region, RotationType.AUTOMATIC, _current(material_id)),
        )
        for key_id, region, material_id in rows
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
        rows = stored_deletion.due(conn, core.clock())
    return [
        _Due(
            kind=StepKind.DELETION,
            key_id=key_id,
            region=region,
            why="its waiting period is over",
            act=partial(deletion.destroy_key, core, key_id, region),
        )
        for key_id, region in rows
    ]


def _destructions(core: Core) -> list[_Due]:
    with core.store.reading() as conn:
        rows = stored_deletion.doomed(conn)
    return [
        _Due(
            kind=StepKind.DESTRUCTION,
            key_id=each.key_id,
            region=None,
            why=f"the {each.purpose.replace('_', ' ').lower()} {each.cka_id.hex()} is of no use any more",
            act=partial(_destroy, core, each),
        )
        for each in rows
    ]
