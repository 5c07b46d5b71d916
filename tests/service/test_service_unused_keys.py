"""Which keys were not used for long, and since when that is known."""

from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from lifecycle import schedule
from service_sites import OTHER_REGION, REGION, START, Site, StoppedClock, new_alias, new_key, seal
from sqlalchemy import update

from hsmkms.config.settings import AuditSettings
from hsmkms.kms import Kms
from hsmkms.model.crypto import EncryptRequest
from hsmkms.model.keys import CreateKeyRequest, ReplicateKeyRequest
from hsmkms.service.audit import uses
from hsmkms.service.audit.filters import Wanted
from hsmkms.service.audit.uses import Subject
from hsmkms.store.log_schema import use_tracking


def track_since(kms: Kms, since: datetime) -> None:
    """Date the beginning of the records in log.db, which is the real time of the installation's making."""
    with kms._core.store.log.atomic() as tx:
        tx.execute(update(use_tracking).values(since=since))


def test_unused_keys(site: Site, clock: StoppedClock) -> None:
    """Keys that are older than the instant, with a use before it or none at all; the others are left out."""
    with site.open(clock) as kms:
        track_since(kms, START)
        never, before, after, leaving = (new_key(kms).key_id for _ in range(4))
        new_key(kms, kms.caller(OTHER_REGION))
        new_alias(kms, "alias/old", before)
        seal(kms, before)
        clock.advance(days=10)
        since = clock.now
        clock.advance(days=10)
        seal(kms, after)
        schedule(kms, leaving)
        new_key(kms)
        found = kms.operator.unused_keys(since)
        rows = {row.key_id: row for row in found.unused}
        assert (set(rows), found.unknown, found.keys) == ({never, before}, [], 4)
        assert (rows[never].use, rows[never].last_used) == ("never used", None)
        assert (rows[before].use, rows[before].aliases) == ("Encrypt at 2026-01-02 03:04:05 UTC", ["alias/old"])
        assert [row.use for row in kms.operator.unused_keys(since, OTHER_REGION).unused] == ["never used"]


def test_records_that_begin_later(tmp_path: Path, site: Site, clock: StoppedClock) -> None:
    """A key that is older than all records is not called unused, until they reach back far enough.

    What the audit log alone has, in its archive too, counts as well.
    """
    small = site.varied("small.toml", audit=AuditSettings(segment_mib=0.001))
    with small.open(clock) as kms:
        used, never = new_key(kms).key_id, new_key(kms).key_id
        seal(kms, used)
        clock.advance(days=10)
        for _ in range(3):
            new_key(kms)
        with kms._core.store.log.atomic() as tx:
            tx.exec_driver_sql("DELETE FROM last_use")
        track_since(kms, START + timedelta(days=30))
        by_log = {row.key_id: row.use for row in kms.operator.unused_keys(START + timedelta(days=5)).unused}
        assert by_log == {used: "Encrypt at 2026-01-02 03:04:05 UTC", never: "never used"}
        folder = tmp_path / "archive"
        folder.mkdir()
        kms.operator.audit.archive(folder)
        begin = uses.covered_since(uses.lanes([kms.operator.audit.folder]))
        assert begin == "2026-01-12T03:04:05Z"
        found = kms.operator.unused_keys(START + timedelta(days=5))
        sentence = "not since 2026-01-12 03:04:05 UTC, when the log begins"
        assert {row.key_id: row.use for row in found.unknown} == dict.fromkeys((used, never), sentence)
        assert (found.unused, kms.operator.known_use(never).sentence()) == ([], sentence)
        assert {row.use for row in kms.operator.unused_keys(START + timedelta(days=10)).unused} >= {sentence}
        archived = kms.operator.unused_keys(START + timedelta(days=5), archives=[folder])
        assert {row.key_id: row.use for row in archived.unused} == by_log


def test_replicas(site: Site, clock: StoppedClock) -> None:
    """A primary key is in use as long as a replica is, by either record; a replica for itself."""
    with site.open(clock) as kms:
        track_since(kms, START)
        primary = kms.create_key(CreateKeyRequest(multi_region=True)).key_metadata.key_id
        kms.replicate_key(ReplicateKeyRequest(key_id=primary, replica_region=OTHER_REGION))
        clock.advance(days=10)
        since = clock.now
        clock.advance(days=10)
        there = kms.caller(OTHER_REGION)
        kms.encrypt(EncryptRequest(key_id=primary, plaintext=b"x"), there)
        sentence = f"Encrypt in {OTHER_REGION} at 2026-01-22 03:04:05 UTC"
        assert kms.operator.unused_keys(since).unused == []
        assert kms.operator.known_use(primary).sentence() == sentence
        with kms._core.store.log.atomic() as tx:
            tx.exec_driver_sql("DELETE FROM last_use")
        track_since(kms, clock.now)
        assert kms.operator.unused_keys(since).unused == []
        assert kms.operator.known_use(primary).sentence() == sentence
        clock.advance(days=10)
        seal(kms, primary)
        later = clock.now
        assert kms.operator.unused_keys(later).unused == []
        assert [each.key_id for each in kms.operator.unused_keys(later, OTHER_REGION).unused] == [primary]


def test_restored(site: Site, clock: StoppedClock) -> None:
    """After the restore of a backup nothing is claimed about the time before it."""
    with site.open(clock) as kms:
        track_since(kms, START)
        old = new_key(kms).key_id
        clock.advance(days=10)
        kms._core.installation = msgspec.structs.replace(kms._core.installation, restored_at=clock.now)
        (row,) = kms.operator.unused_keys(START).unknown
        begin = "2026-01-12 03:04:05 UTC, when a backup was restored or the records of uses were renewed"
        assert (row.key_id, row.use) == (old, f"not since {begin}")
        seal(kms, old)
        clock.advance(days=1)
        assert kms.operator.known_use(old).sentence() == "Encrypt at 2026-01-12 03:04:05 UTC"


def test_counts(site: Site, clock: StoppedClock) -> None:
    """Cryptographic requests are counted by day and subject, with those that failed; other requests are not."""
    with site.open(clock) as kms:
        key = new_key(kms)
        seal(kms, key.key_id)
        clock.advance(days=1)
        seal(kms, key.key_id)
        seal(kms, key.key_id)
        log = uses.lanes([kms.operator.audit.folder])
        counted = uses.count(log, Wanted(), Subject.KEY)
        assert {day: (each.requests, each.errors) for day, each in counted.days.items()} == {
            "2026-01-02": (1, 0),
            "2026-01-03": (2, 0),
        }
        assert {name: list(days) for name, days in counted.subjects.items()} == {
            f"arn:aws:kms:{REGION}:111122223333:key/{key.key_id}": ["2026-01-02", "2026-01-03"]
        }
        assert counted.seen.records == 4
