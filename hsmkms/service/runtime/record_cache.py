"""Cache key records and aliases in the process; drop them at the next call after any process changed them.

The change signal costs a fraction of a microsecond: has any other connection committed to the control-plane database?
Only then is the change log asked what changed, and only those records are dropped. A record that was read before a
change and would be kept after it is recognised by the epoch at which it was read.
"""

import logging
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from msgspec import Struct, field

from hsmkms.errors import MalformedPolicyDocumentException, StoreError
from hsmkms.model.cipher_format import format_of
from hsmkms.model.enums import KeyManager, Operation
from hsmkms.model.ids import root_arn, user_arn
from hsmkms.model.records import AliasRecord, GrantRecord, KeyRecord
from hsmkms.process import ForkGuard
from hsmkms.rules import blob
from hsmkms.rules.iam import policies
from hsmkms.rules.iam.access import OwnPolicy
from hsmkms.rules.iam.documents import Policy
from hsmkms.rules.iam.question import Identity
from hsmkms.store import aliases, changes, grants, identities, installation, node_id, nodes, proven_keys, tags, users
from hsmkms.store.engine import Connection, Store
from hsmkms.store.identities import IdentityRow
from hsmkms.store.proven_rows import ProvenRows
from hsmkms.store.row_seals import NOTED
from hsmkms.store.sealed_rows import (
    access_key_index,
    alias_subject,
    aliases_index,
    grants_index,
    group_subject,
    key_subject,
    user_subject,
)
from hsmkms.store.sealed_tables import NODE
from hsmkms.store.statuses import AccessKeyStatus
from hsmkms.store.users import AccessKeyRow

log = logging.getLogger("hsmkms.service")

MAX_ENTRIES: Final = 50_000
"""Records kept in one process; beyond that all are dropped and read again when needed."""


ROOT_SUBJECT: Final = "root"

_GROUP_SEALED: Final = f"{NOTED}{group_subject('')}"

CheckRows = Callable[..., ProvenRows]
"""Called with a connection and subjects: their rows; KMSInternalException unless they are as they were sealed."""


AdmissionKey = tuple[str, bool, str | None, Operation, str, str]
"""KeyId, whether an alias is taken, the action if it is not the operation, operation, principal, region."""


class CachedKey:
    """A key's record with values that every encryption would otherwise compute again.

    Policy, tags, aliases and grants are read on demand. Every change of one of them is noted in the change log under
    the key, so that stale ones are dropped with the entry.
    """

    __slots__ = (
        "_aliases",
        "_check",
        "_grants",
        "_policy",
        "_store",
        "_tags",
        "covers",
        "current_cka_id",
        "current_format",
        "current_header",
        "current_material_id",
        "current_token_id",
        "record",
    )

    def __init__(
        self, record: KeyRecord, store: Store, check: CheckRows, new_tags: Mapping[str, str] | None = None
    ) -> None:
        self._store = store
        self._check = check
        self._aliases: list[str] | None = None
        self._grants: dict[str, list[GrantRecord]] = {}
        self._policy: Policy | None = None
        self._tags = new_tags
        self.record = record
        self.covers = frozenset(each.cka_id for each in record.materials)
        current = record.current
        self.current_material_id = current.material_id if current else ""
        self.current_cka_id = current.cka_id if current else b""
        self.current_token_id = current.token_id if current else ""
        self.current_format = format_of(self.current_cka_id)
        self.current_header = blob.header(record.key_id, current.material_id, self.current_format) if current else b""

    @property
    def policy_text(self) -> str:
        """Return the key policy; keys of services have a common one, whatever their record contains."""
        if self.record.manager is KeyManager.AWS:
            return policies.service_policy(_account_of(self.record))
        return self.record.policy

    def policy(self) -> Policy:
        """Return the parsed key policy."""
        if self._policy is None:
            self._policy = _key_policy(self.policy_text, _account_of(self.record))
        return self._policy

    def tags(self) -> Mapping[str, str]:
        """Return the tags of the key."""
        if self._tags is None:
            with self._store.reading() as conn:
                self._tags = tags.proven(self._check(conn, key_subject(self.record.key_id)), self.record.region)
        return self._tags

    def aliases(self) -> Sequence[str]:
        """Return the names of its aliases."""
        if self._aliases is None:
            with self._store.reading() as conn:
                rows = self._check(conn, aliases_index(self.record.region, self.record.key_id))
            self._aliases = aliases.proven_names(rows)
        return self._aliases

    def grants(self, principal: str) -> Sequence[GrantRecord]:
        """Return a principal's grants on it."""
        held = self._grants.get(principal)
        if held is None:
            with self._store.reading() as conn:
                rows = self._check(conn, grants_index(self.record.region, self.record.key_id, principal))
            held = self._grants[principal] = grants.proven(rows, self.record.region)
        return held


