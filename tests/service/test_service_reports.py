"""Reports: what they say, that the token signs them, and that they can be verified as long as anything proves them."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from lifecycle import rotate
from pkcs11.mechanisms import Mechanism
from service_sites import REGION, NewSite, Site, StoppedClock, new_alias, new_key, seal
from shims import Personality
from test_service_backup import back_up, lose, restore
from test_service_crash import destroy_object
from test_service_several_tokens import away, migrate, opened, with_second
from test_service_tokens import NewPlayed, order
from test_service_tokens import new_played as new_played  # noqa: PLC0414 - the fixture

from hsmkms.errors import (
    ConfigurationError,
    KMSInvalidSignatureException,
    ObjectLostError,
    UnsupportedOperationException,
    ValidationException,
)
from hsmkms.kms import Kms
from hsmkms.model.grants import CreateGrantRequest
from hsmkms.model.ids import root_arn
from hsmkms.model.own_keys import KeyPurpose
from hsmkms.model.permit import OperatorAct
from hsmkms.model.shapes import Tag
from hsmkms.rules.audit import chain as audit_chain
from hsmkms.service.keys.installation_keys import versions
from hsmkms.service.keys.report_keys import read_public_key, verifies
from hsmkms.service.operator.key_rotation import Outcome
from hsmkms.service.operator.report_facts import ReportFacts
from hsmkms.service.operator.reports import Proof
from hsmkms.service.runtime.permits import own_permit
from hsmkms.store import audit_files

DOCUMENT = b"a report\n"
NO_CURVE = Personality(
    name="rsa only", orders=(f"hide {Mechanism.ECDSA:#x}",), reason="old tokens know no elliptic curves"
)
NO_PAIRS = Personality(
    name="no signatures",
    orders=tuple(
        f"hide {each:#x}" for each in (Mechanism.ECDSA, Mechanism.RSA_PKCS, Mechanism.RSA_PKCS_PSS, Mechanism.EDDSA)
    ),
    reason="a token may have secret keys alone",
)


def collect(kms: Kms, region: str | None = None) -> ReportFacts:
    """The content of a report."""
    return kms.operator.reports.collect(region, (), lambda _read, _size: None)


def sign(kms: Kms, document: bytes = DOCUMENT) -> bytes:
    """The signature of a document."""
    return kms.operator.reports.sign(document, kms.operator.reports.key())


def verify(kms: Kms, signature: bytes | None, document: bytes = DOCUMENT) -> Proof:
    """What proves a document."""
    return kms.operator.reports.verify(document, signature, (), lambda _read, _size: None)


# -- what it says -----------------------------------------------------------------------------------------------------


@pytest.fixture
def kms(site: Site, clock: StoppedClock) -> Iterator[Kms]:
    """An open installation."""
    with site.open(clock) as opened_kms:
        yield opened_kms


def test_keys(kms: Kms, clock: StoppedClock) -> None:
    """A key is shown with its names, material as the token reports it, age, rotations, and uses by day."""
    key_id = new_key(kms, description="payroll", tags=[Tag(tag_key="team", tag_value="pay")]).key_id
    new_alias(kms, "alias/payroll", key_id)
    clock.advance(days=100)
    rotate(kms, key_id)
    seal(kms, key_id)
    seal(kms, key_id)
    clock.advance(days=1)
    facts = collect(kms)
    (key,) = (each for each in facts.keys if each.posture.key_id == key_id)
    assert (key.posture.aliases, key.description, key.tags) == (["alias/payroll"], "payroll", {"team": "pay"})
    assert (key.posture.age_days, key.posture.material_age_days) == (101, 1)
    states = [each.attestation for each in key.materials if each.attestation is not None]
    assert [(each.as_made, each.attributes["CKA_EXTRACTABLE"]) for each in states] == [(True, False), (True, False)]
    assert (key.uses, key.fault) == (2, None)
    used = {day: count for day, count in facts.uses_by_day.items() if count}
    assert (used, len(facts.uses_by_day)) == ({f"{clock.now.date().replace(day=clock.now.day - 1)}": 2}, 90)
    assert facts.uses_known_since is not None
    assert facts.uses_known_since.startswith("2026-01-02T")
    assert facts.installation == kms._core.installation.id


def test_regions(kms: Kms) -> None:
    """A report of one region has that region's keys; without one it has all."""
    here = new_key(kms).key_id
    other = new_key(kms, kms.caller("us-east-1")).key_id
    assert {each.posture.key_id for each in collect(kms).keys} == {here, other}
    assert [each.posture.key_id for each in collect(kms, REGION).keys] == [here]
    with pytest.raises(ValidationException, match="no region mars-north-1: it has eu-central-1, us-east-1"):
        collect(kms, "mars-north-1")


