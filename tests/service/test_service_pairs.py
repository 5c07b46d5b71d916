"""Key pairs and HMAC keys over their whole lives: crashes, adoption from the token alone, destruction, caches."""

import uuid

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from lifecycle import stop_at
from pkcs11.constants import ObjectClass
from service_sites import REGION, Site, StoppedClock, mac_key, new_key

from hsmkms.errors import HsmKmsError, KMSInvalidStateException, NotFoundException
from hsmkms.hsm.objects.backing_keys import Kind as BackingKind
from hsmkms.hsm.objects.objects import find
from hsmkms.kms import Kms
from hsmkms.model.asymmetric import GenerateMacRequest, GetPublicKeyRequest, SignRequest, VerifyRequest
from hsmkms.model.deletion import ScheduleKeyDeletionRequest
from hsmkms.model.enums import KeySpec, KeyUsage
from hsmkms.model.ids import new_key_id
from hsmkms.model.keys import DescribeKeyRequest, EnableKeyRequest, KeyMetadata
from hsmkms.model.permit import OperatorAct
from hsmkms.rules.material import object_label
from hsmkms.service.operator.reconcile import Finding, Kind, Mended
from hsmkms.service.runtime.permits import own_permit
from hsmkms.store import keys
from hsmkms.wiring import core as wiring

SIGNING = (KeySpec.ECC_NIST_P256, KeyUsage.SIGN_VERIFY)
KINDS: list[BackingKind] = [
    SIGNING,
    (KeySpec.ECC_NIST_P384, KeyUsage.KEY_AGREEMENT),
    (KeySpec.ECC_SECG_P256K1, KeyUsage.SIGN_VERIFY),
    (KeySpec.ECC_NIST_EDWARDS25519, KeyUsage.SIGN_VERIFY),
    (KeySpec.HMAC_224, KeyUsage.GENERATE_VERIFY_MAC),
    (KeySpec.HMAC_512, KeyUsage.GENERATE_VERIFY_MAC),
    (KeySpec.RSA_2048, KeyUsage.ENCRYPT_DECRYPT),
]
BOTH = (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY)


def made(kms: Kms, kind: BackingKind = SIGNING) -> KeyMetadata:
    """A new key of that kind."""
    return new_key(kms, key_spec=kind[0], key_usage=kind[1])


def cka_id_of(kms: Kms, key_id: str) -> bytes:
    """The CKA_ID of a key's only backing key."""
    with kms._core.store.reading() as conn:
        record = keys.fetch(conn, REGION, key_id)
    assert record is not None
    (only,) = record.materials
    return only.cka_id


def classes(kms: Kms, cka_id: bytes) -> set[ObjectClass]:
    """The classes of the objects on the token with that CKA_ID."""
    inventory = kms._core.device.keys.inventory(mac_key(kms))
    return {stored_key.object_class for stored_key in inventory if stored_key.cka_id == cka_id}


def destroy(kms: Kms, cka_id: bytes, *which: ObjectClass) -> None:
    """Destroy objects behind hsmkms's back."""
    with kms._core.device.connection.pool.session() as session:
        for object_class in which:
            handle = find(session, object_class, cka_id)
            assert handle is not None
            handle.destroy()


def orphan(kms: Kms, kind: BackingKind, key_id: str) -> bytes:
    """A backing key on the token that the database does not know; its CKA_ID."""
    cka_id = uuid.uuid4().bytes
    label = object_label(kms._core.installation.short_id, REGION, key_id, 1)
    kms._core.device.keys.generate_backing_key(own_permit(OperatorAct.MAINTAIN, cka_id), cka_id, label, kind)
    return cka_id


def only_finding(kms: Kms) -> Finding:
    """The one difference that there is."""
    (finding,) = kms.operator.find_differences()
    return finding


def sign(kms: Kms, key_id: str) -> bytes:
    """Sign with a key of SIGNING."""
    request = SignRequest(key_id=key_id, message=b"m", signing_algorithm="ECDSA_SHA_256")
    return kms.sign(request).signature


