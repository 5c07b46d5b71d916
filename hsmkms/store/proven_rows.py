"""Rows as they were compared with their seals, read back from the form in which they were told.

What decides is taken from them. A second query for the same rows may go by another index, and an index can be made to
leave rows out, or to lead to other ones.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, Final

from sqlalchemy import Table
from sqlalchemy.dialects import sqlite

from hsmkms.store.sealed_rows import Entry

_DIALECT: Final = sqlite.dialect()
_READERS: Final[dict[str, Callable[[bytes], object]]] = {
    "text": bytes.decode,
    "integer": int,
    "real": float,
    "blob": bytes,
}
"""What a value is by SQLite's name of its type: ``hex()`` gave the bytes of its text, or of itself."""

_Column = tuple[str, object, Callable[[Any], Any] | None]


class ProvenRows:
    """The rows of subjects or indexes, by table; their columns are attributes, as in a row of a query."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries

    def of(self, table: Table) -> list[Any]:
        """Those of a table, in no order. The same row may be there twice, if several subjects or indexes have it."""
        columns = _columns(table)
        return [_row(columns, each.told) for each in self._entries if each.table == table.name]


def _row(columns: Sequence[_Column], told: str) -> SimpleNamespace:
    values = dict(each.split("=") for each in told.split(";")[:-1])
    row = SimpleNamespace()
    for name, absent, process in columns:
        value = _value(values[name]) if name in values else absent
        setattr(row, name, value if process is None else process(value))
    return row


def _value(told: str) -> object:
    """A value from ``type+hex``: the types are in small letters, the digits in capitals."""
    kind = told.rstrip("0123456789ABCDEF")
    return _READERS[kind](bytes.fromhex(told[len(kind) :]))


@lru_cache
def _columns(table: Table) -> list[_Column]:
    """Name, value where nothing is told, and how the program sees what the database holds."""
    return [
        (
            column.name,
            None if column.server_default is None else int(str(getattr(column.server_default, "arg", ""))),
            column.type.result_processor(_DIALECT, None),
        )
        for column in table.c
    ]
