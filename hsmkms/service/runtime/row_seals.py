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
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NoReturn

from hsmkms.errors import HsmKmsError, KMSInternalException, ObjectLostError, StoreError, TokenUnavailableError
from hsmkms.hsm.ports import Device
from hsmkms.model.own_keys import KeyPurpose
from hsmkms.model.permit import OperatorAct
from hsmkms.rules import row_seals as rules
from hsmkms.service.runtime import seal_checks
from hsmkms.service.runtime.permits import own_permit
from hsmkms.service.runtime.ports import Installation
from hsmkms.service.runtime.seal_checks import AlteredError, RowFault, Totals
from hsmkms.service.runtime.seal_tree import SealTree
from hsmkms.service.runtime.tokens import Tokens
from hsmkms.store import installation as stored
from hsmkms.store import row_seals, seal_tree, sealed_rows, sqlite_schema
from hsmkms.store.engine import Connection, Store
from hsmkms.store.proven_rows import ProvenRows
from hsmkms.store.row_seals import RootRow, SealRow
from hsmkms.store.sealed_rows import Entry

log = logging.getLogger("hsmkms.service")

REFUSED: Final = (
    "A record that this request needs is not as hsmkms wrote it, so it is not used. Tell the operator: `hsmkms "
    "verify-store` shows which one, and why."
)
_NO_KEY: Final = b""
"""Stands for the key if all rows that name the installation's own key were removed by hand; it seals nothing."""


class RowSeals:
    """Seals what this process writes, and checks what it reads. Thread-safe."""

    def __init__(self, store: Store, make_keys: Callable[[Connection], Iterable[bytes]]) -> None:
        self.alarms: dict[str, str] = {}
        """Faults found since this process began, by subject."""
        self._store = store
        self._make_keys = make_keys
        self._key: bytes | None = None
        self._lock = threading.Lock()
        self.without_key: Callable[[], HsmKmsError | None] = lambda: None
        """Returns, without a call to the token, the reason why no seal can be checked at all, or None."""
        store.sealing = True

    def key(self, conn: Connection) -> bytes:
        """Return the key of the seals in the database; raises the token's error, and tries again at the next call."""
        with self._lock:
            if self._key is None or not _fits(conn, self._key):
                newest = None
                for each in self._make_keys(conn):
                    newest = newest or each
                    if _fits(conn, each):
                        self._key = each
                        return each
                # If none fits, those rows were edited; other ones may still be right.
                self._key = self._key or newest or _NO_KEY
            return self._key

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
        key = self.key(conn)
        faults = seal_checks.faults(conn, key, Totals.every(conn, key))
        self.alarms = {}
        for each in faults:
            self._alarm(each)
        return faults

    def _require_schema(self, conn: Connection) -> None:
        """Raise StoreError if the schema is not hsmkms's own: a foreign one could hide deciding rows from the seals."""
        try:
            seal_checks.require_schema(conn)
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
        dirty, ours = sealed_rows.take_dirty(tx), not sqlite_schema.differences(tx)
        root = row_seals.newest_root(tx) if dirty or not ours else None
        if root is None:
            return
        if not ours:  # a foreign trigger may have suppressed changes
            try:
                seal_checks.require_schema(tx)
            except AlteredError as exc:
                self._refuse(exc)
        with self._store.reading() as before:  # nobody else can commit now, so this is what the transaction began with
            key = self.key(before)
            try:
                tree = seal_checks.tree(tx, key, dirty)  # of the transaction: a trigger would have worked in it
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
            except AlteredError as exc:
                self._refuse(exc)
            totals = {each: more.subjects.get(each, 0) for each in dirty} | indexes
            for subject, total in totals.items():
                tree.enter(subject, _seal(tx, key, subject, rules.reduced(total)))
            whole = rules.total_of(key, _root(root)) - less.whole + more.whole
            tree.write(tx, _put_root(tx, key, root.number + 1, whole))

    def after_commit(self) -> None:
        """Do nothing: the seals were committed with the rows."""

    def rolled_back(self) -> None:
        """Do nothing: the list of changed subjects was rolled back with the transaction."""

    # -- the whole ----------------------------------------------------------------------------------------------

    def empty(self) -> bool:
        """Return True if the store has only the rows of `hsmkms init`."""
        with self._store.reading() as conn:
            return all(subject == sealed_rows.INSTALLATION for subject, _ in sealed_rows.every(conn))

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
            self._require_schema(conn)

    def seal_all(self, *, again: bool, record: Callable[[], None] | None = None) -> bool:
        """Seal every row as it is now, in one transaction that calls ``record``. False if all were sealed before.

        danger: with ``again`` sealed rows are sealed again, so that edits by hand count as right.
        """
        with self._store.atomic() as tx:
            root = row_seals.newest_root(tx)
            if root is not None and not again:
                return False
            self._require_schema(tx)
            key = self.key(tx)
            totals = Totals.every(tx, key)
            if record is not None and set(totals.subjects) != {sealed_rows.INSTALLATION}:  # else it has just been made
                record()
            _seal_all(tx, key, totals, root)
        self.alarms = {}
        return True

    def plant(self, record: Callable[[], None]) -> bool:
        """Create the tree of a store that was sealed before there were trees, in one transaction with ``record``.

        False if there is one, or if the rows are not exactly those that were sealed: then the store stays as it is.
        """
        with self._store.atomic() as tx:
            root = row_seals.newest_root(tx)
            if root is None or seal_tree.planted(tx):
                return False
            self._require_schema(tx)
            key = self.key(tx)
            totals = Totals.every(tx, key)
            if rules.total_of(key, _root(root)) != totals.whole:
                return False
            record()
            _seal_all(tx, key, totals, root)
        return True

    def planted(self) -> bool:
        """Return True if there is a tree over the seals, valid or not."""
        with self._store.reading() as conn:
            return seal_tree.planted(conn)

    def seal_afresh(self, key: bytes) -> None:
        """Seal every row as it is now with a key, since the key of the older seals is lost.

        danger: edits by hand count as right.
        """
        with self._store.atomic() as tx:
            self._require_schema(tx)
            _seal_all(tx, key, Totals.every(tx, key), row_seals.newest_root(tx))
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
            _seal_all(tx, key, Totals.every(tx, key), row_seals.newest_root(tx))


