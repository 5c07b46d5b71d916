"""The service on a token without AES-GCM, and on one that loses or gains it: AES-CBC with HMAC, two keys a material.

What the device does by itself is in tests/hsm/test_hsm_cbc.py.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import shims
from backups import back_up, open_by_token
from lifecycle import (
    StoppedError,
    backing_keys,
    enable,
    material_of,
    named_by,
    new_empty_key,
    record_of,
    rotate,
    schedule,
    stop_at,
    sweep,
)
from pkcs11.mechanisms import Mechanism
from service_sites import Site, StoppedClock, new_key, seal, unseal
from shims import NO_GCM, Personality
from test_service_audit import records
from test_service_backup import lose, restore
from test_service_crash import STEPS, cka_id_of, destroy_object, interrupt, key_ids, kinds, restored_copy
from test_service_tokens import NewPlayed, import_, order
from test_service_tokens import new_played as new_played  # noqa: PLC0414 - the fixture
from waiting import until

from hsmkms.errors import (
    InvalidCiphertextException,
    KMSInternalException,
    KMSInvalidStateException,
    ObjectLostError,
    TokenError,
    UnsupportedOperationException,
)
from hsmkms.hsm.objects.cbc_pairs import CBC_MAC_KEY
from hsmkms.hsm.objects.objects import generate, list_keys
from hsmkms.kms import Kms
from hsmkms.model.cipher_format import LAYOUTS, CipherFormat, format_of, mac_key_id, new_cka_id
from hsmkms.model.crypto import GenerateDataKeyPairRequest, GenerateDataKeyRequest
from hsmkms.model.enums import DataKeyPairSpec, WrappingAlgorithm
from hsmkms.model.own_keys import KeyPurpose
from hsmkms.rules import blob
from hsmkms.rules.material import parse_label
from hsmkms.service.keys.backing import QUIRKS_EVENT
from hsmkms.service.keys.installation_keys import versions
from hsmkms.service.operator.key_rotation import Outcome
from hsmkms.service.operator.reconcile import Kind, Mended
from hsmkms.store import objects

GCM, CBC = CipherFormat.AES_256_GCM, CipherFormat.AES_256_CBC_HMAC_SHA_256
SHA_1 = WrappingAlgorithm.RSAES_OAEP_SHA_1
CONTEXT = {"purpose": "test"}
POOR = Personality(
    name="poor",
    orders=(
        *(*NO_GCM.orders, "no_data_objects", "labels 32 refused", "sessions 8"),
        *(f"hide {each:#x}" for each in (Mechanism.AES_ECB, Mechanism.AES_CMAC)),
    ),
    reason="a network HSM in FIPS mode may lack much besides AES-GCM",
)
HALF = "fault C_GenerateKey 2 return 0x71", "fault C_DestroyObject 1 return 0x5"
"""The token makes the HMAC key, refuses the other one, and cannot destroy the first: it is left as by a crash."""


@pytest.fixture
def site(new_played: NewPlayed) -> Site:
    """An installation on a token without AES-GCM."""
    return new_played(NO_GCM)


def objects_of(kms: Kms, key_id: str) -> int:
    """How many objects of a key, or of a purpose of the installation's own, are on the token, whatever they are."""
    with kms._core.device.connection.pool.session() as session:
        labels = [each.label for each in list_keys(session)]
    return sum(key_id == parts.key_id if (parts := parse_label(each)) else key_id in each for each in labels)


def mac_id_of(kms: Kms, key_id: str) -> bytes:
    """The CKA_ID of the HMAC key of a key's current material."""
    found = mac_key_id(cka_id_of(kms, key_id))
    assert found is not None
    return found


def formats(*ciphertexts: bytes) -> list[CipherFormat]:
    """The formats of ciphertexts."""
    return [blob.parse(each).cipher_format for each in ciphertexts]


