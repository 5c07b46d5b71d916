"""Draw the use of keys at a terminal: a bar for each day or month, and small charts by key, user or operation."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from hsmkms.cli.tables import console, plain

if TYPE_CHECKING:
    from hsmkms.service.audit.uses import Count, Uses
    from hsmkms.wiring.usage_counters import Counters, Known

_LEVELS: Final = "▁▂▃▄▅▆▇█"
_BAR_WIDTH: Final = 40
_CHART_WIDTH: Final = 24
"""Columns of a chart at most: of more days, several share one."""

MOST_SUBJECTS: Final = 20
MOST_DAYS: Final = 92
"""Days that have a bar each: of more, a month has one."""


def draw(counted: "Uses", days: Sequence[str], is_covered: Callable[[str], bool], known: "Known") -> None:
    """Print the bars, the charts of the most active subjects, and the counters."""
    from rich.table import Column, Table  # noqa: PLC0415 - only tables need it

    screen = console()
    screen.print(_bars(counted.days, days, is_covered))
    if counted.subjects:
        totals = {name: sum(each.requests for each in found.values()) for name, found in counted.subjects.items()}
        most = sorted(totals, key=lambda name: (-totals[name], name))[:MOST_SUBJECTS]
        charts = Table.grid("", "", Column(justify="right"), padding=(0, 2))
        for name in most:
            found = counted.subjects[name]
            charts.add_row(_shown(name, known), chart([_of(found, day) for day in days]), f"{totals[name]:,}")
        screen.print("")
        screen.print(charts)
        if len(totals) > len(most):
            screen.print(f"and {len(totals) - len(most)} more: --format csv lists all")
    screen.print("")
    screen.print(_sentence(known.counters), highlight=False)


def chart(values: Sequence[int]) -> str:
    """Return a line of columns as high as the values; a dot stands for no use."""
    share = -(-len(values) // _CHART_WIDTH)
    sums = [sum(values[start : start + share]) for start in range(0, len(values), share)]
    top = max(sums, default=0)
    return "".join(_LEVELS[(each * len(_LEVELS) - 1) // top] if each else "·" for each in sums)


def _bars(counts: "dict[str, Count]", days: Sequence[str], is_covered: Callable[[str], bool]) -> object:
    from rich.bar import Bar  # noqa: PLC0415 - see above
    from rich.table import Column, Table  # noqa: PLC0415 - see above

    table = Table.grid("", "", Column(justify="right"), padding=(0, 2))
    shown = [day for day in days if day in counts or is_covered(day)]
    if len(shown) < len(days):
        table.add_row(f"{len(days) - len(shown)} days", "before the audit log begins")
    periods = _periods(counts, shown)
    top = max((requests for requests, _ in periods.values()), default=0)
    for period, (requests, errors) in periods.items():
        if not requests:
            table.add_row(period, "")
            continue
        failed = f"{errors:,} failed" if errors else ""
        table.add_row(period, Bar(top, 0, requests, width=_BAR_WIDTH), f"{requests:,}", failed)
    return table


def _periods(counts: "dict[str, Count]", days: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return the requests and errors of each day, or of each month (2026-01) if there are many days."""
    periods: dict[str, tuple[int, int]] = {}
    for day in days:
        period = day if len(days) <= MOST_DAYS else day[: len("2026-01")]
        requests, errors = periods.get(period, (0, 0))
        count = counts.get(day)
        periods[period] = (requests, errors) if count is None else (requests + count.requests, errors + count.errors)
    return periods


def _of(found: "dict[str, Count]", day: str) -> int:
    return found[day].requests if day in found else 0


def _shown(name: str, known: "Known") -> str:
    """Return the alias of a key or its id, or any other name as it is."""
    return plain(known.aliases.get(name) or name.rpartition(":key/")[2])


def _sentence(counters: "Counters") -> str:
    count = "an unknown number of" if counters.encryptions is None else f"at most {counters.encryptions:,}"
    used = "no use"
    if counters.last_used is not None:
        used = f"last use {counters.last_operation} at {counters.last_used:%Y-%m-%d %H:%M:%S} UTC"
    return f"Counters: {count} encryptions so far; {used} (recorded since {counters.tracked_since:%Y-%m-%d})"
