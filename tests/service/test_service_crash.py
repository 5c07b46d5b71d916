"""Kill -9 at every step of a creation, an older database, a token that lost something: nothing stays unnoticed."""

import ctypes
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from lifecycle import delete_material, new_imported_key
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.mechanisms import KeyType
from service_sites import OTHER_REGION, REGION, Site, StoppedClock, mac_key, new_key, run, seal, unseal

from hsmkms.errors import (
    AccessDeniedException,
    DisabledException,
    HsmKmsError,
    KMSInvalidStateException,
    ObjectLostError,
    TokenUnavailableError,
    ValidationException,
)
from hsmkms.hsm.key_objects import KeyObjects
from hsmkms.hsm.objects.attributes import AES_256_BACKING_KEY
from hsmkms.hsm.objects.objects import TokenObject, find, generate
from hsmkms.kms import Kms
from hsmkms.model.keys import DescribeKeyRequest, EnableKeyRequest, KeyMetadata, ListKeysRequest
from hsmkms.rules.material import object_label, short_label
from hsmkms.service.operator.reconcile import UNKNOWN_USE, Kind, Mended
from hsmkms.store import installation, keys, leases, objects

Done = TypeVar("Done")

STEPS = {"create-key 1": Kind.UNFINISHED, "create-key 2": Kind.UNACKNOWLEDGED, "create-key 3": None}
"""Where a creation is killed, and what it leaves."""


def interrupt(site: Site, step: str, *, before: int = 0) -> list[Any]:
    """Kill a creation at a step; the key ids and ciphertexts of the keys that were made before it."""
    return run("create_keys", site.folder / "hsmkms.toml", str(before), step, status=-9)


def key_ids(kms: Kms, region: str = REGION) -> set[str]:
    """All keys of a region."""
    return {key.key_id for key in kms.list_keys(ListKeysRequest(limit=1000), kms.caller(region)).keys}


def described(kms: Kms, key_id: str) -> KeyMetadata:
    """The metadata of a key."""
    return kms.describe_key(DescribeKeyRequest(key_id=key_id)).key_metadata


def cka_id_of(kms: Kms, key_id: str) -> bytes:
    """The CKA_ID of a key's current material."""
    with kms._core.store.reading() as conn:
        record = keys.fetch(conn, REGION, key_id)
    assert record is not None
    assert record.current is not None
    return record.current.cka_id


def on_token(kms: Kms, cka_id: bytes) -> int:
    """How many objects of that CKA_ID the token holds."""
    return [stored_key.cka_id for stored_key in kms._core.device.keys.inventory(mac_key(kms))].count(cka_id)


def make_object(kms: Kms, cka_id: bytes, label: str) -> None:
    """Make a backing key on the token behind the back of the database."""
    with kms._core.device.connection.pool.session() as session:
        generate(session, AES_256_BACKING_KEY, cka_id, label)


def destroy_object(kms: Kms, cka_id: bytes) -> None:
    """Destroy an object on the token without hsmkms."""
    with kms._core.device.connection.pool.session() as session:
        handle = find(session, ObjectClass.SECRET_KEY, cka_id)
        assert handle is not None
        handle.destroy()


def label_for(kms: Kms, key_id: str, sequence: int, region: str = REGION) -> str:
    """The label of a backing key of this installation."""
    return object_label(kms._core.installation.short_id, region, key_id, sequence)


def kinds(kms: Kms) -> list[Kind]:
    """What reconcile finds."""
    return [finding.kind for finding in kms.operator.find_differences()]


# -- creation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
def test_killed_creation_is_noticed(site: Site, step: str) -> None:
    """After kill -9 every acknowledged key is there and decrypts, and exactly what was left is listed, each time."""
    reported = interrupt(site, step, before=3)
    with site.open() as kms:
        for key_id, sealed in reported:
            assert unseal(kms, bytes.fromhex(sealed), key_id=key_id) == b"secret"
        unreported = key_ids(kms) - {key_id for key_id, _ in reported}
        assert len(unreported) == (1 if STEPS[step] is None else 0)
        expected = [STEPS[step]] if STEPS[step] else []
        assert kinds(kms) == expected
        assert kinds(kms) == expected
        for key_id in unreported:
            assert unseal(kms, seal(kms, key_id)) == b"secret"


