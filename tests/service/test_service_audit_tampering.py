"""Bending the audit log's files: each way is noticed, and named; what the operator accepts stays in the log."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec import Struct
from service_sites import NewFolder, NewSite, Site, new_key

from hsmkms.config.settings import AuditSettings
from hsmkms.errors import BindingError, StoreError, UnsupportedOperationException
from hsmkms.hsm.own_objects import OwnObjects
from hsmkms.model.audit import Fault
from hsmkms.store import audit_files

RECORDS = 6


class Log(Struct):
    """The files of a closed installation's audit log."""

    site: Site
    folder: Path

    @property
    def lane(self) -> Path:
        """The newest file of the one lane."""
        return audit_files.segments(self.folder)["0001"][-1].path

    @property
    def seals(self) -> Path:
        """The seals."""
        return self.folder / "seals.jsonl"

    def write(self, count: int = 1) -> None:
        """Keys are made, and the process ends."""
        with self.site.open() as kms:
            for _ in range(count):
                new_key(kms)

    def faults(self) -> list[Fault]:
        """What verifying finds."""
        with self.site.open() as kms:
            return kms.operator.audit.verify().faults

    def brief_faults(self) -> list[tuple[str, int, str]]:
        """The same in short: lane, first record, kind."""
        return [(fault.lane, fault.sequence, fault.kind) for fault in self.faults()]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Silence alarms, but in the tests that check them."""
    handler = logging.NullHandler()
    logging.getLogger("hsmkms").addHandler(handler)
    yield
    logging.getLogger("hsmkms").removeHandler(handler)


@pytest.fixture(scope="module")
def pristine(new_folder: NewFolder) -> Log:
    """An installation with RECORDS records of two processes, which all tests copy."""
    site = Site.make(new_folder())
    log = Log(site, site.settings.data_dir / "audit")
    log.write(RECORDS // 2)
    log.write(RECORDS // 2)
    return log


@pytest.fixture
def log(pristine: Log, new_folder: NewFolder) -> Iterator[Log]:
    """The pristine log; afterwards data folder and token are as they were."""
    kept = new_folder()
    shutil.copytree(pristine.site.folder, kept)
    yield pristine
    shutil.rmtree(pristine.site.folder)
    shutil.copytree(kept, pristine.site.folder)


def edit(lines: list[bytes]) -> list[bytes]:
    """Change the content of the fourth record."""
    return [*lines[:3], lines[3].replace(b"CreateKey", b"CreateCat"), *lines[4:]]


BENDINGS: dict[str, tuple[Callable[[list[bytes]], list[bytes]], tuple[str, int, str]]] = {
    "edit": (edit, ("0001", 4, "changed")),
    "delete": (lambda lines: [*lines[:3], *lines[4:]], ("0001", 4, "missing")),
    "insert": (lambda lines: [*lines[:4], lines[3], *lines[4:]], ("0001", 4, "inserted")),
    "reorder": (lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]], ("0001", 4, "missing")),
    "truncate": (lambda lines: lines[:4], ("0001", 5, "missing")),
    "empty": (lambda _: [], ("0001", 1, "missing")),
}


@pytest.mark.parametrize("how", BENDINGS)
def test_bent(log: Log, how: str) -> None:
    """Editing, deleting, inserting, reordering and truncating is reported at the first record that it affects."""
    bend, expected = BENDINGS[how]
    log.lane.write_bytes(b"".join(bend(log.lane.read_bytes().splitlines(keepends=True))))
    assert log.brief_faults()[0] == expected


def test_unbent(log: Log) -> None:
    """An unchanged log verifies, and the token knows the newest seal."""
    with log.site.open() as kms:
        verdict = kms.operator.audit.verify()
        assert (verdict.records, verdict.lanes, verdict.seals, verdict.unsealed) == (RECORDS, 1, 2, 0)
        assert (verdict.faults, verdict.accepted) == ([], [])


def test_cut_with_its_seals(log: Log) -> None:
    """Who cuts the log back to an older seal, and the seals as well, is contradicted by the token."""
    log.lane.write_bytes(b"".join(log.lane.read_bytes().splitlines(keepends=True)[: RECORDS // 2]))
    log.seals.write_bytes(log.seals.read_bytes().splitlines(keepends=True)[0])
    assert log.brief_faults() == [("seals", 2, "missing")]


def test_nothing_is_sealed_over_a_contradiction(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    """After a cut the next process says so aloud, and makes no seal that would hide it."""
    log.lane.write_bytes(b"".join(log.lane.read_bytes().splitlines(keepends=True)[:2]))
    before = log.seals.read_bytes()
    log.write()
    assert "ends at record 3, but 6 were sealed" in caplog.text
    assert log.seals.read_bytes() == before
    log.write(5)
    assert ("0001", 1, "not as sealed") in log.brief_faults()


@pytest.mark.parametrize("how", ["edit", "remove the first", "remove all"])
def test_bent_seals(log: Log, how: str) -> None:
    """An edited seal and a removed one are found."""
    lines = log.seals.read_bytes().splitlines(keepends=True)
    bent = {
        "edit": [lines[0], lines[1].replace(b'"sequence":6', b'"sequence":5')],
        "remove the first": lines[1:],
        "remove all": [],
    }[how]
    log.seals.write_bytes(b"".join(bent))
    expected = {"edit": ("seals", 2, "changed"), "remove the first": ("seals", 1, "missing")}
    assert expected.get(how, ("seals", 1, "missing")) in log.brief_faults()


@pytest.mark.sqlite_alone("it puts another file in place")
def test_older_files(log: Log, new_folder: NewFolder) -> None:
    """Databases and log that were put back from an older copy are contradicted by the token; the operator may accept.

    What was accepted stays in the log, is listed from then on, and later records are judged as before.
    """
    data = log.site.settings.data_dir
    kept = new_folder()
    shutil.copytree(data, kept)
    log.write(2)
    for name in ("meta.db", "log.db"):
        for suffix in ("", "-wal", "-shm"):
            (data / f"{name}{suffix}").unlink(missing_ok=True)
        shutil.copy(kept / name, data / name)
    shutil.rmtree(log.folder)
    shutil.copytree(kept / "audit", log.folder)
    assert log.brief_faults() == [("seals", 3, "missing")]
    with log.site.open() as kms:
        assert [fault.kind for fault in kms.operator.audit.accept().faults] == ["missing"]
    log.write()
    assert log.brief_faults() == []
    names = [json.loads(line)["record"]["eventName"] for line in audit_files.lines(log.lane)]
    assert names[-2:] == ["AcceptStore", "CreateKey"]
    log.lane.write_bytes(b"".join(edit(log.lane.read_bytes().splitlines(keepends=True))))
    assert log.brief_faults() == [("0001", 4, "changed")]


@pytest.mark.sqlite_alone("it puts another file in place")
def test_older_database_beside_the_log(log: Log, new_folder: NewFolder) -> None:
    """A control-plane database that is older than the log is noticed, though it was valid once."""
    data = log.site.settings.data_dir
    kept = new_folder()
    shutil.copytree(data, kept)
    log.write(2)
    for suffix in ("", "-wal", "-shm"):
        (data / f"meta.db{suffix}").unlink(missing_ok=True)
    shutil.copy(kept / "meta.db", data / "meta.db")
    assert log.brief_faults() == [("seals", 3, "rolled back")]


def test_accepted_faults_do_not_cover_new_ones(log: Log) -> None:
    """An accepted fault is listed as accepted; the same place, changed once more, is a fault again."""
    log.lane.write_bytes(b"".join(edit(log.lane.read_bytes().splitlines(keepends=True))))
    with log.site.open() as kms:
        kms.operator.audit.accept()
        verdict = kms.operator.audit.verify()
        assert ([fault.sequence for fault in verdict.accepted], verdict.faults) == ([4], [])
    log.lane.write_bytes(log.lane.read_bytes().replace(b"CreateCat", b"CreateDog"))
    assert log.brief_faults() == [("0001", 4, "changed")]


@pytest.mark.sqlite_alone("it puts another file in place")
def test_log_of_another_installation(log: Log, new_folder: NewFolder) -> None:
    """Another installation's log, or database, does not pass for this one's."""
    kept = new_folder()
    other = Site.make(kept)
    other_log = Log(other, other.settings.data_dir / "audit")
    other_log.write(RECORDS)
    shutil.rmtree(log.folder)
    shutil.copytree(other_log.folder, log.folder)
    assert ("0001", 1, "changed") in log.brief_faults()
    shutil.copy(other.settings.data_dir / "meta.db", log.site.settings.data_dir / "meta.db")
    for suffix in ("-wal", "-shm"):
        (log.site.settings.data_dir / f"meta.db{suffix}").unlink(missing_ok=True)
    with pytest.raises(BindingError):
        log.site.open()


def test_archive_of_another_node(new_site: NewSite, tmp_path: Path) -> None:
    """Files of another node's log, which have the same names, are not replaced; nothing is moved."""
    site = new_site(audit=AuditSettings(segment_mib=0.001))
    log = Log(site, site.settings.data_dir / "audit")
    for _ in range(3):
        log.write(2)
    other = tmp_path / "lane-0001.00000002.jsonl"
    other.write_bytes(b"another node's\n")
    with site.open() as kms:
        with pytest.raises(StoreError, match=r"00000002\.jsonl is another file"):
            kms.operator.audit.archive(tmp_path)
        assert list(tmp_path.iterdir()) == [other]
        assert other.read_bytes() == b"another node's\n"
        assert kms.operator.audit.verify().faults == []


