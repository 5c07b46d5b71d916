"""When the clock is not trusted, to the microsecond."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmkms.rules.clock import TOLERANCE, behind, drifted

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TICK = timedelta(microseconds=1)
spans = st.timedeltas(timedelta(days=-4000), timedelta(days=4000))


def test_tolerance() -> None:
    """Five minutes are forgiven."""
    assert timedelta(minutes=5) == TOLERANCE


@pytest.mark.parametrize(
    ("newest", "expected"),
    [
        (None, False),
        (NOW - timedelta(days=4000), False),
        (NOW, False),
        (NOW + TOLERANCE, False),
        (NOW + TOLERANCE + TICK, True),
        (NOW + timedelta(days=1), True),
    ],
)
def test_behind(newest: datetime | None, *, expected: bool) -> None:
    """A clock is behind when the newest date that was written lies more than five minutes ahead of it."""
    assert behind(NOW, newest) is expected


@pytest.mark.parametrize(
    ("apart", "expected"),
    [(timedelta(), False), (TOLERANCE, False), (TOLERANCE + TICK, True), (timedelta(days=366), True)],
)
def test_drifted(apart: timedelta, *, expected: bool) -> None:
    """A clock was moved when more than five minutes lie between it and a clock that cannot be set, either way."""
    passed = timedelta(hours=7)
    assert drifted(passed + apart, passed) is expected
    assert drifted(passed - apart, passed) is expected


@given(spans, spans, spans)
def test_what_passed_alike_is_no_drift(wall: timedelta, monotonic: timedelta, both: timedelta) -> None:
    """Time that passes for both clocks changes no judgement."""
    assert drifted(wall + both, monotonic + both) is drifted(wall, monotonic)
