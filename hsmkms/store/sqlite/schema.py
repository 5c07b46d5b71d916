"""Compare the schema in ``meta.db`` with the one that the migrations of this revision create.

The comparison is an allow-list: everything that is not exactly as expected is a difference. A trigger or a foreign
key's action could change rows within hsmkms's own transactions, an index (or the statistics that make SQLite choose it)
could hide rows from one query and show them to another, a generated column could discard a write.

A transaction begins by reading ``PRAGMA schema_version`` in its own snapshot. Only if that is not the version that this
connection has compared, SQLite reads the schema again, and it is compared.
"""

import hashlib
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, MutableMapping
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import Connection

from hsmkms.store import seal_engine
from hsmkms.store.sqlite import capture

# NOT INDEXED: an index on this very table could hide rows of it.
_LISTING: Final = "SELECT type, name, tbl_name, sql FROM main.sqlite_master NOT INDEXED"
_SEALED: Final = "SELECT EXISTS (SELECT 1 FROM main.store_root)"
_COMPARED: Final = "hsmkms.compared_schema"
_DIGEST_DIGITS: Final = 32
_FINDINGS: Final = 3
_SPACE: Final = re.compile("[ \t\n\f\r]+")

Object = tuple[str, str, str, str]
"""A table, index or trigger: type, name, table, digest of its SQL."""

