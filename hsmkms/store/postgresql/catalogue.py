"""Compare the schema of the database with the one that this program creates.

The comparison is an allow-list, as on SQLite: a trigger, a rule or a function of another text could change rows within
hsmkms's own transactions; a policy, a child table or a forged index could hide rows from one query and show them to
another; a generated column could discard a write; a default, a condition or an index's operators could call a function
of another schema. What is compared are entries of the system catalogue, which do not depend on the server's version as
its printed definitions do, and simple expressions.

The catalogue has no version. So its rows' transaction ids are read at each comparison, which takes a query; only if
they are not those that this process has compared, the whole is.
"""

import threading
from collections.abc import Iterable
from itertools import chain
from typing import Final

from sqlalchemy import CheckConstraint, Connection, Dialect, MetaData, PrimaryKeyConstraint, Table, UniqueConstraint
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from hsmkms.store import log_schema, node_schema, seal_engine
from hsmkms.store.postgresql import capture

_OF_SCHEMA: Final = "relnamespace = current_schema()::regnamespace"
_RELATIONS: Final = f"SELECT oid FROM pg_class WHERE {_OF_SCHEMA}"  # noqa: S608 - a constant, as all below

_FIRST_OID: Final = 16384
"""The first id of an object that was made after the cluster: src/include/access/transam.h."""

_VERSION: Final = f"""
SELECT md5(string_agg(part, ',' ORDER BY part)) FROM (
    SELECT 'c' || oid || xmin AS part FROM pg_class WHERE {_OF_SCHEMA}
    UNION ALL SELECT 't' || oid || xmin FROM pg_trigger WHERE tgrelid IN ({_RELATIONS})
    UNION ALL SELECT 'r' || oid || xmin FROM pg_rewrite WHERE ev_class IN ({_RELATIONS})
    UNION ALL SELECT 'p' || oid || xmin FROM pg_policy WHERE polrelid IN ({_RELATIONS})
    UNION ALL SELECT 'i' || indexrelid || xmin FROM pg_index WHERE indrelid IN ({_RELATIONS})
    UNION ALL SELECT 'a' || attrelid || '.' || attnum || '.' || xmin FROM pg_attribute WHERE attrelid IN ({_RELATIONS})
    UNION ALL SELECT 'f' || oid || xmin FROM pg_proc WHERE pronamespace = current_schema()::regnamespace
    UNION ALL SELECT 'h' || inhrelid || xmin FROM pg_inherits
    UNION ALL SELECT 'd' || oid || xmin FROM pg_attrdef WHERE adrelid IN ({_RELATIONS})
    UNION ALL SELECT 'k' || oid || xmin FROM pg_constraint WHERE conrelid IN ({_RELATIONS})
) AS parts
"""  # noqa: S608

