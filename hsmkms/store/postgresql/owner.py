"""The node that owns a database: only its processes use it.

Several acts (rotation, migration of tokens, the installation's own keys) are kept apart by locks on files of the data
folder, which processes of another folder do not see. So the tables are created with the id of the data folder, and
every process compares it before it does anything else. The row is sealed.
"""

import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct
from sqlalchemy import Connection, insert, select

from hsmkms.errors import StoreError
from hsmkms.store import node_id
from hsmkms.store.schema import node


class Owner(Struct, frozen=True):
    """The node that owns a database; host and folder are those of its `init`."""

    id: str
    host: str
    folder: str

    def __str__(self) -> str:
        return f"node {self.id}, made on {self.host} in {self.folder}"


def insert_owner(tx: Connection, folder: Path) -> None:
    """Make the node of a data folder the owner of a database without tables until now."""
    row = {
        "id": node_id.read_or_make(folder),
        "host": _storable(socket.gethostname()),
        "folder": _storable(str(folder.absolute())),
        "created_at": datetime.now(UTC),
    }
    tx.execute(insert(node), row)


def read_owner(conn: Connection) -> Owner | None:
    """Return the owner, whose row is not proven yet; None if it is missing."""
    row = conn.execute(select(node.c.id, node.c.host, node.c.folder).order_by(node.c.created_at)).first()
    return None if row is None else Owner(row.id, row.host, row.folder)


def require_owner(conn: Connection, folder: Path, name: str) -> None:
    """Raise StoreError unless a data folder is the node that owns the database called ``name``."""
    owner, own = read_owner(conn), node_id.read(folder)
    if owner is None:
        raise StoreError(f"{name} does not say which node owns it, as it did when it was made: restore a backup")
    if own == owner.id:
        return
    here = f"is node {own}" if own is not None else f"has no file {node_id.FILE}"
    raise StoreError(
        f"{name} belongs to another data folder ({owner}), and {folder} {here}: only one node may use it, so run "
        "hsmkms there. To move that node, stop it and copy its data folder; if that is lost: `hsmkms guide operations`"
    )


def _storable(text: str) -> str:
    """Return text without the bytes that no database stores as text."""
    return os.fsencode(text).decode(errors="replace")
