"""Read the control plane's deciding rows by their sealed subjects.

Every such row belongs to one subject: a key (with all its rows in all regions), an alias, a grant, a user, a group, the
installation. Some rows are also looked up by another attribute (the aliases of a key, for example): such a row also
belongs to an index, which has a seal of its own, so that removing a row from a lookup is detected.

Which table belongs to what is in ``sealed_tables.py``, the form in which a row is sealed in ``row_forms.py``, and what
a database engine does in its own way in ``seal_engine.py``.
"""

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection, inspect

from hsmkms.store import schema, seal_engine, seal_layout
from hsmkms.store.seal_layout import INSTALLATION, Entry, Layout
from hsmkms.store.sealed_tables import described

ROOT: Final = "root"


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


def is_index(conn: Connection, subject: str) -> bool:
    """Return True for an index, whose rows also belong to subjects."""
    return subject.startswith(layout(conn).index_kinds)


def user_subject(name: str | None) -> str:
    """Return the subject of a user with their access keys, tags, policies and groups; the root's without a name."""
    return ROOT if name is None else f"user/{name}"


def group_subject(name: str) -> str:
    """Return the subject of a group with its policies."""
    return f"group/{name}"


def object_subject(conn: Connection, token_id: str, cka_id: bytes) -> str | None:
    """Return the subject of an object on the token, or None if it has no row."""
    query = f"{seal_layout.listing(_OBJECT)} WHERE r.token_id = :token AND r.cka_id = :object"
    found = seal_engine.of(conn).rows(conn, query, {"token": token_id, "object": cka_id})
    return seal_layout.read_listed(_OBJECT, found[0])[0] if found else None


def layout(conn: Connection) -> Layout:
    """Return the sealed tables of the database: this program's, or those of the schema that was accepted instead."""
    accepted: Layout | None = conn.info.get(seal_engine.LAYOUT)
    return seal_layout.own() if accepted is None else accepted


def entries(conn: Connection, subject: str) -> list[Entry]:
    """Return the rows of a subject or an index."""
    kind, _, name = subject.partition("/")
    query = layout(conn).queries.get(kind)
    parameters = query.parameters(name) if query is not None else None
    if query is None or parameters is None:
        return []
    return query.entries(seal_engine.of(conn).rows(conn, query.sql, parameters))


def are_readable(conn: Connection) -> bool:
    """Return False if a sealed table or one of its columns is missing, so that a query for all rows would fail."""
    inspector = inspect(conn)
    for table in layout(conn).tables:
        present = inspector.get_columns(table.name) if inspector.has_table(table.name) else []
        if not {column.name for column in table.columns} <= {column["name"] for column in present}:
            return False
    return True


def every(conn: Connection) -> Iterator[tuple[str, Entry]]:
    """Yield all rows of all subjects, each with its subject."""
    engine = seal_engine.of(conn)
    for table in layout(conn).tables:
        for row in engine.rows(conn, seal_layout.listing(table)):
            yield seal_layout.read_listed(table, row)


_OBJECT: Final = described(schema.token_object)

__all__ = ["INSTALLATION", "ROOT", "Entry", "entries", "every"]
