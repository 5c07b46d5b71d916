"""The nodes of an installation: list, drain and remove them, and find those that would not follow a change."""

import logging
import os
import uuid
from collections.abc import Sequence
from datetime import datetime
from importlib import metadata
from typing import NoReturn

from msgspec import Struct

from hsmkms.errors import ConfigurationError, HsmKmsError
from hsmkms.service.operator.recorded import recorded
from hsmkms.service.runtime.core import Core
from hsmkms.store import changes, node_id, nodes, pin_notices, presence
from hsmkms.store.files import META
from hsmkms.store.nodes import Node
from hsmkms.store.pin_notices import PinNotice
from hsmkms.store.presence import Heartbeat, Process
from hsmkms.store.schema import META_REVISIONS

log = logging.getLogger("hsmkms.service")


class NodeStanding(Struct, frozen=True, kw_only=True):
    """A node, as its heartbeats show it.

    ``here``: it is the one of this data folder; ``drained_at``: since when it is to get no new requests; ``versions``:
    of the programs of its workers; ``tokens``: labels of those that all its workers reach; ``lag``: how many changes
    the slowest worker has not read yet, None if none runs; ``pin``: why its PIN is not sent to a token unasked.
    """

    node: str
    host: str
    folder: str
    joined_at: datetime
    here: bool
    drained_at: datetime | None
    workers: int
    versions: list[str]
    tokens: list[str]
    last_heartbeat: datetime | None
    lag: int | None
    pin: str | None
    next: str | None


class Nodes:
    """The operator's procedures on nodes. ConfigurationError where the databases are files: there is one node."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"

    @property
    def shared(self) -> bool:
        """True if the database is on a server, so that there may be several nodes."""
        return self._core.store.target is not None

    def beat(self) -> None:
        """Write this process's heartbeat. StoreError if its node was removed."""
        core = self._core
        require_registered(core)
        core.cache.look()
        presence.beat(core.store, self._process(core.cache.epoch, core.tokens.names()))

    def end_beats(self) -> None:
        """Remove this process's heartbeat; an error is only logged, since the process ends."""
        try:
            if self.shared:
                presence.leave(self._core.store, self._process(0, []))
        except HsmKmsError as exc:
            log.warning("the heartbeat of this process could not be removed: %s", exc)

    def _process(self, epoch: int, tokens: list[tuple[str, str]]) -> Process:
        return Process(
            node_id=node_id.read(self._core.store.folder) or "",
            name=self._name,
            version=metadata.version("hsmkms"),
            revision=META_REVISIONS[-1],
            epoch=epoch,
            tokens=tokens,
        )

    def standings(self) -> list[NodeStanding]:
        """Return all nodes, in the order in which they joined."""
        self._require_shared()
        heartbeats = presence.fetch_all(self._core.store)
        with self._core.store.reading() as conn:
            known, newest = nodes.fetch_all(conn), changes.latest(conn)
            notices = dict(pin_notices.pending(conn))
        return [
            self._standing(
                each, [beat for beat in heartbeats if beat.process.node_id == each.id], newest, notices.get(each.id)
            )
            for each in known
        ]

    def _standing(
        self, node: Node, heartbeats: Sequence[Heartbeat], newest: int, notice: PinNotice | None
    ) -> NodeStanding:
        running = [each.process for each in heartbeats if each.fresh]
        reached = set.intersection(*({label for label, _ in each.tokens} for each in running)) if running else set()
        last = max((each.seen_at for each in heartbeats), default=None)
        return NodeStanding(
            node=node.id,
            host=node.host,
            folder=node.folder,
            joined_at=node.joined_at,
            here=node.id == node_id.read(self._core.store.folder),
            drained_at=node.drained_at,
            workers=len(running),
            versions=sorted({each.version for each in running}),
            tokens=sorted(reached),
            last_heartbeat=last,
            lag=max((max(newest - each.epoch, 0) for each in running), default=None),
            pin=_pin_fault(notice) if notice is not None else None,
            next=_advice(node, running, last),
        )

    @recorded("DrainNode", name="node", undo="undo")
    def drain(self, name: str, *, undo: bool) -> NodeStanding:
        """Let a node's workers say that they are not ready, so that balancers send them nothing new; or undo it."""
        node = self._named(name)
        with self._core.audited_and_sealed() as tx:
            nodes.set_drained(tx, node.id, None if undo else self._core.clock())
        return next(each for each in self.standings() if each.node == node.id)

    @recorded("RemoveNode", name="node")
    def remove(self, name: str) -> Node:
        """Remove a node: no process of its data folder opens the installation again.

        ConfigurationError for the node of this data folder, and for one with a worker that runs.
        """
        node, store = self._named(name), self._core.store
        if node.id == node_id.read(store.folder):
            raise ConfigurationError(f"{node} is the one of this data folder: run remove-node on another node")
        with self._core.audited_and_sealed() as tx:
            running = [each for each in presence.fresh(store) if each.node_id == node.id]
            if running:
                raise ConfigurationError(
                    f"node {node.id} has {len(running)} running workers: stop its server first; once it has been gone "
                    f"for {presence.FRESH.total_seconds():.0f} seconds it can be removed"
                )
            nodes.remove(tx, node.id)
            presence.forget(tx, node.id)
            pin_notices.forget(tx, node.id)
        return node

    def without_token(self, label: str, serials: frozenset[str]) -> list[str]:
        """Return the other nodes with a running worker that does not reach a token, for people."""
        names = {(label, each) for each in serials}
        return self._described([each for each in self._others() if names.isdisjoint(each.tokens)])

    def of_other_versions(self, version: str) -> list[str]:
        """Return the other nodes with a running worker of another version of the program, for people."""
        return self._described([each for each in self._others() if each.version != version])

    def silent(self) -> list[str]:
        """Return the other nodes without a running worker, for people: nothing is known of them."""
        if not self.shared:
            return []
        running = {each.node_id for each in self._others()}
        with self._core.store.reading() as conn:
            known = nodes.fetch_all(conn)
        own = node_id.read(self._core.store.folder)
        return [str(each) for each in known if each.id not in running and each.id != own]

    def _others(self) -> list[Process]:
        own = node_id.read(self._core.store.folder)
        return presence.fresh(self._core.store, besides=own) if self.shared else []

    def _described(self, processes: Sequence[Process]) -> list[str]:
        wanted = presence.nodes_of(processes)
        if not wanted:
            return []
        with self._core.store.reading() as conn:
            known = {each.id: str(each) for each in nodes.fetch_all(conn)}
        return [known.get(each, f"node {each}") for each in wanted]

    def _named(self, name: str) -> Node:
        """Return the node with that id, or with an id that begins so. Raises ConfigurationError."""
        self._require_shared()
        with self._core.store.reading() as conn:
            known = nodes.fetch_all(conn)
        fitting = [each for each in known if name and each.id.startswith(name)]
        if len(fitting) != 1:
            listed = "; ".join(map(str, known))
            raise ConfigurationError(f"name one node by its id, or by how only its id begins: {listed}")
        return fitting[0]

    def _require_shared(self) -> None:
        if not self.shared:
            _refuse_files(self._core)


