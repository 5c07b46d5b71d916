"""Whether the clock can be trusted with what cannot be undone.

A clock that is set back would delay what is due, which does no harm; but it tells that somebody moved it, and one that
was set forward first has written dates of a future that has not come. So rotation and destruction hold while the time
is behind the newest date in the store, and in a process whose wall clock and monotonic clock disagree.
"""

from datetime import datetime, timedelta
from typing import Final

TOLERANCE: Final = timedelta(minutes=5)


def behind(now: datetime, newest: datetime | None) -> bool:
    """True if the time is more than five minutes behind the newest date that was ever stored."""
    return newest is not None and now < newest - TOLERANCE


def drifted(wall: timedelta, monotonic: timedelta) -> bool:
    """True if more than five minutes lie between what the two clocks say has passed."""
    return abs(wall - monotonic) > TOLERANCE