def test_rights(kms: Kms) -> None:
    """Who may what is what a request would meet: group policies, denials, grants, conditions; nobody else is listed."""
    key = new_key(kms)
    for name in ("alice", "bob", "carol", "dave"):
        kms.operator.credentials.create_user(name)
    allow = {"Effect": "Allow", "Action": ["kms:Encrypt", "kms:Decrypt"], "Resource": "*"}
    deny = {"Effect": "Deny", "Action": "kms:Decrypt", "Resource": "*"}
    within = {"StringEquals": {"kms:EncryptionContext:team": "pay"}}
    identities = kms.operator.identities
    identities.create_group("writers")
    identities.put_group_policy("writers", "use", json.dumps({"Version": "2012-10-17", "Statement": [allow]}))
    identities.add_user_to_group("writers", "alice")
    identities.put_user_policy("alice", "no", json.dumps({"Version": "2012-10-17", "Statement": [deny]}))
    conditional = json.dumps({"Version": "2012-10-17", "Statement": [allow | {"Condition": within}]})
    identities.put_user_policy("bob", "pay", conditional)
    arn = {name: identities.user(name).arn for name in ("alice", "bob", "carol", "dave")}
    grant = CreateGrantRequest(key_id=key.key_id, grantee_principal=arn["carol"], operations=["Sign", "Encrypt"])
    with pytest.raises(Exception, match="Sign"):
        kms.create_grant(grant)
    granted = kms.create_grant(
        CreateGrantRequest(key_id=key.key_id, grantee_principal=arn["carol"], operations=["Encrypt"])
    )
    (facts,) = collect(kms).keys
    rights = {each.principal: each for each in facts.rights}
    assert list(rights) == [root_arn("111122223333"), arn["alice"], arn["bob"], arn["carol"]]
    assert list(rights[arn["alice"]].allowed.values()) == [["Encrypt"]]
    assert "policy use of group writers" in next(iter(rights[arn["alice"]].allowed))
    assert (rights[arn["bob"]].allowed, rights[arn["bob"]].conditional) == ({}, ["Decrypt", "Encrypt"])
    assert rights[arn["carol"]].allowed == {f"grant {granted.grant_id}": ["Encrypt"]}
    assert [each.grantee for each in facts.grants] == [arn["carol"]]


def test_faults(site: Site, clock: StoppedClock) -> None:
    """A key whose object is gone, and one whose rows were edited, are shown as such in the report."""
    with site.open(clock) as kms:
        gone, edited = new_key(kms).key_id, new_key(kms).key_id
    site.edit(f"UPDATE regional_key SET description = 'edited' WHERE key_id = '{edited}'")
    with site.open(clock) as kms:
        (material,) = kms.operator.attest(gone)
        destroy_object(kms, bytes.fromhex(material.cka_id))
        facts = collect(kms)
    keys = {each.posture.key_id: each for each in facts.keys}
    attestation = keys[gone].materials[0].attestation
    assert attestation is not None
    assert (attestation.present, attestation.as_made, keys[gone].fault) == (False, False, None)
    assert (keys[edited].rights, keys[edited].fault is not None) == ([], True)
    assert f"key/{edited}" in [each.subject for each in facts.audit.row_faults]


def test_token_that_is_away(new_site: NewSite) -> None:
    """Material on a token that is away is shown as not read, with the reason."""
    settings = with_second(new_site(), own_module=True)
    with opened(settings) as kms:
        key_id = new_key(kms).key_id
        migrate(kms, settings)
    with away(settings), opened(settings) as kms:
        (key,) = (each for each in collect(kms).keys if each.posture.key_id == key_id)
    assert [each.attestation is None for each in key.materials] == [True, False]
    assert key.materials[0].fault is not None
    assert key.materials[0].fault.startswith("TokenUnavailableError: ")


def test_audit_state(kms: Kms) -> None:
    """The report names the newest record and seal that it has verified."""
    new_key(kms)
    kms.operator.audit.look_after()
    audit = collect(kms).audit
    assert (audit.verdict.faults, audit.verdict.unproven, audit.row_faults) == ([], [], [])
    assert audit.verdict.records > 0
    assert audit.last_event_id is not None


# -- the signature ----------------------------------------------------------------------------------------------------