# -- the whole story ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("personality", [NO_GCM, POOR], ids=lambda personality: personality.name)
def test_story(new_played: NewPlayed, clock: StoppedClock, personality: Personality) -> None:
    """Keys are made, encrypt, rotate, are opened again, and die with all their objects; every ciphertext opens."""
    site = new_played(personality)
    with site.open(clock) as kms:
        key_id = new_key(kms).key_id
        first = seal(kms, key_id, encryption_context=CONTEXT)
        rotate(kms, key_id)
        second = seal(kms, key_id)
        assert named_by(kms, second) == material_of(kms, key_id) != blob.parse(first).material_id
        data_key = kms.generate_data_key(GenerateDataKeyRequest(key_id=key_id, number_of_bytes=32))
        assert unseal(kms, data_key.ciphertext_blob) == data_key.plaintext
        pair = kms.generate_data_key_pair(
            GenerateDataKeyPairRequest(key_id=key_id, key_pair_spec=DataKeyPairSpec.RSA_4096)
        )
        assert unseal(kms, pair.private_key_ciphertext_blob) == pair.private_key_plaintext
        assert formats(first, second, data_key.ciphertext_blob, pair.private_key_ciphertext_blob) == [CBC] * 4
        assert {each[5] for each in (first, second)} == {2}

        access_key = kms.operator.credentials.create_access_key(None)
        assert objects_of(kms, key_id) == 4

    with site.open(clock) as kms:
        assert unseal(kms, first, encryption_context=CONTEXT) == unseal(kms, second) == b"secret"
        with pytest.raises(InvalidCiphertextException):
            unseal(kms, first, encryption_context={"purpose": "another"})
        found = kms.operator.credentials.find(access_key.access_key_id)
        assert found is not None
        assert found.secret == access_key.secret_access_key
        assert kinds(kms) == []
        schedule(kms, key_id, 7)
        clock.advance(days=8)
        sweep(kms)
        assert backing_keys(kms) == {}
        assert objects_of(kms, key_id) == 0
        assert kinds(kms) == []


def test_format_is_shown(site: Site) -> None:
    """`attest` names the format and both keys, `token-info` and the audit log say that there is no AES-GCM."""
    with site.open() as kms:
        key_id = new_key(kms).key_id
        (attested,) = kms.operator.attest(key_id)
        assert attested.as_made
        assert attested.ciphertext_format is CBC
        assert attested.mac_key is not None
        assert attested.mac_key["CKA_EXTRACTABLE"] is False
        profile = kms.operator.token_info().profile
        assert profile.cipher_format is CBC
        (quirk,) = (each for each in profile.quirks if each.startswith("no AES-GCM"))
        (event,) = (each["serviceEventDetails"] for each in records(kms) if each["eventName"] == QUIRKS_EVENT)
        assert quirk in event["tokenQuirks"]