def test_unfinished_is_forgotten(site: Site) -> None:
    """An intent without an object is dropped with all that belongs to it."""
    interrupt(site, "create-key 1")
    with site.open() as kms:
        (finding,) = kms.operator.find_differences()
        assert (finding.kind, finding.region, finding.sequence, finding.first_seen) == (
            Kind.UNFINISHED,
            REGION,
            1,
            None,
        )
        with pytest.raises(ValidationException, match="cannot be mended"):
            kms.operator.mend(finding, remove=True)
        assert kms.operator.mend(finding) is Mended.FORGOTTEN
        assert kinds(kms) == []
        assert kms.operator.mend(finding) is Mended.GONE
        assert key_ids(kms) == set()
        assert new_key(kms).enabled


def test_unacknowledged_is_adopted(site: Site) -> None:
    """An unacknowledged object becomes a Disabled key, which works once it is enabled."""
    interrupt(site, "create-key 2")
    with site.open() as kms:
        (finding,) = kms.operator.find_differences()
        assert finding.first_seen is not None
        assert kms.operator.mend(finding) is Mended.ADOPTED
        adopted = described(kms, finding.key_id)
        assert (adopted.key_state, adopted.description) == ("Disabled", "interrupted")
        with pytest.raises(DisabledException):
            seal(kms, finding.key_id)
        kms.enable_key(EnableKeyRequest(key_id=finding.key_id))
        assert unseal(kms, seal(kms, finding.key_id)) == b"secret"
        assert kms.operator.attest(finding.key_id)[0].as_made
        assert kinds(kms) == []
        assert kms.operator.mend(finding) is Mended.GONE


def test_what_is_acknowledged_is_forgotten(site: Site, clock: StoppedClock) -> None:
    """That an object was once seen without a live key is forgotten at the next check that finds it with one."""
    with site.open(clock) as kms:
        core = kms._core
        (row,) = core.cache.key(REGION, new_key(kms).key_id).record.materials  # type: ignore[union-attr]
        with core.store.atomic() as tx:
            objects.note_seen(tx, row.token_id, row.cka_id, clock.now)
        assert kinds(kms) == []
        with core.store.reading() as conn:
            assert objects.first_seen(conn, row.token_id) == {}


def test_unacknowledged_is_removed_after_grace(site: Site, clock: StoppedClock) -> None:
    """Removal is refused until the grace period since the first check is over, and then leaves nothing behind."""
    interrupt(site, "create-key 2")
    with site.open(clock) as kms:
        (finding,) = kms.operator.find_differences()
        cka_id = bytes.fromhex(finding.cka_id)
        assert finding.first_seen == clock.now
        clock.advance(hours=23, minutes=59, seconds=59)
        assert kms.operator.find_differences() == [finding]
        with pytest.raises(KMSInvalidStateException, match="may be removed from 2026-01-03 03:04:05 UTC on"):
            kms.operator.mend(finding, remove=True)
        assert on_token(kms, cka_id) == 1
        clock.advance(seconds=1)
        assert kms.operator.mend(finding, remove=True) is Mended.REMOVED
        assert on_token(kms, cka_id) == 0
        assert kinds(kms) == []
        assert key_ids(kms) == set()


def test_grace_is_configured(new_site: Callable[..., Site], clock: StoppedClock) -> None:
    """The grace period is the one of the configuration; with none an object may be removed at once."""
    site = new_site()
    quick = site.varied("quick.toml", reconcile=type(site.settings.reconcile)(grace_hours=0))
    interrupt(site, "create-key 2")
    with quick.open(clock) as kms:
        (finding,) = kms.operator.find_differences()
        assert kms.operator.mend(finding, remove=True) is Mended.REMOVED


@pytest.mark.parametrize(("restored", "removable"), [(-1, False), (0, False), (1, True)])
def test_never_removed_when_newer_than_a_restore(
    site: Site, clock: StoppedClock, restored: int, *, removable: bool
) -> None:
    """An object first seen at or after a restore may be a key in use, so it is not removed, however long it waits."""
    interrupt(site, "create-key 2")
    with site.open(clock) as kms:
        with kms._core.store.atomic() as tx:
            installation.set_restored(tx, clock.now + timedelta(hours=restored))
        (finding,) = kms.operator.find_differences()
        clock.advance(days=1000)
        if removable:
            assert kms.operator.mend(finding, remove=True) is Mended.REMOVED
        else:
            with pytest.raises(KMSInvalidStateException, match="adopt it instead"):
                kms.operator.mend(finding, remove=True)
            assert on_token(kms, bytes.fromhex(finding.cka_id)) == 1
            assert kms.operator.mend(finding) is Mended.ADOPTED


