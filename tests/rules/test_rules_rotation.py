"""Rotation dates and settings as pure tables: leap days, pauses, boundaries to the microsecond."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmkms.errors import (
    ConflictException,
    KMSInvalidStateException,
    LimitExceededException,
    UnsupportedOperationException,
    ValidationException,
)
from hsmkms.model.enums import KeyManager, KeySpec, KeyState, MaterialState, Origin, RotationType
from hsmkms.model.records import KeyRecord, MaterialRecord, RotationSetting
from hsmkms.model.shapes import ROTATION_PERIOD_DAYS
from hsmkms.rules import rotation as rules
from hsmkms.rules.rotation import RotationPolicy

MakeKey = Callable[..., KeyRecord]
MakeMaterial = Callable[..., MaterialRecord]

TICK = timedelta(microseconds=1)
DAY = timedelta(days=1)
ANCHOR = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
MISSION = RotationPolicy()
TODAY = RotationPolicy(custom_period=True, managed_period_days=365, imported_on_demand=True)
instants = st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds
periods = st.integers(ROTATION_PERIOD_DAYS.lowest, ROTATION_PERIOD_DAYS.highest)


def utc(text: str) -> datetime:
    """An instant of UTC."""
    return datetime.fromisoformat(f"{text}+00:00")


# -- dates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("anchor", "days", "last", "expected"),
    [
        # The example of AWS's guide, and a leap day on the way: a period is 365 days of 24 hours, no calendar year.
        ("2022-03-15T00:00:00", 365, None, "2023-03-15T00:00:00"),
        ("2022-03-15T00:00:00", 365, "2023-03-15T00:00:00", "2024-03-14T00:00:00"),
        ("2022-03-15T00:00:00", 365, "2024-03-14T00:00:00", "2025-03-14T00:00:00"),
        # From a leap day, and onto one.
        ("2024-02-29T12:00:00", 365, None, "2025-02-28T12:00:00"),
        ("2023-03-01T00:00:00", 365, None, "2024-02-29T00:00:00"),
        # Nights in which clocks change somewhere: Berlin to summer, New York to winter.
        ("2025-03-29T01:30:00", 365, None, "2026-03-29T01:30:00"),
        ("2025-11-01T05:59:59", 365, None, "2026-11-01T05:59:59"),
        # Shortest, longest, and those of keys of services.
        ("2026-01-01T00:00:00", 90, None, "2026-04-01T00:00:00"),
        ("2026-01-01T00:00:00", 2560, None, "2033-01-04T00:00:00"),
        ("2026-01-01T00:00:00", 1095, None, "2028-12-31T00:00:00"),
        # A late rotation moves no later date, and one makes up for several missed dates.
        ("2026-01-01T00:00:00", 90, "2026-04-01T00:00:00.000001", "2026-06-30T00:00:00"),
        ("2026-01-01T00:00:00", 90, "2026-06-29T23:59:59.999999", "2026-06-30T00:00:00"),
        ("2026-01-01T00:00:00", 90, "2026-06-30T00:00:00", "2026-09-28T00:00:00"),
        ("2026-01-01T00:00:00", 90, "2027-01-01T00:00:00", "2027-03-27T00:00:00"),
        # One that came before its date (half of the budget was used up) leaves the first date, as does one that is
        # older than the anchor: rotation was switched off and on again since.
        ("2026-01-01T00:00:00", 90, "2026-02-01T00:00:00", "2026-04-01T00:00:00"),
        ("2026-01-01T00:00:00", 90, "2025-12-31T00:00:00", "2026-04-01T00:00:00"),
        ("2026-01-01T00:00:00", 90, "2020-01-01T00:00:00", "2026-04-01T00:00:00"),
    ],
)
def test_next_date(anchor: str, days: int, last: str | None, expected: str) -> None:
    """The next date is the first whole period after the anchor that follows the last rotation."""
    assert rules.next_date(utc(anchor), days, utc(last) if last else None) == utc(expected)


@given(instants, periods, st.none() | instants)
def test_next_date_is_on_the_grid(anchor: datetime, days: int, last: datetime | None) -> None:
    """It is whole periods after the anchor, after the last rotation, and no date between the two was left out."""
    next_date, period = rules.next_date(anchor, days, last), timedelta(days=days)
    assert (next_date - anchor) % period == timedelta()
    assert next_date >= anchor + period
    assert last is None or next_date > last
    assert next_date == anchor + period or next_date - period <= max(last or anchor, anchor)


@given(instants, periods, st.lists(st.timedeltas(timedelta(), timedelta(days=4000)), max_size=8))
def test_late_rotations_never_pile_up(anchor: datetime, days: int, delays: list[timedelta]) -> None:
    """However late each rotation is, dates only grow, stay on the grid, and are at least one period apart."""
    dates = [rules.next_date(anchor, days, None)]
    for delay in delays:
        dates.append(rules.next_date(anchor, days, dates[-1] + delay))
    assert all(later - earlier >= timedelta(days=days) for earlier, later in pairwise(dates))
    assert {(date - anchor) % timedelta(days=days) for date in dates} == {timedelta()}


def test_time_zones_of_the_machine_are_nothing(make_key: MakeKey) -> None:
    """The same instants in another zone are the same dates."""
    elsewhere = timezone(timedelta(hours=5, minutes=45))
    setting = RotationSetting(anchor=ANCHOR.astimezone(elsewhere))
    due = ANCHOR + timedelta(days=365)
    assert rules.next_rotation(make_key(rotation=setting), MISSION, ANCHOR.astimezone(elsewhere)) == due
    assert rules.is_due(make_key(rotation=setting), MISSION, due.astimezone(elsewhere))


@pytest.mark.parametrize(
    ("changes", "policy", "days"),
    [
        ({}, MISSION, None),
        ({}, TODAY, None),
        ({"rotation": RotationSetting(anchor=ANCHOR)}, MISSION, 365),
        ({"rotation": RotationSetting(anchor=ANCHOR)}, RotationPolicy(period_days=90), 90),
        ({"rotation": RotationSetting(anchor=ANCHOR, period_days=180)}, TODAY, 180),
        ({"manager": KeyManager.AWS}, MISSION, 1095),
        ({"manager": KeyManager.AWS}, TODAY, 365),
        ({"manager": KeyManager.AWS, "rotation": RotationSetting(anchor=ANCHOR, period_days=90)}, MISSION, 1095),
    ],
)
def test_period(make_key: MakeKey, changes: dict[str, Any], policy: RotationPolicy, days: int | None) -> None:
    """The period is the key's, else the installation's; keys of services have a fixed one, whatever is configured."""
    key = make_key(creation_date=ANCHOR, **changes)
    assert rules.period_days(key, policy) == days
    expected = None if days is None else ANCHOR + timedelta(days=days)
    assert rules.next_rotation(key, policy, ANCHOR) == expected


@pytest.mark.parametrize(
    ("state", "due"),
    [(state, state is KeyState.ENABLED) for state in KeyState],
)
def test_due_to_the_microsecond(make_key: MakeKey, state: KeyState, *, due: bool) -> None:
    """A key is due from its instant on, and only while it is Enabled: in every other state the rotation waits."""
    key = make_key(state=state, rotation=RotationSetting(anchor=ANCHOR))
    date = ANCHOR + timedelta(days=365)
    assert not rules.is_due(key, MISSION, date - TICK)
    assert [rules.is_due(key, MISSION, date + later) for later in (timedelta(), TICK, 4000 * DAY)] == [due] * 3


def test_never_due_while_off(make_key: MakeKey) -> None:
    """A key whose rotation is off is never due."""
    assert not rules.is_due(make_key(), MISSION, ANCHOR + 9999 * DAY)


def test_last_automatic(make_key: MakeKey, make_material: MakeMaterial) -> None:
    """The newest automatic rotation until now counts: neither one on demand, nor one that a wrong clock dated."""

    def made(sequence: int, date: datetime | None, kind: RotationType | None) -> MaterialRecord:
        return make_material(sequence=sequence, rotation_date=date, rotation_type=kind)

    key = make_key(
        materials=(
            made(1, None, None),
            made(2, ANCHOR, RotationType.AUTOMATIC),
            made(3, ANCHOR + 5 * DAY, RotationType.AUTOMATIC),
            made(4, ANCHOR + 9 * DAY, RotationType.ON_DEMAND),
            made(5, ANCHOR + 900 * DAY, RotationType.AUTOMATIC),
            made(6, None, RotationType.AUTOMATIC),
        )
    )
    for now, expected in (
        (ANCHOR - TICK, None),
        (ANCHOR, ANCHOR),
        (ANCHOR + 5 * DAY - TICK, ANCHOR),
        (ANCHOR + 10 * DAY, ANCHOR + 5 * DAY),
        (ANCHOR + 900 * DAY, ANCHOR + 900 * DAY),
    ):
        assert rules.last_automatic(key, now) == expected


# -- what is shown ----------------------------------------------------------------------------------------------------


def test_status_is_never_in_the_past(make_key: MakeKey) -> None:
    """An overdue rotation is shown as due now, and a future one with its date."""
    key = make_key(rotation=RotationSetting(anchor=ANCHOR))
    date = ANCHOR + timedelta(days=365)
    assert rules.shown_status(key, MISSION, date - TICK) == (365, date)
    assert rules.shown_status(key, MISSION, date + 3 * DAY) == (365, date + 3 * DAY)


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        (KeyState.ENABLED, True),
        (KeyState.DISABLED, True),
        (KeyState.PENDING_DELETION, False),
        (KeyState.PENDING_REPLICA_DELETION, False),
    ],
)
def test_status_by_state(make_key: MakeKey, state: KeyState, *, shown: bool) -> None:
    """A disabled key shows its setting; one that waits for its deletion reads false; one without a setting too."""
    key = make_key(state=state, rotation=RotationSetting(anchor=ANCHOR))
    assert (rules.shown_status(key, MISSION, ANCHOR) is not None) == shown
    assert rules.shown_status(make_key(state=state), MISSION, ANCHOR) is None


# -- the setting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "asked", "stored"),
    [
        (MISSION, None, None),
        (MISSION, 365, None),
        (RotationPolicy(period_days=200), 200, None),
        (TODAY, None, None),
        (TODAY, 365, None),
        (TODAY, 90, 90),
        (TODAY, 2560, 2560),
    ],
)
def test_first_enabling(make_key: MakeKey, policy: RotationPolicy, asked: int | None, stored: int | None) -> None:
    """It counts from now; a period that is the installation's own is not written, so that it follows the setting."""
    assert rules.enabled(make_key(), policy, asked, ANCHOR) == RotationSetting(anchor=ANCHOR, period_days=stored)


