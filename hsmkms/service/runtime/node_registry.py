"""Register this data folder as a node of the installation, and prove that it is one.

The store has compared the folder's id with the registered ones before the token was opened. Whoever can write to the
database could have registered a node of their own, so the seal of its row is verified as well, once the token can.
"""

from hsmkms.errors import KMSInternalException, StoreError
from hsmkms.service.runtime.core import Core
from hsmkms.store import node_id, nodes
from hsmkms.store.nodes import Node
from hsmkms.store.schema import installation, node
from hsmkms.store.seal_layout import INSTALLATION
from hsmkms.store.sealed_tables import NODE


def join(core: Core) -> Node:
    """Register the data folder as a node, unless it is registered; its token has answered the challenge."""
    new = nodes.of_folder(core.store.folder, core.clock())
    shown = {"node": new.id, "host": new.host, "folder": new.folder}
    with core.audit.acting("JoinNode", core.installation.default_region, shown), core.audited_and_sealed() as tx:
        core.seals.check(tx, INSTALLATION).of(installation)  # the new node's configuration takes its account from here
        known = {each.id: each for each in nodes.fetch_all(tx)}
        if new.id not in known:
            nodes.register(tx, new)
    return known.get(new.id, new)


def is_altered(core: Core) -> bool:
    """Return True if the row of this node is not as hsmkms wrote it; then there is an alarm.

    While nothing is proven at all (the token lacks the key of the seals, the schema was changed) no sealed row is used.
    """
    if core.store.target is None or core.seals.without_key() is not None:
        return False
    subject = f"{NODE}/{node_id.read(core.store.folder)}"
    try:
        with core.store.reading() as conn:
            return not core.seals.check(conn, subject).of(node)
    except KMSInternalException:
        return subject in core.seals.alarms  # else it is about all rows together, and they are all refused


def require_proven(core: Core) -> None:
    """Raise StoreError if the row of this node is not as hsmkms wrote it, as ``is_altered`` says."""
    if is_altered(core):
        raise StoreError(
            f"the row of {core.store.meta.name} that registers this node is not as hsmkms wrote it, so this data "
            "folder may not be one of its nodes: undo the change, or restore a backup of the database"
        )