class Admission(Struct, frozen=True):
    """A key that a caller may use for an operation.

    ``is_general``: whatever the rest of the request is and whenever it comes. Otherwise ``action`` must be authorised
    again for each request; ``shown`` is the key as errors name it.
    """

    key: CachedKey
    identity: Identity
    is_general: bool
    action: str
    shown: str


class Derived(Struct):
    """What was derived from records, by all that it depends on; replaced as a whole after every change.

    Take it before reading what an entry is made of: then an entry from before a change is put into the old one.
    """

    admissions: dict[AdmissionKey, Admission] = field(default_factory=dict)
    plans: dict[Hashable, Any] = field(default_factory=dict)
    """What the endpoints keep of verified requests for those that are like them."""


class CachedIdentity(Struct, frozen=True):
    """A user, or the root, with the parsed policies of the user and their groups."""

    identity: Identity
    own: tuple[OwnPolicy, ...]


class RecordCache:
    """Cache of KMS keys, aliases, access keys and identities. Thread-safe; raises in a forked child."""

    def __init__(self, store: Store, check: CheckRows, account: str) -> None:
        self._store = store
        self._account = account
        self._check = check
        self.installation_changed: Callable[[Connection], None] = lambda _: None
        self.commits_in_doubt: Callable[[], None] = lambda: None
        """Called when the database may lack commits that this process has seen, as a promoted standby may."""
        """Called with the transaction in which a change of tokens or installation was read."""
        self._guard = ForkGuard()
        self.signal = store.change_signal()
        """Asked before each use of what is cached. Its ``ask`` and ``outage`` are for everybody."""
        self._lock = threading.Lock()
        self._owed = False
        self._keys: dict[tuple[str, str], CachedKey] = {}
        self._aliases: dict[tuple[str, str], AliasRecord] = {}
        self._access_keys: dict[str, AccessKeyRow] = {}
        self._identities: dict[str, CachedIdentity] = {}
        self._derived = Derived()
        try:
            with store.reading() as conn:
                self.epoch = changes.latest(conn)
                """The newest change that this process has read."""
                own = node_id.read(store.folder) if store.target is not None else None
                self._node = own if nodes.is_registered(conn, own) else None  # one that joins is not yet
        except BaseException:
            self.signal.close()
            raise

    def key(self, region: str, key_id: str) -> CachedKey | None:
        """Return the KMS key as it is now, or None."""
        self.look()
        cached = self._keys.get((region, key_id))
        return cached if cached is not None else self._load_key(region, key_id)

    def alias(self, region: str, name: str) -> AliasRecord | None:
        """Return the alias as it is now, or None."""
        self.look()
        cached = self._aliases.get((region, name))
        return cached if cached is not None else self._load_alias(region, name)

    def access_key(self, access_key_id: str) -> AccessKeyRow | None:
        """Return the access key as it is now, or None.

        An inactive one is neither checked nor cached, like one that does not exist, so that both cost the same.
        """
        self.look()
        cached = self._access_keys.get(access_key_id)
        return cached if cached is not None else self._load_access_key(access_key_id)

    def identity(self, principal: str, account: str, *, just_looked: bool = False) -> CachedIdentity:
        """Return the identity of a principal (an ARN) now; a user who does not exist has neither tags nor policies.

        ``just_looked``: not later than what this request has read before.
        """
        if not just_looked:
            self.look()
        subject = _subject_of(principal)
        cached = self._identities.get(subject)
        if cached is None:
            cached = self._load_identity(subject, account)
        if cached.identity.arn != principal:  # a user of that name, and not of that path
            return _stranger(principal)
        return cached

    def of(self, record: KeyRecord, new_tags: Mapping[str, str] | None = None) -> CachedKey:
        """Return the entry of a record that is not cached.

        ``new_tags``: the tags of a key that is about to be created.
        """
        return CachedKey(record, self._store, self._check, new_tags)

    def close(self) -> None:
        """Close the connection of the change signal, unless it belongs to the parent of a forked child."""
        if not self._guard.foreign:
            with self._lock:
                self.signal.close()

    def refuse(self, fault: StoreError) -> None:
        """Answer nothing from now on: every look raises this error."""
        with self._lock:
            self.signal.refuse(fault)

    def look(self) -> Derived:
        """Drop entries that were changed before this call, by any process; return what was derived since then."""
        if self._guard.foreign:
            self._guard.refuse()
        lock = self._lock
        lock.acquire()  # on the path of every request, where a with statement takes longer
        try:
            # Owed until it is done: the signal reports a change only once.
            if self.signal.moved() or self._owed:
                self._owed = True
                self._drop_changed()
                self._owed = False
            return self._derived
        finally:
            lock.release()

    def _drop_changed(self) -> None:
        with self._store.reading() as conn:
            new = changes.since(conn, self.epoch)
            if self.signal.explains(conn, len(new)):
                for epoch, region, subject in new:
                    self._drop(region, subject)
                    if subject == installation.SUBJECT:
                        self.installation_changed(conn)
                    self.epoch = epoch
                node_changed = any(subject == f"{NOTED}{NODE}/{self._node}" for _, _, subject in new)
            else:
                self._drop_all(conn)
                self.commits_in_doubt()
                node_changed = True
            if node_changed and self._node is not None and not nodes.is_registered(conn, self._node):
                fault = nodes.removed()
                self.signal.refuse(fault)
                raise fault
        self._derived = Derived()  # after what it is made of

    def _drop(self, region: str, subject: str) -> None:
        self._keys.pop((region, subject), None)
        self._aliases.pop((region, subject), None)
        self._access_keys.pop(subject, None)
        self._identities.pop(subject, None)
        if subject.startswith(_GROUP_SEALED):
            # Former members too: the rows of their membership may have been removed since they were read.
            self._identities.clear()

    def _drop_all(self, conn: Connection) -> None:
        """Begin anew: the change log may lack changes, or the database others that this process has read."""
        for entries in (self._keys, self._aliases, self._access_keys, self._identities):
            entries.clear()
        self.installation_changed(conn)
        self.epoch = changes.latest(conn)

    def _load_key(self, region: str, key_id: str) -> CachedKey | None:
        with self._store.reading() as conn:
            epoch = changes.latest(conn)
            record = proven_keys.record(self._check(conn, key_subject(key_id)), region, self._account)
        if record is None:
            return None
        cached = self.of(record)
        self._keep(epoch, lambda: self._keys.__setitem__((region, key_id), cached))
        return cached

    def _load_alias(self, region: str, name: str) -> AliasRecord | None:
        with self._store.reading() as conn:
            epoch = changes.latest(conn)
            record = aliases.proven(self._check(conn, alias_subject(region, name)), self._account)
        if record is not None:
            self._keep(epoch, lambda: self._aliases.__setitem__((region, name), record))
        return record

    def _load_access_key(self, access_key_id: str) -> AccessKeyRow | None:
        with self._store.reading() as conn:
            epoch = changes.latest(conn)
            row = users.fetch_access_key(conn, access_key_id)
            if row is None or row.status is not AccessKeyStatus.ACTIVE:
                return row  # refused in any case, after the same work; an edited row is found by the check of all rows
            rows = self._check(conn, access_key_index(access_key_id), user_subject(row.user_name))
        proven = users.proven_access_key(rows, access_key_id)
        if proven is not None:
            self._keep(epoch, lambda: self._access_keys.__setitem__(access_key_id, proven))
        return proven

    def _load_identity(self, subject: str, account: str) -> CachedIdentity:
        if subject == ROOT_SUBJECT:
            return _root(account)
        name = subject.removeprefix(identities.subject(""))
        with self._store.reading() as conn:
            epoch = changes.latest(conn)
            rows = self._check(conn, user_subject(name))
            groups = identities.proven_groups(rows)  # also those without a policy, which may have had one
            row = identities.proven(rows, self._check(conn, *map(group_subject, groups)) if groups else ProvenRows(()))
        cached = _identity(name, row, account)
        if row is not None:
            self._keep(epoch, lambda: self._identities.__setitem__(subject, cached))
        return cached

    def _keep(self, epoch: int, put: Callable[[], None]) -> None:
        with self._lock:
            if epoch < self.epoch:
                return  # read before a change that was processed already
            if len(self._keys) + len(self._aliases) >= MAX_ENTRIES:
                self._keys.clear()
                self._aliases.clear()
            put()


