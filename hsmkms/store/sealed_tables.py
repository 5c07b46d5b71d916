"""Describe the tables whose rows are sealed: their columns, and the subjects and indexes that a row belongs to.

The descriptions are data, so that a row's subject is computed from one of them by Python and by the triggers of either
database engine alike, and so that a newer program can announce its tables to an older one (``announcements.py``).
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cached_property
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import Boolean, Column, Integer, LargeBinary, Table, Text

from hsmkms.store import schema
from hsmkms.store.instant import Instant

Values = Mapping[str, Any]
"""A row: each column's value (None, int, str, bytes or bool) by name, in the order of the names."""

Hexed = Callable[[str], str]
"""Returns the SQL expression for the upper-case hex digits of a binary expression, in an engine's dialect."""


class Kind(StrEnum):
    """Type of a column's values."""

    TEXT = "text"
    INTEGER = "integer"
    BINARY = "binary"
    BOOLEAN = "boolean"


class SealedColumn(Struct, frozen=True):
    """A column. ``default``: the value that, like NULL, is left out of the canonical form."""

    name: str
    kind: Kind
    default: bool | int | None = None


class Reference(Struct, frozen=True):
    """A column that holds the ``id`` of a row of another table, whose column ``key_id`` names the subject."""

    column: str
    table: str


class Pattern(Struct, frozen=True):
    """Names of subjects or indexes: the kind, and after slashes the values of columns. No value is NULL.

    Only the last value may contain slashes. ``by``: the only value is found by way of another table.
    """

    kind: str
    columns: tuple[str, ...] = ()
    by: Reference | None = None

    @property
    def required(self) -> tuple[str, ...]:
        """Return the columns of the row that must not be NULL."""
        return self.columns if self.by is None else (self.by.column,)


class SealedTable(Struct, frozen=True, dict=True):
    """A table. ``subject``: the patterns of its rows' subjects, of which the first one without NULL applies."""

    name: str
    columns: tuple[SealedColumn, ...]
    subject: tuple[Pattern, ...]
    index: Pattern | None = None

    @cached_property
    def defaults(self) -> dict[str, bool | int]:
        """Return the values that are left out of the canonical form, by column."""
        return {each.name: each.default for each in self.columns if each.default is not None}

    @cached_property
    def ordered(self) -> tuple[SealedColumn, ...]:
        """Return the columns by name."""
        return tuple(sorted(self.columns, key=lambda column: column.name))

    @cached_property
    def references(self) -> tuple[Reference, ...]:
        """Return the references by which subjects are found."""
        return tuple(pattern.by for pattern in self.subject if pattern.by is not None)

    def subject_of(self, values: Values, referred: Mapping[str, Any]) -> str:
        """Return the subject of a row; ``referred``: the values that its references lead to, by column."""
        for pattern in self.subject:
            name = name_of(pattern, values, referred)
            if name is not None:
                return name
        return self.subject[-1].kind  # names no subject: an edit under another schema left NULL where none can be

    def index_of(self, values: Values) -> str | None:
        """Return the index of a row, if it has one."""
        return None if self.index is None else name_of(self.index, values, {})

    def subject_expression(self, row: str, hexed: Hexed) -> str:
        """Return the SQL expression for the subject of a row with that alias."""
        kinds = {each.name: each.kind for each in self.columns}
        each = [_expression(pattern, row, kinds, hexed) for pattern in self.subject]
        return each[0] if len(each) == 1 else f"coalesce({', '.join(each)})"


def name_of(pattern: Pattern, values: Values, referred: Mapping[str, Any]) -> str | None:
    """Return the name that a row has by a pattern, or None if one of the values is NULL."""
    parts = [referred[pattern.by.column]] if pattern.by is not None else [values[each] for each in pattern.columns]
    if None in parts:
        return None
    return "/".join([pattern.kind, *map(_text, parts)])


def referred_expression(reference: Reference, row: str) -> str:
    """Return the SQL expression for the value that a reference of a row leads to."""
    return f"(SELECT key_id FROM {reference.table} WHERE id = {row}.{reference.column})"  # noqa: S608 - no user input


def _text(value: object) -> str:
    return value.hex().upper() if isinstance(value, bytes) else str(value)


def _expression(pattern: Pattern, row: str, kinds: Mapping[str, Kind], hexed: Hexed) -> str:
    if pattern.by is not None:
        return f"'{pattern.kind}/' || {referred_expression(pattern.by, row)}"
    values = [f"{row}.{column}" for column in pattern.columns]
    texts = [
        hexed(each) if kinds[name] is Kind.BINARY else each for name, each in zip(pattern.columns, values, strict=True)
    ]
    return " || '/' || ".join([f"'{pattern.kind}'", *texts])


_KEY: Final = (Pattern("key", ("key_id",)),)
_INSTALLATION: Final = (Pattern("installation"),)
_USER: Final = Pattern("user", ("user_name",))

SCHEMA: Final = "schema"
"""Subject of the announcements of schemas."""

NODE: Final = "node"
"""Kind of the subjects of nodes."""

SUBJECTS: Final[dict[Table, tuple[Pattern, ...]]] = {
    schema.installation: _INSTALLATION,
    schema.token: _INSTALLATION,
    schema.installation_key: _INSTALLATION,
    schema.node: (Pattern(NODE, ("id",)),),
    schema.schema_announcement: (Pattern(SCHEMA),),
    schema.key: _KEY,
    schema.regional_key: _KEY,
    schema.rotation: _KEY,
    schema.material: _KEY,
    schema.material_presence: _KEY,
    schema.tag: _KEY,
    schema.wrapping_key: _KEY,
    schema.token_object: (
        Pattern("key", by=Reference("material", "material")),
        Pattern("object", ("cka_id",)),
    ),
    schema.alias: (Pattern("alias", ("region", "name")),),
    schema.key_grant: (Pattern("grant", ("grant_id",)),),
    schema.user: (Pattern("user", ("name",)),),
    schema.access_key: (_USER, Pattern("root")),
    schema.user_policy: (_USER,),
    schema.user_tag: (_USER,),
    schema.group_member: (_USER,),
    schema.user_group: (Pattern("group", ("name",)),),
    schema.group_policy: (Pattern("group", ("group_name",)),),
}
"""Subjects of rows, by table. Other tables decide nothing: change log, outbox, orphans."""

INDEXES: Final[dict[Table, Pattern]] = {
    schema.alias: Pattern("aliases", ("region", "key_id")),
    schema.key_grant: Pattern("grants", ("region", "key_id", "grantee")),
    schema.access_key: Pattern("access-key", ("access_key_id",)),
}
"""Indexes of rows, for tables that decisions also look up by another attribute."""

_KINDS: Final = ((Instant, Kind.INTEGER), (Boolean, Kind.BOOLEAN), (Integer, Kind.INTEGER), (Text, Kind.TEXT))


def described(table: Table) -> SealedTable:
    """Return the description of a table of this program."""
    return SealedTable(str(table.name), tuple(map(_column, table.c)), SUBJECTS[table], INDEXES.get(table))


def _column(column: Column[Any]) -> SealedColumn:
    kind = next((kind for known, kind in _KINDS if isinstance(column.type, known)), Kind.BINARY)
    if kind is Kind.BINARY and not isinstance(column.type, LargeBinary):
        raise TypeError(f"{column} has a type that has no canonical form")
    default = None
    if column.server_default is not None:
        default = int(str(getattr(column.server_default, "arg", "")))
    return SealedColumn(
        str(column.name), kind, bool(default) if kind is Kind.BOOLEAN and default is not None else default
    )