# -- an older database --------------------------------------------------------------------------------------------


def restored_copy(site: Site, work: Callable[[Kms], Done]) -> Done:
    """Do ``work``, and then put the database back to what it was before."""
    put_back = site.keep_control_plane()
    with site.open() as kms:
        done = work(kms)
    put_back()
    return done


def test_orphan_is_adopted(site: Site) -> None:
    """A key that an older database does not know is rebuilt from the token, and its old ciphertexts open again."""

    def work(kms: Kms) -> tuple[KeyMetadata, bytes]:
        made = new_key(kms, description="lost")
        return made, seal(kms, made.key_id, encryption_context={"a": "1"})

    made, sealed = restored_copy(site, work)
    with site.open() as kms:
        with pytest.raises(AccessDeniedException):
            unseal(kms, sealed, encryption_context={"a": "1"})
        (finding,) = kms.operator.find_differences()
        assert (finding.kind, finding.key_id, finding.region) == (Kind.ORPHAN, made.key_id, REGION)
        assert kms.operator.mend(finding) is Mended.ADOPTED
        adopted = described(kms, made.key_id)
        assert (adopted.arn, adopted.key_state) == (made.arn, "Disabled")
        assert adopted.current_key_material_id == made.current_key_material_id
        assert adopted.description.startswith("adopted from the token at ")
        kms.enable_key(EnableKeyRequest(key_id=made.key_id))
        assert unseal(kms, sealed, encryption_context={"a": "1"}) == b"secret"
        assert leases.total(kms._core.store, made.current_key_material_id or "") >= UNKNOWN_USE
        assert kinds(kms) == []


def test_orphan_of_another_region(site: Site) -> None:
    """An orphan is adopted into the region that its label names, whatever region is suggested."""
    made = restored_copy(site, lambda kms: new_key(kms, kms.caller(OTHER_REGION)))
    with site.open() as kms:
        (finding,) = kms.operator.find_differences()
        kms.operator.mend(finding, region=REGION)
        assert (key_ids(kms), key_ids(kms, OTHER_REGION)) == (set(), {made.key_id})


@pytest.mark.parametrize("region", [None, OTHER_REGION])
def test_orphan_with_short_label(site: Site, region: str | None) -> None:
    """A short label names no region: the one that is given is taken, else the default one."""
    key_id = "12345678-1234-4123-8123-123456789012"
    with site.open() as kms:
        make_object(kms, b"s" * 16, short_label(kms._core.installation.short_id, key_id, 1))
        (finding,) = kms.operator.find_differences()
        assert (finding.kind, finding.key_id, finding.region) == (Kind.ORPHAN, key_id, None)
        assert kms.operator.mend(finding, region=region) is Mended.ADOPTED
        assert key_ids(kms, region or REGION) == {key_id}
        assert kinds(kms) == []


def test_many_orphans(site: Site) -> None:
    """Every key of a database that was set back to its beginning is listed, adopted, and decrypts its ciphertexts."""

    def work(kms: Kms) -> dict[str, bytes]:
        return {key_id: seal(kms, key_id) for key_id in (new_key(kms).key_id for _ in range(5))}

    lost = restored_copy(site, work)
    with site.open() as kms:
        findings = kms.operator.find_differences()
        assert {each.key_id for each in findings} == set(lost)
        for finding in findings:
            kms.operator.mend(finding)
        for key_id, sealed in lost.items():
            kms.enable_key(EnableKeyRequest(key_id=key_id))
            assert unseal(kms, sealed, key_id=key_id) == b"secret"


def test_orphan_is_removed_only_on_a_word_and_after_grace(site: Site, clock: StoppedClock) -> None:
    """An unwanted orphan is removed after the grace period, and its ciphertexts are lost with it."""
    made, sealed = restored_copy(site, lambda kms: (made := new_key(kms), seal(kms, made.key_id)))
    with site.open(clock) as kms:
        (finding,) = kms.operator.find_differences()
        with pytest.raises(KMSInvalidStateException, match="adopt it, or wait"):
            kms.operator.mend(finding, remove=True)
        clock.advance(hours=24)
        assert kms.operator.mend(finding, remove=True) is Mended.REMOVED
        assert kinds(kms) == []
        with pytest.raises(AccessDeniedException):
            unseal(kms, sealed, key_id=None)
        assert made.key_id not in key_ids(kms)


