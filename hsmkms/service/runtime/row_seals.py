"""Seal the rows that decide, and check them: rows that were edited by hand are detected and not used.

Each subject (a key, an alias, a grant, a user, a group) has a seal, which is made in the transaction that changes it
and checked when its rows are read for a decision. So has each index (the aliases of a key, the grants of a principal on
a key, an access key by its id): a sum over its rows, which a change updates without reading the other rows. A tree over
all seals records which of them are in force: rows that were removed or put back together with their seal contradict it.
The key of the seals is derived on the token, once per process; after that no call to the token is needed, least of all
within a transaction. (The exception is the first transaction after a rotation of the installation's own key: the seal
of the installation's rows shows which version is in force.) A change first checks the rows as they were, so that it
cannot legitimise an edit; it does so at its commit, so that no procedure can omit it.
"""

import hmac
import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NoReturn

from msgspec import Struct

from hsmkms.errors import HsmKmsError, KMSInternalException, StoreError
from hsmkms.rules import row_seals as rules
from hsmkms.service.runtime import seal_checks
from hsmkms.service.runtime.seal_checks import AlteredError, Form, RowFault, Totals
from hsmkms.service.runtime.seal_tree import SealTree
from hsmkms.store import announcements, row_forms, row_seals, seal_engine, seal_layout, seal_tree, sealed_rows
from hsmkms.store.engine import Connection, Store
from hsmkms.store.proven_rows import ProvenRows
from hsmkms.store.row_seals import RootRow, SealRow
from hsmkms.store.seal_layout import INSTALLATION, Entry
from hsmkms.store.sealed_tables import NODE, SCHEMA

log = logging.getLogger("hsmkms.service")

REFUSED: Final = (
    "A record that this request needs is not as hsmkms wrote it, so it is not used. Tell the operator: `hsmkms "
    "verify-store` shows which one, and why."
)
_NO_KEY: Final = b""
"""Stands for the key if all rows that name the installation's own key were removed by hand; it seals nothing."""


MakeKeys = Callable[[Connection, bytes], Iterable[bytes]]
"""Derives the keys that the rows of a database may be sealed with, newest first, from a label."""


