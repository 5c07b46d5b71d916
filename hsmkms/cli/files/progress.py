"""Show a progress bar on standard error, at a terminal, for commands that work through a list."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(name: str, count: Callable[[], int]) -> Iterator[Callable[[], None]]:
    """Yield a function to call after each item; it advances a bar on standard error, if that is a terminal."""
    with progress_of_many(name) as advance:
        total = count() if sys.stderr.isatty() else 0
        yield lambda: advance(1, total)


@contextmanager
def progress_of_many(name: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function to call with a number of items that are done and that of all, which may not be known before."""
    if not sys.stderr.isatty():
        yield lambda _more, _total: None
        return
    from rich.console import Console  # noqa: PLC0415 - only the bar needs it
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda more, total: bar.update(task, advance=more, total=total)