@pytest.mark.parametrize(("sequence", "becomes_current"), [(2, True), (7, True), (1, False)])
def test_orphaned_material_of_a_known_key(site: Site, sequence: int, *, becomes_current: bool) -> None:
    """A further material of a known key joins it: the newest encrypts, and what the others made still opens.

    The same number twice means that the key was rotated on both sides of a restore: the known one still encrypts.
    """
    with site.open() as kms:
        made = new_key(kms)
        sealed = seal(kms, made.key_id)
        make_object(kms, b"n" * 16, label_for(kms, made.key_id, sequence))
        (finding,) = kms.operator.find_differences()
        assert (finding.kind, finding.key_id, finding.sequence) == (Kind.ORPHAN, made.key_id, sequence)
        assert kms.operator.mend(finding) is Mended.ADDED
        assert kinds(kms) == []
        shown = described(kms, made.key_id)
        assert (shown.current_key_material_id != made.current_key_material_id) == becomes_current
        assert len(kms.operator.attest(made.key_id)) == 2
        for each in (sealed, seal(kms, made.key_id)):
            assert unseal(kms, each, key_id=made.key_id) == b"secret"


# -- the token ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False], ids=["before the look", "after the look"])
def test_changes_during_the_look(site: Site, monkeypatch: pytest.MonkeyPatch, *, first: bool) -> None:
    """An object that is created or destroyed during the comparison is not reported as a difference."""
    with site.open() as kms:
        key_id = new_imported_key(kms)
        real = KeyObjects.inventory

        def change() -> None:
            monkeypatch.setattr(KeyObjects, "inventory", real)
            delete_material(kms, key_id)
            new_key(kms)

        def inventory(keys: KeyObjects, witness: bytes) -> list[TokenObject]:
            if first:
                change()
            handle = real(keys, witness)
            if not first:
                change()
            return handle

        monkeypatch.setattr(KeyObjects, "inventory", inventory)
        assert kms.operator.find_differences() == []
        assert kms.operator.find_differences() == []


def test_missing_object(site: Site) -> None:
    """A backing key that is gone is reported, cannot be mended here, and its key says so at every use."""
    with site.open() as kms:
        made, other = new_key(kms), new_key(kms)
        sealed = seal(kms, made.key_id)
        destroy_object(kms, cka_id_of(kms, made.key_id))
        (finding,) = kms.operator.find_differences()
        assert (finding.kind, finding.key_id) == (Kind.MISSING, made.key_id)
        with pytest.raises(ValidationException, match="restore the token's own backup"):
            kms.operator.mend(finding)
        for call in (lambda: seal(kms, made.key_id), lambda: unseal(kms, sealed)):
            with pytest.raises(ObjectLostError) as caught:
                call()
            assert caught.value.code == "KeyUnavailableException"
        (attested,) = kms.operator.attest(made.key_id)
        assert (attested.present, attested.as_made) == (False, False)
        assert unseal(kms, seal(kms, other.key_id)) == b"secret"


def test_lost_login(site: Site) -> None:
    """After a lost login, which shows an empty token without an error, nothing is called missing."""
    with site.open() as kms:
        made = new_key(kms)
        sealed = seal(kms, made.key_id)
        device = kms._core.device
        library = ctypes.CDLL(str(device.connection.module.path))
        for _ in range(3):
            library.C_Logout(ctypes.c_ulong(device.connection.login_handle))
            assert kinds(kms) == []
            library.C_Logout(ctypes.c_ulong(device.connection.login_handle))
            assert unseal(kms, sealed) == b"secret"
            library.C_Logout(ctypes.c_ulong(device.connection.login_handle))
            assert new_key(kms).enabled


def test_token_without_its_own_key(site: Site) -> None:
    """A token that does not show the installation's own key proves nothing: no finding at all, and no mending."""
    interrupt(site, "create-key 2")
    with site.open() as kms:
        new_key(kms)
        (finding,) = kms.operator.find_differences()
        destroy_object(kms, mac_key(kms))
        with pytest.raises(TokenUnavailableError, match="does not show the installation"):
            kms.operator.find_differences()
        with pytest.raises(TokenUnavailableError):
            kms.operator.mend(finding)