_LISTING: Final = f"""
SELECT 'table', relname::text,
        concat_ws(' ', relkind, relpersistence, relrowsecurity, relhasrules, relispartition, relhassubclass)
    FROM pg_class WHERE {_OF_SCHEMA} AND relkind NOT IN ('i', 'S', 't')
UNION ALL SELECT 'column', concat(c.relname, '.', a.attname),
        concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull,
        concat('(', a.attgenerated, a.attidentity, ')'),
        (SELECT l.collname FROM pg_collation AS l WHERE l.oid = a.attcollation))
    FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
    WHERE c.{_OF_SCHEMA} AND c.relkind NOT IN ('i', 'S', 't') AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL SELECT 'index', i.relname,
        concat_ws(' ', t.relname, x.indisunique, x.indisvalid, x.indpred IS NULL AND x.indexprs IS NULL
        AND {_FIRST_OID} > ALL (x.indclass::oid[]), m.amname,
        (SELECT string_agg(a.attname, ',' ORDER BY k.place)
            FROM unnest(x.indkey::smallint[]) WITH ORDINALITY AS k (number, place)
            JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum = k.number))
    FROM pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid JOIN pg_class AS t ON t.oid = x.indrelid
    JOIN pg_am AS m ON m.oid = i.relam WHERE t.{_OF_SCHEMA}
UNION ALL SELECT 'trigger', concat(t.relname, '.', g.tgname), concat_ws(' ', g.tgtype, g.tgenabled, p.proname,
        g.tgqual IS NULL AND g.tgnargs = 0 AND g.tgattr::text = '' AND NOT g.tgdeferrable
        AND p.pronamespace = t.relnamespace)
    FROM pg_trigger AS g JOIN pg_class AS t ON t.oid = g.tgrelid JOIN pg_proc AS p ON p.oid = g.tgfoid
    WHERE t.{_OF_SCHEMA} AND NOT g.tgisinternal
UNION ALL SELECT 'function', p.proname, concat_ws(' ', l.lanname, p.prosecdef, p.proconfig IS NULL, p.prosrc)
    FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang WHERE p.pronamespace = current_schema()::regnamespace
UNION ALL SELECT 'rule', rulename, ev_class::regclass::text FROM pg_rewrite WHERE ev_class IN ({_RELATIONS})
UNION ALL SELECT 'policy', polname, polrelid::regclass::text FROM pg_policy WHERE polrelid IN ({_RELATIONS})
UNION ALL SELECT 'reference', conname, concat(confupdtype, confdeltype)
    FROM pg_constraint WHERE contype = 'f' AND conrelid IN ({_RELATIONS})
UNION ALL SELECT 'check', concat(conrelid::regclass, '.', conname), pg_get_expr(conbin, conrelid)
    FROM pg_constraint WHERE contype = 'c' AND conrelid IN ({_RELATIONS})
UNION ALL SELECT 'default', concat(a.attrelid::regclass, '.', a.attname), pg_get_expr(d.adbin, d.adrelid)
    FROM pg_attrdef AS d JOIN pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
    WHERE d.adrelid IN ({_RELATIONS})
"""  # noqa: S608

_DIALECT: Final[Dialect] = PGDialect_psycopg()  # type: ignore[no-untyped-call]
_INSERT, _DELETE, _UPDATE, _TRUNCATE = 4, 8, 16, 32
_EVENTS: Final = {"INSERT": _INSERT, "DELETE": _DELETE, "UPDATE": _UPDATE, "TRUNCATE": _TRUNCATE}
_ROW, _BEFORE = 1, 2
"""Bits of pg_trigger.tgtype: src/include/catalog/pg_trigger.h."""

_OWN_TABLES: Final = {
    "generation": ("number", "bigint t ()"),
    capture.TOUCHED: ("subject", "text t () C"),
    "alembic_version": ("version_num", "character varying(32) t () default"),
    "alembic_version_log": ("version_num", "character varying(32) t () default"),
}
"""Tables that are not in the definition that the engines share, each with its only column."""

_UNLOGGED: Final = frozenset({capture.TOUCHED})

Object = tuple[str, str, str]
"""Kind, name and properties of a table, column, index, trigger, function, rule, policy or foreign key."""


_ACCEPTED: Final = "hsmkms.accepted_schema"
_MOST_COMPARED: Final = 16
_lock: Final = threading.Lock()
_compared: Final[dict[str, tuple[str, ...]]] = {}
"""The differences of each version of a catalogue that this process has compared."""


def differences(conn: Connection) -> tuple[str, ...]:
    """Return how the schema differs from the one expected; empty if it does not."""
    version = _version(conn)
    if conn.info.get(_ACCEPTED) == version:
        return ()
    forget(conn)
    with _lock:
        found = _compared.get(version)
    if found is None:
        found = compare(conn)
        with _lock:
            if len(_compared) >= _MOST_COMPARED:
                _compared.clear()
            _compared[version] = found
    return found


def compare(conn: Connection, wanted: Iterable[tuple[str, ...]] | None = None) -> tuple[str, ...]:
    """Compare now, whatever was compared before; by default with what this program expects."""
    actual = {(str(row[0]), str(row[1]), str(row[2])) for row in conn.exec_driver_sql(_LISTING)}
    return tuple(_phrases(actual, expected() if wanted is None else {(each[0], each[1], each[2]) for each in wanted}))


