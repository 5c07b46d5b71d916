"""Forging the audit log with write access to every file but without the token: no forgery counts as proven."""

import os
import shutil
from collections.abc import Callable, Iterator

import pytest
from msgspec.structs import replace
from service_sites import NewFolder, NewSite, Site, new_key
from test_service_audit_tampering import RECORDS, Log, edit
from test_service_crash import cka_id_of

from hsmkms.config.settings import AuditSettings
from hsmkms.errors import StoreError
from hsmkms.kms import Kms
from hsmkms.model.asymmetric import GenerateMacRequest
from hsmkms.model.audit import Fault, LaneSeal, Seal
from hsmkms.model.enums import KeySpec, KeyUsage
from hsmkms.model.keys import CreateKeyRequest
from hsmkms.rules.audit import chain as audit_chain
from hsmkms.rules.audit import seal as audit_seal
from hsmkms.rules.audit.chain import genesis
from hsmkms.service.audit.verification import Verdict
from hsmkms.store import audit_files

Lines = list[bytes]


@pytest.fixture(scope="module", params=["never accepted", "accepted once"])
def pristine(new_folder: NewFolder, request: pytest.FixtureRequest) -> Log:
    """An installation with RECORDS records of two processes, with and without a genuine acceptance behind them."""
    site = Site.make(new_folder())
    log = Log(site, site.settings.data_dir / "audit")
    log.write(RECORDS // 2)
    log.write(RECORDS // 2)
    if request.param == "accepted once":
        with site.open() as kms:
            kms.operator.audit.accept()
        log.write(1)
    return log


@pytest.fixture
def log(pristine: Log, new_folder: NewFolder) -> Iterator[Log]:
    """The pristine log; afterwards data folder and token are as they were."""
    kept = new_folder()
    shutil.copytree(pristine.site.folder, kept)
    yield pristine
    shutil.rmtree(pristine.site.folder)
    shutil.copytree(kept, pristine.site.folder)


def lines_of(log: Log) -> Lines:
    """The lines of the one lane."""
    return log.lane.read_bytes().splitlines(keepends=True)


def seals_of(log: Log) -> Lines:
    """The lines of the seals."""
    return log.seals.read_bytes().splitlines(keepends=True)


def seal_at(lines: Lines, index: int) -> Seal:
    """A seal as it is read."""
    seal = audit_seal.read(lines[index])
    assert seal is not None
    return seal.seal


def forged(seal: Seal, **changes: object) -> bytes:
    """The line of a seal without its key."""
    return audit_seal.line(replace(seal, **changes), os.urandom(32))


def written_anew(log: Log, lines: Lines) -> Lines:
    """The lane with a chain of its own, which is whole in itself: no key is needed for that."""
    installation = seal_at(seals_of(log), 0).installation
    previous, made = genesis(installation, "0001"), []
    for number, each in enumerate(lines, start=1):
        epoch = int(each.partition(b'"epoch":')[2].partition(b",")[0])
        previous, line = audit_chain.link(previous, "0001", number, epoch, audit_chain.record_of(each))
        made.append(line)
    return made


def verdict(log: Log) -> Verdict:
    """What verifying finds."""
    with log.site.open() as kms:
        return kms.operator.audit.verify()


def brief_faults(judged: Verdict) -> list[tuple[str, int, str]]:
    """Its faults in short."""
    return [(fault.lane, fault.sequence, fault.kind) for fault in judged.faults]


PLACES: dict[str, Callable[[Lines, bytes], Lines]] = {
    "first": lambda seals, line: [line, *seals],
    "in the middle": lambda seals, line: [*seals[:1], line, *seals[1:]],
    "before the newest": lambda seals, line: [*seals[:-1], line, seals[-1]],
    "in place of the newest": lambda seals, line: [*seals[:-1], line],
    "last": lambda seals, line: [*seals, line],
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("chain", ["as it was", "written anew"])
def test_a_forged_acceptance_accepts_nothing(log: Log, place: str, chain: str) -> None:
    """A forger who changes a record, and adds an acceptance of every fault it causes, gets none of them accepted."""
    bent = edit(lines_of(log))
    log.lane.write_bytes(b"".join(bent if chain == "as it was" else written_anew(log, bent)))
    genuine, faults = seals_of(log), list[Fault]()
    for _ in range(3):  # each forged line has faults of its own, which the next attempt accepts as well
        judged = verdict(log)
        faults += [*judged.faults, *judged.unproven]
        previous = audit_seal.digest(genuine[-1]) if place == "last" else ""
        line = forged(seal_at(genuine, -1), restored=True, accepted=tuple(faults), previous=previous)
        log.seals.write_bytes(b"".join(PLACES[place](genuine, line)))
    judged = verdict(log).faults
    assert judged
    # Where the newest seal is gone and the record was behind the one before it, that loss is what is reported.
    assert any(each.lane == "0001" for each in judged) or place == "in place of the newest"


def test_older_seals_that_were_forged_to_fit(log: Log) -> None:
    """A log that was changed, with all seals but the newest made to fit it, is not vouched for by any acceptance."""
    rewritten = written_anew(log, edit(lines_of(log)))
    genuine, seals, previous = seals_of(log), list[bytes](), ""
    for index, text in enumerate(genuine[:-1]):
        seal = seal_at(genuine, index)
        end = seal.lanes["0001"].head.sequence
        head = audit_chain.head_of(rewritten[end - 1], 1)
        assert head is not None
        seals.append(forged(seal, previous=previous, lanes={"0001": LaneSeal(head=head)}))
        previous = audit_seal.digest(seals[-1])
        assert text != seals[-1]
    log.lane.write_bytes(b"".join(rewritten))
    log.seals.write_bytes(b"".join([*seals, genuine[-1]]))
    faults = brief_faults(verdict(log))
    assert ("seals", 1, "changed") in faults
    assert any(lane == "0001" for lane, _, _ in faults)


def test_forged_seals_hide_no_genuine_ones(log: Log) -> None:
    """Forged seals behind the newest genuine one are named, and what the genuine ones say counts on."""
    rewritten, seals = written_anew(log, edit(lines_of(log))), seals_of(log)
    number, last = len(seals), seal_at(seals, -1)
    head = audit_chain.head_of(rewritten[-1], 1)
    assert head is not None
    for _ in range(5):
        previous = audit_seal.digest(seals[-1])
        number += 1
        seals.append(forged(last, number=number, previous=previous, lanes={"0001": LaneSeal(head=head)}))
    log.lane.write_bytes(b"".join(rewritten))
    log.seals.write_bytes(b"".join(seals))
    faults = brief_faults(verdict(log))
    assert ("seals", number - 4, "changed") in faults
    assert any(fault == ("0001", sequence, "not as sealed") for fault in faults for sequence in (1, 4))
    with log.site.open() as kms:
        kms.operator.audit.accept()
    assert verdict(log).faults == []
    log.lane.write_bytes(log.lane.read_bytes().replace(b"CreateCat", b"CreateDog"))
    assert brief_faults(verdict(log))


def test_forged_archive(log: Log) -> None:
    """A forged seal which says that the first files were archived does not make up for their loss."""
    log.lane.rename(log.folder / "lane-0001.00000002.jsonl")
    lines = lines_of(log)
    start = audit_chain.head_of(lines[3], 1)
    assert start is not None
    log.lane.write_bytes(b"".join(lines[4:]))
    seals = seals_of(log)
    last = seal_at(seals, -1)
    lanes = {"0001": LaneSeal(head=last.lanes["0001"].head, start=start)}
    line = forged(last, number=last.number + 1, previous=audit_seal.digest(seals[-1]), lanes=lanes)
    for bent in ([*seals[:-1], line], [*seals, line], [line, *seals]):
        log.seals.write_bytes(b"".join(bent))
        assert ("0001", 1, "missing") in brief_faults(verdict(log))


def test_a_lane_that_vanished(log: Log) -> None:
    """A lane that is gone is missed, though a forged acceptance does not know it any more."""
    with log.site.open() as first, log.site.open() as second:
        new_key(first)
        new_key(second)
    assert set(audit_files.segments(log.folder)) == {"0001", "0002"}
    for each in audit_files.segments(log.folder)["0002"]:
        each.path.unlink()
    seals = seals_of(log)
    last = seal_at(seals, -1)
    lanes = {"0001": last.lanes["0001"]}
    line = forged(last, number=last.number + 1, previous=audit_seal.digest(seals[-1]), lanes=lanes, restored=True)
    for bent in (seals, [*seals, line], [line, *seals]):
        log.seals.write_bytes(b"".join(bent))
        assert ("0002", 1, "missing") in brief_faults(verdict(log))


def test_a_lane_of_the_same_length_is_not_sealed(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    """Records that were exchanged for others, with a whole chain of the same length, are not sealed as if right."""
    log.lane.write_bytes(b"".join(written_anew(log, edit(lines_of(log)))))
    before = seals_of(log)
    with log.site.open() as kms:
        kms.operator.audit.log.tidy()
        assert not kms.operator.audit._sealer.seal()
    assert "is not the one that was sealed" in caplog.text
    assert seals_of(log) == before
    assert any(fault[2] == "not as sealed" for fault in brief_faults(verdict(log)))


def test_a_second_seal_over_the_same_record(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a program has sealed other records over the same numbers, the first seal still counts."""
    log.lane.write_bytes(b"".join(written_anew(log, edit(lines_of(log)))))
    with log.site.open() as kms:
        monkeypatch.setattr(kms.operator.audit._sealer, "_check", lambda *_: None)
        assert kms.operator.audit._sealer.seal()
    assert any(fault[2] == "not as sealed" for fault in brief_faults(verdict(log)))


ACCEPTED: dict[str, Callable[[Lines], Lines]] = {
    "missing": lambda lines: [*lines[:2], *lines[3:]],
    "inserted": lambda lines: [*lines[:4], lines[3], *lines[4:]],
    "moved": lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
}


@pytest.mark.parametrize("how", ACCEPTED)
def test_what_was_accepted_is_that_line(log: Log, how: str) -> None:
    """A fault that the operator accepted covers the line that he saw, and no other that is put in its place."""
    log.lane.write_bytes(b"".join(ACCEPTED[how](lines_of(log))))
    with log.site.open() as kms:
        kms.operator.audit.accept()
    assert verdict(log).faults == []
    for index in range(4):
        kept = lines_of(log)
        bent = [*kept[:index], kept[index].replace(b"CreateKey", b"CreateCat"), *kept[index + 1 :]]
        log.lane.write_bytes(b"".join(bent))
        assert verdict(log).faults, f"line {index} was changed"
        log.lane.write_bytes(b"".join(kept))


def test_a_chain_rewritten_after_it_was_accepted(log: Log) -> None:
    """Records before a seal that were accepted as they are cannot be rewritten once more."""
    log.lane.write_bytes(b"".join(written_anew(log, edit(lines_of(log)))))
    with log.site.open() as kms:
        kms.operator.audit.accept()
    assert verdict(log).faults == []
    lines = [line.replace(b"CreateCat", b"CreateDog") for line in lines_of(log)]
    log.lane.write_bytes(b"".join(written_anew(log, lines)))
    assert verdict(log).faults


def test_many_accepted_faults_hide_no_other(log: Log) -> None:
    """More faults than are listed are accepted as a whole; one more, behind all of them, is a fault."""
    log.write(audit_chain.MAX_FAULTS + 10)
    lines = lines_of(log)
    bent = [line.replace(b'"readOnly":false', b'"readOnly":true') for line in lines[:-3]]
    log.lane.write_bytes(b"".join([*bent, *lines[-3:]]))
    assert "more faults from here on" in verdict(log).faults[-1].detail
    with log.site.open() as kms:
        kms.operator.audit.accept()
    assert verdict(log).faults == []
    lines = lines_of(log)
    log.lane.write_bytes(b"".join([*lines[:-2], lines[-2].replace(b'"readOnly":false', b'"readOnly":true'), lines[-1]]))
    assert verdict(log).faults


def test_a_key_that_is_not_known_here(log: Log) -> None:
    """Seals of a version of the key that the database does not know are not proven: neither fine nor altered."""
    with log.site.open() as kms:
        new_key(kms)
        kms.operator.audit.accept()
        kms.operator.rotate_installation_key("audit-seal")
    log.write(1)
    assert (verdict(log).faults, verdict(log).unproven) == ([], [])
    forget(log, "DELETE FROM installation_key WHERE purpose = 'audit-seal' AND version = 1")
    judged = verdict(log)
    acceptances = [number for number in range(len(seals_of(log))) if seal_at(seals_of(log), number).restored]
    numbers = [fault.sequence for fault in judged.unproven]
    assert {seal_at(seals_of(log), acceptance).number for acceptance in acceptances} <= set(numbers)
    assert {fault.kind for fault in judged.unproven} == {"not proven"}
    with log.site.open() as kms, pytest.raises(StoreError, match="not proven to be as it was written"):
        kms.operator.audit.archive(log.folder.parent / "archive")


def test_an_acceptance_by_a_key_that_is_not_known_accepts_nothing(log: Log) -> None:
    """What such an acceptance has accepted is a fault again, until it is accepted by the key of today."""
    log.lane.write_bytes(b"".join(edit(lines_of(log))))
    with log.site.open() as kms:
        kms.operator.audit.accept()
        kms.operator.rotate_installation_key("audit-seal")
    log.write(1)
    assert verdict(log).faults == []
    forget(log, "DELETE FROM installation_key WHERE purpose = 'audit-seal' AND version = 1")
    assert brief_faults(verdict(log)) == [("0001", 4, "changed")]
    with log.site.open() as kms:
        kms.operator.audit.accept()
    assert (verdict(log).faults, verdict(log).unproven) == ([], [])


def test_seals_by_a_key_that_users_can_use(log: Log) -> None:
    """A forger who points the sealing key's row at an HMAC key of their own, and seals with it, proves nothing."""
    with log.site.open() as kms:
        made = kms.create_key(CreateKeyRequest(key_spec=KeySpec.HMAC_256, key_usage=KeyUsage.GENERATE_VERIFY_MAC))
        key_id = made.key_metadata.key_id
        cka_id = cka_id_of(kms, key_id)
        kms._core.audit.flush()
        seal = seal_at(seals_of(log), -1)
        rewritten = written_anew(log, edit(lines_of(log)))
        head = audit_chain.head_of(rewritten[-1], 1)
        assert head is not None
        seal = replace(seal, previous="", number=99, accepted=(), lanes={"0001": LaneSeal(head=head)})
        line = audit_seal.line(seal, sign(kms, key_id, audit_seal.message(seal)))
    log.lane.write_bytes(b"".join(rewritten))
    log.seals.write_bytes(line)
    forget(log, f"UPDATE installation_key SET cka_id = {log.site.literal(cka_id)} WHERE purpose = 'audit-seal'")
    judged = verdict(log)
    assert [*judged.faults, *judged.unproven]
    assert 99 in [fault.sequence for fault in judged.unproven]


def test_what_is_accepted_was_shown(log: Log) -> None:
    """What changed between the question and its answer is not accepted."""
    log.lane.write_bytes(b"".join(edit(lines_of(log))))
    with log.site.open() as kms:
        verdict = kms.operator.audit.verify()
        shown = ([*verdict.faults, *verdict.unproven], kms.operator.audit.verify_rows())
        log.lane.write_bytes(log.lane.read_bytes().replace(b"CreateCat", b"CreateDog"))
        with pytest.raises(StoreError, match="nothing was accepted"):
            kms.operator.audit.accept(shown)
        assert brief_faults(kms.operator.audit.verify()) == [("0001", 4, "changed")]


def test_archived_records_are_counted(new_site: NewSite) -> None:
    """An archived file that is not given to the verification is skipped, and reported."""
    site = new_site(audit=AuditSettings(segment_mib=0.001))
    log = Log(site, site.settings.data_dir / "audit")
    log.write(3)
    place = site.folder / "archive"
    with site.open() as kms:
        kms.operator.audit.archive(place)
        alone, whole = kms.operator.audit.verify(), kms.operator.audit.verify([place])
    assert (alone.archived, whole.archived) == (whole.records - alone.records, 0)
    assert alone.archived > 0


def sign(kms: Kms, key_id: str, message: bytes) -> bytes:
    """An HMAC by a key of a user's."""
    return kms.generate_mac(GenerateMacRequest(key_id=key_id, message=message, mac_algorithm="HMAC_SHA_256")).mac


def forget(log: Log, statement: str) -> None:
    """Change the control plane by hand."""
    log.site.edit(statement)
