"""Map the control plane's deciding rows to sealed subjects, serialise them canonically, and track which change.

Every such row belongs to one subject: a key (with all its rows in all regions), an alias, a grant, a user, a group, the
installation. Some rows are also looked up by another attribute (the aliases of a key, for example): such a row also
belongs to an index, which has a seal of its own, so that removing a row from a lookup is detected. The canonical form
of a row is independent of the order of its columns, and of columns added later that hold NULL or their default:
``column=type+hex;`` for each other column.

The writing connection has temporary triggers, which record the subject of each row that it inserts, changes or deletes.
So no change can be missed, and a rollback of a statement or transaction also rolls back its records.
"""

import sqlite3
from collections.abc import Iterator
from typing import Final, NamedTuple

from sqlalchemy import Connection, Table

from hsmkms.store import schema

_KEY: Final = "'key/' || {row}.key_id"
_INSTALLATION: Final = "'installation'"

SUBJECTS: Final[dict[Table, str]] = {
    schema.installation: _INSTALLATION,
    schema.token: _INSTALLATION,
    schema.installation_key: _INSTALLATION,
    schema.key: _KEY,
    schema.regional_key: _KEY,
    schema.rotation: _KEY,
    schema.material: _KEY,
    schema.material_presence: _KEY,
    schema.tag: _KEY,
    schema.wrapping_key: _KEY,
    schema.token_object: (
        "coalesce('key/' || (SELECT key_id FROM material WHERE id = {row}.material), 'object/' || hex({row}.cka_id))"
    ),
    schema.alias: "'alias/' || {row}.region || '/' || {row}.name",
    schema.key_grant: "'grant/' || {row}.grant_id",
    schema.user: "'user/' || {row}.name",
    schema.access_key: "coalesce('user/' || {row}.user_name, 'root')",
    schema.user_policy: "'user/' || {row}.user_name",
    schema.user_tag: "'user/' || {row}.user_name",
    schema.group_member: "'user/' || {row}.user_name",
    schema.user_group: "'group/' || {row}.name",
    schema.group_policy: "'group/' || {row}.group_name",
}
"""SQL expression for the subject of a row, by table. Other tables decide nothing: change log, outbox, orphans."""

INDEXES: Final[dict[Table, str]] = {
    schema.alias: "'aliases/' || {row}.region || '/' || {row}.key_id",
    schema.key_grant: "'grants/' || {row}.region || '/' || {row}.key_id || '/' || {row}.grantee",
    schema.access_key: "'access-key/' || {row}.access_key_id",
}
"""SQL expression for the index of a row, for tables that decisions also look up by another attribute."""

_OF_KEY: Final = "key_id = :name"
_OF_USER: Final = "user_name = :name"

_ROWS: Final[dict[str, dict[Table, str]]] = {
    "key": {
        **{table: _OF_KEY for table, subject in SUBJECTS.items() if subject == _KEY},
        schema.token_object: "material IN (SELECT id FROM material WHERE key_id = :name)",
    },
    "alias": {
        schema.alias: "region = substr(:name, 1, instr(:name, '/') - 1) AND name = substr(:name, instr(:name, '/') + 1)"
    },
    "grant": {schema.key_grant: "grant_id = :name"},
    "user": {
        schema.user: "name = :name",
        schema.access_key: _OF_USER,
        schema.user_policy: _OF_USER,
        schema.user_tag: _OF_USER,
        schema.group_member: _OF_USER,
    },
    "root": {schema.access_key: "user_name IS NULL"},
    "group": {schema.user_group: "name = :name", schema.group_policy: "group_name = :name"},
    "object": {schema.token_object: "material IS NULL AND hex(cka_id) = :name"},
    "installation": dict.fromkeys((schema.installation, schema.token, schema.installation_key), "true"),
    "aliases": {schema.alias: "region = :region AND key_id = :key"},
    "grants": {schema.key_grant: "region = :region AND key_id = :key AND grantee = :rest"},
    "access-key": {schema.access_key: "access_key_id = :name"},
}
"""SQL conditions that select the rows of a subject or index: the inverse of the above (a test compares the two)."""

SEALS: Final = "hsmkms_seal_sets"
"""SQL function that a sealed database requires of writing connections: see ``guard``."""

SEALS_BEFORE: Final = "hsmkms_seals"
"""The function for programs without the seal tree, which therefore cannot write to a database that has one."""

GUARDS: Final = (SEALS, SEALS_BEFORE)

INSTALLATION: Final = "installation"
ROOT: Final = "root"
DIRTY: Final = "dirty_subject"
GUARDED: Final = ("change_log", "token_object", "wrapping_key")
"""Tables with guard triggers: every change of a sealed row writes to at least one of them."""


def key_subject(key_id: str) -> str:
    """Return the subject of a KMS key, in all regions."""
    return f"key/{key_id}"


def alias_subject(region: str, name: str) -> str:
    """Return the subject of an alias."""
    return f"alias/{region}/{name}"


def grant_subject(grant_id: str) -> str:
    """Return the subject of a grant."""
    return f"grant/{grant_id}"


def aliases_index(region: str, key_id: str) -> str:
    """Return the index of a key's aliases."""
    return f"aliases/{region}/{key_id}"


def grants_index(region: str, key_id: str, grantee: str) -> str:
    """Return the index of a principal's grants on a key."""
    return f"grants/{region}/{key_id}/{grantee}"


def access_key_index(access_key_id: str) -> str:
    """Return the index of an access key, whose row belongs to its user's subject."""
    return f"access-key/{access_key_id}"


