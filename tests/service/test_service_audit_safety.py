"""The audit log where something goes wrong: full disks, kill -9, changes without their record; and its settings."""

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from service_sites import ACCOUNT, REGION, NewSite, Site, StoppedClock, new_key, seal, start, unseal

from hsmkms.config.settings import AuditSettings
from hsmkms.errors import KMSInternalException, NotFoundException
from hsmkms.kms import Kms
from hsmkms.model.caller import local_root
from hsmkms.model.enums import Operation
from hsmkms.model.keys import DescribeKeyRequest, UpdateKeyDescriptionRequest
from hsmkms.model.rotation import EnableKeyRotationRequest, RotateKeyOnDemandRequest
from hsmkms.service.audit import reading as audit_reading
from hsmkms.service.audit.filters import Wanted
from hsmkms.store import audit_files, changes, keys, outbox, row_seals
from hsmkms.store.sealed_rows import key_subject


@pytest.fixture(scope="session")
def prepared(never_opened: Site) -> Site:
    """An installation that has not been closed yet: what its first end makes matters here."""
    return never_opened


def records(kms: Kms) -> list[dict[str, Any]]:
    """All records, lane by lane in the order in which they were written."""
    parsed = [
        json.loads(line)
        for parts in audit_files.segments(kms.operator.audit.folder).values()
        for part in parts
        for line in audit_files.lines(part.path)
    ]
    return [each["record"] for each in parsed]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What is logged on the way is no part of these tests."""
    handler = logging.NullHandler()
    logging.getLogger("hsmkms").addHandler(handler)
    yield
    logging.getLogger("hsmkms").removeHandler(handler)


def unwritable(site: Site, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a file that is not writable in the place of the first file of the audit log."""
    monkeypatch.setattr(audit_files, "check_own", lambda _: None)  # /dev/full is writable for all, which is refused
    folder = site.settings.data_dir / "audit"
    folder.mkdir(mode=0o700, exist_ok=True)
    file = folder / "lane-0001.00000001.jsonl"
    file.symlink_to("/dev/full")
    return file


@pytest.fixture
def full(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Kms, Path]]:
    """An installation whose audit log cannot be written."""
    file = unwritable(site, monkeypatch)
    with site.open() as kms:
        yield kms, file


def test_no_log_no_work(full: tuple[Kms, Path]) -> None:
    """While the log cannot be written, changes and decryption are refused, and reading works; then all works."""
    kms, file = full
    with pytest.raises(KMSInternalException, match="audit log cannot be written"):
        new_key(kms)
    with pytest.raises(KMSInternalException, match="audit log cannot be written"):
        unseal(kms, b"x" * 100)
    with pytest.raises(NotFoundException):
        kms.describe_key(DescribeKeyRequest(key_id="alias/nobody"))
    assert kms.operator.audit.log.faults >= 3
    file.unlink()
    key = new_key(kms)
    names = [record["eventName"] for record in records(kms)]
    assert names[-1] == "CreateKey"
    assert "DescribeKey" in names, "what could not be written at once is written later"
    assert unseal(kms, seal(kms, key.key_id)) == b"secret"
    assert kms.operator.audit.verify().faults == []