@lru_cache(maxsize=4096)
def _subject_of(principal: str) -> str:
    """Return the subject under which changes of a principal are noted."""
    _, slash, name = principal.rpartition("/")
    return identities.subject(name) if slash else ROOT_SUBJECT


@lru_cache(maxsize=8)
def _root(account: str) -> CachedIdentity:
    """Return the account's root, which has no stored properties that could change."""
    return CachedIdentity(Identity(arn=root_arn(account), user_name=None, user_id=account, tags={}), ())


def _account_of(record: KeyRecord) -> str:
    return record.arn.split(":")[4]


@lru_cache(maxsize=4096)
def _key_policy(text: str, account: str) -> Policy:
    """Parse a key policy, once for all keys that have it."""
    try:
        return _log_ineffective(policies.stored_key_policy(text, account), "a stored key policy")
    except MalformedPolicyDocumentException as exc:
        log.warning("a stored key policy cannot be used, so only the root may use and mend its key: %s", exc)
        return policies.unreadable(account)


@lru_cache(maxsize=4096)
def _own_policy(name: str, text: str, account: str) -> OwnPolicy:
    """Parse a policy of a user or group, once; an unusable one may have denied anything, so it denies everything."""
    try:
        return OwnPolicy(name, _log_ineffective(policies.stored_own_policy(text, account), f"the stored {name}"))
    except MalformedPolicyDocumentException as exc:
        log.warning("the stored %s cannot be used, so nothing is allowed where it counts: %s", name, exc)
        return OwnPolicy(name, policies.read_own_policy(policies.NOTHING, account))


def _log_ineffective(policy: Policy, name: str) -> Policy:
    """Log the parts of a policy that have no effect, and return it."""
    for each in policy.without_effect:
        log.warning("%s has a part without effect, with which it could not be put again: %s", name, each)
    return policy


def _identity(name: str, row: IdentityRow | None, account: str) -> CachedIdentity:
    if row is None:
        return _stranger(user_arn(account, name))
    own = [_own_policy(f"user policy {each}", text, account) for each, text in row.policies.items()]
    own += [
        _own_policy(f"policy {each} of group {group}", text, account)
        for (group, each), text in row.group_policies.items()
    ]
    arn = user_arn(account, name, row.path)
    identity = Identity(arn=arn, user_name=name, user_id=row.unique_id, tags=row.tags)
    return CachedIdentity(identity, tuple(own))


def _stranger(principal: str) -> CachedIdentity:
    """Return the identity of a principal outside the account: without id, tags and policies."""
    name = principal.rpartition("/")[2]
    return CachedIdentity(Identity(arn=principal, user_name=name, user_id=None, tags={}), ())
