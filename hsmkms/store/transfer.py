"""Copy the rows of a store into empty tables, of either engine, and compare the copy with the original row by row.

Values are copied as they are stored, so that the seals over the rows hold for the copy as well.
"""

from collections.abc import Callable
from itertools import zip_longest
from typing import Any, Final

from sqlalchemy import BigInteger, Connection, CursorResult, MetaData, Row, Table, column, func, insert, select, table
from sqlalchemy.sql.expression import TableClause

from hsmkms.errors import StoreError
from hsmkms.store import id_sequences, log_schema, node_schema
from hsmkms.store.instant import Instant

Advance = Callable[[int], None]
"""Called with a number of rows that were copied or compared."""

_OF_PROCESSES: Final = frozenset(
    each.name for each in (log_schema.sweeper, node_schema.lease, node_schema.node_process, node_schema.pin_notice)
)
"""Tables of what processes hold at this moment, which a copy begins without."""

_BATCH: Final = 1000
_NUL: Final = "\0"


def tables(metadata: MetaData) -> list[Table]:
    """Return the tables that are copied, each after those that it refers to."""
    return [each for each in metadata.sorted_tables if each.name not in _OF_PROCESSES]


def count(conn: Connection, metadata: MetaData) -> int:
    """Return the number of rows to copy."""
    return sum(conn.scalar(select(func.count()).select_from(each)) or 0 for each in tables(metadata))


def copy(source: Connection, target: Connection, metadata: MetaData, advance: Advance) -> None:
    """Copy all rows, and the ids that were given out, into empty tables.

    StoreError for a text that the target's engine cannot store; the caller rolls back.
    """
    for each in tables(metadata):
        plain = _plain(each)
        for rows in _result(source, each, plain).partitions(_BATCH):
            target.execute(insert(plain), [_storable(target, each, row) for row in rows])
            advance(len(rows))
    id_sequences.raise_to(target, metadata, id_sequences.highest(source, metadata))


def require_equal(source: Connection, target: Connection, metadata: MetaData, advance: Advance) -> None:
    """Read all rows of both sides. StoreError if any differs, is missing or was added."""
    for each in tables(metadata):
        plain = _plain(each)
        pairs = zip_longest(_result(source, each, plain), _result(target, each, plain))
        for number, (original, copied) in enumerate(pairs, start=1):
            if original is None or copied is None or tuple(original) != tuple(copied):
                raise StoreError(
                    f"row {number} of the table {each.name} is not the same in the copy as in the original, so the "
                    "copy is not used: try again"
                )
            if number % _BATCH == 0:
                advance(_BATCH)


def _plain(each: Table) -> TableClause:
    """Return a table whose columns have the types that are stored."""
    types = ((one.name, BigInteger() if isinstance(one.type, Instant) else one.type) for one in each.columns)
    return table(each.name, *(column(name, kind) for name, kind in types))


def _result(conn: Connection, each: Table, plain: TableClause) -> CursorResult[*tuple[Any, ...]]:
    """Return the rows by primary key, which both engines order alike: text by its bytes. They are read as needed."""
    key = [plain.c[one.name] for one in each.primary_key]
    return conn.execute(select(plain).order_by(*key), execution_options={"yield_per": _BATCH})


def _storable(target: Connection, each: Table, row: Row[Any]) -> dict[str, Any]:
    values = dict(zip((str(one.name) for one in each.columns), row, strict=True))
    if target.dialect.name != "sqlite":
        for name, value in values.items():
            if isinstance(value, str) and _NUL in value:
                key = ", ".join(f"{one.name} {values[one.name]!r}" for one in each.primary_key)
                raise StoreError(
                    f"the column {name} of the table {each.name} ({key}) has a NUL character, which only SQLite "
                    "stores: change that text first"
                )
    return values