@pytest.mark.parametrize("asked", [90, 364, 366, 2560])
def test_period_that_is_not_the_users_to_choose(make_key: MakeKey, asked: int) -> None:
    """Where users may not choose, any other period is refused, by name, also for a key that rotates already."""
    for key in (make_key(), make_key(rotation=RotationSetting(anchor=ANCHOR))):
        with pytest.raises(ValidationException, match=f"RotationPeriodInDays {asked} cannot be chosen.*365 days"):
            rules.enabled(key, MISSION, asked, ANCHOR)


@pytest.mark.parametrize("asked", [None, 365])
def test_enabling_twice_changes_nothing(make_key: MakeKey, asked: int | None) -> None:
    """The same period again leaves anchor and dates as they are."""
    setting = RotationSetting(anchor=ANCHOR)
    assert rules.enabled(make_key(rotation=setting), TODAY, asked, ANCHOR + 100 * DAY) is setting


@pytest.mark.parametrize(
    ("rotated", "anchor"),
    [
        (None, ANCHOR),
        (ANCHOR - 10 * DAY, ANCHOR),
        (ANCHOR + 365 * DAY, ANCHOR + 365 * DAY),
        (ANCHOR + 366 * DAY, ANCHOR + 366 * DAY),
    ],
)
def test_another_period(
    make_key: MakeKey, make_material: MakeMaterial, rotated: datetime | None, anchor: datetime
) -> None:
    """It counts from the last rotation, else from the enabling; leaving the period out means the usual one."""
    material = make_material(rotation_date=rotated, rotation_type=RotationType.AUTOMATIC)
    now = ANCHOR + 400 * DAY
    key = make_key(rotation=RotationSetting(anchor=ANCHOR), materials=(material,))
    shorter = rules.enabled(key, TODAY, 90, now)
    assert shorter == RotationSetting(anchor=anchor, period_days=90)
    usual = rules.enabled(make_key(rotation=shorter, materials=(material,)), TODAY, None, now)
    assert usual == RotationSetting(anchor=anchor, period_days=None)