def test_duplicates(site: Site) -> None:
    """Two objects with one CKA_ID are reported and left alone: nothing shows which is the key."""
    with site.open() as kms:
        made = new_key(kms)
        cka_id = cka_id_of(kms, made.key_id)
        make_object(kms, cka_id, label_for(kms, made.key_id, 1))
        (finding,) = kms.operator.find_differences()
        assert (finding.kind, finding.key_id) == (Kind.DUPLICATE, made.key_id)
        for remove in (False, True):
            with pytest.raises(ValidationException, match="cannot be mended"):
                kms.operator.mend(finding, remove=remove)
        assert on_token(kms, cka_id) == 2
    with site.open() as kms, pytest.raises(HsmKmsError, match="2 objects with CKA_ID"):
        seal(kms, made.key_id)


def test_duplicate_orphans(site: Site, clock: StoppedClock) -> None:
    """Two objects with one CKA_ID and no row are one duplicate, and neither is adopted or removed."""
    with site.open(clock) as kms:
        label = label_for(kms, "12345678-1234-4123-8123-123456789012", 1)
        make_object(kms, b"d" * 16, label)
        make_object(kms, b"d" * 16, label)
        (finding,) = kms.operator.find_differences()
        assert (finding.kind, finding.cka_id) == (Kind.DUPLICATE, (b"d" * 16).hex())
        clock.advance(days=2)
        for remove in (False, True):
            with pytest.raises(ValidationException, match="cannot be mended"):
                kms.operator.mend(finding, remove=remove)
        assert on_token(kms, b"d" * 16) == 2


def test_duplicate_of_an_interrupted_creation(site: Site) -> None:
    """A second object beside one that was never acknowledged makes both a duplicate, reported once."""
    interrupt(site, "create-key 2")
    with site.open() as kms:
        (finding,) = kms.operator.find_differences()
        make_object(kms, bytes.fromhex(finding.cka_id), finding.label)
        assert kinds(kms) == [Kind.DUPLICATE]


def test_foreign_objects(site: Site, clock: StoppedClock) -> None:
    """Objects that are not this installation's are neither reported nor changed, whatever their attributes."""
    with site.open(clock) as kms:
        made = new_key(kms)
        stranger = "0123abcd"
        assert stranger != kms._core.installation.short_id
        key_id = "12345678-1234-4123-8123-123456789012"
        labels = (
            "backup key",
            "hsmkms/",
            f"hsmkms/{kms._core.installation.short_id}/{REGION}/{key_id}/0",
            f"hsmkms/{kms._core.installation.short_id}/{REGION}/{key_id}",
            object_label(stranger, REGION, key_id, 1),
            short_label(stranger, key_id, 1),
            "ä" * 16,
        )
        with kms._core.device.connection.pool.session() as session:
            for number, label in enumerate(labels):
                session.generate_key(KeyType.AES, 128, id=bytes((number,)) * 16, label=label, store=True)
            session.generate_key(KeyType.AES, 128, label="without an id", store=True)
            session.generate_keypair(KeyType.RSA, 2048, id=b"pair", label="pair", store=True)
            session.create_object({Attribute.CLASS: ObjectClass.DATA, Attribute.TOKEN: True, Attribute.VALUE: b"data"})
            before = len(list(session.get_objects({Attribute.TOKEN: True})))
        assert kinds(kms) == []
        clock.advance(days=10)
        assert kinds(kms) == []
        with kms._core.device.connection.pool.session() as session:
            assert len(list(session.get_objects({Attribute.TOKEN: True}))) == before
        assert unseal(kms, seal(kms, made.key_id)) == b"secret"


def test_backup_of_the_token_folder(site: Site) -> None:
    """A token folder that was put back to an older copy shows the younger key as missing, and keeps the older one."""
    tokens = site.folder / "softhsm" / "tokens"
    with site.open() as kms:
        old = new_key(kms)
        sealed = seal(kms, old.key_id)
    shutil.copytree(tokens, Path(site.folder) / "tokens-copy")
    with site.open() as kms:
        young = new_key(kms)
    shutil.rmtree(tokens)
    shutil.copytree(Path(site.folder) / "tokens-copy", tokens)
    with site.open() as kms:
        (finding,) = kms.operator.find_differences()
        assert (finding.kind, finding.key_id) == (Kind.MISSING, young.key_id)
        assert unseal(kms, sealed) == b"secret"
