"""Register the nodes of an installation whose database is on a server: data folders that may use it, each by its id.

Audit log, lock files and marks of refused PINs are in the data folder, so two folders never count as one node. `init`
registers the first one, `join` each further one. Every process compares its folder's id with the registered ones before
it does anything else; the rows are sealed, and its own is proven once the token is open. Where the databases are files
of the data folder there is one node, which is not registered.
"""

import os
import socket
from datetime import datetime
from pathlib import Path

from msgspec import Struct
from sqlalchemy import Connection, delete, insert, select

from hsmkms.errors import StoreError
from hsmkms.store import node_id
from hsmkms.store.schema import node


class Node(Struct, frozen=True):
    """A registered node. ``host`` and ``folder`` are those of the moment when it joined.

    ``drained_at``: since when it is to get no new requests.
    """

    id: str
    host: str
    folder: str
    joined_at: datetime
    drained_at: datetime | None = None

    def __str__(self) -> str:
        return f"node {self.id} ({self.folder} on {self.host})"


def of_folder(folder: Path, now: datetime) -> Node:
    """Return the node that a data folder is; its id is made if it has none."""
    host, path = _storable(socket.gethostname()), _storable(str(folder.absolute()))
    return Node(node_id.read_or_make(folder), host, path, now)


def register(tx: Connection, new: Node) -> None:
    """Insert a node."""
    tx.execute(insert(node), {"id": new.id, "host": new.host, "folder": new.folder, "joined_at": new.joined_at})


def register_if_new(tx: Connection, new: Node) -> None:
    """Insert a node unless it is registered."""
    if new.id not in {each.id for each in fetch_all(tx)}:
        register(tx, new)


def remove_all(tx: Connection) -> None:
    """Remove all nodes: the databases are files of one folder now."""
    tx.execute(delete(node))


def fetch_all(conn: Connection) -> list[Node]:
    """Return the registered nodes, which are not proven yet, in the order in which they joined."""
    columns = (node.c.id, node.c.host, node.c.folder, node.c.joined_at, node.c.drained_at)
    query = select(*columns).order_by(node.c.joined_at, node.c.id)
    return [Node(*row) for row in conn.execute(query)]


def set_drained(tx: Connection, node_id: str, at: datetime | None) -> None:
    """Note since when a node is to get no new requests; None: it gets them again."""
    tx.execute(node.update().where(node.c.id == node_id).values(drained_at=at))


def remove(tx: Connection, node_id: str) -> None:
    """Remove a node."""
    tx.execute(node.delete().where(node.c.id == node_id))


def is_registered(conn: Connection, node_id: str | None) -> bool:
    """Return True if a node is registered; its row is not proven yet."""
    return conn.scalar(select(node.c.id).where(node.c.id == node_id)) is not None


def removed() -> StoreError:
    """Return the error of a process whose node is registered no more."""
    return StoreError(
        "this node was removed from the installation (by `hsmkms remove-node`, or by hand: `hsmkms verify-store` on "
        "another node says so): stop its server"
    )


def require_registered(conn: Connection, folder: Path, name: str) -> None:
    """Raise StoreError unless a data folder is a registered node of the database called ``name``."""
    known, own = fetch_all(conn), node_id.read(folder)
    if not known:
        raise StoreError(f"{name} does not say which nodes it has, as it did when it was made: restore a backup")
    if own in {each.id for each in known}:
        return
    here = f"has the id {own}, which is not registered" if own is not None else f"has no file {node_id.FILE}"
    there = "; ".join(map(str, known))
    raise StoreError(
        f"{folder} is no node of {name}: it {here}. Registered: {there}. Run hsmkms there, or make "
        "another node with `hsmkms join`. To move a node, stop it and copy its data folder (`hsmkms guide nodes`)"
    )


def _storable(text: str) -> str:
    """Return text without the bytes that no database stores as text."""
    return os.fsencode(text).decode(errors="replace")