def accept(conn: Connection, objects: Iterable[tuple[str, ...]]) -> bool:
    """Expect these objects until the schema changes, if they are exactly what is there; False if they are not."""
    if compare(conn, objects):
        return False
    conn.info[_ACCEPTED] = _version(conn)
    return True


def forget(conn: Connection) -> None:
    """Expect this program's own schema again."""
    conn.info.pop(_ACCEPTED, None)
    conn.info.pop(seal_engine.LAYOUT, None)


def _version(conn: Connection) -> str:
    return str(conn.exec_driver_sql(_VERSION).scalar_one())


def expected() -> set[Object]:
    """Return the objects that a database of this revision has."""
    objects: set[Object] = set()
    for name, (column, properties) in _OWN_TABLES.items():
        objects |= {_table(name, "u" if name in _UNLOGGED else "p"), ("column", f"{name}.{column}", properties)}
    for name in ("alembic_version", "alembic_version_log"):
        objects.add(("index", f"{name}_pkc", f"{name} t t t btree version_num"))
    for metadata in (node_schema.meta, log_schema.log):
        objects |= set(_of_metadata(metadata))
    objects |= {("function", name, f"plpgsql f t {body}") for name, body in capture.functions().items()}
    objects |= {_trigger(each) for each in capture.triggers()}
    return objects


def _phrases(actual: set[Object], wanted: set[Object]) -> Iterable[str]:
    there, names = {row[:2] for row in actual}, {row[:2] for row in wanted}
    for kind, name in sorted({row[:2] for row in actual - wanted}):
        yield f"{kind} {name!r} was {'changed' if (kind, name) in names else 'added'}"
    for kind, name in sorted(names - there):
        yield f"{kind} {name!r} was removed"


def _of_metadata(metadata: MetaData) -> Iterable[Object]:
    for table in metadata.sorted_tables:
        yield _table(table.name, "p")
        for column in table.columns:
            type_name = str(column.type.compile(dialect=_DIALECT)).lower()
            collation = " C" if type_name == "text" else ""
            name = f"{table.name}.{column.name}"
            yield "column", name, f"{type_name} {_bit(not column.nullable)} (){collation}"
            if column is table.autoincrement_column:
                yield "default", name, f"nextval('{table.name}_{column.name}_seq'::regclass)"
            elif column.server_default is not None:
                yield "default", name, "false"  # the only default that a column has
        unique = [each for each in table.constraints if isinstance(each, UniqueConstraint | PrimaryKeyConstraint)]
        for each in (*unique, *table.indexes):
            listed = ",".join(column.name for column in each.columns)
            yield "index", str(each.name), f"{table.name} {_bit(each in unique)} t t btree {listed}"
        for check in chain(table.constraints, *(column.constraints for column in table.columns)):
            if isinstance(check, CheckConstraint):
                full = f"ck_{table.name}_{str(check.name).removeprefix(f'ck_{table.name}_')}"  # a column's is shorter
                yield "check", f"{_quoted(table)}.{full}", _printed(str(check.sqltext))
        for reference in table.foreign_key_constraints:
            yield "reference", str(reference.name), "aa"


def _quoted(table: Table) -> str:
    return _DIALECT.identifier_preparer.quote(str(table.name))


def _printed(condition: str) -> str:
    """Return a condition as the server prints it: of one word, or of several that a column may hold."""
    column, is_list, words = condition.partition(" IN ")
    if not is_list:
        return "({})".format(condition.replace("only = 1", '"only" = 1'))
    listed = ", ".join(f"{word}::text" for word in words.strip("()").split(", "))
    return f"({column} = ANY (ARRAY[{listed}]))"


def _table(name: str, persistence: str) -> Object:
    return "table", str(name), f"r {persistence} f f f f"


def _bit(value: bool) -> str:  # noqa: FBT001 - what it converts
    return "t" if value else "f"


def _trigger(trigger: capture.Trigger) -> Object:
    moment, _, events = trigger.moment.partition(" ")
    bits = sum(_EVENTS[each] for each in events.split(" OR "))
    bits += (_ROW if trigger.each == "ROW" else 0) + (_BEFORE if moment == "BEFORE" else 0)
    return "trigger", f"{trigger.table}.{trigger.name}", f"{bits} A {trigger.function} t"
