"""Select the rows of a subject or an index, in all its tables, by one query that both database engines understand.

Rows of several tables become rows of one result: it has columns of each type, and each table's own columns have their
places among those of their type.
"""

from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from typing import Any, Final, NamedTuple

from msgspec import Struct

from hsmkms.store.sealed_tables import (
    SUBJECTS,
    Kind,
    Pattern,
    SealedTable,
    Values,
    described,
    referred_expression,
)

_SQL_TYPES: Final = {Kind.TEXT: "TEXT", Kind.INTEGER: "BIGINT", Kind.BINARY: "BYTEA", Kind.BOOLEAN: "BOOLEAN"}
"""Types of NULL in a result, which PostgreSQL must know; SQLite has types of values only."""

INSTALLATION: Final = "installation"


class Entry(NamedTuple):
    """A row of a sealed table, and its index if it has one (``lookup``)."""

    table: SealedTable
    values: Values
    lookup: str | None


class Branch(NamedTuple):
    """How rows of a table are found in a result: the place of each column, and whether it holds booleans."""

    table: SealedTable
    places: tuple[tuple[str, int, bool], ...]


class Query(Struct, frozen=True):
    """The query for the rows of all subjects or indexes of one kind. Parameters are called p0, p1 and so on."""

    sql: str
    branches: tuple[Branch, ...]
    values: tuple[Kind, ...]
    """Types of the values in the name of a subject."""

    def parameters(self, name: str) -> dict[str, Any] | None:
        """Return the parameters for a subject with that name (without its kind); None if there is no such name."""
        if not self.values:
            return None if name else {}
        parts: list[Any] = name.split("/", len(self.values) - 1)
        if len(parts) != len(self.values):
            return None
        try:
            binary = zip(parts, self.values, strict=True)
            parts = [bytes.fromhex(part) if kind is Kind.BINARY else part for part, kind in binary]
        except ValueError:
            return None
        return {f"p{place}": part for place, part in enumerate(parts)}

    def entries(self, rows: Iterable[Sequence[Any]]) -> list[Entry]:
        """Return the entries in a result."""
        return [_entry(self.branches[row[0]], row) for row in rows]


class Layout(Struct, frozen=True, dict=True):
    """The sealed tables of a database."""

    tables: tuple[SealedTable, ...]

    @cached_property
    def queries(self) -> dict[str, Query]:
        """Return the query for each kind of subject or index."""
        patterns = [pattern for table in self.tables for pattern in (*table.subject, table.index) if pattern]
        return {kind: _query(kind, self.tables) for kind in {pattern.kind for pattern in patterns}}

    @cached_property
    def index_kinds(self) -> tuple[str, ...]:
        """Return the beginnings of the names of indexes."""
        return tuple(f"{table.index.kind}/" for table in self.tables if table.index is not None)


@cache
def own() -> Layout:
    """Return the layout of this program's own schema."""
    return Layout(tuple(map(described, SUBJECTS)))


def listing(table: SealedTable) -> str:
    """Return the query for all rows of a table; ``read_listed`` reads its result."""
    columns = [f'r."{column.name}"' for column in table.ordered]
    referred = [referred_expression(reference, "r") for reference in table.references]
    return f'SELECT {", ".join([*columns, *referred])} FROM "{table.name}" AS r'  # noqa: S608 - no user input


def read_listed(table: SealedTable, row: Sequence[Any]) -> tuple[str, Entry]:
    """Return subject and entry of a row of a listing."""
    values = {
        column.name: boolean(value) if column.kind is Kind.BOOLEAN else value
        for column, value in zip(table.ordered, row, strict=False)
    }
    referred = dict(zip((each.column for each in table.references), row[len(values) :], strict=True))
    return table.subject_of(values, referred), Entry(table, values, table.index_of(values))


def boolean(value: object) -> object:
    """Return a boolean for what an engine without booleans stores for one; anything else stays as it is."""
    return bool(value) if type(value) is int and value in (0, 1) else value


def _entry(branch: Branch, row: Sequence[Any]) -> Entry:
    table = branch.table
    values = {name: boolean(row[place]) if is_boolean else row[place] for name, place, is_boolean in branch.places}
    return Entry(table, values, table.index_of(values))


def _query(kind: str, tables: Sequence[SealedTable]) -> Query:
    """Build the query for the rows of a kind of subject or index."""
    found = [(table, condition) for table in tables for condition in _conditions(table, kind)]
    widths = {each: max(_count(table, each) for table, _ in found) for each in Kind}
    parts, branches = [], []
    for number, (table, (condition, _)) in enumerate(found):
        selected, places = [str(number)], []
        for each, width in widths.items():
            columns = [column for column in table.ordered if column.kind is each]
            places += [(column.name, len(selected) + place) for place, column in enumerate(columns)]
            padding = [f"CAST(NULL AS {_SQL_TYPES[each]})"] * (width - len(columns))
            selected += [f'r."{column.name}"' for column in columns] + padding
        parts.append(f'SELECT {", ".join(selected)} FROM "{table.name}" AS r WHERE {condition}')  # noqa: S608 - as above
        booleans = {column.name for column in table.columns if column.kind is Kind.BOOLEAN}
        ordered = tuple((name, place, name in booleans) for name, place in sorted(places))
        branches.append(Branch(table, ordered))
    (values,) = {values for _, (_, values) in found}
    return Query(" UNION ALL ".join(parts), tuple(branches), values)


def _count(table: SealedTable, kind: Kind) -> int:
    return sum(column.kind is kind for column in table.columns)


def _conditions(table: SealedTable, kind: str) -> list[tuple[str, tuple[Kind, ...]]]:
    """Return the SQL condition for rows of a kind of subject or index, and the types of the values in its names."""
    if table.index is not None and table.index.kind == kind:
        return [_condition(table, table.index, ())]
    return [
        _condition(table, pattern, table.subject[:place])
        for place, pattern in enumerate(table.subject)
        if pattern.kind == kind
    ]


def _condition(table: SealedTable, pattern: Pattern, before: Sequence[Pattern]) -> tuple[str, tuple[Kind, ...]]:
    nothing = [f'r."{column}" IS NULL' for earlier in before for column in earlier.required]
    if pattern.by is not None:
        chosen = f"SELECT id FROM {pattern.by.table} WHERE key_id = :p0"  # noqa: S608 - no user input
        return " AND ".join([*nothing, f'r."{pattern.by.column}" IN ({chosen})']), (Kind.TEXT,)
    kinds = {column.name: column.kind for column in table.columns}
    equal = [f'r."{column}" = :p{place}' for place, column in enumerate(pattern.columns)]
    return " AND ".join([*nothing, *equal]) or "1 = 1", tuple(kinds[column] for column in pattern.columns)
