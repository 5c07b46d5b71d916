"""Give access to the rows whose seal was verified, with the values that were sealed.

Decisions are made on these rows. A second query for the same rows could use another index, and a forged index can omit
rows or return other ones.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, Final

from sqlalchemy import Table
from sqlalchemy.engine.default import DefaultDialect

from hsmkms.store.seal_layout import Entry

_DIALECT: Final = DefaultDialect()
"""Canonical values are the same with every engine, so types convert them as for none in particular."""

_Processor = tuple[str, Callable[[Any], Any]]


class ProvenRows:
    """The rows of subjects or indexes, by table; their columns are attributes, as in a row of a query."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries

    def of(self, table: Table) -> list[Any]:
        """Return the rows of a table, unordered. A row can occur twice, if several subjects or indexes contain it."""
        processors, name = _processors(table), table.name
        return [_row(processors, each) for each in self._entries if each.table.name == name]


def _row(processors: Sequence[_Processor], entry: Entry) -> SimpleNamespace:
    row = SimpleNamespace(**entry.values)
    for name, process in processors:
        setattr(row, name, process(entry.values[name]))
    return row


@lru_cache
def _processors(table: Table) -> list[_Processor]:
    """Return the columns whose stored values are converted, and how."""
    processors = [(column.name, column.type.result_processor(_DIALECT, None)) for column in table.c]
    return [(name, process) for name, process in processors if process is not None]
