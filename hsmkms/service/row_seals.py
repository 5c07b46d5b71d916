"""Seals over the rows that decide: whoever edits the database by hand is noticed, and not obeyed.

Each subject (a key, an alias, a grant, a user, a group) has a seal, which is made in the transaction that changes it
and checked when its rows are read for a decision. The key of the seals comes from the token, once for each process:
after that no call to the token is needed, least of all inside a transaction. (The first one after the installation's
own key was rotated is the exception; which version is in force is seen by the seal of the installation's own rows.) A
change first proves what it found, so that it cannot make an edit legitimate; it does so at its commit, so that no
procedure can forget it.
"""

import hmac
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from hsmkms.errors import HsmKmsError, KMSInternalException, ObjectLostError, TokenUnavailableError
from hsmkms.hsm.device import Device
from hsmkms.model.permit import OperatorAct
from hsmkms.rules import row_seals as rules
from hsmkms.service.permits import own_permit
from hsmkms.service.tokens import Tokens
from hsmkms.store import installation as stored
from hsmkms.store import row_seals, sealed_rows
from hsmkms.store.engine import SEALS, Connection, Store
from hsmkms.store.row_seals import Change, RootRow, SealRow

if TYPE_CHECKING:
    from hsmkms.service.core import Installation

log = logging.getLogger("hsmkms.service")

REFUSED: Final = (
    "A record that this request needs is not as hsmkms wrote it, so it is not used. Tell the operator: `hsmkms "
    "verify-store` shows which one, and why."
)
STORE: Final = "store"
"""The name of what is wrong with all rows together."""

_NO_KEY: Final = b""
"""Where somebody has removed every row that names the installation's own key: no seal is made with it."""

_ALTERED: Final = "its rows are not those that were sealed: something was changed, added or removed by hand"
_UNSEALED: Final = "it has rows but no seal: they were put there by hand"
_VANISHED: Final = "its rows were removed by hand"
_OLDER: Final = "it was put back to an older state, or its changes were removed from the change log"
_ROOTLESS: Final = "the seal over all rows was removed"
_ROOT: Final = (
    "the rows are not all those that there should be: a part of them was put back to an older state, together with its "
    "seals"
)


class RowFault(Struct, frozen=True, order=True):
    """A subject whose rows are not as hsmkms wrote them, and what is wrong with them."""

    subject: str
    reason: str


