"""Share the counts of all workers, so that any worker can report them for all.

Workers are processes, and a scrape reaches one of them. So each writes its counts into a file of its own once a second;
the scraped worker writes its own at once and reads all. The file of a worker that has ended stays, so that counters
never decrease when workers are replaced; its gauges (sessions) no longer count then.
"""

import time
import uuid
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from hsmkms import atomic_write
from hsmkms.call_stats import Count
from hsmkms.service.operator.monitoring import Alarms, PoolUse

PUBLISH_SECONDS: Final = 1.0
ALIVE_SECONDS: Final = 5.0
"""A worker that has written nothing for this long counts as ended."""

_SUFFIX: Final = ".counts"


class Sweeps(Struct):
    """Counts of a worker's sweeper: runs by outcome, steps by kind and outcome, and the last run that was not busy."""

    runs: dict[str, int] = {}
    steps: dict[str, dict[str, int]] = {}
    last_at: float = 0.0
    last_well: bool = True

    def note(self, outcome: str, steps: Iterable[tuple[str, str]], now: float) -> None:
        """Count a run. ``outcome``: done, incomplete, failed, or busy (another process holds the lease)."""
        self.runs[outcome] = self.runs.get(outcome, 0) + 1
        for kind, ended in steps:
            by_outcome = self.steps.setdefault(kind, {})
            by_outcome[ended] = by_outcome.get(ended, 0) + 1
        if outcome != "busy":
            self.last_at, self.last_well = now, outcome == "done"


class Snapshot(Struct, kw_only=True):
    """Counts of one worker since its start; ``written_at`` in seconds since 1970, 0 in its final snapshot."""

    requests: list[Count]
    token_calls: list[Count]
    sweeps: Sweeps
    sessions: PoolUse
    alarms: Alarms
    written_at: float


class Totals(Struct, kw_only=True):
    """Counts of all workers together. The gauges in ``sessions`` are of living workers only."""

    requests: list[Count]
    token_calls: list[Count]
    sweeps: Sweeps
    sessions: PoolUse
    alarms: Alarms
    workers: int


class Board:
    """Folder in which the workers of one server write their counts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mine = folder / f"{uuid.uuid4().hex}{_SUFFIX}"

    def write(self, mine: Snapshot) -> None:
        """Replace this worker's counts atomically."""
        atomic_write.replace(self._mine, _encode(mine), durable=False)

    def totals(self) -> Totals:
        """Add up the counts of all workers."""
        return add_up([_decode(each.read_bytes()) for each in self._folder.glob(f"*{_SUFFIX}")], time.time())


def add_up(all_of_them: list[Snapshot], now: float) -> Totals:
    """Add up snapshots; gauges come only from workers that have written within ``ALIVE_SECONDS``."""
    living = [each for each in all_of_them if now - each.written_at < ALIVE_SECONDS]
    return Totals(
        requests=_sum(count for each in all_of_them for count in each.requests),
        token_calls=_sum(count for each in all_of_them for count in each.token_calls),
        sweeps=_all_sweeps([each.sweeps for each in all_of_them]),
        sessions=PoolUse(
            limit=sum(each.sessions.limit for each in living),
            opened=sum(each.sessions.opened for each in living),
            lent=sum(each.sessions.lent for each in living),
            waiting=sum(each.sessions.waiting for each in living),
            waits=sum(each.sessions.waits for each in all_of_them),
            away=sum(each.sessions.away for each in living),
            outages=sum(each.sessions.outages for each in all_of_them),
            wrong=sum(each.sessions.wrong for each in living),
        ),
        alarms=Alarms(
            audit=any(each.alarms.audit for each in living),
            audit_faults=sum(each.alarms.audit_faults for each in all_of_them),
            altered=frozenset().union(*(each.alarms.altered for each in living)),
            older=frozenset().union(*(each.alarms.older for each in living)),
        ),
        workers=len(living),
    )


def _sum(counts: Iterable[Count]) -> list[Count]:
    sums: dict[tuple[str, str], Count] = {}
    for each in counts:
        known = sums.get((each.what, each.outcome))
        if known is None:
            sums[each.what, each.outcome] = Count(each.what, each.outcome, list(each.classes), each.seconds)
        else:
            known.classes = [a + b for a, b in zip(known.classes, each.classes, strict=True)]
            known.seconds += each.seconds
    return list(sums.values())


def _all_sweeps(all_of_them: list[Sweeps]) -> Sweeps:
    runs: Counter[str] = Counter()
    steps: dict[str, Counter[str]] = {}
    for each in all_of_them:
        runs.update(each.runs)
        for kind, by_outcome in each.steps.items():
            steps.setdefault(kind, Counter()).update(by_outcome)
    last = max(all_of_them, key=lambda each: each.last_at, default=Sweeps())
    by_kind = {kind: dict(by_outcome) for kind, by_outcome in steps.items()}
    return Sweeps(dict(runs), by_kind, last.last_at, last.last_well)


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Snapshot).decode