def _refuse_files(core: Core) -> NoReturn:
    raise ConfigurationError(
        f"the databases are files of {core.store.folder} ({META.name}), so this is the only node: `hsmkms guide nodes` "
        "says how there can be more"
    )


def _pin_fault(notice: PinNotice) -> str:
    """Return why a node's PIN is not sent unasked, and what to do."""
    what = "was changed on" if notice.changed else "was refused on"
    return (
        f"the PIN of the token {notice.label!r} {what} node {notice.by} at {notice.noted_at:%Y-%m-%d %H:%M:%S} UTC: "
        "write the right one into its source on this node, then run `hsmkms doctor --retry-pin` there"
    )


def _advice(node: Node, running: Sequence[Process], last: datetime | None) -> str | None:
    """Return what to do about a node, or None."""
    if node.drained_at is not None:
        return f"drained: stop its server, or `hsmkms drain-node --node {node.id} --undo`"
    if not running and last is not None:
        return f"its server is gone: start it again, or `hsmkms remove-node --node {node.id}` if it is lost"
    return None


def require_registered(core: Core) -> bool:
    """Return False if this node is drained. StoreError if it was removed: nothing is answered any more then."""
    if core.store.target is None:
        return True
    with core.store.reading() as conn:
        known = {each.id: each for each in nodes.fetch_all(conn)}
    own = known.get(node_id.read(core.store.folder) or "")
    if own is None:
        fault = nodes.removed()
        core.cache.refuse(fault)
        raise fault
    return own.drained_at is None