class SealBook:
    """Seals what this process writes, and checks what it reads. Thread-safe."""

    def __init__(self, store: Store, make_keys: Callable[[Connection], Iterable[bytes]]) -> None:
        self.alarms: dict[str, str] = {}
        """What was found wrong since this process began, by subject."""
        self._store = store
        self._make_keys = make_keys
        self._key: bytes | None = None
        self._lock = threading.Lock()
        store.sealing = True

    def key(self, conn: Connection) -> bytes:
        """The key of all seals there. What hinders the token is raised, and it is asked again the next time."""
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

    def check(self, conn: Connection, *subjects: str) -> int:
        """The sum of the rows of these subjects, if all are as they were sealed.

        If not, the alarm is raised, and KMSInternalException.
        """
        whole, fault = _look(conn, self._key or self.key(conn), subjects)
        if fault is not None:
            whole, fault = _look(conn, self.key(conn), subjects)  # the key may have been rotated
        if fault is not None:
            self._alarm(fault)
            raise KMSInternalException(REFUSED)
        return whole

    def verify(self, conn: Connection) -> list[RowFault]:
        """All that is wrong with the store: subject by subject, or else with all rows together."""
        key = self.key(conn)
        totals, whole = _totals(conn, key)
        seals, newest = row_seals.every(conn), row_seals.newest_changes(conn)
        faults = [
            RowFault(subject, reason)
            for subject in sorted({*totals, *seals, *newest})
            if (reason := _judge(key, subject, totals.get(subject), seals.get(subject), newest.get(subject)))
        ]
        root = row_seals.newest_root(conn)
        if root is None:
            faults = [RowFault(STORE, _ROOTLESS)]
        elif not faults and rules.total_of(key, _root(root)) != whole:
            faults = [RowFault(STORE, _ROOT)]
        self.alarms = {}
        for each in faults:
            self._alarm(each)
        return faults

    def _alarm(self, fault: RowFault) -> None:
        if self.alarms.get(fault.subject) != fault.reason:
            words = "the control-plane database was changed by something other than hsmkms: %s: %s"
            log.error(words, fault.subject, fault.reason)
        self.alarms[fault.subject] = fault.reason

    # -- writing: the companion of the control-plane database ---------------------------------------------------

    def before_commit(self, tx: Connection) -> None:
        """Seal what the transaction has touched, if it found that as it was sealed; KMSInternalException if not."""
        dirty = sealed_rows.take_dirty(tx)
        root = row_seals.newest_root(tx) if dirty else None
        if root is None:
            return
        with self._store.reading() as before:  # nobody else can commit now, so this is what the transaction began with
            key = self.key(before)
            less, fault = _look(before, key, dirty)
        if fault is not None:
            self._alarm(fault)
            raise KMSInternalException(REFUSED)
        more = sum(_seal(tx, key, subject) for subject in dirty)
        _put_root(tx, key, root.number + 1, rules.total_of(key, _root(root)) - less + more)

    def after_commit(self) -> None:
        """Nothing is left to do."""

    def rolled_back(self) -> None:
        """Nothing is left to do: the notes of what was touched are gone with the transaction."""

    # -- the whole ----------------------------------------------------------------------------------------------

    def empty(self) -> bool:
        """True if the store has only what `hsmkms init` has put there."""
        with self._store.reading() as conn:
            return all(subject == sealed_rows.INSTALLATION for subject, _, _ in sealed_rows.every(conn))

    def root(self) -> RootRow | None:
        """The seal over the whole store as it is now, or None if it was never sealed."""
        with self._store.reading() as conn:
            return row_seals.newest_root(conn)

    def contradiction(self, number: int, value: str) -> str | None:
        """How the store contradicts that it once had this root (its value in hex), or None."""
        with self._store.reading() as conn:
            newest, then = row_seals.newest_root(conn), row_seals.root(conn, number)
            forgotten = number < row_seals.oldest_root(conn)
        if newest is None:
            return _ROOTLESS
        if (
            newest.number < number
            or (then is None and not forgotten)
            or (then is not None and then.value.hex() != value)
        ):
            return "the control-plane database is not a continuation of what was sealed"
        return None

    def seal_all(self, *, again: bool, tell: Callable[[], None] | None = None) -> bool:
        """Seal every row as it is now, in one transaction, in which ``tell`` is called. False if all was sealed before.

        danger: with ``again`` what is sealed is sealed anew, so that what was edited by hand counts as right.
        """
        with self._store.atomic() as tx:
            root = row_seals.newest_root(tx)
            if root is not None and not again:
                return False
            key = self.key(tx)
            totals, whole = _totals(tx, key)
            if tell is not None and set(totals) != {sealed_rows.INSTALLATION}:  # else it has just been made
                tell()
            _seal_all(tx, key, totals, whole, root)
        self.alarms = {}
        return True

    def seal_afresh(self, key: bytes) -> None:
        """Seal every row as it is now with a key, since the key of the older seals is lost.

        danger: what was edited by hand counts as right.
        """
        with self._store.atomic() as tx:
            _seal_all(tx, key, *_totals(tx, key), row_seals.newest_root(tx))
        self.alarms = {}

    def sealed_with(self, key: bytes) -> bool:
        """True if that is the key of the seals."""
        with self._store.reading() as conn:
            return _fits(conn, key)

    def rekey(self, key: bytes) -> None:
        """Seal every row with another key, in one transaction. KMSInternalException if any is not as it was sealed."""
        with self._store.atomic() as tx:
            if _fits(tx, key):
                return
            if self.verify(tx):
                raise KMSInternalException(REFUSED)
            _seal_all(tx, key, *_totals(tx, key), row_seals.newest_root(tx))


def keys_from(tokens: Tokens, installation: "Installation", conn: Connection) -> Iterator[bytes]:
    """The keys that rows may be sealed with: of all versions of the installation's own on its tokens, newest first.

    A row that names a key of a user's, who could make its HMACs, counts for nothing. After those that are there:
    ObjectLostError if there was none, TokenUnavailableError if there may be another one on a token that is away.
    """
    none = True
    lost: HsmKmsError = ObjectLostError("the token does not hold the installation's own key")
    away: TokenUnavailableError | None = None
    for each in reversed(stored.versions(conn, stored.MAC_PURPOSE)):
        try:
            device = tokens.of(each.token_id)
            if device.is_labelled(each.cka_id, each.label(installation.id)):
                none = False
                yield key_from(device, installation, each.cka_id)
        except ObjectLostError as exc:
            lost = exc
        except TokenUnavailableError as exc:
            away = exc
    if none or away is not None:
        raise away or lost


