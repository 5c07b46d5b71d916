"""Prove that this data folder is the node that owns the database on a server.

The store has compared the ids before the token was opened. Whoever can write to the database could have changed the row
to let a second node in, so its seal is verified as well, once the token can.
"""

from hsmkms.errors import KMSInternalException, StoreError
from hsmkms.service.runtime.core import Core
from hsmkms.store import node_id
from hsmkms.store.schema import node
from hsmkms.store.sealed_tables import NODE


def require_proven(core: Core) -> None:
    """Raise StoreError if the row of this node is not as hsmkms wrote it.

    While nothing is proven at all (the token lacks the key of the seals, the schema was changed) no sealed row is used.
    """
    if core.store.target is None or core.seals.without_key() is not None:
        return
    subject = f"{NODE}/{node_id.read(core.store.folder)}"
    altered = False
    try:
        with core.store.reading() as conn:
            altered = not core.seals.check(conn, subject).of(node)
    except KMSInternalException:
        altered = subject in core.seals.alarms  # else it is about all rows together, and they are all refused
    if altered:
        raise StoreError(
            f"the row of {core.store.meta.name} that names the node that owns it is not as hsmkms wrote it, so this "
            "data folder may not be that node: undo the change, or restore a backup of the database"
        )