class RowSeals:
    """Seals what this process writes, and checks what it reads. Thread-safe."""

    def __init__(self, store: Store, make_keys: MakeKeys) -> None:
        self.alarms: dict[str, str] = {}
        """Faults found since this process began, by subject."""
        self._store = store
        self._make_keys = make_keys
        self._key: bytes | None = None
        self._before_migration = False
        self._lock = threading.Lock()
        self.without_key: Callable[[], HsmKmsError | None] = lambda: None
        """Returns, without a call to the token, the reason why no seal can be checked at all, or None."""
        store.sealing = True

    def key(self, conn: Connection) -> bytes:
        """Return the key of the seals in the database; raises the token's error, and tries again at the next call."""
        with self._lock:
            if self._key is None or not _fits(conn, self._key):
                newest = None
                for each in self._make_keys(conn, rules.KEY_LABEL):
                    newest = newest or each
                    if _fits(conn, each):
                        self._key = each
                        return each
                # If none fits, those rows were edited; other ones may still be right.
                self._key = self._key or newest or _NO_KEY
            return self._key

    def keys(self, conn: Connection) -> Iterable[bytes]:
        """Return the keys of all versions, newest first; raises the token's error after those that it has."""
        return self._make_keys(conn, rules.KEY_LABEL)

    # -- reading ------------------------------------------------------------------------------------------------

    def check(self, conn: Connection, *subjects: str) -> ProvenRows:
        """Return the rows of these subjects and indexes, proven to be exactly those that were sealed.

        Else raises the alarm and KMSInternalException. A decision uses these rows: another query may return other ones.
        """
        try:
            key = self._key or self.key(conn)
            try:
                return _proven(conn, key, subjects)
            except AlteredError:
                return _proven(conn, self.key(conn), subjects)  # the key may have been rotated
        except AlteredError as exc:
            self._refuse(exc)

    def verify(self, conn: Connection) -> list[RowFault]:
        """Check the whole store; return the faults of each subject, or else of all rows together."""
        by = self._sealed_by(conn) or _SealedBy(self.key(conn), row_forms.form, b"")
        faults = seal_checks.faults(conn, by.key, by.form)
        self.alarms = {}
        for each in faults:
            self._alarm(each)
        return faults

    def _sealed_by(self, conn: Connection) -> "_SealedBy | None":
        """Return how the rows are sealed; None if no key fits the seals, since the rows that name it were edited.

        Programs up to schema meta_0008 had another form. The tree over the seals came with meta_0008.
        """
        key = self.key(conn)
        if _fits(conn, key):
            return _SealedBy(key, row_forms.form, key)
        former = self._make_keys(conn, rules.KEY_LABEL_UNTIL_0008)
        for each, present in zip(former, self._make_keys(conn, rules.KEY_LABEL), strict=True):
            if _fits(conn, each, row_forms.form_until_0008):
                return _SealedBy(each, row_forms.form_until_0008, present)
        return None

    def _require_schema(self, conn: Connection, key: bytes) -> None:
        """Raise StoreError if the schema is not hsmkms's own: a foreign one could hide deciding rows from the seals."""
        try:
            seal_checks.require_schema(conn, key)
        except AlteredError as exc:
            self._alarm(exc.fault)
            raise StoreError(f"{self._store.meta.name} is not sealed: {exc.fault.reason}") from None

    def _refuse(self, error: AlteredError) -> NoReturn:
        self._alarm(error.fault)
        raise self.without_key() or KMSInternalException(REFUSED) from None

    def _alarm(self, fault: RowFault) -> None:
        if self.without_key() is not None:
            log.error("%s: it cannot be proven while the token lacks the key of the seals", fault.subject)
        elif self.alarms.get(fault.subject) != fault.reason:
            words = "the control-plane database was changed by something other than hsmkms: %s: %s"
            log.error(words, fault.subject, fault.reason)
        self.alarms[fault.subject] = fault.reason

    # -- writing: the companion of the control-plane database ---------------------------------------------------

    def before_commit(self, tx: Connection) -> None:
        """Seal the rows that the transaction has changed; KMSInternalException if they were not as sealed before."""
        engine = seal_engine.of(tx)
        dirty = engine.take_touched(tx)
        # Under a foreign schema nothing is committed: a trigger may have suppressed changes.
        root = row_seals.newest_root(tx) if dirty or engine.differences(tx) else None
        if root is None:
            return
        try:
            with self._store.reading() as before:  # nobody else can commit now: this is what the transaction began with
                before.info[seal_engine.OLDER] = self._before_migration
                key = self._key or self.key(before)
                try:
                    change = _changed(before, tx, key, dirty)
                except AlteredError:
                    key = self.key(before)  # the key may have been rotated
                    change = _changed(before, tx, key, dirty)
        except AlteredError as exc:
            self._refuse(exc)
        if dirty:
            _seal_change(tx, key, change, root)

    def after_commit(self) -> None:
        """Do nothing: the seals were committed with the rows."""

    def rolled_back(self) -> None:
        """Do nothing: the list of changed subjects was rolled back with the transaction."""

    # -- the whole ----------------------------------------------------------------------------------------------

    def empty(self) -> bool:
        """Return True if the store has only the rows of `hsmkms init`."""
        with self._store.reading() as conn:
            return _is_new(conn)

    def root(self) -> RootRow | None:
        """Return the seal over the whole store in its present state, or None if it was never sealed."""
        with self._store.reading() as conn:
            return row_seals.newest_root(conn)

    def contradiction(self, number: int, value: str) -> str | None:
        """Return a message if the store cannot be a successor of the state with this root (in hex), else None."""
        with self._store.reading() as conn:
            newest, then = row_seals.newest_root(conn), row_seals.root(conn, number)
            forgotten = number < row_seals.oldest_root(conn)
        if newest is None:
            return seal_checks.ROOTLESS
        if (
            newest.number < number
            or (then is None and not forgotten)
            or (then is not None and then.value.hex() != value)
        ):
            return "the control-plane database is not a continuation of what was sealed"
        return None

    def require_schema(self) -> None:
        """Raise StoreError if the schema of the database is not the one that hsmkms created."""
        with self._store.reading() as conn:
            self._require_schema(conn, self.key(conn))

    def seal_all(self, *, again: bool, record: Callable[[], None] | None = None) -> bool:
        """Seal every row as it is now, in one transaction that calls ``record``. False if all were sealed before.

        danger: with ``again`` sealed rows are sealed again, so that edits by hand count as right.
        """
        with self._store.atomic() as tx:
            root = row_seals.newest_root(tx)
            if root is not None and not again:
                return False
            key = self.key(tx)
            self._require_schema(tx, key)
            if record is not None and not _is_new(tx):
                record()
            _withdraw_announcements(tx)
            _seal_all(tx, key, root)
        self.alarms = {}
        return True

    def renew(self, record: Callable[[], None]) -> bool:
        """Seal every row in this program's form if an earlier program sealed them, in one transaction with ``record``.

        False if that is not so, or if the rows are not exactly those that were sealed: then the store stays as it is.
        """
        with self._store.atomic() as tx:
            root, by = row_seals.newest_root(tx), self._sealed_by(tx)
            if root is None or by is None:
                return False
            planted = seal_tree.planted(tx)
            if planted and by.form is row_forms.form:
                return False
            self._require_schema(tx, by.key)
            if planted:
                unchanged = not seal_checks.faults(tx, by.key, by.form)
            else:
                unchanged = rules.total_of(by.key, _root(root)) == Totals.every(tx, by.key, by.form).whole
            if not unchanged:
                return False
            record()
            _seal_all(tx, by.present, root)
        return True

    def announce(self, record: Callable[[], None], *, before_migration: bool = False) -> bool:
        """Announce this program's schema, in one transaction with ``record``; False if it was announced already.

        Other programs' databases get none, but ``before_migration``: then older programs work on after that; and then
        KMSInternalException if former announcements are not as they were sealed.
        """
        with self._store.reading() as conn:
            if announcements.stored(conn, announcements.of_this_program(conn)):
                return False
        self._before_migration = before_migration
        with self._store.atomic() as tx:
            tx.info[seal_engine.OLDER] = before_migration
            if before_migration:  # by them an older schema is recognised, so without them it would be taken for altered
                try:
                    seal_checks.require_announcements(tx, self.key(tx))
                except AlteredError as exc:
                    self._refuse(exc)
            self._require_schema(tx, self.key(tx))
            ours = sealed_rows.layout(tx) is seal_layout.own()
            if not (ours or before_migration) or not announcements.put(tx, announcements.of_this_program(tx)):
                return False
            record()
        return True

    def current(self) -> bool:
        """Return True if the seals are in the form of this program, with a tree over them, valid or not."""
        with self._store.reading() as conn:
            return seal_tree.planted(conn) and _fits(conn, self.key(conn))

    def seal_afresh(self, key: bytes) -> None:
        """Seal every row as it is now with a key, since the key of the older seals is lost.

        danger: edits by hand count as right.
        """
        with self._store.atomic() as tx:
            self._require_schema(tx, key)
            _withdraw_announcements(tx)
            _seal_all(tx, key, row_seals.newest_root(tx))
        self.alarms = {}

    def sealed_with(self, key: bytes) -> bool:
        """Return True if that is the key of the seals."""
        with self._store.reading() as conn:
            return _fits(conn, key)

    def rekey(self, key: bytes) -> None:
        """Seal every row with another key, in one transaction. KMSInternalException if any is not as it was sealed."""
        with self._store.atomic() as tx:
            if _fits(tx, key):
                return
            if self.verify(tx):
                raise KMSInternalException(REFUSED)
            _seal_all(tx, key, row_seals.newest_root(tx))


