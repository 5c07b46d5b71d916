"""Find out when keys were last used, and which have not been used for long, without claiming more than is recorded.

Uses are recorded twice: the last one of each key in ``log.db``, every one in the audit log. Both may begin later than a
key, and what happened between a backup and its restore is in neither.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from msgspec import Struct

from hsmkms.model.audit import Durability
from hsmkms.model.enums import KeyManager, KeySpec, KeyState
from hsmkms.model.records import KeyRecord
from hsmkms.rules import states
from hsmkms.service.audit import uses
from hsmkms.service.runtime import last_use
from hsmkms.service.runtime.core import Core
from hsmkms.store import aliases, keys

_LOG_BEGINS: Final = "when the log begins"
_RESTORED: Final = "when a backup was restored or the records of uses were renewed"
_LEAVING: Final = frozenset({KeyState.PENDING_DELETION, KeyState.PENDING_REPLICA_DELETION})


class KnownUse(Struct, frozen=True, kw_only=True):
    """The last use of a key, as far as it is known.

    ``known_since``: since when every use is recorded; the key's creation if that was later. ``begin``: what was then.
    """

    created_at: datetime
    known_since: datetime
    begin: str
    used_at: datetime | None = None
    operation: str | None = None

    def sentence(self) -> str:
        """Say when the key was last used; "never" only if the records reach back to its creation."""
        partly = self.known_since > self.created_at
        begin = f"{self.known_since:%Y-%m-%d %H:%M:%S} UTC, {self.begin}"
        if self.used_at is not None:
            lost = f"; complete only since {begin}" if partly and self.used_at < self.known_since else ""
            return f"{self.operation} at {self.used_at:%Y-%m-%d %H:%M:%S} UTC{lost}"
        return f"not since {begin}" if partly else "never used"


class UnusedKey(Struct, frozen=True, kw_only=True):
    """A key that was not used since an instant, or for which that is not known. ``use`` says what is known."""

    key_id: str
    aliases: list[str]
    description: str
    key_state: KeyState
    key_spec: KeySpec
    created_at: datetime
    last_used: datetime | None
    last_operation: str | None
    known_since: datetime
    use: str


class UnusedKeys(Struct, frozen=True, kw_only=True):
    """Keys of a region that could be deleted: not used since an instant, and those of which that is not known.

    ``keys``: how many were looked at.
    """

    since: datetime
    keys: int
    unused: list[UnusedKey]
    unknown: list[UnusedKey]


def known_use(core: Core, record: KeyRecord, archives: Sequence[Path] = ()) -> KnownUse:
    """Return what is known of a key's last use."""
    return _known_uses(core, [record], archives)[record.key_id]


def find(core: Core, region: str, since: datetime, archives: Sequence[Path] = ()) -> UnusedKeys:
    """Return the keys without a use since then that are older; those of services and those in deletion are left out."""
    names = defaultdict(list)
    with core.store.reading() as conn:
        for alias in aliases.every(conn, region):
            names[alias.target_key_id].append(alias.name)
        records = [each for each in keys.every(conn, region, core.tokens.home_id) if _can_be_deleted(each)]
    known = _known_uses(core, records, archives)
    unused, unknown = list[UnusedKey](), list[UnusedKey]()
    for record in records:
        use = known[record.key_id]
        if record.creation_date > since or (use.used_at is not None and use.used_at >= since):
            continue
        row = _row(core, record, names[record.key_id], use)
        (unused if use.known_since <= since else unknown).append(row)
    return UnusedKeys(since=since, keys=len(records), unused=unused, unknown=unknown)


def _can_be_deleted(record: KeyRecord) -> bool:
    return record.manager is KeyManager.CUSTOMER and record.state not in _LEAVING


def _known_uses(core: Core, records: Sequence[KeyRecord], archives: Sequence[Path]) -> dict[str, KnownUse]:
    """Return what is known of each key. The audit log is read only if it reaches further back than ``log.db``."""
    log = uses.lanes((core.audit.folder, *archives))
    stored = core.uses.all()
    tracked, begin = core.uses.tracked_since(), uses.covered_since(log)
    has_log = begin is not None and core.audit.policy.durability is not Durability.OFF
    log_since = datetime.fromisoformat(begin) if has_log and begin is not None else tracked
    since = min(tracked, log_since)
    restored_at = core.installation.restored_at
    is_restored = restored_at is not None and restored_at > since
    since = restored_at if is_restored and restored_at is not None else since
    noted = {each.key_id: last_use.of_this_key(stored.get((each.key_id, each.region)), each) for each in records}
    missing = {each.arn for each in records if noted[each.key_id] is None and each.creation_date < tracked}
    newest = uses.last_uses(log, missing) if missing and log_since < tracked else {}
    known = {}
    for each in records:
        use, record = noted[each.key_id], newest.get(each.arn)
        if record is not None and datetime.fromisoformat(record.event_time) < each.creation_date.replace(microsecond=0):
            record = None  # it was of an earlier replica of the same id
        known[each.key_id] = KnownUse(
            created_at=each.creation_date,
            known_since=max(since, each.creation_date),
            begin=_RESTORED if is_restored else _LOG_BEGINS,
            used_at=use.used_at if use else datetime.fromisoformat(record.event_time) if record else None,
            operation=str(use.operation) if use else record.event_name if record else None,
        )
    return known


def _row(core: Core, record: KeyRecord, names: list[str], use: KnownUse) -> UnusedKey:
    return UnusedKey(
        key_id=record.key_id,
        aliases=names,
        description=record.description,
        key_state=states.effective_state(record, core.clock()),
        key_spec=record.spec,
        created_at=record.creation_date,
        last_used=use.used_at,
        last_operation=use.operation,
        known_since=use.known_since,
        use=use.sentence(),
    )