def test_adoption_rebuilds_every_kind(site: Site) -> None:
    """From the token alone a key gets its spec and usage back, Disabled until it is enabled, and works again."""
    with site.open() as kms:
        wanted = {new_key_id(multi_region=False): kind for kind in KINDS}
        for key_id, kind in wanted.items():
            orphan(kms, kind, key_id)
        findings = kms.operator.find_differences()
        assert {finding.key_id: finding.kind for finding in findings} == dict.fromkeys(wanted, Kind.ORPHAN)
        assert {kms.operator.mend(finding) for finding in findings} == {Mended.ADOPTED}
        for key_id, kind in wanted.items():
            shown = kms.describe_key(DescribeKeyRequest(key_id=key_id)).key_metadata
            assert (shown.key_spec, shown.key_usage, shown.key_state) == (*kind, "Disabled")
            assert kms.operator.attest(key_id)[0].as_made
            kms.enable_key(EnableKeyRequest(key_id=key_id))
        assert kms.operator.find_differences() == []
        signer = next(key_id for key_id, kind in wanted.items() if kind == SIGNING)
        assert kms.verify(
            VerifyRequest(key_id=signer, message=b"m", signature=sign(kms, signer), signing_algorithm="ECDSA_SHA_256")
        ).signature_valid


def test_a_pair_is_no_second_material(site: Site) -> None:
    """Only symmetric keys have several backing keys: a planted pair never takes the place of a key's own."""
    with site.open() as kms:
        key = made(kms)
        before = kms.get_public_key(GetPublicKeyRequest(key_id=key.key_id)).public_key
        for kind in (SIGNING, (KeySpec.HMAC_256, KeyUsage.GENERATE_VERIFY_MAC)):
            orphan(kms, kind, key.key_id)
        for finding in kms.operator.find_differences():
            with pytest.raises(KMSInvalidStateException, match="only symmetric encryption keys have several"):
                kms.operator.mend(finding)
        assert kms.get_public_key(GetPublicKeyRequest(key_id=key.key_id)).public_key == before


@pytest.mark.parametrize("step", ["create-key 1: intent", "create-key 2: device"])
def test_interrupted_creation(site: Site, step: str) -> None:
    """An interrupted, unacknowledged creation leaves a pair to be adopted, or nothing."""
    with site.open() as kms:
        kms._core.reached = stop_at(step)
        with pytest.raises(BaseException, match=step):
            made(kms)
        finding = only_finding(kms)
        if step.startswith("create-key 1"):
            assert (finding.kind, kms.operator.mend(finding)) == (Kind.UNFINISHED, Mended.FORGOTTEN)
        else:
            assert (finding.kind, kms.operator.mend(finding)) == (Kind.UNACKNOWLEDGED, Mended.ADOPTED)
            shown = kms.describe_key(DescribeKeyRequest(key_id=finding.key_id)).key_metadata
            assert (shown.key_spec, shown.key_usage) == SIGNING
        assert kms.operator.find_differences() == []


def test_half_of_an_interrupted_creation(site: Site) -> None:
    """A public half alone is listed, can't be adopted, and can be removed."""
    patient = site.varied("patient.toml", reconcile=wiring.config.ReconcileSettings(grace_hours=0))
    with patient.open() as kms:
        cka_id = orphan(kms, SIGNING, new_key_id(multi_region=False))
        destroy(kms, cka_id, ObjectClass.PRIVATE_KEY)
        finding = only_finding(kms)
        assert finding.kind is Kind.ORPHAN
        with pytest.raises(HsmKmsError, match="is only a part of a key: remove it"):
            kms.operator.mend(finding)
        assert kms.operator.mend(finding, remove=True) is Mended.REMOVED
        assert (classes(kms, cka_id), kms.operator.find_differences()) == (set(), [])