# -- who rotates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", list(KeySpec))
def test_only_symmetric_encryption_keys_rotate(make_key: MakeKey, spec: KeySpec) -> None:
    """Every other spec is refused with words that say what to do instead."""
    key = make_key(spec=spec)
    if spec is KeySpec.SYMMETRIC_DEFAULT:
        rules.check_rotatable(key)
        return
    with pytest.raises(UnsupportedOperationException, match=f"KeySpec {spec}.*move the alias"):
        rules.check_rotatable(key)


@pytest.mark.parametrize("origin", list(Origin))
def test_only_generated_keys_rotate_automatically(make_key: MakeKey, origin: Origin) -> None:
    """Every other origin is refused in AWS's words."""
    key = make_key(origin=origin)
    if origin is Origin.AWS_KMS:
        rules.check_automatic(key)
        return
    with pytest.raises(UnsupportedOperationException, match=f"{key.arn} origin is {origin} which is not valid"):
        rules.check_automatic(key)


@pytest.mark.parametrize("count", [0, 24, 25, 26])
def test_on_demand_limit(make_key: MakeKey, make_material: MakeMaterial, count: int) -> None:
    """25 rotations on demand are made in the life of a key; automatic ones do not count."""
    kinds = [RotationType.ON_DEMAND] * count + [RotationType.AUTOMATIC] * 40
    materials = (make_material(sequence=number, rotation_type=kind) for number, kind in enumerate(kinds, 1))
    key = make_key(materials=tuple(materials))
    if count < 25:
        rules.check_on_demand(key, MISSION, ANCHOR)
        return
    with pytest.raises(LimitExceededException, match=f"^The on-demand rotations limit .* for this key: {key.arn}$"):
        rules.check_on_demand(key, MISSION, ANCHOR)


