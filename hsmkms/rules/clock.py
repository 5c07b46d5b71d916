"""Decide whether the clock can be trusted for irreversible actions.

A clock that is set back would delay due work, which does no harm; but it shows that the clock was moved, and if it was
set forward before, dates in the future were stored. So rotation and destruction stop while the time is behind the
newest date in the store, and in a process whose wall clock and monotonic clock disagree.
"""

from datetime import datetime, timedelta
from typing import Final

TOLERANCE: Final = timedelta(minutes=5)


def behind(now: datetime, newest: datetime | None) -> bool:
    """Return True if the time is more than five minutes behind the newest stored date."""
    return newest is not None and now < newest - TOLERANCE


def drifted(wall: timedelta, monotonic: timedelta) -> bool:
    """Return True if the times elapsed by the two clocks differ by more than five minutes."""
    return abs(wall - monotonic) > TOLERANCE