def is_index(subject: str) -> bool:
    """Return True for an index, whose rows also belong to subjects."""
    return subject.startswith(_INDEX_KINDS)


def user_subject(name: str | None) -> str:
    """Return the subject of a user with their access keys, tags, policies and groups; the root's without a name."""
    return ROOT if name is None else f"user/{name}"


def group_subject(name: str) -> str:
    """Return the subject of a group with its policies."""
    return f"group/{name}"


def object_subject(conn: Connection, token_id: str, cka_id: bytes) -> str | None:
    """Return the subject of an object on the token, or None if it has no row."""
    expression = SUBJECTS[schema.token_object].format(row="token_object")
    query = f"SELECT {expression} FROM token_object WHERE token_id = ? AND cka_id = ?"  # noqa: S608 - no user input
    subject: str | None = conn.exec_driver_sql(query, (token_id, cka_id)).scalar()
    return subject


class Entry(NamedTuple):
    """A row's table, its canonical text, and its index if it has one (``lookup``)."""

    table: str
    text: str
    lookup: str | None


def entries(conn: Connection, subject: str) -> list[Entry]:
    """Return the rows of a subject or an index."""
    kind, _, name = subject.partition("/")
    region, _, key_and_rest = name.partition("/")
    key, _, rest = key_and_rest.partition("/")
    words = {"name": name, "region": region, "key": key, "rest": rest}
    return [Entry(*row) for row in conn.exec_driver_sql(_ROWS_OF[kind], words)]


def rows(conn: Connection, subject: str) -> list[tuple[str, str]]:
    """Return the rows of a subject or an index as (table, canonical text)."""
    return [(each.table, each.text) for each in entries(conn, subject)]


def every(conn: Connection) -> Iterator[tuple[str, Entry]]:
    """Yield all rows of all subjects, each with its subject."""
    for table, subject in SUBJECTS.items():
        index = _index(table)
        query = f'SELECT {subject.format(row="r")}, {_canonical_row(table)}, {index} FROM "{table.name}" AS r'  # noqa: S608 - see above
        for row in conn.exec_driver_sql(query):
            yield row[0], Entry(table.name, row[1], row[2])


def capture(connection: sqlite3.Connection) -> None:
    """Make a connection record the subjects of rows that it changes, in a temporary table. Outside transactions."""
    connection.execute("PRAGMA temp_store=MEMORY")
    statements = [f"CREATE TEMP TABLE {DIRTY} (subject TEXT NOT NULL)"]
    for table, subject in SUBJECTS.items():
        for event, sides in (("INSERT", ("NEW",)), ("UPDATE", ("OLD", "NEW")), ("DELETE", ("OLD",))):
            # Not OR IGNORE: an upsert's conflict clause overrides the one of statements in its triggers.
            notes = "".join(f"INSERT INTO {DIRTY} VALUES ({subject.format(row=side)});" for side in sides)  # noqa: S608
            statements.append(
                f'CREATE TEMP TRIGGER note_{table.name}_{event} AFTER {event} ON main."{table.name}" BEGIN {notes} END'
            )
    connection.executescript(f"BEGIN;{';'.join(statements)};COMMIT;")


def take_dirty(tx: Connection) -> list[str]:
    """Return the subjects that the transaction has changed, and clear the list."""
    subjects: list[str] = list(tx.exec_driver_sql(f"SELECT DISTINCT subject FROM {DIRTY} ORDER BY 1").scalars())  # noqa: S608
    if subjects:
        tx.exec_driver_sql(f"DELETE FROM {DIRTY}")  # noqa: S608 - see above
    return subjects


def guard(tx: Connection, function: str) -> None:
    """Require an SQL function of that name of every writing connection; programs that do not seal lack it."""
    for name, statement in guards(function).items():
        tx.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name}")  # another version of the program may have created it
        tx.exec_driver_sql(statement)


def guards(function: str) -> dict[str, str]:
    """Return the SQL of the guard triggers, by name."""
    return {
        name: f"CREATE TRIGGER {name} BEFORE {event} ON {table} BEGIN SELECT {function}(); END"
        for table in GUARDED
        for event in ("INSERT", "UPDATE", "DELETE")
        for name in [f"guard_{table}_{event}".lower()]
    }


def _index(table: Table) -> str:
    """Return the SQL expression of a row's index, or NULL."""
    return INDEXES[table].format(row="r") if table in INDEXES else "NULL"


def _canonical_row(table: Table) -> str:
    """Return the SQL expression of a row's canonical text: its columns by name, each with type and value."""
    return " || ".join(_member(column.name, column.server_default) for column in sorted(table.c, key=lambda c: c.name))


def _member(name: str, default: object) -> str:
    value = f'typeof(r."{name}") || hex(r."{name}")'
    nothing = "null"
    if default is not None:
        # Default values are omitted: such columns are added to rows that were sealed without them.
        text = str(getattr(default, "arg", default))
        nothing = f"integer{text.encode().hex().upper()}"
        value = f"coalesce(nullif({value}, 'null'), '{nothing}')"
    return f"coalesce('{name}=' || nullif({value}, '{nothing}') || ';', '')"


def _query(kind: str) -> str:
    parts = [
        f"SELECT '{table.name}', {_canonical_row(table)}, {_index(table)} FROM \"{table.name}\" AS r WHERE {where}"  # noqa: S608 - see above
        for table, where in _ROWS[kind].items()
    ]
    return " UNION ALL ".join(parts)


_INDEX_KINDS: Final = tuple(f"{each.partition('/')[0]}/".lstrip("'") for each in INDEXES.values())
_ROWS_OF: Final = {kind: _query(kind) for kind in _ROWS}
