"""Decide whether the clock can be trusted with irreversible work: see ``rules/clock.py``."""

from collections.abc import Callable
from datetime import timedelta

from hsmkms.rules import clock as rules
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.ports import Clock
from hsmkms.store import deletion, installation


class DriftWatch:
    """Compares the wall clock with a clock that cannot be set, from its creation on.

    ``monotonic`` returns seconds and goes on while the machine sleeps (CLOCK_BOOTTIME).
    """

    def __init__(self, clock: Clock, monotonic: Callable[[], float]) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._wall_start = clock()
        self._monotonic_start = monotonic()

    def __call__(self) -> bool:
        """Return True if the wall clock was changed meanwhile."""
        passed = timedelta(seconds=self._monotonic() - self._monotonic_start)
        return rules.drifted(self._clock() - self._wall_start, passed)


def doubt(core: Core) -> str | None:
    """Return why the clock cannot be trusted now, or None."""
    now = core.clock()
    with core.store.reading() as conn:
        newest = deletion.newest_instant(conn)
        row = installation.fetch(conn)
    if newest is not None and row is not None and row.clock_trusted_over is not None:
        newest = row.clock_trusted_at if newest <= row.clock_trusted_over else newest
    if newest is not None and rules.behind(now, newest):
        return (
            f"the clock says {now:%Y-%m-%d %H:%M:%S} UTC, but the database was changed at {newest:%Y-%m-%d %H:%M:%S} "
            "UTC: set the clock right, or say with `hsmkms maintain --trust-clock` that it is"
        )
    if core.drifted():
        return "the clock was moved while this process ran: check it, then start the process again"
    return None


def trust(core: Core) -> None:
    """Store the operator's statement that the clock is right now, and that newer dates were written by a wrong one."""
    with core.store.atomic() as tx:
        installation.trust_clock(tx, core.clock(), deletion.newest_instant(tx))
