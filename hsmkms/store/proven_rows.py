"""Parse rows from the canonical text whose seal was verified.

Decisions are made on these rows. A second query for the same rows could use another index, and a forged index can omit
rows or return other ones.
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
"""Decoders by SQLite type name: ``hex()`` returned the bytes of the value's text, or of a blob itself."""

_Column = tuple[str, object, Callable[[Any], Any] | None]


class ProvenRows:
    """The rows of subjects or indexes, by table; their columns are attributes, as in a row of a query."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries

    def of(self, table: Table) -> list[Any]:
        """Return the rows of a table, unordered. A row can occur twice, if several subjects or indexes contain it."""
        columns = _columns(table)
        return [_row(columns, each.text) for each in self._entries if each.table == table.name]


def _row(columns: Sequence[_Column], text: str) -> SimpleNamespace:
    values = dict(each.split("=") for each in text.split(";")[:-1])
    row = SimpleNamespace()
    for name, absent, process in columns:
        value = _value(values[name]) if name in values else absent
        setattr(row, name, value if process is None else process(value))
    return row


def _value(text: str) -> object:
    """Decode a value from ``type+hex``: types are in lower case, hex digits in upper case."""
    kind = text.rstrip("0123456789ABCDEF")
    return _READERS[kind](bytes.fromhex(text[len(kind) :]))


@lru_cache
def _columns(table: Table) -> list[_Column]:
    """Return each column's name, its value if the text omits it, and its result processor."""
    return [
        (
            column.name,
            None if column.server_default is None else int(str(getattr(column.server_default, "arg", ""))),
            column.type.result_processor(_DIALECT, None),
        )
        for column in table.c
    ]
