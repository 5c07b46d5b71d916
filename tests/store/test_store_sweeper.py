"""Whose turn it is to do what is due."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hsmkms.errors import DependencyTimeoutException
from hsmkms.store import sweeper
from hsmkms.store.engine import Store

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LEASE = timedelta(minutes=5)
TICK = timedelta(microseconds=1)


def take(store: Store, holder: str, after: timedelta) -> bool:
    """Ask for a turn some time after NOW."""
    return sweeper.acquire_lease(store, holder, lambda: NOW + after, LEASE)


def test_the_clock_is_read_in_the_transaction(folder: Path) -> None:
    """What another process took between would seem to be of a clock that was ahead."""
    one, two = Store.open(folder), Store.open(folder, busy_timeout_seconds=0)

    def clock() -> datetime:
        with pytest.raises(DependencyTimeoutException):
            sweeper.acquire_lease(two, "two", lambda: NOW + TICK, LEASE)
        return NOW

    assert sweeper.acquire_lease(one, "one", clock, LEASE)
    one.close()
    two.close()


def test_one_at_a_time(store: Store) -> None:
    """Others wait until the lease is over, to the microsecond; its holder may renew it."""
    assert take(store, "one", timedelta())
    assert not take(store, "two", LEASE - TICK)
    assert take(store, "one", LEASE - TICK)
    assert not take(store, "two", LEASE)
    assert take(store, "two", 2 * LEASE - TICK)
    assert not take(store, "one", 2 * LEASE)


@pytest.mark.both_engines
def test_ended_turn(store: Store) -> None:
    """The next process begins at once; a process without the lease cannot end it."""
    assert take(store, "one", timedelta())
    sweeper.release_lease(store, "two")
    assert not take(store, "two", TICK)
    sweeper.release_lease(store, "one")
    assert take(store, "two", TICK)


def test_turn_of_a_wrong_clock(store: Store) -> None:
    """A turn that lies further ahead than any can was written by a clock that was set back since, and is over."""
    assert take(store, "one", timedelta(days=400))
    assert take(store, "two", timedelta())
    assert not take(store, "one", TICK)


@pytest.mark.both_engines
def test_turns_are_no_change_of_keys(store: Store) -> None:
    """The change signal stays quiet: turns are in log.db."""
    signal = store.change_signal()
    assert take(store, "one", timedelta())
    sweeper.release_lease(store, "one")
    assert not signal.moved()
    signal.close()


steps = st.tuples(st.sampled_from("abc"), st.integers(0, 400), st.booleans())


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(steps, max_size=12))
def test_never_two_at_once(store: Store, asked: list[tuple[str, int, bool]]) -> None:
    """Whichever processes ask at whatever times, the lease is granted only after the last one has ended or expired."""
    for name in "abc":
        sweeper.release_lease(store, name)
    holder, until, now = "", NOW, NOW
    for name, seconds, ends in asked:
        now += timedelta(seconds=seconds)
        free = holder in ("", name) or now >= until
        assert take(store, name, now - NOW) is free
        if free:
            holder, until = name, now + LEASE
        if ends:
            sweeper.release_lease(store, name)
            holder = "" if holder == name else holder