def test_going_on_without_a_log(new_site: NewSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the operator says so, requests are answered though the log cannot be written."""
    site = new_site(audit=AuditSettings(when_unwritable="go-on"))
    file = unwritable(site, monkeypatch)
    with site.open() as kms:
        assert unseal(kms, seal(kms, new_key(kms).key_id)) == b"secret"
        file.unlink()


def test_off_and_interval(new_site: NewSite) -> None:
    """``off`` writes nothing at all; with ``interval`` everything is there when the process ends."""
    site = new_site(audit=AuditSettings(durability="off"))
    with site.open() as kms:
        new_key(kms)
    assert not audit_files.segments(site.settings.data_dir / "audit")
    with site.varied(
        "interval.toml", audit=AuditSettings(durability="interval", interval_milliseconds=60000)
    ).open() as kms:
        new_key(kms)
        assert records(kms) == []
    with site.open() as kms:
        assert [record["eventName"] for record in records(kms)] == ["CreateKey"]
        assert kms.operator.audit.verify().faults == []


def test_reopened_processes_continue(site: Site) -> None:
    """Each process continues the lane of the one before; two at once have one each; all of it verifies."""
    for _ in range(2):
        with site.open() as kms:
            new_key(kms)
    with site.open() as one, Kms.open(site.folder / "hsmkms.toml") as two:
        new_key(one)
        new_key(two)
        new_key(one)
        assert {lane: len(parts) for lane, parts in audit_files.segments(one.operator.audit.folder).items()} == {
            "0001": 1,
            "0002": 1,
        }
    with site.open() as kms:
        verdict = kms.operator.audit.verify()
        assert (verdict.records, verdict.lanes, verdict.unsealed, verdict.faults) == (5, 2, 0, [])


def test_killed_at_full_load(site: Site) -> None:
    """After kill -9 at full load every answered request is in the log, the chain verifies, and the outbox is moved."""
    process = start("audit_for_ever", site.folder / "hsmkms.toml")
    assert process.stdout is not None
    answered = [json.loads(process.stdout.readline()) for _ in range(400)]
    process.kill()
    rest, _ = process.communicate()
    answered += [json.loads(line) for line in rest.splitlines() if line.endswith('"') and len(line) > 2]
    with site.open() as kms:
        new_key(kms)
        record = records(kms)
        assert set(answered) <= {each.get("requestID") for each in record}
        verdict = kms.operator.audit.verify()
        assert verdict.faults == []
        kms.update_key_description(
            UpdateKeyDescriptionRequest(key_id=record[0]["resources"][0]["ARN"], description="y")
        )
    with site.open() as kms, kms._core.store.reading() as conn:
        assert conn.exec_driver_sql("SELECT count(*) FROM audit_outbox").scalar() == 0


def test_change_without_its_record(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change whose process ended before it was in the log is recorded by the next process, from the outbox."""
    kms = site.open()
    key = new_key(kms)
    caller = kms.caller(REGION)

    def dies(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(kms._core, "write_audit_record", dies)
    with pytest.raises(SystemExit):
        kms.update_key_description(UpdateKeyDescriptionRequest(key_id=key.key_id, description="new"), caller)
    monkeypatch.undo()
    # As if the process had ended here: nothing of it is brought to its end but its hold on files.
    kms._core.audit._journal._lane.close()  # type: ignore[union-attr]
    kms._core.audit._journal._lane = None
    kms.close()
    with site.open() as again:
        seal(again, key.key_id)
        (record,) = [each for each in records(again) if each.get("requestID") == caller.request_id]
        assert record["requestParameters"] == {"keyId": key.key_id, "description": "new"}
        assert "committed" in record["additionalEventData"]["outcome"]
        assert again.operator.audit.verify().faults == []


def test_a_named_write_is_audited_and_sealed(site: Site) -> None:
    """A commit has an audit record, new seals of the rows and the change; a rollback has none of them."""
    kms = site.open()
    core, key, name = kms._core, new_key(kms), "Probe"

    def written() -> tuple[int, object, int]:
        with core.store.reading() as conn:
            records = [json.loads(each.record) for each in outbox.fetch(conn)]
            return (
                sum(each["eventName"] == name for each in records),
                row_seals.fetch(conn, key_subject(key.key_id)),
                changes.latest(conn),
            )

    def write(description: str) -> None:
        with core.audit.acting(name, REGION), core.audited_and_sealed() as tx:
            record = keys.fetch(tx, REGION, key.key_id)
            assert record is not None
            keys.set_description(tx, key.key_id, REGION, description, record.version)
            if not description:
                raise NotFoundException

    before = written()
    with pytest.raises(NotFoundException):
        write("")
    assert written() == before
    write("probed")
    records, seal_now, latest = written()
    assert records == before[0] + 1
    assert seal_now != before[1]
    assert latest > before[2]
    with core.store.reading() as conn:
        assert core.seals.verify(conn) == []
    kms.close()


def test_torn_end(site: Site) -> None:
    """Half a line, which an interrupted write has left, is removed by the next process, and is no fault."""
    with site.open() as kms:
        new_key(kms)
        (part,) = audit_files.segments(kms.operator.audit.folder)["0001"]
    with part.path.open("ab") as file:
        file.write(b'{"hash":"0123')
    with site.open() as kms:
        new_key(kms)
        assert kms.operator.audit.verify().faults == []
        assert len(records(kms)) == 2


def test_the_sweeper_is_recorded(site: Site) -> None:
    """What the sweeper does is recorded as well: here the rotation of a key that was due."""
    clock = StoppedClock()
    with site.open(clock) as kms:
        key = new_key(kms)
        kms.enable_key_rotation(EnableKeyRotationRequest(key_id=key.key_id))
        clock.advance(days=366)
        kms.operator.maintain()
        assert [record["eventName"] for record in records(kms)] == ["CreateKey", "EnableKeyRotation", "RotateKey"]
        assert records(kms)[-1]["serviceEventDetails"]["rotationType"] == "AUTOMATIC"
        assert records(kms)[-1]["eventTime"] == "2027-01-03T03:04:05Z"


def test_lane_of_a_process_that_knew_more(site: Site, clock: StoppedClock) -> None:
    """A process that continues a lane numbers the database's changes from where its last holder was: none is lower."""
    with site.open(clock) as idle:
        with site.open(clock) as other:
            for _ in range(2):
                new_key(other)
        caller = local_root(ACCOUNT, REGION)
        idle.operator.audit.refused(caller, Operation.ENCRYPT, NotFoundException("nothing of the cache is asked"))
        assert idle.operator.audit.verify().faults == []


def test_export_of_long_requests(site: Site) -> None:
    """A request that began first and ended last stands first in an export, though its record was written last."""
    now = [datetime(2026, 1, 2, tzinfo=UTC)]

    def clock() -> datetime:
        now[0] += timedelta(seconds=1)
        return now[0]

    with site.open(clock) as kms:
        kms.rotate_key_on_demand(RotateKeyOnDemandRequest(key_id=new_key(kms).key_id))
        folder = kms.operator.audit.folder
        written = [record["eventName"] for record in records(kms)][-2:]
        names = ("RotateKey", "RotateKeyOnDemand")
        exported = [json.loads(each) for each in audit_reading.export([folder], Wanted())]
        assert written == list(names)
        assert [each["eventName"] for each in exported if each["eventName"] in names] == list(reversed(names))
        assert [each["eventTime"] for each in exported] == sorted(each["eventTime"] for each in exported)
        assert len(exported) == len(records(kms))