def test_key(kms: Kms) -> None:
    """The key is made once, is of the installation, signs and never leaves the token; its public half verifies."""
    first = kms.operator.reports.key()
    assert kms.operator.reports.key() == first
    assert first.fingerprint == hashlib.sha256(first.public_key).hexdigest()
    signature = sign(kms)
    assert verifies(read_public_key(first.public_key), DOCUMENT, signature)
    assert not verifies(read_public_key(first.public_key), DOCUMENT + b"x", signature)
    (row,) = versions(kms._core, KeyPurpose.REPORT)
    kind = kms._core.device.keys.identify(row.cka_id)
    assert kind is not None
    attributes, wrong = kms._core.device.keys.attest(row.cka_id, kind)
    assert (attributes["CKA_SIGN"], attributes["CKA_EXTRACTABLE"], attributes["CKA_DERIVE"]) == (True, False, False)
    assert wrong == []
    assert kms.operator.find_differences() == []
    assert kms.operator.audit.verify_rows() == []


def test_rotation(kms: Kms) -> None:
    """Old reports are verified by the older version while it is there, and then by the audit log."""
    signature = sign(kms)
    first = verify(kms, signature).key
    assert first is not None
    assert kms.operator.rotate_installation_key(KeyPurpose.REPORT).outcome is Outcome.ROTATED
    assert kms.operator.reports.key().version == 2
    assert verify(kms, signature).key == first
    assert [each.version for each in kms.operator.reports.available_keys()] == [2, 1]
    kms.operator.rotate_installation_key(KeyPurpose.REPORT, destroy_older=True)
    assert [each.version for each in kms.operator.reports.available_keys()] == [2]
    with pytest.raises(KMSInvalidSignatureException, match="no seal covers it yet"):
        verify(kms, signature)
    kms.operator.audit._sealer.seal()
    proof = verify(kms, signature)
    assert (proof.key, proof.event_id is not None) == (None, True)
    assert proof.note is not None
    assert "no key for reports" in proof.note


def test_rotated_meanwhile(kms: Kms) -> None:
    """A report that names the key before a rotation is not signed by the key after it."""
    key = kms.operator.reports.key()
    kms.operator.rotate_installation_key(KeyPurpose.REPORT)
    with pytest.raises(UnsupportedOperationException, match="make it again"):
        kms.operator.reports.sign(DOCUMENT, key)


def test_migration(new_site: NewSite) -> None:
    """After a migration the key is on the new home; old reports stay provable, also once the old token is forgotten."""
    settings = with_second(new_site(), own_module=True)
    with opened(settings) as kms:
        signature = sign(kms)
        migrate(kms, settings)
        assert [each.version for each in versions(kms._core, KeyPurpose.REPORT)] == [1, 2]
        assert verify(kms, signature).key is not None
        newer = sign(kms, b"another\n")
        kms.operator.audit._sealer.seal()
        old = kms.operator.find_forgettable(str(settings.token.label))
        kms.operator.forget_token(old)
        assert verify(kms, signature).event_id is not None
        proof = verify(kms, newer, b"another\n")
        assert proof.key is not None
        assert proof.key.version == 2


def test_restore(site: Site) -> None:
    """After a restore, reports from before the backup are verified by the key on the token."""
    with site.open() as kms:
        signature = sign(kms)
    file = back_up(site)
    lose(site)
    restore(site, file)
    with site.open() as kms:
        assert verify(kms, signature).key is not None
        sign(kms, b"after\n")
        assert kms.operator.find_differences() == []


def test_another_installation(site: Site, stranger: Site) -> None:
    """A report of another installation is refused, and that one's public key does not verify ours."""
    with stranger.open() as other:
        foreign, key = sign(other), other.operator.reports.key()
    with site.open() as kms:
        ours = sign(kms, b"ours\n")
        assert not verifies(read_public_key(key.public_key), b"ours\n", ours)
        with pytest.raises(KMSInvalidSignatureException, match="another installation made it"):
            verify(kms, foreign)
        with pytest.raises(KMSInvalidSignatureException):
            verify(kms, ours)  # of another report
        with pytest.raises(KMSInvalidSignatureException):
            verify(kms, b"")


def test_forged_record(site: Site) -> None:
    """A record that somebody has appended to the log proves nothing: no seal covers it."""
    with site.open() as kms:
        sign(kms)
        folder = kms._core.audit.folder
    ((lane, segments),) = audit_files.segments(folder).items()
    line = segments[-1].path.read_bytes().splitlines(keepends=True)[-1]
    head, record = audit_chain.head_of(line, 1), audit_chain.record_of(line)
    assert head is not None
    wrong = (hashlib.sha256(each).hexdigest().encode() for each in (DOCUMENT, b"forged\n"))
    epoch = int(line.partition(b'"epoch":')[2].partition(b",")[0])
    _, forged = audit_chain.link(head.hash, lane, head.sequence + 1, epoch, record.replace(*wrong))
    with segments[-1].path.open("ab") as file:
        file.write(forged)
    with site.open() as kms, pytest.raises(KMSInvalidSignatureException, match="no seal covers it yet"):
        verify(kms, None, b"forged\n")
    with segments[-1].path.open("r+b") as file:
        file.truncate(file.seek(0, 2) - len(forged))
        file.seek(0, 2)
        file.write(line.replace(b'"sequence":', b'"sequence":1'))
    with site.open() as kms, pytest.raises(KMSInvalidSignatureException, match="the log is not proven"):
        verify(kms, None)