def _proven(conn: Connection, key: bytes, subjects: Sequence[str]) -> ProvenRows:
    entries: list[Entry] = []
    seal_checks.require(conn, key, seal_checks.tree(conn, key, subjects), subjects, entries)
    return ProvenRows(entries)


def keys_from(tokens: Tokens, installation: Installation, conn: Connection) -> Iterator[bytes]:
    """Yield the keys that rows may be sealed with, one for each version of the installation's own key, newest first.

    A row that names a user's key is ignored, since users can make its HMACs. After the keys that are present:
    ObjectLostError if there was none, TokenUnavailableError if there may be another one on a token that is away.
    """
    none = True
    lost: HsmKmsError = ObjectLostError("the token does not hold the installation's own key")
    away: TokenUnavailableError | None = None
    for each in reversed(stored.versions(conn, KeyPurpose.MAC)):
        try:
            device = tokens.of(each.token_id)
            if device.keys.is_labelled(each.cka_id, each.label(installation.id)):
                key = key_from(device, installation, each.cka_id)
                none = False
                yield key
        except ObjectLostError as exc:
            lost = exc
        except TokenUnavailableError as exc:
            away = exc
    if none or away is not None:
        raise away or lost


def key_from(device: Device, installation: Installation, own: bytes) -> bytes:
    """Derive the key of the seals: the HMAC of a label under a version of the installation's own key."""
    label = rules.KEY_LABEL + installation.id.encode()
    return device.own.mac(own_permit(OperatorAct.SEAL, own), own, label)


def _fits(conn: Connection, key: bytes) -> bool:
    """Return True if the installation's own rows are sealed with that key."""
    seal, rows = row_seals.fetch(conn, sealed_rows.INSTALLATION), sealed_rows.rows(conn, sealed_rows.INSTALLATION)
    if seal is None:
        return False
    made = rules.subject_mac(key, sealed_rows.INSTALLATION, seal.epoch, rules.total(key, rows))
    return hmac.compare_digest(made, seal.mac)


def _seal(tx: Connection, key: bytes, subject: str, total: int) -> SealRow | None:
    """Seal a subject or an index with that sum of rows, or remove its seal if it has no rows (0)."""
    row_seals.drop(tx, subject)
    epoch = row_seals.note(tx, subject, gone=not total)
    if not total:
        return None
    seal = _made(key, subject, epoch, total)
    row_seals.put(tx, {subject: seal})
    return seal


def _made(key: bytes, subject: str, epoch: int, total: int) -> SealRow:
    if sealed_rows.is_index(subject):
        return SealRow(epoch, rules.index_seal(key, subject, os.urandom(rules.NONCE_BYTES), total))
    return SealRow(epoch, rules.subject_mac(key, subject, epoch, total))


def _seal_all(tx: Connection, key: bytes, totals: Totals, root: RootRow | None) -> None:
    """Seal all subjects and indexes with these sums of rows, replacing all seals."""
    sqlite_schema.forget(tx)
    sealed_rows.guard(tx, sealed_rows.SEALS)
    every = totals.subjects | totals.indexes
    for subject, change in row_seals.newest_changes(tx).items():
        if not change.gone and subject not in every:
            row_seals.note(tx, subject, gone=True)
    tree, seals = SealTree.empty(key), dict[str, SealRow]()
    for subject, total in every.items():
        seals[subject] = _made(key, subject, row_seals.note(tx, subject), total)
        tree.enter(subject, seals[subject])
    row_seals.drop_all(tx)
    row_seals.put(tx, seals)
    seal_tree.drop(tx)
    tree.write(tx, _put_root(tx, key, root.number + 1 if root is not None else 1, totals.whole))
    sealed_rows.take_dirty(tx)


def _put_root(tx: Connection, key: bytes, number: int, whole: int) -> RootRow:
    made = rules.root(key, number, os.urandom(rules.NONCE_BYTES), whole)
    row = RootRow(made.number, made.nonce, made.value)
    row_seals.put_root(tx, row)
    return row


def _root(row: RootRow) -> rules.Root:
    return rules.Root(number=row.number, nonce=row.nonce, value=row.value)