def key_from(device: Device, installation: "Installation", own: bytes) -> bytes:
    """The key of the seals: what the token makes of a label with a version of the installation's own key."""
    label = rules.KEY_LABEL + installation.id.encode()
    return device.mac(own_permit(OperatorAct.SEAL, own), own, label)


def _fits(conn: Connection, key: bytes) -> bool:
    """True if the installation's own rows are sealed with that key."""
    seal, rows = row_seals.fetch(conn, sealed_rows.INSTALLATION), sealed_rows.rows(conn, sealed_rows.INSTALLATION)
    if seal is None:
        return False
    made = rules.subject_mac(key, sealed_rows.INSTALLATION, seal.epoch, rules.total(key, rows))
    return hmac.compare_digest(made, seal.mac)


def _look(conn: Connection, key: bytes, subjects: Iterable[str]) -> tuple[int, RowFault | None]:
    """The sum of the rows of these subjects, and what is wrong with the first that is not as it was sealed."""
    whole = 0
    for subject in subjects:
        rows = sealed_rows.rows(conn, subject)
        found = rules.total(key, rows) if rows else None
        seal, newest = row_seals.fetch(conn, subject), row_seals.newest_change(conn, subject)
        reason = _judge(key, subject, found, seal, newest)
        if reason is not None:
            return whole, RowFault(subject, reason)
        whole += found or 0
    return whole, None


def _judge(key: bytes, subject: str, found: int | None, seal: SealRow | None, newest: Change | None) -> str | None:
    """What is wrong with a subject whose rows have that sum (None: it has none), or None."""
    if seal is None:
        if found is not None:
            return _UNSEALED
        return None if newest is None or newest.gone else _VANISHED
    if found is None:
        return _VANISHED
    if not hmac.compare_digest(rules.subject_mac(key, subject, seal.epoch, found), seal.mac):
        return _ALTERED
    return None if newest is not None and newest.epoch == seal.epoch else _OLDER


def _totals(conn: Connection, key: bytes) -> tuple[dict[str, int], int]:
    """The sums of the rows of each subject, and that of all."""
    totals, whole = dict[str, int](), 0
    for subject, table, told in sealed_rows.every(conn):
        each = rules.row_hash(key, table, told)
        totals[subject] = totals.get(subject, 0) + each
        whole += each
    return {subject: rules.reduced(each) for subject, each in totals.items()}, rules.reduced(whole)


def _seal(tx: Connection, key: bytes, subject: str) -> int:
    """Seal a subject as it is now; the sum of its rows."""
    rows = sealed_rows.rows(tx, subject)
    epoch = row_seals.note(tx, subject, gone=not rows)
    row_seals.drop(tx, subject)
    found = rules.total(key, rows)
    if rows:
        row_seals.put(tx, {subject: SealRow(epoch, rules.subject_mac(key, subject, epoch, found))})
    return found


def _seal_all(tx: Connection, key: bytes, totals: dict[str, int], whole: int, root: RootRow | None) -> None:
    """Seal all subjects, whose rows have these sums, whatever seals there were."""
    sealed_rows.guard(tx, SEALS)
    for subject, change in row_seals.newest_changes(tx).items():
        if not change.gone and subject not in totals:
            row_seals.note(tx, subject, gone=True)
    seals: dict[str, SealRow] = {}
    for subject, found in totals.items():
        epoch = row_seals.note(tx, subject)
        seals[subject] = SealRow(epoch, rules.subject_mac(key, subject, epoch, found))
    row_seals.drop_all(tx)
    row_seals.put(tx, seals)
    _put_root(tx, key, root.number + 1 if root is not None else 1, whole)
    sealed_rows.take_dirty(tx)


def _put_root(tx: Connection, key: bytes, number: int, whole: int) -> None:
    made = rules.root(key, number, os.urandom(rules.NONCE_BYTES), whole)
    row_seals.put_root(tx, RootRow(made.number, made.nonce, made.value))


def _root(row: RootRow) -> rules.Root:
    return rules.Root(number=row.number, nonce=row.nonce, value=row.value)