def test_archive(new_site: NewSite, tmp_path: Path) -> None:
    """Finished files can be moved away: the rest verifies alone, and all of it together; a changed archive does not."""
    site = new_site(audit=AuditSettings(segment_mib=0.001, seal_file=Path("outside.seal")))
    log = Log(site, site.settings.data_dir / "audit")
    for _ in range(3):
        log.write(2)
    place = tmp_path / "archive"
    place.mkdir()
    precious = tmp_path / "precious"
    precious.write_text("precious")
    leading_elsewhere = place / ".lane-0001.00000001.jsonl.part"
    leading_elsewhere.symlink_to(precious)
    with site.open() as kms:
        moved = kms.operator.audit.archive(place)
        assert len(moved) > 1
        assert precious.read_text() == "precious"
        leading_elsewhere.unlink()
        assert {path.name for path in place.iterdir()} == set(moved)
        assert kms.operator.audit.verify().faults == []
        whole = kms.operator.audit.verify([place])
        assert (whole.faults, whole.records) == ([], 7)
    log.write(2)
    assert log.brief_faults() == []
    with site.open() as kms:
        kms.operator.audit.archive(place)
        assert kms.operator.audit.verify([place]).faults == []
    first = place / moved[0]
    first.write_bytes(first.read_bytes().replace(b"CreateKey", b"CreateCat"))
    with site.open() as kms:
        assert kms.operator.audit.verify().faults == []
        assert next(fault.kind for fault in kms.operator.audit.verify([place]).faults) == "changed"
        log.lane.write_bytes(log.lane.read_bytes().replace(b"CreateKey", b"CreateCat"))
        with pytest.raises(StoreError, match="before it is archived"):
            kms.operator.audit.archive(place)
    assert b'"number":' in (site.folder / "outside.seal").read_bytes()