@pytest.mark.parametrize(
    ("before", "refusal"),
    [
        (timedelta(minutes=20) + TICK, None),
        (timedelta(minutes=20), "within 20 minutes"),
        (TICK, "within 20 minutes"),
        (timedelta(), "rotation now"),
        (-3 * DAY, "rotation now"),
    ],
)
def test_on_demand_beside_an_automatic_one(make_key: MakeKey, before: timedelta, refusal: str | None) -> None:
    """Twenty minutes before an automatic rotation, and while one is overdue, it is a ConflictException."""
    key = make_key(rotation=RotationSetting(anchor=ANCHOR))
    now = ANCHOR + timedelta(days=365) - before
    if refusal is None:
        rules.check_on_demand(key, MISSION, now)
        return
    with pytest.raises(ConflictException, match=refusal):
        rules.check_on_demand(key, MISSION, now)


@pytest.mark.parametrize(
    ("policy", "state", "present", "error"),
    [
        (MISSION, MaterialState.PENDING_ROTATION, True, UnsupportedOperationException),
        (TODAY, MaterialState.PENDING_ROTATION, True, None),
        (TODAY, MaterialState.PENDING_ROTATION, False, KMSInvalidStateException),
        (TODAY, MaterialState.CURRENT, True, KMSInvalidStateException),
        (TODAY, MaterialState.NON_CURRENT, True, KMSInvalidStateException),
    ],
)
def test_imported_material_on_demand(
    make_key: MakeKey,
    make_material: MakeMaterial,
    policy: RotationPolicy,
    state: MaterialState,
    error: type[Exception] | None,
    *,
    present: bool,
) -> None:
    """Imported material rotates only in today's AWS, and only to one that waits and is there."""
    second = make_material(sequence=2, state=state, present=present)
    key = make_key(origin=Origin.EXTERNAL, materials=(make_material(), second))
    if error is None:
        rules.check_on_demand(key, policy, ANCHOR)
        assert rules.pending(key) is second
        return
    with pytest.raises(error):
        rules.check_on_demand(key, policy, ANCHOR)