OBJECTS: Final[frozenset[Object]] = frozenset(
    {
        ("index", "ix_access_key_user_name", "access_key", "0c688dc1f83c1ba0cace2c4d94a3b63a"),
        ("index", "ix_alias_key_id", "alias", "c1d2a3d24014ab66b4c4597e25819f6f"),
        ("index", "ix_change_log_subject", "change_log", "32144948b9de629196391a029ce077fe"),
        ("index", "ix_group_member_user_name", "group_member", "1a78e674aab6815518b4fdea5642dd4e"),
        ("index", "ix_key_grant_key_id", "key_grant", "abad3a193357049188304f850797c5ed"),
        ("index", "ix_key_grant_retiring", "key_grant", "91d43ffe189fe656b92a9dde5bbd752b"),
        ("index", "ix_regional_key_region", "regional_key", "e36ff2d774c04bb48ffecf4302e200d3"),
        ("index", "ix_token_object_material", "token_object", "bee4c44fb9361f90d3fdecea47648d8b"),
        ("index", "ix_wrapping_key_key_id", "wrapping_key", "7f7f1f9eab091eb5c60e24baf2842dc2"),
        ("index", "sqlite_autoindex_access_key_1", "access_key", ""),
        ("index", "sqlite_autoindex_alembic_version_1", "alembic_version", ""),
        ("index", "sqlite_autoindex_alias_1", "alias", ""),
        ("index", "sqlite_autoindex_audit_head_1", "audit_head", ""),
        ("index", "sqlite_autoindex_group_member_1", "group_member", ""),
        ("index", "sqlite_autoindex_group_policy_1", "group_policy", ""),
        ("index", "sqlite_autoindex_installation_key_1", "installation_key", ""),
        ("index", "sqlite_autoindex_key_1", "key", ""),
        ("index", "sqlite_autoindex_key_grant_1", "key_grant", ""),
        ("index", "sqlite_autoindex_lease_1", "lease", ""),
        ("index", "sqlite_autoindex_material_1", "material", ""),
        ("index", "sqlite_autoindex_material_2", "material", ""),
        ("index", "sqlite_autoindex_material_presence_1", "material_presence", ""),
        ("index", "sqlite_autoindex_node_1", "node", ""),
        ("index", "sqlite_autoindex_node_process_1", "node_process", ""),
        ("index", "sqlite_autoindex_orphan_1", "orphan", ""),
        ("index", "sqlite_autoindex_pin_notice_1", "pin_notice", ""),
        ("index", "sqlite_autoindex_regional_key_1", "regional_key", ""),
        ("index", "sqlite_autoindex_rotation_1", "rotation", ""),
        ("index", "sqlite_autoindex_row_seal_1", "row_seal", ""),
        ("index", "sqlite_autoindex_schema_announcement_1", "schema_announcement", ""),
        ("index", "sqlite_autoindex_tag_1", "tag", ""),
        ("index", "sqlite_autoindex_token_1", "token", ""),
        ("index", "sqlite_autoindex_token_object_1", "token_object", ""),
        ("index", "sqlite_autoindex_user_1", "user", ""),
        ("index", "sqlite_autoindex_user_group_1", "user_group", ""),
        ("index", "sqlite_autoindex_user_policy_1", "user_policy", ""),
        ("index", "sqlite_autoindex_user_tag_1", "user_tag", ""),
        ("index", "sqlite_autoindex_wrapping_key_1", "wrapping_key", ""),
        ("table", "access_key", "access_key", "81081d7b0cd058dbf9ff0585747135ed"),
        ("table", "alembic_version", "alembic_version", "c85bfd889cff304bc45779b35249633d"),
        ("table", "alias", "alias", "38650dc8282610fe1b81504b52c6c92d"),
        ("table", "audit_head", "audit_head", "cbd33b9a70301d3c1f754a30a0910726"),
        ("table", "audit_outbox", "audit_outbox", "45d7511b560f4a3a99f85ff25a5e0355"),
        ("table", "change_log", "change_log", "d4aa67bdfe28b171104320efb897b1ce"),
        ("table", "group_member", "group_member", "ff8430312735ab5aa82dc79078f8dea0"),
        ("table", "group_policy", "group_policy", "46b23756d4313159ff0a1dc040882acf"),
        ("table", "installation", "installation", "281855874365898889a607125fa69117"),
        ("table", "installation_key", "installation_key", "29d04a95ad134a693432efcb1b98afa0"),
        ("table", "key", "key", "a097eb4d69fd1702c239cf41f5b74fa9"),
        ("table", "key_grant", "key_grant", "487ffed867ff9dba59863efc45f6a084"),
        ("table", "lease", "lease", "7b80d17c139b663d0c15ea27cec970ae"),
        ("table", "material", "material", "531c0e42ad40493351bb82e1cd5cff2f"),
        ("table", "material_presence", "material_presence", "bee188534115bd03b4517de9143643aa"),
        ("table", "node", "node", "113fca48e71925326a7c92a0b0ac7917"),
        ("table", "node_process", "node_process", "cf637127c98af4b3ccba477d65caaa9c"),
        ("table", "orphan", "orphan", "60bc4fb191e6041341fc8b4041703e46"),
        ("table", "pin_notice", "pin_notice", "bdf2b602af9ab955105258e9d94ef39f"),
        ("table", "regional_key", "regional_key", "eca23882f6d48a173d8e6ec91e69811a"),
        ("table", "rotation", "rotation", "a76e01cd7cd1b467bb54961e56528852"),
        ("table", "row_seal", "row_seal", "c80067f45c0a2ab0dd63e121904544a5"),
        ("table", "schema_announcement", "schema_announcement", "0297eb5dbc623bf295b7ef18e6916167"),
        ("table", "seal_tree", "seal_tree", "647580d9302a07c42756b986de7685b8"),
        ("table", "sqlite_sequence", "sqlite_sequence", "4cb1eaf14467f226196148cb56885696"),
        ("table", "store_root", "store_root", "a0819296856be7bffdd746c3d1b8835b"),
        ("table", "tag", "tag", "32c07e46ea323438e53c4a6ea21d4e13"),
        ("table", "token", "token", "567dd676c9fcceeb7f065d8550a52177"),
        ("table", "token_object", "token_object", "96e7c9b971a47eb8ef160f839ddf168f"),
        ("table", "user", "user", "275c9e3b34565cb72af9b96bc82d7259"),
        ("table", "user_group", "user_group", "261c6ee14c7275a41ba4e6e6f1d49f25"),
        ("table", "user_policy", "user_policy", "069b132e73715f04b5208567b923c2bf"),
        ("table", "user_tag", "user_tag", "b35019e3ef3552223c9e23900e53f3f5"),
        ("table", "wrapping_key", "wrapping_key", "d6ccf3745f8c836b2319c63036eb6aeb"),
    }
)
"""Objects that the migrations create, up to the newest. A test creates a database and compares; on a difference it
prints the right table.

The triggers that guard a sealed database are not among them: see ``capture.guards``."""


class Compared(Struct, frozen=True):
    """The schema version that a connection has compared, and the differences."""

    version: int | None
    differences: tuple[str, ...]