def _proven(conn: Connection, key: bytes, subjects: Sequence[str]) -> ProvenRows:
    entries: list[Entry] = []
    seal_checks.require(conn, key, seal_checks.tree(conn, key, subjects), subjects, entries)
    return ProvenRows(entries)


class _SealedBy(Struct, frozen=True):
    """Key and form of the seals in a database, and the key for this program's form of the same version."""

    key: bytes
    form: Form
    present: bytes


class _Change(Struct, frozen=True):
    """The sums of rows that a transaction leaves of what it has touched, and what it adds to the sum of all rows."""

    tree: SealTree
    totals: dict[str, int]
    difference: int


def _changed(before: Connection, tx: Connection, key: bytes, dirty: Sequence[str]) -> _Change:
    """Compare what a transaction has touched with what it began with. AlteredError if that was not as sealed."""
    tree = seal_checks.tree(tx, key, dirty)  # of the transaction: a trigger would have worked in it
    seal_checks.require_schema(before, key)
    less, more = seal_checks.require(before, key, tree, dirty), Totals()
    for subject in dirty:
        more.add(key, subject, sealed_rows.entries(tx, subject))
    # An index goes on from its sum: it may have thousands of rows that the transaction has not touched.
    indexes = {
        index: seal_checks.index_total(before, key, tree, index)
        - less.indexes.get(index, 0)
        + more.indexes.get(index, 0)
        for index in sorted(less.indexes.keys() | more.indexes.keys())
        if less.indexes.get(index) != more.indexes.get(index)
    }
    subjects = {each: more.subjects.get(each, 0) for each in dirty}
    return _Change(
        tree, {each: rules.reduced(total) for each, total in (subjects | indexes).items()}, more.whole - less.whole
    )