def test_forged_archive(tmp_path: Path, site: Site) -> None:
    """A changed copy of a file of the log proves nothing as an archive: the log's own file is what is verified."""
    with site.open() as kms:
        sign(kms)
        kms.operator.audit._sealer.seal()
        folder = kms._core.audit.folder
        ((lane, segments),) = audit_files.segments(folder).items()
        archives = [tmp_path / "one", tmp_path / "two"]
        wrong = (hashlib.sha256(each).hexdigest().encode() for each in (DOCUMENT, b"forged\n"))
        forged = segments[-1].path.read_bytes().replace(*wrong)
        for archive in archives:
            archive.mkdir()
            audit_files.segment_path(archive, lane, segments[-1].number).write_bytes(forged)
        assert forged != segments[-1].path.read_bytes()
        with pytest.raises(KMSInvalidSignatureException, match="the audit log has no report with this content"):
            kms.operator.reports.verify(b"forged\n", None, archives, lambda _read, _size: None)
        assert kms.operator.reports.verify(DOCUMENT, None, archives, lambda _read, _size: None).event_id is not None


# -- tokens that cannot sign ------------------------------------------------------------------------------------------


def test_rsa(new_played: NewPlayed) -> None:
    """A token without ECDSA signs with RSA."""
    with new_played(NO_CURVE).open() as kms:
        signature = sign(kms)
        assert len(signature) == 384
        assert verify(kms, signature).key is not None


def test_token_that_cannot_sign(new_played: NewPlayed) -> None:
    """It says so, leaves no intent, and the audit log proves the unsigned report."""
    with new_played(NO_PAIRS).open() as kms:
        with pytest.raises(UnsupportedOperationException, match=r"cannot sign reports.*--unsigned"):
            kms.operator.reports.key()
        assert versions(kms._core, KeyPurpose.REPORT) == []
        assert kms.operator.rotate_installation_key(KeyPurpose.REPORT).outcome is Outcome.UNUSED
        kms.operator.reports.record_unsigned(DOCUMENT)
        kms.operator.audit._sealer.seal()
        assert verify(kms, None).event_id is not None
        with pytest.raises(KMSInvalidSignatureException):
            verify(kms, None, b"another\n")


def test_home_that_cannot_sign(new_played: NewPlayed) -> None:
    """A migration to a token that cannot sign is not held up; the log proves what the older key has signed."""
    site = new_played()
    with site.open() as kms:
        signature = sign(kms)
    order(site, *NO_PAIRS.orders)
    settings = with_second(site, own_module=False)
    with opened(settings) as kms:
        assert kms.operator.rotate_installation_key(KeyPurpose.REPORT).outcome is Outcome.UNSUPPORTED
        migrate(kms, settings)
        assert [each.version for each in versions(kms._core, KeyPurpose.REPORT)] == [1]
        kms.operator.audit._sealer.seal()
        assert verify(kms, signature).event_id is not None
        kms.operator.forget_token(kms.operator.find_forgettable(str(settings.token.label)))
        assert (versions(kms._core, KeyPurpose.REPORT), kms.operator.lost_purposes()) == ([], [])
        with pytest.raises(UnsupportedOperationException, match="cannot sign reports"):
            kms.operator.reports.key()


def test_lost_key(kms: Kms) -> None:
    """A key that is gone from the token is named, and not made again by itself."""
    sign(kms)
    (row,) = versions(kms._core, KeyPurpose.REPORT)
    kms._core.device.keys.destroy(own_permit(OperatorAct.MAINTAIN, row.cka_id), row.cka_id)
    with pytest.raises(ObjectLostError, match="'report', version 1, is not on its token any more"):
        kms.operator.reports.key()
    assert kms.operator.lost_purposes() == ["report"]
    kms.operator.renew_installation_keys(kms.operator.lost_installation_keys())
    assert kms.operator.reports.key().version == 2


@pytest.mark.parametrize("data", [b"", b"-----BEGIN PUBLIC KEY-----\n", b"\x30\x03\x02\x01\x01"])
def test_no_public_key(data: bytes) -> None:
    """What is no public key for reports is refused, and the error says where to get one."""
    with pytest.raises(ConfigurationError, match="report-public-key"):
        read_public_key(data)
