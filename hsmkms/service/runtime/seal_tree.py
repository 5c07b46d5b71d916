"""Read and write the tree over the seals within one transaction; each node is verified before it is used."""

import hmac
from collections.abc import Callable
from typing import Final, Self

from hsmkms.rules import seal_tree as rules
from hsmkms.store import seal_tree as stored
from hsmkms.store.engine import Connection
from hsmkms.store.row_seals import RootRow, SealRow

_MAC_BYTES: Final = rules.DIGEST_BYTES


class BrokenTreeError(Exception):
    """A part of the tree is missing, or not as it was written."""


class SealTree:
    """The record of which seal of each subject is in force."""

    def __init__(self, key: bytes, top: bytes, part: Callable[[int], bytes]) -> None:
        self._key = key
        self._part = part
        self._values: dict[int, bytes] = {rules.TOP: top}
        self._leaves: dict[int, dict[bytes, bytes]] = {}
        self._changed: set[int] = set()

    @classmethod
    def empty(cls, key: bytes) -> Self:
        """Return a new tree without entries."""
        return cls(key, b"", lambda _: b"")

    @classmethod
    def read(cls, conn: Connection, key: bytes, first: str = "", *, whole: bool = False) -> Self:
        """Read the stored tree, whose top must fit the newest root; ``first``: a subject that will be looked up.

        ``whole``: all parts are fetched by one query, for ``every``. BrokenTreeError if they do not fit.
        danger: under a foreign schema it may not be all that is there; see ``seal_checks.tree``.
        """
        leaf = rules.leaf_of(rules.name(key, first))
        node, _ = rules.parent_of(leaf)
        found = stored.path(conn, node, leaf)
        if found is None:
            raise BrokenTreeError
        mac, top = found.top[:_MAC_BYTES], found.top[_MAC_BYTES:]
        if not hmac.compare_digest(mac, _top_mac(key, found.root, top)):
            raise BrokenTreeError
        if whole:
            parts = stored.parts(conn)
            return cls(key, top, lambda number: parts.get(number, b""))
        known = {node: found.node, leaf: found.leaf}
        return cls(key, top, lambda number: known[number] if number in known else stored.part(conn, number))

    def tag(self, subject: str) -> bytes | None:
        """Return the entry of a subject, or None if it has no seal. BrokenTreeError if a node cannot be verified."""
        name = rules.name(self._key, subject)
        return self._leaf(rules.leaf_of(name)).get(name)

    def enter(self, subject: str, seal: SealRow | None) -> None:
        """Set the seal of a subject that is in force from now on; None: it has none."""
        name = rules.name(self._key, subject)
        number = rules.leaf_of(name)
        tags = self._leaf(number)
        if seal is None:
            tags.pop(name, None)
        else:
            tags[name] = rules.tag(self._key, subject, seal.epoch, seal.mac)
        self._changed.add(number)

    def every(self) -> dict[bytes, bytes]:
        """Return all entries by name. BrokenTreeError if any part is not as it was written."""
        entries: dict[bytes, bytes] = {}
        for node in range(1, 1 + rules.FAN):
            value = self._value(node)
            for place, number in enumerate(rules.leaves_of(node)):
                # Most leaves are empty: neither stored nor said to be stored. One that is either is verified.
                if number in self._leaves or not rules.is_empty(value, place) or self._part(number):
                    entries |= self._leaf(number)
        return entries

    def write(self, tx: Connection, root: RootRow) -> None:
        """Write the changed entries; ``root``: the seal over all rows from now on."""
        fresh = {number: rules.leaf(self._leaves[number]) for number in self._changed}
        nodes = self._with_parts(fresh)
        top = self._with_parts(nodes).get(rules.TOP, self._values[rules.TOP])
        stored.put(tx, fresh | nodes | {rules.TOP: _top_mac(self._key, root, top) + top})

    def _with_parts(self, parts: dict[int, bytes]) -> dict[int, bytes]:
        """Return the parents of these parts, with the new digests of these."""
        above: dict[int, bytes] = {}
        for number, value in parts.items():
            parent, place = rules.parent_of(number)
            known = above[parent] if parent in above else self._value(parent)
            above[parent] = rules.with_digest(known, place, rules.digest(self._key, number, value))
        return above

    def _leaf(self, number: int) -> dict[bytes, bytes]:
        tags = self._leaves.get(number)
        if tags is None:
            tags = self._leaves[number] = rules.entries(self._value(number))
        return tags

    def _value(self, number: int) -> bytes:
        """Return a part, verified by the digest in its parent."""
        known = self._values.get(number)
        if known is not None:
            return known
        above, place = rules.parent_of(number)
        value = self._part(number)
        wanted = rules.digest_at(self._value(above), place)
        if not hmac.compare_digest(rules.digest(self._key, number, value), wanted):
            raise BrokenTreeError
        self._values[number] = value
        return value


def _top_mac(key: bytes, root: RootRow, top: bytes) -> bytes:
    """Return the HMAC of the top, bound to the root, so that neither can be put back without the other."""
    return rules.digest(key, rules.TOP, top, b"%d\0" % root.number + root.nonce + root.value)
