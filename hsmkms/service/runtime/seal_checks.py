"""Compare rows with their seals, and the seals with the tree that records which of them are in force."""

import hmac
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Self

from msgspec import Struct

from hsmkms.rules import row_seals as rules
from hsmkms.rules import seal_tree
from hsmkms.service.runtime.seal_tree import BrokenTreeError, SealTree
from hsmkms.store import announcements, move_mark, row_forms, row_seals, seal_engine, sealed_rows
from hsmkms.store.announcements import Announcement
from hsmkms.store.engine import Connection
from hsmkms.store.proven_rows import ProvenRows
from hsmkms.store.row_seals import SealRow
from hsmkms.store.seal_layout import Entry
from hsmkms.store.sealed_tables import SCHEMA, SealedTable, Values

STORE: Final = "store"
"""Subject of faults that concern all rows together."""

ROOTLESS: Final = "the seal over all rows was removed"

_ALTERED: Final = "its rows are not those that were sealed: something was changed, added or removed by hand"
_UNSEALED: Final = "it has rows but no seal: they were put there by hand"
_SEALLESS: Final = "its seal was removed by hand"
_VANISHED: Final = "its rows were removed by hand"
_RETURNED: Final = "it was removed by hsmkms, and put back by hand"
_OLDER: Final = "it was put back to an older state, together with its seal"
_TREELESS: Final = "the tree over the seals was removed or changed by hand, so that no seal is known to be in force"
_NAMELESS: Final = "what {} seals are about was removed by hand, together with every trace of what it was"
_FOREIGN: Final = (
    "its schema is not the one that hsmkms made, so what is written or read may be changed on the way: {}. Restore a "
    "backup, or remove what was added (DROP TRIGGER, VIEW, INDEX or TABLE), and see what it has done"
)
_DAMAGED: Final = (
    "its file does not fit together, so that rows may be hidden from some queries: {}. Restore a backup; if only "
    "indexes are named, stop all hsmkms processes and run `sqlite3 meta.db REINDEX`"
)
_ROOT: Final = (
    "the rows are not all those that there should be: a part of them was put back to an older state, together with its "
    "seals"
)


Form = Callable[[SealedTable, Values], bytes]
"""Serialises a row for its seal: ``row_forms.form``, or an earlier program's."""


class RowFault(Struct, frozen=True, order=True):
    """A subject or index whose rows are not as hsmkms wrote them, and the reason."""

    subject: str
    reason: str


class AlteredError(Exception):
    """Rows are not as hsmkms wrote them."""

    def __init__(self, fault: RowFault) -> None:
        super().__init__(fault.subject)
        self.fault = fault


class Totals(Struct):
    """Sums of row hashes: that of all rows, and those of each subject and each index."""

    form: Form = row_forms.form
    whole: int = 0
    subjects: dict[str, int] = {}
    indexes: dict[str, int] = {}

    @classmethod
    def every(cls, conn: Connection, key: bytes, form: Form = row_forms.form) -> Self:
        """Return the sums of the whole store."""
        totals = cls(form)
        for subject, entry in sealed_rows.every(conn):
            totals.add(key, subject, [entry])
        return totals

    def add(self, key: bytes, subject: str, entries: Iterable[Entry]) -> None:
        """Add rows of a subject."""
        for each in entries:
            number = rules.row_hash(key, each.table.name, self.form(each.table, each.values))
            self.whole = rules.reduced(self.whole + number)
            self.subjects[subject] = rules.reduced(self.subjects.get(subject, 0) + number)
            if each.lookup is not None:
                self.indexes[each.lookup] = rules.reduced(self.indexes.get(each.lookup, 0) + number)


def tree(conn: Connection, key: bytes, subjects: Sequence[str]) -> SealTree:
    """Read the tree over the seals, for these subjects. AlteredError if the tree or the schema was altered."""
    require_schema(conn, key)
    return _tree(conn, key, subjects)


def _tree(conn: Connection, key: bytes, subjects: Sequence[str]) -> SealTree:
    try:
        return SealTree.read(conn, key, *subjects[:1])
    except BrokenTreeError:
        raise AlteredError(RowFault(STORE, _TREELESS)) from None


def require(
    conn: Connection, key: bytes, known: SealTree, subjects: Iterable[str], proven: list[Entry] | None = None
) -> Totals:
    """Check these subjects and indexes; return the sums of their rows. AlteredError if any is not as it was sealed.

    ``proven`` receives the rows themselves.
    """
    totals = Totals()
    for subject in subjects:
        entries = sealed_rows.entries(conn, subject)
        totals.add(key, subject, entries)
        if proven is not None:
            proven += entries
        found = totals.subjects.get(subject) if entries else None
        reason = _judge(conn, key, subject, found, row_seals.fetch(conn, subject), _tag(known, subject))
        if reason is not None:
            raise AlteredError(RowFault(subject, reason))
    return totals


def index_total(conn: Connection, key: bytes, known: SealTree, index: str) -> int:
    """Return the sum of an index's rows from its seal, without reading them. AlteredError if the seal was altered."""
    seal, tag = row_seals.fetch(conn, index), _tag(known, index)
    if seal is None and tag is None:
        return 0
    if seal is None or tag is None:
        raise AlteredError(RowFault(index, _SEALLESS if seal is None else _RETURNED))
    if not _in_force(key, index, seal, tag):
        raise AlteredError(RowFault(index, _OLDER))
    return rules.index_total(key, index, seal.mac)