def test_lengths(site: Site) -> None:
    """A ciphertext has the padded length of its plaintext, and at most 4,096 bytes are taken."""
    with site.open() as kms:
        key_id, layout = new_key(kms).key_id, LAYOUTS[CBC]
        for size in (1, 15, 16, 4096):
            sealed = seal(kms, key_id, plaintext=b"p" * size)
            padded = (size // layout.block + 1) * layout.block
            assert len(sealed) == blob.HEADER_LENGTH + layout.iv + padded + layout.tag
            assert unseal(kms, sealed) == b"p" * size


def test_backup_by_the_token(site: Site) -> None:
    """A backup that the token seals is sealed in that format, names it, and is restored."""
    with site.open() as kms:
        sealed = seal(kms, new_key(kms).key_id)
    file = back_up(site)
    header, contents = open_by_token(file, site)
    assert header.method == "TOKEN-AES-256-CBC-HMAC-SHA-256"
    assert contents
    lose(site)
    assert restore(site, file).missing == []
    with site.open() as kms:
        assert unseal(kms, sealed) == b"secret"
        assert kinds(kms) == []


# -- importing ------------------------------------------------------------------------------------------------------


def test_no_import(site: Site) -> None:
    """No key material is imported for symmetric keys, and the refusal says why and what to do instead."""
    with site.open() as kms:
        with pytest.raises(UnsupportedOperationException, match="would not decrypt what it encrypted"):
            new_empty_key(kms)
        assert key_ids(kms) == set()
        order(site)  # the token has AES-GCM for a while
    with site.open() as kms:
        key_id = new_empty_key(kms)
        import_(kms, key_id, SHA_1)
        sealed = seal(kms, key_id)
        empty = new_empty_key(kms)
        order(site, *NO_GCM.orders)
    with site.open() as kms:
        assert unseal(kms, sealed) == b"secret"
        with pytest.raises(UnsupportedOperationException, match="This token has no AES-GCM any more"):
            seal(kms, key_id)
        with pytest.raises(UnsupportedOperationException, match="no key material is imported for symmetric encryption"):
            import_(kms, empty, SHA_1)
        assert kinds(kms) == []


# -- a token that gains or loses AES-GCM ----------------------------------------------------------------------------


def test_gained(site: Site) -> None:
    """Where the token gains AES-GCM, old material keeps its format, decrypts and encrypts, until the key rotates."""
    with site.open() as kms:
        key_id = new_key(kms).key_id
        first = seal(kms, key_id)
    order(site)
    with site.open() as kms:
        second = seal(kms, key_id)
        rotate(kms, key_id)
        third, fourth = seal(kms, key_id), seal(kms, new_key(kms).key_id)
        assert formats(first, second, third, fourth) == [CBC, CBC, GCM, GCM]
        assert {unseal(kms, each) for each in (first, second, third, fourth)} == {b"secret"}
        assert [each.ciphertext_format for each in kms.operator.attest(key_id)] == [CBC, GCM]
        assert kinds(kms) == []


def test_lost(new_played: NewPlayed) -> None:
    """Where the token loses AES-GCM, old ciphertexts open, and generated keys rotate before they encrypt again."""
    site = new_played()
    with site.open() as kms:
        key_id = new_key(kms).key_id
        first = seal(kms, key_id)
        access_key = kms.operator.credentials.create_access_key(None)
    order(site, *NO_GCM.orders)
    with site.open() as kms:
        assert unseal(kms, first) == b"secret"
        second = seal(kms, key_id)
        assert formats(first, second) == [GCM, CBC]
        assert [format_of(each.cka_id) for each in record_of(kms, key_id).materials] == [GCM, CBC]
        assert unseal(kms, second) == b"secret"
        with pytest.raises(UnsupportedOperationException, match="hsmkms rotate-installation-keys"):
            kms.operator.credentials.create_access_key(None)
        assert kms.operator.rotate_installation_key(KeyPurpose.SECRETS).outcome is Outcome.ROTATED
        kms.operator.credentials.create_access_key(None)
        found = kms.operator.credentials.find(access_key.access_key_id)
        assert found is not None
        assert found.secret == access_key.secret_access_key
        assert kinds(kms) == []


@pytest.mark.parametrize("before", [NO_GCM.orders, ()], ids=["gained", "lost"])
def test_own_key_begun_in_another_format(site: Site, before: tuple[str, ...]) -> None:
    """An installation's own key that was begun before the token's format changed is made in the format of today."""
    after = () if before else NO_GCM.orders
    order(site, *before)
    with site.open() as kms:
        order(site, *before, *HALF if before else ("fault C_GenerateKey 1 return 0x5",))
        with pytest.raises(TokenError):
            kms.operator.credentials.create_access_key(None)
    order(site, *after)
    with site.open() as kms:
        access_key = kms.operator.credentials.create_access_key(None)
        found = kms.operator.credentials.find(access_key.access_key_id)
        assert found is not None
        assert found.secret == access_key.secret_access_key
        (made,) = versions(kms._core, KeyPurpose.SECRETS)
        assert (made.version, format_of(made.cka_id)) == (1, GCM if before else CBC)
        assert objects_of(kms, KeyPurpose.SECRETS) == (1 if before else 2)
        assert kinds(kms) == []


@pytest.mark.parametrize("before", [NO_GCM.orders, ()], ids=["gained", "lost"])
def test_own_rotation_begun_in_another_format(site: Site, before: tuple[str, ...]) -> None:
    """The rotation of such a key that was begun before is finished in the format of today, and moves what is stored."""
    after = () if before else NO_GCM.orders
    order(site, *before)
    with site.open() as kms:
        access_key = kms.operator.credentials.create_access_key(None)
        kms._core.reached = stop_at("rotate-own 1")
        with pytest.raises(StoppedError):
            kms.operator.rotate_installation_key(KeyPurpose.SECRETS)
    order(site, *after)
    with site.open() as kms:
        assert kms.operator.rotate_installation_key(KeyPurpose.SECRETS).outcome is Outcome.FINISHED
        found = kms.operator.credentials.find(access_key.access_key_id)
        assert found is not None
        assert found.secret == access_key.secret_access_key
        made = [format_of(each.cka_id) for each in versions(kms._core, KeyPurpose.SECRETS)]
        assert made == ([CBC, GCM] if before else [GCM, CBC])


@pytest.mark.parametrize("to", [1, 2])
def test_format_of_another_material(site: Site, to: int) -> None:
    """A ciphertext whose algorithm byte is not that of its material is invalid, whatever follows."""
    if to == 2:
        order(site)
    with site.open() as kms:
        sealed = seal(kms, new_key(kms).key_id, plaintext=b"p" * 64)
        assert sealed[5] == 3 - to
        with pytest.raises(InvalidCiphertextException):
            unseal(kms, sealed[:5] + bytes((to,)) + sealed[6:])


# -- what is left by a crash, and what was removed ------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
def test_killed_creation(site: Site, step: str) -> None:
    """After kill -9 what was left is found as one key, never as two, and can be adopted."""
    interrupt(site, step)
    with site.open() as kms:
        expected = STEPS[step]
        assert kinds(kms) == ([expected] if expected else [])
        for finding in kms.operator.find_differences():
            assert kms.operator.mend(finding) is (Mended.FORGOTTEN if expected is Kind.UNFINISHED else Mended.ADOPTED)
        for key_id in key_ids(kms):
            enable(kms, key_id)
            assert unseal(kms, seal(kms, key_id)) == b"secret"
        assert kinds(kms) == []


def test_orphan_is_adopted(site: Site) -> None:
    """A key that an older database does not know is rebuilt from the token with its format, and decrypts."""

    def work(kms: Kms) -> tuple[str, bytes]:
        key_id = new_key(kms).key_id
        return key_id, seal(kms, key_id)

    key_id, sealed = restored_copy(site, work)
    with site.open() as kms:
        (finding,) = kms.operator.find_differences()
        assert (finding.kind, finding.key_id) == (Kind.ORPHAN, key_id)
        assert kms.operator.mend(finding) is Mended.ADOPTED
        enable(kms, key_id)
        assert unseal(kms, sealed) == b"secret"
        assert kinds(kms) == []


def leave_half(site: Site, act: Callable[[], object]) -> None:
    """Do something that generates two keys, and stop it after the first one."""
    order(site, *NO_GCM.orders, *HALF)
    with pytest.raises(TokenError, match="keeps it: `hsmkms reconcile` shows it"):
        act()
    order(site, *NO_GCM.orders)


def test_half_a_creation(site: Site) -> None:
    """A creation that was stopped between its two keys is unfinished, and forgetting it removes the lone HMAC key."""
    with site.open() as kms:
        leave_half(site, lambda: new_key(kms))
        (finding,) = kms.operator.find_differences()
        assert (finding.kind, finding.remedy) == (Kind.UNFINISHED, "forget the intent: no complete key is on the token")
        assert objects_of(kms, finding.key_id) == 1
        assert kms.operator.mend(finding) is Mended.FORGOTTEN
        assert kms.operator.mend(finding) is Mended.GONE
        assert objects_of(kms, finding.key_id) == 0
        assert (kinds(kms), key_ids(kms)) == ([], set())


def test_half_a_creation_that_is_under_way(site: Site) -> None:
    """A creation whose intent is forgotten between its two keys fails, and neither a key nor an object is left."""
    with site.open() as kms, ThreadPoolExecutor() as threads:
        order(site, *NO_GCM.orders, "fault C_GenerateKey 2 wait")
        creation = threads.submit(new_key, kms)
        until(lambda: shims.waiting(site.folder / "shim.control") == 1, 60)
        (finding,) = kms.operator.find_differences()
        assert finding.kind is Kind.UNFINISHED
        mending = threads.submit(kms.operator.mend, finding)
        until(lambda: not intents(kms, finding.key_id), 60)
        order(site, *NO_GCM.orders)
        with pytest.raises(KMSInternalException, match="create it again"):
            creation.result()
        assert mending.result() is Mended.FORGOTTEN
        sweep(kms)
        assert (kinds(kms), key_ids(kms), objects_of(kms, finding.key_id)) == ([], set(), 0)


def intents(kms: Kms, key_id: str) -> int:
    """How many rows of an object that a key is to get there are."""
    core = kms._core
    with core.store.reading() as conn:
        rows = objects.all_of_token(conn, core.tokens.home_id)
    return sum(each.key_id == key_id for each in rows.values())


@pytest.mark.parametrize("by", ["rotation", "maintain", "reconcile"])
def test_half_a_rotation(site: Site, clock: StoppedClock, by: str) -> None:
    """What a rotation that was stopped between its two keys has left is removed by whatever finds it, not an orphan."""
    with site.open(clock) as kms:
        key_id = new_key(kms).key_id
        first = seal(kms, key_id)
        leave_half(site, lambda: rotate(kms, key_id))
        (finding,) = kms.operator.find_differences()
        assert (finding.kind, objects_of(kms, key_id)) == (Kind.UNFINISHED, 3)
        clock.advance(minutes=11)
        if by == "reconcile":
            assert kms.operator.mend(finding) is Mended.DOOMED
        elif by == "rotation":
            rotate(kms, key_id)
        sweep(kms)
        sweep(kms)
        assert kinds(kms) == []
        assert objects_of(kms, key_id) == (4 if by == "rotation" else 2)
        assert unseal(kms, first) == unseal(kms, seal(kms, key_id)) == b"secret"


def test_half_a_destruction(site: Site, clock: StoppedClock) -> None:
    """A destruction that was stopped between its two keys is finished by the next run."""
    with site.open(clock) as kms:
        key_id = new_key(kms).key_id
        schedule(kms, key_id, 7)
        clock.advance(days=8)
        order(site, *NO_GCM.orders, "fault C_DestroyObject 2+ return 0x5")
        sweep(kms)
        assert (kinds(kms), objects_of(kms, key_id)) == ([Kind.DOOMED], 1)
        order(site, *NO_GCM.orders)
        sweep(kms)
        assert (kinds(kms), objects_of(kms, key_id)) == ([], 0)


def test_half_an_orphan(site: Site, clock: StoppedClock) -> None:
    """A lone HMAC key that a crash has left is shown, is no key that could be adopted, and is removed after grace."""
    with site.open(clock) as kms:
        core, cka_id = kms._core, new_cka_id(CBC)
        authenticating = mac_key_id(cka_id)
        assert authenticating is not None
        key_id = "11111111-2222-4333-8444-555555555555"
        label = f"hsmkms/{core.installation.short_id}/eu-central-1/{key_id}/1"
        with core.device.connection.pool.session() as session:
            generate(session, CBC_MAC_KEY, authenticating, label)
        (finding,) = kms.operator.find_differences()
        assert (finding.kind, finding.cka_id) == (Kind.ORPHAN, cka_id.hex())
        assert finding.remedy == "remove it: it is only a part of a key, which is of no use"
        with pytest.raises(KMSInvalidStateException, match="is only a part of a key"):
            kms.operator.mend(finding)
        clock.advance(hours=25)
        assert kms.operator.mend(finding, remove=True) is Mended.REMOVED
        assert objects_of(kms, key_id) == 0
        assert kinds(kms) == []


@pytest.mark.parametrize("which", ["encrypting", "authenticating"])
def test_missing_half(site: Site, which: str) -> None:
    """A material that lost one of its keys is missing, and `attest` shows it."""
    with site.open() as kms:
        key_id = new_key(kms).key_id
        sealed = seal(kms, key_id)
        lost = cka_id_of(kms, key_id) if which == "encrypting" else mac_id_of(kms, key_id)
        destroy_object(kms, lost)
    with site.open() as kms:
        (finding,) = kms.operator.find_differences()
        assert finding.kind is Kind.MISSING
        assert f"an HMAC key too, with CKA_ID {mac_id_of(kms, key_id).hex()}" in finding.remedy
        assert not kms.operator.attest(key_id)[0].as_made
        with pytest.raises(ObjectLostError):
            unseal(kms, sealed)


def test_two_hmac_keys(site: Site) -> None:
    """A second HMAC key with the CKA_ID of the first is a duplicate: nothing shows which is the right one."""
    with site.open() as kms:
        key_id = new_key(kms).key_id
        with kms._core.device.connection.pool.session() as session:
            (label,) = {each.label for each in list_keys(session) if key_id in each.label}
            generate(session, CBC_MAC_KEY, mac_id_of(kms, key_id), label)
        assert set(kinds(kms)) == {Kind.DUPLICATE}
        mentioned = [mac_id_of(kms, key_id).hex() in each.remedy for each in kms.operator.find_differences()]
        assert mentioned
        assert all(mentioned)