def look(connection: sqlite3.Connection, info: MutableMapping[Any, Any]) -> None:
    """Compare the schema, at the beginning of a transaction, unless that version was compared already.

    ``info`` belongs to the connection, and caches the result.
    """
    (version,) = connection.execute("PRAGMA schema_version").fetchone()
    compared = info.get(_COMPARED)
    if compared is None or compared.version != version:
        # From here on the schema is parsed from this snapshot; SQLite may have read it from another one before.
        connection.execute("PRAGMA writable_schema=RESET")
        info[_COMPARED] = Compared(version, _differences(connection, OBJECTS))
        info.pop(seal_engine.LAYOUT, None)


def differences(conn: Connection) -> tuple[str, ...]:
    """Return the schema's differences as of the beginning of the transaction; empty if there are none."""
    compared: Compared = conn.info[_COMPARED]
    return compared.differences


def accept(conn: Connection, objects: Iterable[tuple[str, ...]]) -> bool:
    """Expect these objects until the schema changes, if they are exactly what is there; False if they are not."""
    expected = frozenset((each[0], each[1], each[2], each[3]) for each in objects)
    if _differences(_raw(conn), expected):
        return False
    compared: Compared = conn.info[_COMPARED]
    conn.info[_COMPARED] = Compared(compared.version, ())
    return True


def compare_again(conn: Connection) -> tuple[str, ...]:
    """Compare again, reading the file now: it may have been edited without a change of the schema version."""
    conn.info.pop(_COMPARED, None)
    look(_raw(conn), conn.info)
    return differences(conn)


def damage(conn: Connection) -> list[str]:
    """Run SQLite's integrity check, which also detects rows missing from an index; return the first few findings.

    Takes 20 ms for a thousand keys, three seconds for a hundred thousand, and blocks no other connection.
    """
    findings = list(conn.exec_driver_sql(f"PRAGMA main.integrity_check({_FINDINGS})").scalars())
    return [] if findings == ["ok"] else findings


def forget(tx: Connection) -> None:
    """Make the next transaction compare: this one changes the schema, and SQLite rereads it after a rollback."""
    tx.info[_COMPARED] = Compared(None, differences(tx))


def objects(connection: sqlite3.Connection) -> list[Object]:
    """Return the objects in the schema of a database."""
    return [_object(*row) for row in connection.execute(_LISTING)]


def _raw(conn: Connection) -> sqlite3.Connection:
    connection = conn.connection.driver_connection
    assert isinstance(connection, sqlite3.Connection)  # noqa: S101 - for mypy
    return connection


def _differences(connection: sqlite3.Connection, wanted: frozenset[Object]) -> tuple[str, ...]:
    actual = Counter(objects(connection))
    sealed = any(row[:2] == ("table", "store_root") for row in actual) and connection.execute(_SEALED).fetchone()[0]
    guards = [_guards(function) for function in capture.GUARDS]
    choices = [Counter(wanted | each) for each in (guards if sealed else [frozenset(), *guards])]
    expected = min(choices, key=lambda choice: (actual - choice).total() + (choice - actual).total())
    return tuple(_phrases(actual - expected, expected - actual))


def _phrases(added: Counter[Object], missing: Counter[Object]) -> Iterable[str]:
    names = {row[:2] for row in missing}
    for kind, name in sorted({(str(row[0]), str(row[1])) for row in added}):
        yield f"{kind} {name!r} was {'changed' if (kind, name) in names else 'added'}"
    for kind, name in sorted(names - {row[:2] for row in added}):
        yield f"{kind} {name!r} was removed"


def _guards(function: str) -> frozenset[Object]:
    return frozenset(
        _object("trigger", name, statement.partition(" ON ")[2].partition(" ")[0], statement)
        for name, statement in capture.guards(function).items()
    )


def _object(kind: str, name: str, table: str, sql: str | None) -> Object:
    """Build a listed object; its digest ignores differences in white space, which hsmkms's SQL never has in quotes.

    In what SQLite takes for white space: to it other spaces of Unicode are letters, by which two words become a name.
    """
    if sql is None:
        return kind, name, table, ""
    text = _SPACE.sub(" ", str(sql)).strip(" ")
    return kind, name, table, hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:_DIGEST_DIGITS]