def faults(conn: Connection, key: bytes, form: Form = row_forms.form) -> list[RowFault]:
    """Return all faults of the store."""
    seal_engine.of(conn).compare_again(conn)
    foreign = differences(conn, key)
    found = _foreign(foreign)
    if foreign and not sealed_rows.are_readable(conn):
        return found
    totals = Totals.every(conn, key, form)
    damage = seal_engine.of(conn).damage(conn)
    if damage:
        found.append(RowFault(STORE, _DAMAGED.format("; ".join(damage))))
    root = row_seals.newest_root(conn)
    if root is None:
        return [*found, RowFault(STORE, ROOTLESS)]
    known, seals = totals.subjects | totals.indexes, row_seals.every(conn)
    names = {*known, *seals, *row_seals.newest_changes(conn)}
    try:
        tags = _whole_tree(conn, key, trusted=not foreign)
        found += _nameless(key, tags, names)
    except BrokenTreeError:
        # The seals are taken for those that are in force, to name what can be named.
        tags = {seal_tree.name(key, each): _tag_of(key, each, seal) for each, seal in seals.items()}
        names = {each for each in names if not sealed_rows.is_index(conn, each)}
        found = found or [RowFault(STORE, _TREELESS)]
    for subject in sorted(names):
        tag = tags.get(seal_tree.name(key, subject))
        reason = _judge(conn, key, subject, known.get(subject), seals.get(subject), tag)
        if reason is not None:
            found.append(RowFault(subject, reason))
    sealed = rules.total_of(key, rules.Root(number=root.number, nonce=root.nonce, value=root.value))
    return found if found or sealed == totals.whole else [RowFault(STORE, _ROOT)]


def require_schema(conn: Connection, key: bytes) -> None:
    """Raise AlteredError if the schema is not one that hsmkms created: nothing is sealed under another one."""
    found = differences(conn, key)
    if found:
        raise AlteredError(*_foreign(found))


def differences(conn: Connection, key: bytes) -> tuple[str, ...]:
    """Return how the schema differs from this program's; empty if another program has announced the one that is there.

    From then on the connection reads and seals rows by that announcement.
    """
    engine = seal_engine.of(conn)
    if engine.differences(conn):
        for each in reversed(_announced(conn, key)):
            if engine.accept(conn, each.content.objects):
                conn.info[seal_engine.LAYOUT] = each.layout
                break
    return engine.differences(conn)


def _announced(conn: Connection, key: bytes) -> list[Announcement]:
    """Return the announcements that this program can use; none if they are not as they were sealed."""
    try:
        proven = require_announcements(conn, key)
    except AlteredError:
        return []
    return announcements.usable(proven, older=bool(conn.info.get(seal_engine.OLDER)))


def require_announcements(conn: Connection, key: bytes) -> ProvenRows:
    """Return the rows of all announcements. AlteredError if they are not as they were sealed.

    The schema is not known yet. That may hide announcements or show older ones, but nothing that was not sealed.
    """
    proven: list[Entry] = []
    require(conn, key, _tree(conn, key, [SCHEMA]), [SCHEMA], proven)
    return ProvenRows(proven)


def _whole_tree(conn: Connection, key: bytes, *, trusted: bool) -> dict[bytes, bytes]:
    """Return all entries of the tree. BrokenTreeError if it does not fit, or under a schema that is not ``trusted``."""
    if not trusted:
        raise BrokenTreeError
    return SealTree.read(conn, key, whole=True).every()


def _foreign(differences: Sequence[str]) -> list[RowFault]:
    if any(move_mark.TABLE in each for each in differences):
        return [RowFault(STORE, move_mark.REFUSED)]
    return [RowFault(STORE, _FOREIGN.format(", ".join(differences)))] if differences else []


def _nameless(key: bytes, tags: dict[bytes, bytes], names: Iterable[str]) -> list[RowFault]:
    count = len(tags.keys() - {seal_tree.name(key, each) for each in names})
    return [RowFault(STORE, _NAMELESS.format(count))] if count else []


def _judge(
    conn: Connection, key: bytes, subject: str, found: int | None, seal: SealRow | None, tag: bytes | None
) -> str | None:
    """Return the fault of a subject or index with that sum of rows (None: no rows), or None if there is no fault."""
    if seal is None:
        if tag is None:
            return None if found is None else _UNSEALED
        return _VANISHED if found is None else _SEALLESS
    if tag is None:
        return _RETURNED
    if found is None:
        return _VANISHED
    if not _fits(conn, key, subject, seal, found):
        return _ALTERED
    return None if _in_force(key, subject, seal, tag) else _OLDER


def _fits(conn: Connection, key: bytes, subject: str, seal: SealRow, found: int) -> bool:
    """Return True if the seal was made for rows with that sum."""
    if sealed_rows.is_index(conn, subject):
        return rules.index_total(key, subject, seal.mac) == found
    return hmac.compare_digest(rules.subject_mac(key, subject, seal.epoch, found), seal.mac)


def _in_force(key: bytes, subject: str, seal: SealRow, tag: bytes) -> bool:
    return hmac.compare_digest(_tag_of(key, subject, seal), tag)


def _tag_of(key: bytes, subject: str, seal: SealRow) -> bytes:
    return seal_tree.tag(key, subject, seal.epoch, seal.mac)


def _tag(known: SealTree, subject: str) -> bytes | None:
    try:
        return known.tag(subject)
    except BrokenTreeError:
        raise AlteredError(RowFault(STORE, _TREELESS)) from None