def test_lost_private_half(site: Site) -> None:
    """A key whose private half is gone is missing: its public half alone is not a key, and attest says so."""
    with site.open() as kms:
        key = made(kms)
        destroy(kms, cka_id_of(kms, key.key_id), ObjectClass.PRIVATE_KEY)
        assert only_finding(kms).kind is Kind.MISSING
        (attested,) = kms.operator.attest(key.key_id)
        assert (attested.present, attested.as_made) == (False, False)
        with pytest.raises(HsmKmsError) as caught:
            sign(kms, key.key_id)
        assert caught.value.code == "KeyUnavailableException"


def test_lost_public_half(site: Site) -> None:
    """A key whose public half is gone still signs; no public key is returned for it, and attest says what is wrong."""
    with site.open() as kms:
        key = made(kms)
        destroy(kms, cka_id_of(kms, key.key_id), ObjectClass.PUBLIC_KEY)
        assert sign(kms, key.key_id)
        (attested,) = kms.operator.attest(key.key_id)
        assert (attested.present, attested.as_made) == (True, False)
        assert any("public half" in deviation for deviation in attested.deviations)
        with pytest.raises(HsmKmsError) as caught:
            kms.get_public_key(GetPublicKeyRequest(key_id=key.key_id))
        assert caught.value.code == "KeyUnavailableException"


def test_deletion_destroys_both_halves(site: Site, clock: StoppedClock) -> None:
    """When the waiting period is over both halves of a pair, and an HMAC key, are destroyed on the token."""
    with site.open(clock) as kms:
        doomed = [made(kms, kind) for kind in (SIGNING, (KeySpec.HMAC_384, KeyUsage.GENERATE_VERIFY_MAC))]
        stays = made(kms)
        cka_ids = [cka_id_of(kms, doomed_object.key_id) for doomed_object in doomed]
        assert [classes(kms, cka_key_id) for cka_key_id in cka_ids] == [set(BOTH), {ObjectClass.SECRET_KEY}]
        for key in doomed:
            kms.schedule_key_deletion(ScheduleKeyDeletionRequest(key_id=key.key_id, pending_window_in_days=7))
        clock.advance(days=8)
        kms.operator.maintain()
        assert [classes(kms, cka_key_id) for cka_key_id in cka_ids] == [set(), set()]
        assert classes(kms, cka_id_of(kms, stays.key_id)) == set(BOTH)
        with pytest.raises(NotFoundException):
            kms.get_public_key(GetPublicKeyRequest(key_id=doomed[0].key_id))
        assert kms.operator.find_differences() == []


def test_destruction_that_stopped_between_the_halves(site: Site, clock: StoppedClock) -> None:
    """A destruction that ended after the private half is finished by the next maintenance."""
    with site.open(clock) as kms:
        key = made(kms)
        cka_id = cka_id_of(kms, key.key_id)
        kms.schedule_key_deletion(ScheduleKeyDeletionRequest(key_id=key.key_id, pending_window_in_days=7))
        destroy(kms, cka_id, ObjectClass.PRIVATE_KEY)
        clock.advance(days=8)
        kms.operator.maintain()
        assert classes(kms, cka_id) == set()


def test_another_process_sees_the_same(site: Site) -> None:
    """What one process made another uses: the secret of an HMAC key, and both halves of a pair."""
    with site.open() as kms:
        pair, secret = made(kms), made(kms, (KeySpec.HMAC_256, KeyUsage.GENERATE_VERIFY_MAC))
        public = kms.get_public_key(GetPublicKeyRequest(key_id=pair.key_id)).public_key
        order = GenerateMacRequest(key_id=secret.key_id, message=b"m", mac_algorithm="HMAC_SHA_256")
        mac = kms.generate_mac(order).mac
    with site.open() as kms:
        assert kms.get_public_key(GetPublicKeyRequest(key_id=pair.key_id)).public_key == public
        assert kms.generate_mac(order).mac == mac
        known = load_der_public_key(public)
        assert isinstance(known, ec.EllipticCurvePublicKey)
        assert kms.verify(
            VerifyRequest(
                key_id=pair.key_id, message=b"m", signature=sign(kms, pair.key_id), signing_algorithm="ECDSA_SHA_256"
            )
        ).signature_valid
