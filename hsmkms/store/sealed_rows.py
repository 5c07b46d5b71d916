"""The rows of the control plane that decide: whose they are, how each is told, and which of them a transaction touched.

Every such row belongs to one subject: a key (with all that it has in all regions), an alias, a grant, a user, a group,
the installation. A row is told in a form that does not depend on the order of its columns, nor on columns which
later versions add and which hold nothing (or their default): ``column=type+hex;`` for each that holds something.

The connection that writes has temporary triggers, which note the subject of each row that it inserts, changes or
deletes. So no change can be forgotten, and a statement or a transaction that is undone takes its notes with it.
"""

import sqlite3
from collections.abc import Iterator
from typing import Final

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
"""The subject of a row of each table, in SQL. What is not here decides nothing: notes, records, what was only seen."""

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
}
"""Where the rows of a subject are: the same as above, the other way round (a test compares the two)."""

INSTALLATION: Final = "installation"
ROOT: Final = "root"
DIRTY: Final = "dirty_subject"
GUARDED: Final = ("change_log", "token_object", "wrapping_key")
"""Tables of which at least one takes part in every change of a sealed row."""


def key_subject(key_id: str) -> str:
    """The subject of a KMS key, in all regions."""
    return f"key/{key_id}"


def alias_subject(region: str, name: str) -> str:
    """The subject of an alias."""
    return f"alias/{region}/{name}"


def grant_subject(grant_id: str) -> str:
    """The subject of a grant."""
    return f"grant/{grant_id}"


def user_subject(name: str | None) -> str:
    """The subject of a user with his access keys, tags, policies and groups; without a name the root's."""
    return ROOT if name is None else f"user/{name}"


def group_subject(name: str) -> str:
    """The subject of a group with its policies."""
    return f"group/{name}"


def object_subject(conn: Connection, token_id: str, cka_id: bytes) -> str | None:
    """The subject of an object on the token, or None if no row tells of it."""
    expression = SUBJECTS[schema.token_object].format(row="token_object")
    query = f"SELECT {expression} FROM token_object WHERE token_id = ? AND cka_id = ?"  # noqa: S608 - no word of a user
    found: str | None = conn.exec_driver_sql(query, (token_id, cka_id)).scalar()
    return found


def rows(conn: Connection, subject: str) -> list[tuple[str, str]]:
    """The rows of a subject: each with its table, and as it is told."""
    kind, _, name = subject.partition("/")
    return [(row[0], row[1]) for row in conn.exec_driver_sql(_ROWS_OF[kind], {"name": name})]


def every(conn: Connection) -> Iterator[tuple[str, str, str]]:
    """All rows of all subjects: (subject, table, as it is told)."""
    for table, subject in SUBJECTS.items():
        query = f'SELECT {subject.format(row="r")}, {_told(table)} FROM "{table.name}" AS r'  # noqa: S608 - see above
        for row in conn.exec_driver_sql(query):
            yield row[0], table.name, row[1]


def capture(connection: sqlite3.Connection) -> None:
    """Let a connection note the subjects of what it changes, in a table of its own. Before any transaction."""
    connection.execute("PRAGMA temp_store=MEMORY")
    statements = [f"CREATE TEMP TABLE {DIRTY} (subject TEXT NOT NULL)"]
    for table, subject in SUBJECTS.items():
        for event, sides in (("INSERT", ("NEW",)), ("UPDATE", ("OLD", "NEW")), ("DELETE", ("OLD",))):
            # Not OR IGNORE: an upsert's own way with conflicts would hold in its triggers as well.
            notes = "".join(f"INSERT INTO {DIRTY} VALUES ({subject.format(row=side)});" for side in sides)  # noqa: S608
            statements.append(
                f'CREATE TEMP TRIGGER note_{table.name}_{event} AFTER {event} ON main."{table.name}" BEGIN {notes} END'
            )
    connection.executescript(f"BEGIN;{';'.join(statements)};COMMIT;")


def take_dirty(tx: Connection) -> list[str]:
    """The subjects that the transaction has touched; they are not told again."""
    found: list[str] = list(tx.exec_driver_sql(f"SELECT DISTINCT subject FROM {DIRTY} ORDER BY 1").scalars())  # noqa: S608
    if found:
        tx.exec_driver_sql(f"DELETE FROM {DIRTY}")  # noqa: S608 - see above
    return found


def guard(tx: Connection, function: str) -> None:
    """From now on whoever writes must have an SQL function of that name: programs that seal nothing have none."""
    for table in GUARDED:
        for event in ("INSERT", "UPDATE", "DELETE"):
            name = f"guard_{table}_{event}".lower()
            tx.exec_driver_sql(
                f"CREATE TRIGGER IF NOT EXISTS {name} BEFORE {event} ON {table} BEGIN SELECT {function}(); END"
            )


def _told(table: Table) -> str:
    """A row in SQL: every column that holds something, in the order of the names, by type and value."""
    return " || ".join(_member(column.name, column.server_default) for column in sorted(table.c, key=lambda c: c.name))


def _member(name: str, default: object) -> str:
    value = f'typeof(r."{name}") || hex(r."{name}")'
    nothing = "null"
    if default is not None:
        # As if it was not there: columns with a default are added to rows that were sealed without them.
        text = str(getattr(default, "arg", default))
        nothing = f"integer{text.encode().hex().upper()}"
        value = f"coalesce(nullif({value}, 'null'), '{nothing}')"
    return f"coalesce('{name}=' || nullif({value}, '{nothing}') || ';', '')"


def _query(kind: str) -> str:
    parts = [
        f"SELECT '{table.name}', {_told(table)} FROM \"{table.name}\" AS r WHERE {where}"  # noqa: S608 - see above
        for table, where in _ROWS[kind].items()
    ]
    return " UNION ALL ".join(parts)


_ROWS_OF: Final = {kind: _query(kind) for kind in _ROWS}
