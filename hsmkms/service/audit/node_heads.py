"""Publish the ends of this node's audit log in the database, and compare what all nodes have published.

Each node has a log of its own on its disk. What it has published is in the seals of all nodes: so a log that was lost,
shortened or replaced by an older copy contradicts the database, and the seals of other nodes, even with its own seals.
A row that was edited by hand does not fit its HMAC; an older row that is put back is older than the other nodes' seals.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import UNSET, Struct

from hsmkms.errors import HsmKmsError
from hsmkms.model.audit import Fault, Head, NodeSeal, PublishedHead, Seal
from hsmkms.rules.audit import chain as audit_chain
from hsmkms.rules.audit import heads as rules
from hsmkms.rules.audit.chain import CHANGED, MISSING, ROLLED_BACK
from hsmkms.service.runtime.core import Core
from hsmkms.store import audit_heads, nodes
from hsmkms.store.audit_heads import StoredHead
from hsmkms.store.engine import Connection

log = logging.getLogger("hsmkms.service")

_NODE_DIGITS: Final = 8

NodeSeals = Mapping[str, Mapping[str, NodeSeal]]
"""What other nodes have published, by node and lane."""


class Known(Struct, frozen=True):
    """What the nodes have published, and the nodes' names for people.

    ``proven``: by node and lane. ``forged``: without a fitting HMAC. ``outdated``: proven by a former key.
    """

    proven: dict[tuple[str, str], PublishedHead]
    forged: list[PublishedHead]
    outdated: list[PublishedHead]
    names: dict[str, str]

    def name(self, node_id: str) -> str:
        """Return the name of a node for people."""
        return self.names.get(node_id, f"node {node_id}, which is not registered any more")


class NodeHeads:
    """The published ends of an installation's audit logs. Without a database on a server there are none."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._node_id = core.audit.node_id
        self.shared = core.store.target is not None and bool(self._node_id)
        """True if other nodes may use the database."""

    def publish(self, heads: Mapping[str, Head], acceptance: int) -> None:
        """Publish ends of this node's lanes that are on its disk."""
        if self.shared and heads:
            core = self._core
            core.store.log.run(lambda tx: audit_heads.publish(tx, self._signed(tx, heads, acceptance)))

    def replace(self, heads: Mapping[str, Head], acceptance: int) -> None:
        """Publish the ends of all lanes of a log that was accepted as it is, in place of all that was published."""
        if not self.shared:
            return

        def work(tx: Connection) -> None:
            lanes = {each.published.lane for each in audit_heads.fetch(tx) if each.published.node == self._node_id}
            gone = {lane: self._nothing(lane) for lane in lanes - heads.keys()}
            audit_heads.replace(tx, self._node_id, self._signed(tx, {**heads, **gone}, acceptance))

        self._core.store.log.run(work)

    def known(self) -> Known:
        """Return what all nodes have published. To be called before the files are read that it is compared with."""
        if not self.shared:
            return Known({}, [], [], {})
        with self._core.store.reading() as conn:
            rows = audit_heads.fetch(conn)
            key = self._core.seals.key(conn)
            older = [each for each in rows if not rules.proves(key, each.published, each.mac)]
            former = self._former_keys(conn) if older else []
            names = {each.id: str(each) for each in nodes.fetch_all(conn)}
        outdated = [each.published for each in older if any(rules.proves(k, each.published, each.mac) for k in former)]
        forged = [each.published for each in older if each.published not in outdated]
        proven = {(each.published.node, each.published.lane): each.published for each in rows}
        for each in forged:
            del proven[each.node, each.lane]
        return Known(proven, forged, outdated, names)

    def renew(self, known: Known) -> None:
        """Sign again what was signed with former keys, by nodes that do not publish any more, say."""
        if known.outdated:
            log_db = self._core.store.log
            log_db.run(lambda tx: audit_heads.publish(tx, self._sign(tx, known.outdated)))

    def has_others(self) -> bool:
        """Return True if another node has ever published the end of a log, also one that was removed since."""
        if not self.shared:
            return False
        with self._core.store.reading() as conn:
            return any(each.published.node != self._node_id for each in audit_heads.fetch(conn))

    def own(self, known: Known, acceptance: int) -> dict[str, Head]:
        """Return the published ends of this node's lanes since the log was last accepted."""
        return {
            lane: each.head
            for (node_id, lane), each in known.proven.items()
            if node_id == self._node_id and each.acceptance == acceptance
        }

    def contradiction(self, known: Known, heads: Mapping[str, Head], acceptance: int) -> str | None:
        """Return how the ends of this node's lanes contradict what it has published itself, or None."""
        for each in known.forged:
            if each.node == self._node_id:
                return _forged(each, "this node")
        for (node_id, lane), published in sorted(known.proven.items()):
            if node_id == self._node_id:
                words = _difference(published, heads.get(lane) or self._nothing(lane), acceptance)
                if words is not None:
                    return f"lane {lane} of the audit log {words}"
        return None

    def forged(self, known: Known) -> list[Fault]:
        """Return the rows that were edited by hand, of any node."""
        return [
            self._fault(each.node, each.lane, CHANGED, each.head.sequence, _forged(each, known.name(each.node)))
            for each in known.forged
        ]

    def others(self, known: Known, sealed: Seal | None) -> list[Fault]:
        """Return how what other nodes have published contradicts the newest seal of this one.

        After a move of the store into files there are no other nodes; what was sealed of them stays in the seals.
        """
        faults = list[Fault]()
        if not self.shared:
            return faults
        forged = {(each.node, each.lane) for each in known.forged}
        for node_id, lanes in sorted(_nodes(sealed).items()):
            for lane, before in sorted(lanes.items()):
                if (node_id, lane) not in forged:
                    faults += self._against_seal(known, node_id, lane, before)
        return faults

    def to_seal(self, known: Known, last: Seal | None) -> NodeSeals:
        """Return what a seal says of the other nodes: the latest of what is published and what was sealed before."""
        sealed: dict[str, dict[str, NodeSeal]] = {node: dict(lanes) for node, lanes in _nodes(last).items()}
        for (node_id, lane), published in known.proven.items():
            if node_id == self._node_id:
                continue
            before = sealed.setdefault(node_id, {}).get(lane)
            if before is None or published.age > (before.acceptance, before.head.sequence):
                sealed[node_id][lane] = NodeSeal(acceptance=published.acceptance, head=published.head)
        return sealed

    def _against_seal(self, known: Known, node_id: str, lane: str, before: NodeSeal) -> list[Fault]:
        """Compare the end of another node's lane with the one that this node has sealed."""
        now, at = known.proven.get((node_id, lane)), before.head.sequence
        name, sealed_age = known.name(node_id), (before.acceptance, at)
        if now is None:
            words = f"the database does not know any more that lane {lane} of the audit log of {name} had {at} records"
            return [self._fault(node_id, lane, MISSING, at, words)]
        if now.age < sealed_age:
            words = f"lane {lane} of the audit log of {name} had {at} records, and {now.head.sequence} by the database"
            return [self._fault(node_id, lane, ROLLED_BACK, now.head.sequence + 1, words)]
        if now.age == sealed_age and now.head.hash != before.head.hash:
            words = f"record {at} of lane {lane} of the audit log of {name} is not the one that was sealed"
            return [self._fault(node_id, lane, CHANGED, at, words)]
        return []

    @staticmethod
    def _fault(node_id: str, lane: str, kind: str, sequence: int, detail: str) -> Fault:
        return Fault(lane=f"{node_id[:_NODE_DIGITS]}/{lane}", sequence=sequence, kind=kind, detail=detail)

    def _signed(self, conn: Connection, heads: Mapping[str, Head], acceptance: int) -> Sequence[StoredHead]:
        now = self._core.clock()
        published = [
            PublishedHead(node=self._node_id, lane=lane, acceptance=acceptance, head=head, at=now)
            for lane, head in sorted(heads.items())
        ]
        return self._sign(conn, published)

    def _sign(self, conn: Connection, published: Sequence[PublishedHead]) -> Sequence[StoredHead]:
        key = self._core.seals.key(conn)
        return [StoredHead(each, rules.mac(key, each)) for each in published]

    def _former_keys(self, conn: Connection) -> list[bytes]:
        """Return the versions of the key of the seals that are still on a token that is there."""
        keys = list[bytes]()
        try:
            keys.extend(self._core.seals.keys(conn))
        except HsmKmsError as exc:
            log.info("a former key of the seals cannot be used: %s", exc)
        return keys

    def _nothing(self, lane: str) -> Head:
        genesis = audit_chain.genesis(self._core.installation.id, lane, self._node_id)
        return Head(sequence=0, hash=genesis, segment=0)


def acceptance_of(seal: Seal | None) -> int:
    """Return the number of the newest seal, up to this one, that accepts the log as it was; 0 if there is none."""
    if seal is None:
        return 0
    return seal.number if seal.restored else 0 if seal.acceptance is UNSET else seal.acceptance


def _nodes(seal: Seal | None) -> NodeSeals:
    return {} if seal is None or seal.nodes is UNSET else seal.nodes


def _forged(published: PublishedHead, name: str) -> str:
    return f"what the database says of the end of lane {published.lane} of the audit log of {name} is not by hsmkms"


def _difference(published: PublishedHead, head: Head, acceptance: int) -> str | None:
    """Return how a lane that ends there contradicts what was published of it, or None."""
    if published.acceptance > acceptance:
        return f"is from before it was accepted by seal {published.acceptance}, of which the database knows"
    if published.acceptance < acceptance:
        return None
    if head.sequence < published.head.sequence:
        return f"ends at record {head.sequence}, but the database knows that it had {published.head.sequence}"
    if head.sequence == published.head.sequence and head.hash != published.head.hash:
        return f"has another record {head.sequence} than the one that the database knows of"
    return None