def test_token_without_data_objects_is_reported(
    stranger: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A new installation warns once that only the log keeps its newest seal."""

    def no_objects(*_: object) -> None:
        raise UnsupportedOperationException("no data objects")

    monkeypatch.setattr(OwnObjects, "replace_note", no_objects)
    for _ in range(2):
        with stranger.open() as kms:
            new_key(kms)
            new_key(kms)
    said = [each for each in caplog.records if "kept only beside the log" in each.message]
    assert [each.levelno for each in said] == [logging.WARNING]


def test_a_file_elsewhere_stands_in_for_the_token(
    log: Log, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the token keeps no data objects, the file that the operator named remembers the newest seal."""

    def no_objects(*_: object) -> None:
        raise UnsupportedOperationException("no data objects")

    monkeypatch.setattr(OwnObjects, "replace_note", no_objects)
    monkeypatch.setattr(OwnObjects, "notes", lambda *_: {})
    log.seals.with_name("noted.json").unlink()  # such a token has taken no note
    with caplog.at_level(logging.INFO, "hsmkms.service"):
        for _ in range(2):
            with log.site.open() as kms:
                new_key(kms)
                assert not kms.operator.audit.remembered()
    said = [each for each in caplog.records if "kept only beside the log" in each.message]
    assert {each.levelno for each in said} == {logging.INFO}, "commands print warnings"
    site = log.site.varied("outside.toml", audit=AuditSettings(seal_file=Path("outside.seal")))
    for _ in range(2):
        with site.open() as kms:
            new_key(kms)
    lines = log.seals.read_bytes().splitlines(keepends=True)
    log.seals.write_bytes(b"".join(lines[:-1]))
    with site.open() as kms:
        assert kms.operator.audit.remembered()
        faults = [(fault.lane, fault.sequence, fault.kind) for fault in kms.operator.audit.verify().faults]
    assert ("seals", len(lines), "missing") in faults