def _is_new(conn: Connection) -> bool:
    """Return True if the store has only the rows of `hsmkms init`."""
    made = (INSTALLATION, SCHEMA, NODE)
    return all(subject.partition("/")[0] in made for subject, _ in sealed_rows.every(conn))


def _fits(conn: Connection, key: bytes, form: Form = row_forms.form) -> bool:
    """Return True if the installation's own rows are sealed with that key, in that form."""
    seal = row_seals.fetch(conn, INSTALLATION)
    if seal is None:
        return False
    totals = Totals(form)
    totals.add(key, INSTALLATION, sealed_rows.entries(conn, INSTALLATION))
    made = rules.subject_mac(key, INSTALLATION, seal.epoch, totals.whole)
    return hmac.compare_digest(made, seal.mac)


def _seal_change(tx: Connection, key: bytes, change: _Change, root: RootRow) -> None:
    """Seal the subjects and indexes that a transaction has touched; what has no rows left (0) loses its seal."""
    seals: dict[str, SealRow] = {}
    for subject, total in change.totals.items():
        epoch = row_seals.note(tx, subject, gone=not total)
        if total:
            seals[subject] = _made(tx, key, subject, epoch, total)
        else:
            row_seals.drop(tx, subject)
        change.tree.enter(subject, seals.get(subject))
    row_seals.put(tx, seals)
    whole = rules.total_of(key, _root(root)) + change.difference
    change.tree.write(tx, _put_root(tx, key, root.number + 1, whole))


def _made(tx: Connection, key: bytes, subject: str, epoch: int, total: int) -> SealRow:
    if sealed_rows.is_index(tx, subject):
        return SealRow(epoch, rules.index_seal(key, subject, os.urandom(rules.NONCE_BYTES), total))
    return SealRow(epoch, rules.subject_mac(key, subject, epoch, total))


def _withdraw_announcements(tx: Connection) -> None:
    """Remove the announcements of other schemas before rows are sealed that are not proven.

    A forged one would make a schema that is changed afterwards count as right. A program of another schema announces
    it again before it migrates. Where its schema is there already, `_require_schema` has proven the announcements.
    """
    if sealed_rows.layout(tx) is seal_layout.own():
        announcements.drop_all(tx)


def _seal_all(tx: Connection, key: bytes, root: RootRow | None) -> None:
    """Seal all subjects and indexes, with an announcement of the schema, replacing all seals."""
    engine = seal_engine.of(tx)
    engine.forget_schema(tx)
    engine.require_sealing(tx)
    if sealed_rows.layout(tx) is seal_layout.own():
        announcements.put(tx, announcements.of_this_program(tx))
    totals = Totals.every(tx, key)
    every = totals.subjects | totals.indexes
    for subject, change in row_seals.newest_changes(tx).items():
        if not change.gone and subject not in every:
            row_seals.note(tx, subject, gone=True)
    tree, seals = SealTree.empty(key), dict[str, SealRow]()
    for subject, total in every.items():
        seals[subject] = _made(tx, key, subject, row_seals.note(tx, subject), total)
        tree.enter(subject, seals[subject])
    row_seals.drop_all(tx)
    row_seals.put(tx, seals)
    seal_tree.drop(tx)
    tree.write(tx, _put_root(tx, key, root.number + 1 if root is not None else 1, totals.whole))
    engine.take_touched(tx)


def _put_root(tx: Connection, key: bytes, number: int, whole: int) -> RootRow:
    made = rules.root(key, number, os.urandom(rules.NONCE_BYTES), whole)
    row = RootRow(made.number, made.nonce, made.value)
    row_seals.put_root(tx, row)
    return row


def _root(row: RootRow) -> rules.Root:
    return rules.Root(number=row.number, nonce=row.nonce, value=row.value)
