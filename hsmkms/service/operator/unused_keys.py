"""Find out when keys were last used, and which have not been used for long, without claiming more than is recorded.

Uses are recorded twice: the last one of each key in ``log.db``, every one in the audit log. Both may begin later than a
key, and what happened between a backup and its restore is in neither.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from msgspec import Struct

from hsmkms.model.audit import Durability
from hsmkms.model.enums import KeyManager, KeySpec, KeyState
from hsmkms.model.ids import key_arn
from hsmkms.model.records import KeyRecord
from hsmkms.rules import states
from hsmkms.service.audit import uses
from hsmkms.service.audit.filters import Fields
from hsmkms.service.runtime import last_use
from hsmkms.service.runtime.core import Core
from hsmkms.store import aliases, keys
from hsmkms.store.usage import LastUse

_LOG_BEGINS: Final = "when the log begins"
_RESTORED: Final = "when a backup was restored or the records of uses were renewed"
_LEAVING: Final = frozenset({KeyState.PENDING_DELETION, KeyState.PENDING_REPLICA_DELETION})


class KnownUse(Struct, frozen=True, kw_only=True):
    """The last use of a key, as far as it is known.

    ``known_since``: since when every use is recorded; the key's creation if that was later. ``begin``: what was then.
    ``region``: where it was used, if that was a replica of this primary key.
    """

    created_at: datetime
    known_since: datetime
    begin: str
    used_at: datetime | None = None
    operation: str | None = None
    region: str | None = None

    def sentence(self) -> str:
        """Say when the key was last used; "never" only if the records reach back to its creation."""
        partly = self.known_since > self.created_at
        begin = f"{self.known_since:%Y-%m-%d %H:%M:%S} UTC, {self.begin}"
        if self.used_at is not None:
            lost = f"; complete only since {begin}" if partly and self.used_at < self.known_since else ""
            place = f" in {self.region}" if self.region is not None else ""
            return f"{self.operation}{place} at {self.used_at:%Y-%m-%d %H:%M:%S} UTC{lost}"
        return f"not since {begin}" if partly else "never used"


class UnusedKey(Struct, frozen=True, kw_only=True):
    """A key that was not used since an instant, or for which that is not known. ``use`` says what is known."""

    key_id: str
    arn: str
    aliases: list[str]
    description: str
    key_state: KeyState
    key_spec: KeySpec
    created_at: datetime
    last_used: datetime | None
    last_operation: str | None
    known_since: datetime
    use: str


class _Use(NamedTuple):
    used_at: datetime
    operation: str
    region: str


class UnusedKeys(Struct, frozen=True, kw_only=True):
    """Keys of a region that could be deleted: not used since an instant, and those of which that is not known.

    ``keys``: how many were looked at. ``newest_use``: the last recorded use of any key in any region.
    """

    since: datetime
    newest_use: datetime | None
    keys: int
    unused: list[UnusedKey]
    unknown: list[UnusedKey]


def known_use(core: Core, record: KeyRecord, archives: Sequence[Path] = ()) -> KnownUse:
    """Return what is known of a key's last use."""
    return _known_uses(core, [record], archives)[record.key_id]


def find(core: Core, region: str, since: datetime, archives: Sequence[Path] = ()) -> UnusedKeys:
    """Return the keys without a use since then that are older; those of services and those in deletion are left out."""
    with core.store.reading() as conn:
        names = aliases.names_by_key(conn, region)
        records = [each for each in keys.every(conn, region, core.tokens.home_id) if _can_be_deleted(each)]
    known = _known_uses(core, records, archives)
    unused, unknown = list[UnusedKey](), list[UnusedKey]()
    for record in records:
        use = known[record.key_id]
        if record.creation_date > since or (use.used_at is not None and use.used_at >= since):
            continue
        row = _row(core, record, names[record.key_id], use)
        (unused if use.known_since <= since else unknown).append(row)
    newest = max((use.used_at for use in core.uses.all().values()), default=None)
    return UnusedKeys(since=since, newest_use=newest, keys=len(records), unused=unused, unknown=unknown)


def _can_be_deleted(record: KeyRecord) -> bool:
    return record.manager is KeyManager.CUSTOMER and record.state not in _LEAVING


def _known_uses(core: Core, records: Sequence[KeyRecord], archives: Sequence[Path]) -> dict[str, KnownUse]:
    """Return what is known of each key. The audit log is read only if it reaches further back than ``log.db``.

    A primary key is in use as long as a replica of it is: they have the same material, and it alone rotates.
    """
    log = uses.lanes((core.audit.folder, *archives))
    stored = core.uses.all()
    tracked, begin = core.uses.tracked_since(), uses.covered_since(log)
    has_log = begin is not None and core.audit.policy.durability is not Durability.OFF
    log_since = datetime.fromisoformat(begin) if has_log and begin is not None else tracked
    since = min(tracked, log_since)
    restored_at = core.installation.restored_at
    is_restored = restored_at is not None and restored_at > since
    since = restored_at if is_restored and restored_at is not None else since
    noted = {each.key_id: _stored_use(stored, each) for each in records}
    missing = {
        arn
        for each in records
        if noted[each.key_id] is None and each.creation_date < tracked
        for arn in _arns(core, each).values()
    }
    newest = uses.last_uses(log, missing) if missing and log_since < tracked else {}
    known = {}
    for each in records:
        use = noted[each.key_id] or _logged_use(newest, each, _arns(core, each))
        known[each.key_id] = KnownUse(
            created_at=each.creation_date,
            known_since=max(since, each.creation_date),
            begin=_RESTORED if is_restored else _LOG_BEGINS,
            used_at=use.used_at if use else None,
            operation=use.operation if use else None,
            region=use.region if use and use.region != each.region else None,
        )
    return known


def _regions(record: KeyRecord) -> Sequence[str]:
    """Return the regions whose uses keep a key in use: of a primary key those of its replicas as well."""
    return record.regions if record.multi_region and not record.is_replica else (record.region,)


def _arns(core: Core, record: KeyRecord) -> dict[str, str]:
    return {region: key_arn(core.installation.account, region, record.key_id) for region in _regions(record)}


def _stored_use(stored: Mapping[tuple[str, str], LastUse], record: KeyRecord) -> _Use | None:
    """Return the last use by ``log.db``."""
    every = (last_use.of_this_key(stored.get((record.key_id, region)), record) for region in _regions(record))
    found = [_Use(use.used_at, str(use.operation), use.region) for use in every if use is not None]
    return max(found, default=None)


def _logged_use(newest: Mapping[str, Fields], record: KeyRecord, arns: Mapping[str, str]) -> _Use | None:
    """Return the last use by the audit log, after the key's creation: one before was of a replica with the same id."""
    begin = record.creation_date.replace(microsecond=0)
    found = [
        _Use(datetime.fromisoformat(fields.event_time), fields.event_name, region)
        for region, arn in arns.items()
        if (fields := newest.get(arn)) is not None and datetime.fromisoformat(fields.event_time) >= begin
    ]
    return max(found, default=None)


def _row(core: Core, record: KeyRecord, names: list[str], use: KnownUse) -> UnusedKey:
    return UnusedKey(
        key_id=record.key_id,
        arn=record.arn,
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
