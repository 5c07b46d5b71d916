"""Move records that processes left in the outbox of the audit log, when they ended, to the log of this node."""

import logging
from collections.abc import Callable, Collection
from pathlib import Path

from msgspec import Struct

from hsmkms.service.runtime.audit_lane import Journal
from hsmkms.store import audit_files, nodes, outbox
from hsmkms.store.engine import Store

log = logging.getLogger("hsmkms.service")


class OutboxRecovery(Struct, frozen=True):
    """Moves records to lanes of a node's log. ``open_lane`` returns a journal for a lane, or for any that is free."""

    store: Store
    folder: Path
    node_id: str
    open_lane: Callable[[str | None], Journal]

    def address(self, lane: str) -> str:
        """Return the name of a lane in the outbox, which several nodes may share."""
        return outbox.address(self.node_id, lane)

    def move(self, journal: Journal, lane: str) -> list[int]:
        """Move records that a lane's last holder left in the outbox to the lane; return the ids of their rows."""
        with self.store.reading() as conn:
            left = outbox.fetch(conn, self.address(lane))
        newest = audit_files.segments(self.folder).get(lane, [])[-2:]
        known = [each.path.read_bytes() for each in newest] if left else []
        for row in left:
            if not any(row.event_id.encode() in each for each in known):
                journal.add(row.record)
                log.info("an interrupted process left a record of the audit log in the outbox: it was moved")
        journal.flush()
        return [row.id for row in left]

    def move_all(self) -> None:
        """Move the records of processes that died, of all lanes that are not locked; and of nodes that were removed."""
        with self.store.reading() as conn:
            lanes = outbox.lanes(conn, self.node_id)
            on_server = self.store.target is not None
            node_ids = {each.id for each in nodes.fetch_all(conn)} if on_server else {self.node_id}
            abandoned = outbox.abandoned(conn, node_ids) if self.node_id in node_ids else set()
        for lane in sorted(lanes):
            self._move_lane(self.open_lane(lane))
        if abandoned:
            self._move_lane(self.open_lane(None), abandoned)

    def _move_lane(self, journal: Journal, abandoned: Collection[str] = ()) -> None:
        """Move a lane's records to it unless it is locked; and those of lanes that nobody else moves any more."""
        lane = journal.take()
        if lane is None:
            return
        try:
            if abandoned:
                with self.store.atomic() as tx:
                    count = outbox.readdress(tx, abandoned, self.address(lane))
                log.warning("%d records of removed nodes in the outbox of the audit log go to this node's log", count)
            done = self.move(journal, lane)
            with self.store.atomic() as tx:
                outbox.remove(tx, done)
        finally:
            journal.close()
