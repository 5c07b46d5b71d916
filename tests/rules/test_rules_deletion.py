"""The waiting period before a key is destroyed, as pure tables."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from hsmkms.errors import ValidationException
from hsmkms.model.enums import KeyState
from hsmkms.model.records import KeyRecord
from hsmkms.rules.deletion import deletion_date, is_due, window_days

NOW = datetime(2026, 2, 27, 23, 59, 59, 999999, tzinfo=UTC)
TICK = timedelta(microseconds=1)


@pytest.mark.parametrize(("asked", "days"), [(None, 30), (7, 7), (8, 8), (29, 29), (30, 30)])
def test_windows(asked: int | None, days: int) -> None:
    """A waiting period has 7 to 30 days, 30 if nothing is asked for."""
    assert window_days(asked) == days


@pytest.mark.parametrize(
    ("asked", "constraint"),
    [
        (-1, "greater than or equal to 7"),
        (0, "greater than or equal to 7"),
        (6, "greater than or equal to 7"),
        (31, "less than or equal to 30"),
        (365, "less than or equal to 30"),
    ],
)
def test_other_windows(asked: int, constraint: str) -> None:
    """Anything else is refused in AWS's words."""
    sentence = (
        f"1 validation error detected: Value '{asked}' at 'pendingWindowInDays' failed to satisfy constraint: "
        f"Member must have value {constraint}"
    )
    with pytest.raises(ValidationException) as caught:
        window_days(asked)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("begun", "days", "over"),
    [
        ("2026-02-27T23:59:59.999999+00:00", 7, "2026-03-06T23:59:59.999999+00:00"),
        ("2028-02-27T00:00:00+00:00", 7, "2028-03-05T00:00:00+00:00"),
        ("2026-03-28T01:30:00+00:00", 30, "2026-04-27T01:30:00+00:00"),
    ],
)
def test_date(begun: str, days: int, over: str) -> None:
    """Days have 24 hours of UTC, over leap days and clock changes."""
    assert deletion_date(datetime.fromisoformat(begun), days) == datetime.fromisoformat(over)


@pytest.mark.parametrize("state", list(KeyState))
def test_due_to_the_microsecond(make_key: Callable[..., KeyRecord], state: KeyState) -> None:
    """A key is due from its date on, and only if it is PendingDeletion: a date that was left behind means nothing."""
    key = make_key(state=state, deletion_date=NOW)
    pending = state is KeyState.PENDING_DELETION
    assert [is_due(key, NOW + later) for later in (-TICK, timedelta(), TICK)] == [False, pending, pending]


def test_never_due_without_a_date(make_key: Callable[..., KeyRecord]) -> None:
    """A pending key without a date (a primary that waits for its replicas) is not due."""
    key = make_key(state=KeyState.PENDING_DELETION, deletion_date=None)
    assert not is_due(key, NOW + timedelta(days=9999))
