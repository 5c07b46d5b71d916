"""Backup and restore: everything comes back, and only where it belongs; what is bent, cut or half done is refused."""

import errno
import json
import logging
import os
import shutil
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from lifecycle import (
    cancel,
    described,
    enable,
    material_of,
    named_by,
    new_imported_key,
    rotate,
    rotations,
    schedule,
    sweep,
)
from service_sites import REGION, Site, StoppedClock, finish, new_alias, new_key, run, seal, start, unseal

from hsmkms.errors import BindingError, ConfigurationError, HsmKmsError, StoreError
from hsmkms.file_lock import try_lock
from hsmkms.kms import Kms
from hsmkms.model.crypto import (
    DecryptRequest,
    EncryptRequest,
    GenerateDataKeyPairRequest,
    GenerateDataKeyRequest,
    GenerateDataKeyWithoutPlaintextRequest,
    ReEncryptRequest,
)
from hsmkms.model.keys import ReplicateKeyRequest
from hsmkms.model.permit import OperatorAct
from hsmkms.service.backup import age_keys
from hsmkms.service.backup.restore import Order, Restored
from hsmkms.service.operator.reconcile import Kind, Mended
from hsmkms.service.runtime.permits import own_permit
from hsmkms.wiring import core as wiring
from hsmkms.wiring import restore as restore_wiring

pytestmark = pytest.mark.sqlite_alone("a backup is of files so far")

Private = rsa.RSAPrivateKey | X25519PrivateKey


@pytest.fixture(scope="module")
def private() -> Private:
    """An operator's private key."""
    return X25519PrivateKey.generate()


def pkcs8(private: Private) -> bytes:
    """A private key as the command line hands it over."""
    return private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def back_up(site: Site, private: Private | None = None, name: str = "backup") -> Path:
    """Make a backup, sealed by the token or to the public half of a key."""
    file = site.folder / name
    recipients = []
    if private is not None:
        pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        recipients = age_keys.read_recipients("operator.pem", pem)
    with site.open() as kms:
        kms.operator.backup(file, recipients, b"the configuration")
    return file


def lose(site: Site, *others: str) -> None:
    """The databases and the audit log are gone."""
    for each in (*site.folder.glob("*.db*"), site.folder / "audit", *(site.folder / name for name in others)):
        shutil.rmtree(each) if each.is_dir() else each.unlink(missing_ok=True)


def restore(site: Site, file: Path, private: Private | None = None, *, accept_rollback: bool = False) -> Restored:
    """Restore a backup in the place of the installation."""
    keys = age_keys.identity_of(pkcs8(private)) if private is not None else None
    return restore_wiring.restore(site.settings, file, Order(keys=keys, accept_rollback=accept_rollback))


def moved(site: Site) -> list[str]:
    """What of it is no lock."""
    return [each for each in left(site) if not each.endswith(".lock")]


def left(site: Site) -> list[str]:
    """What lies in the data folder that a restore could have put there."""
    names = [path.name for path in site.folder.iterdir()]
    return sorted(name for name in names if name.endswith((".db", "-wal", "-shm")) or name.startswith((".", "audit")))


def events(kms: Kms) -> list[str]:
    """The names of all records in the audit log, oldest first."""
    files = sorted(kms.operator.audit.folder.glob("lane-*.jsonl"))
    return [json.loads(line)["record"]["eventName"] for file in files for line in file.read_text().splitlines()]


# -- the drill ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["token", "rsa", "x25519"])
def test_drill(site: Site, to: str) -> None:
    """Token folder and store are backed up and destroyed; restored, everything decrypts and is unchanged.

    Keys that were made after the backup, and are on the restored token, come back by reconcile.
    """
    private = {"rsa": lambda: rsa.generate_private_key(65537, 2048), "x25519": X25519PrivateKey.generate}.get(to)
    key = private() if private is not None else None
    with site.open() as kms:
        first = new_key(kms, description="the first").key_id
        new_alias(kms, "alias/photos", first)
        sealed = [seal(kms, first)]
        rotate(kms, first)
        sealed += [seal(kms, first), seal(kms, new_imported_key(kms))]
        kms.operator.credentials.create_user("alice")
        access_key = kms.operator.credentials.create_access_key("alice")
    file = back_up(site, key)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with site.open() as kms:
        later = new_key(kms).key_id
        sealed_later = seal(kms, later)
    shutil.copytree(site.folder / "softhsm", site.folder / "token backup")
    lose(site, "softhsm")
    shutil.copytree(site.folder / "token backup", site.folder / "softhsm")

    with pytest.raises(StoreError, match=r"older than what its token remembers .* --accept-rollback"):
        restore(site, file, key)
    assert left(site) == ["audit-seal.lock"]
    restored = restore(site, file, key, accept_rollback=True)
    assert (restored.missing, restored.migrated) == ([], [])
    assert restored.rollback == "the token remembers a newer seal than the audit log has"
    with site.open() as kms:
        assert [unseal(kms, ciphertext) for ciphertext in sealed] == [b"secret"] * 3
        assert unseal(kms, seal(kms, "alias/photos")) == b"secret"
        credential = kms.operator.credentials.find(access_key.access_key_id)
        assert credential is not None
        assert credential.secret == access_key.secret_access_key
        (orphan,) = kms.operator.find_differences()
        assert (orphan.kind, orphan.key_id) == (Kind.ORPHAN, later)
        assert kms.operator.mend(orphan) is Mended.ADOPTED
        enable(kms, later)
        assert unseal(kms, sealed_later) == b"secret"
        assert kms.operator.find_differences() == []
        assert kms.operator.audit.verify().faults == []
        assert [event for event in events(kms) if event.endswith(("Backup", "Store"))] == [
            "CreateBackup",
            "RestoreBackup",
            "AcceptStore",
        ]


def test_newest_backup_is_no_rollback(site: Site) -> None:
    """A backup after which nothing happened is as new as the token knows: no word is needed, and the log verifies."""
    with site.open() as kms:
        sealed = seal(kms, new_key(kms).key_id)
    file = back_up(site)
    lose(site)
    assert restore(site, file).rollback is None
    with site.open() as kms:
        assert unseal(kms, sealed) == b"secret"
        assert kms.operator.audit.verify().faults == []
        assert kms.operator.find_differences() == []


def test_deletion_that_was_cancelled_since(site: Site) -> None:
    """A key that awaited its deletion in the backup is not destroyed by the restore, also if the date has passed."""
    clock = StoppedClock()
    clock.now = datetime.now(UTC) - timedelta(days=31)
    with site.open(clock) as kms:
        key_id, later = new_key(kms).key_id, new_key(kms).key_id
        sealed = seal(kms, key_id)
        schedule(kms, key_id, 30)
    file = back_up(site)
    with site.open() as kms:
        schedule(kms, later, 7)
        cancel(kms, key_id)
    lose(site)
    assert [each[-36:] for each in restore(site, file, accept_rollback=True).postponed] == [key_id]
    with site.open() as kms:
        assert sweep(kms) == []
        date = described(kms, key_id).deletion_date
        assert date is not None
        assert timedelta(days=6) < date - datetime.now(UTC) <= timedelta(days=7)
        assert events(kms).count("PostponeKeyDeletion") == 1
        cancel(kms, key_id)
        enable(kms, key_id)
        assert unseal(kms, sealed) == b"secret"


def test_while_others_work(site: Site) -> None:
    """Backups that are made while another process creates keys and encrypts are whole, each with a log that fits it."""
    worker = start("create_keys", site.folder / "hsmkms.toml", "12", "create-key 1")
    for number in range(3):
        back_up(site, name=f"backup-{number}")
    finish(worker, status=-9)
    for number in range(3):
        lose(site)
        restored = restore(site, site.folder / f"backup-{number}", accept_rollback=True)
        assert restored.missing == []
        with site.open() as kms:
            assert {finding.kind for finding in kms.operator.find_differences()} <= {Kind.ORPHAN, Kind.UNACKNOWLEDGED}
            assert kms.operator.audit.verify().faults == []


# -- what is refused ------------------------------------------------------------------------------------------------


def test_tampering(site: Site, private: X25519PrivateKey) -> None:
    """A bit that is changed anywhere in the file, or a shorter file, restores nothing; nothing is left behind."""
    file = back_up(site, private)
    data = file.read_bytes()
    lose(site)
    bent = site.folder / "bent"
    places = [*range(0, 700, 23), *range(700, len(data), len(data) // 12), len(data) - 1]
    for changed in [
        *(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in places),
        *(data[:end] for end in (0, 10, 500, len(data) // 2, len(data) - 1)),
        data + b"\0",
    ]:
        bent.write_bytes(changed)
        with pytest.raises((StoreError, BindingError, ConfigurationError)):
            restore(site, bent, private)
        assert left(site) == ["audit-seal.lock"]
    restore(site, file, private)


def test_bent_seal_of_the_token(site: Site) -> None:
    """Where the token opens the backup, a changed header is refused as such."""
    file = back_up(site)
    data = file.read_bytes()
    start_of_key = data.index(b'"sealed_key":"') + len(b'"sealed_key":"')
    lose(site)
    other = b"A" if data[start_of_key : start_of_key + 1] != b"A" else b"B"  # still base64
    file.write_bytes(data[:start_of_key] + other + data[start_of_key + 1 :])
    with pytest.raises(StoreError, match="header of the backup was changed"):
        restore(site, file)


def test_wrong_keys(site: Site, private: X25519PrivateKey) -> None:
    """Another private key, or none, is named; a backup that the token opens needs no private key."""
    file = back_up(site, private)
    lose(site)
    with pytest.raises(BindingError, match="not sealed to that private key"):
        restore(site, file, X25519PrivateKey.generate())
    with pytest.raises(ConfigurationError, match="give its --private-key"):
        restore(site, file)


@pytest.mark.parametrize("to_token", [True, False])
def test_wrong_token(
    site: Site,
    stranger: Site,
    private: X25519PrivateKey,
    to_token: bool,  # noqa: FBT001 - a parameter
) -> None:
    """A backup of another installation is refused by the token, whichever key decrypts the file."""
    file = back_up(site, None if to_token else private)
    lose(stranger)
    words = "does not hold: correct|does not hold the key that proves who made this backup"
    with pytest.raises(BindingError, match=words):
        restore(stranger, file, None if to_token else private, accept_rollback=True)
    assert left(stranger) == []


def test_target_that_is_not_empty(site: Site) -> None:
    """A restore replaces nothing: neither an installation, nor one of its databases."""
    file = back_up(site)
    with pytest.raises(StoreError, match="a restore replaces nothing"):
        restore(site, file, accept_rollback=True)
    for name in ("meta.db", "log.db"):
        kept = (site.folder / name).read_bytes()
        lose(site)
        (site.folder / name).write_bytes(kept)
        with pytest.raises(StoreError, match=f"{name} already: a restore replaces nothing"):
            restore(site, file, accept_rollback=True)
        (site.folder / name).unlink()
        restore(site, file, accept_rollback=True)


def lose_databases(site: Site, journal: bytes = b"") -> bytes:
    """Only the databases are gone; their journals are as a process leaves them that is killed. That of meta.db.

    Without a journal one is made, by a change after the last backup.
    """
    if not journal:
        with site.open() as kms:
            new_key(kms)
            journal = (site.folder / "meta.db-wal").read_bytes()
    assert journal
    for path in site.folder.glob("*.db*"):
        path.unlink()
    (site.folder / "meta.db-wal").touch(mode=0o600)
    (site.folder / "meta.db-wal").write_bytes(journal)
    (site.folder / "log.db-shm").touch(mode=0o600)
    return journal


def test_own_remains_are_set_aside(site: Site) -> None:
    """An audit log and journals that the lost installation has left are set aside, also by a restore that is killed."""
    with site.open() as kms:
        sealed = seal(kms, new_key(kms).key_id)
    file = back_up(site)
    journal = b""
    for step in ("", "restore 4: set aside"):
        journal = lose_databases(site, journal)
        seals = (site.folder / "audit" / "seals.jsonl").read_bytes()
        if step:
            run("restore_until", site.folder / "hsmkms.toml", str(file), step, status=-9)
        restored = restore(site, file, accept_rollback=True)
        assert (restored.set_aside is None) is bool(step)
        (aside,) = site.folder.glob("set-aside-*")
        assert str(aside) == restored.set_aside or step
        assert sorted(each.name for each in aside.iterdir()) == ["audit", "log.db-shm", "meta.db-wal"]
        assert (aside / "meta.db-wal").read_bytes() == journal
        assert (aside / "audit" / "seals.jsonl").read_bytes() == seals
        assert stat.S_IMODE(aside.stat().st_mode) == 0o700
        with site.open() as kms:
            assert unseal(kms, sealed) == b"secret"
            assert kms.operator.audit.verify().faults == []
        shutil.rmtree(aside)
        file.unlink()
        file = back_up(site)


def test_remains_are_put_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restore that fails after they were set aside puts them back."""
    file = back_up(site)
    lose_databases(site)
    before = left(site)
    rename = Path.rename

    def failing(path: Path, to: Path) -> Path:
        if to == site.folder / "meta.db":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(StoreError, match="cannot be restored into"):
        restore(site, file, accept_rollback=True)
    assert (left(site), [*site.folder.glob("set-aside-*")]) == (before, [])


def test_journal_beside_a_restored_database(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a failed restore cannot take its database back, no journal of the lost one is put beside it."""
    file = back_up(site)
    journal = lose_databases(site)
    rename, unlink = Path.rename, Path.unlink
    database = site.folder / "meta.db"

    def not_taken_back(path: Path, to: Path) -> Path:
        if path == database:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(path, to)

    def not_finished(path: Path, missing_ok: bool = False) -> None:  # noqa: FBT001, FBT002 - as Path.unlink
        if path.name == ".restore-unfinished":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "rename", not_taken_back)
    monkeypatch.setattr(Path, "unlink", not_finished)
    with pytest.raises(StoreError, match="cannot be restored into"):
        restore(site, file, accept_rollback=True)
    (aside,) = site.folder.glob("set-aside-*")
    assert database.exists()
    assert not (site.folder / "meta.db-wal").exists()
    assert (aside / "meta.db-wal").read_bytes() == journal


def test_remains_of_others_are_refused(site: Site) -> None:
    """What is not the installation's own, or is in use, is named and stays where it is."""
    with site.open() as kms:
        own = kms._core.installation.id
    file = back_up(site)
    lose_databases(site)
    audit, journal = site.folder / "audit", site.folder / "meta.db-wal"
    seals = audit / "seals.jsonl"
    text, magic = seals.read_bytes(), journal.read_bytes()

    def refused(words: str) -> None:
        before = left(site)
        with pytest.raises(StoreError, match=words):
            restore(site, file, accept_rollback=True)
        assert (left(site), [*site.folder.glob("set-aside-*")]) == (before, [])

    seals.write_bytes(text.replace(own.encode(), b"0" * 32))
    refused(rf"{audit} already, the audit log of another installation \(0{{32}}\): a restore replaces nothing")
    seals.write_bytes(text + text.splitlines(keepends=True)[-1].replace(own.encode(), b"0" * 32))
    refused("the audit log of another installation")
    seals.write_bytes(b"")
    refused(
        f"no seal in it says whose audit log it is: a restore replaces nothing. Move it away .mkdir {site.folder}/old"
    )
    seals.write_bytes(text)
    journal.write_bytes(b"precious")
    refused(f"{journal} already, which is no write-ahead log of SQLite: a restore replaces nothing")
    journal.write_bytes(magic)
    with (audit / "lane-0001.lock").open() as locked:
        assert try_lock(locked.fileno())
        refused(f"a process of the lost installation still has {audit} open: stop its servers")
    assert restore(site, file, accept_rollback=True).set_aside is not None


def test_symlinks_in_the_target(site: Site) -> None:
    """A symlink at a name of a restore is refused, also one that leads nowhere, and nothing is written through it."""
    file = back_up(site)
    lose(site)
    nowhere = site.folder / "nowhere"
    for name in ("audit", "log.db", "meta.db", ".restore-unfinished"):
        (site.folder / name).symlink_to(nowhere)
        with pytest.raises(StoreError, match=f"{name} already: a restore replaces nothing"):
            restore(site, file)
        (site.folder / name).unlink()
        assert moved(site) == []
        assert not nowhere.exists()
    restore(site, file)


@pytest.mark.parametrize("name", ["audit", "log.db", "meta.db"])
def test_refused_move(site: Site, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A restore that fails while its files take their places leaves the target as it was, and no mark."""
    file = back_up(site)
    lose(site)
    rename = Path.rename

    def failing(path: Path, to: Path) -> Path:
        if to == site.folder / name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises(StoreError, match="cannot be restored into"):
            restore(site, file)
    assert moved(site) == []
    restore(site, file)


def test_what_is_not_of_the_interrupted_restore_stays(site: Site) -> None:
    """A mark is no leave to remove what the operator has put there since: it is refused, and stays."""
    file = back_up(site)
    lose(site)
    for mark in ("an interrupted restore", "a mark of an older version"):
        if mark == "an interrupted restore":
            run("restore_until", site.folder / "hsmkms.toml", str(file), "restore 4: log.db", status=-9)
            shutil.rmtree(site.folder / "audit")
            kept = [site.folder / "audit" / "mine.jsonl"]
        else:
            (site.folder / ".restore-unfinished").touch()
            kept = [site.folder / "audit" / "mine.jsonl", site.folder / "log.db"]
        (site.folder / "audit").mkdir()
        for each in kept:
            each.write_text("precious")
        for _ in range(2):
            with pytest.raises(StoreError, match="a restore replaces nothing"):
                restore(site, file)
        assert {each.read_text() for each in kept} == {"precious"}
        lose(site)
    restore(site, file)


def test_backup_replaces_nothing(site: Site) -> None:
    """An existing file is not overwritten, and one that cannot be written is named."""
    file = back_up(site)
    before = file.read_bytes()
    with site.open() as kms:
        with pytest.raises(StoreError, match="choose another name"):
            kms.operator.backup(file)
        with pytest.raises(StoreError, match="cannot be written: No such file or directory"):
            kms.operator.backup(site.folder / "nowhere" / "backup")
    assert file.read_bytes() == before


def test_missing_objects_are_named(site: Site) -> None:
    """Objects of the inventory that the token does not have are named; the rest works."""
    with site.open() as kms:
        key_id, other = (new_key(kms).key_id for _ in range(2))
        sealed = seal(kms, other)
        (gone,) = kms.operator.attest(key_id)
    file = back_up(site)
    with site.open() as kms:
        cka_id = bytes.fromhex(gone.cka_id)
        assert kms._core.device.keys.destroy(own_permit(OperatorAct.MAINTAIN, cka_id), cka_id)
    lose(site)
    (missing,) = restore(site, file).missing
    assert (missing.cka_id, missing.key_id, missing.purpose) == (gone.cka_id, key_id, "backing key")
    assert missing.label.endswith(f"{key_id}/1")
    with site.open() as kms:
        assert unseal(kms, sealed) == b"secret"


# -- interruptions --------------------------------------------------------------------------------------------------


def test_killed_restore(site: Site) -> None:
    """Kill -9 at any step leaves no installation, or a complete one; the next restore works as a first one."""
    with site.open() as kms:
        sealed = seal(kms, new_key(kms).key_id)
    file = back_up(site)
    for step in ("restore 1", "restore 2", "restore 3", "restore 4: audit", "restore 4: log.db", "restore 4: meta.db"):
        lose(site)
        run("restore_until", site.folder / "hsmkms.toml", str(file), step, status=-9)
        if step != "restore 4: meta.db":
            with pytest.raises(StoreError, match="is missing: restore it"):
                site.open()
            restore(site, file)
            assert [each for each in left(site) if each.startswith(".")] == []
        with site.open() as kms:
            assert unseal(kms, sealed) == b"secret"
            assert kms.operator.audit.verify().faults == []
        file.unlink()
        file = back_up(site)


def test_killed_backup(site: Site) -> None:
    """A backup that is killed leaves no file of its name; the next one removes what it has left."""
    file = site.folder / "backup"
    run("backup_until_the_end", site.folder / "hsmkms.toml", str(file), status=-9)
    assert not file.exists()
    assert any(each.startswith(".backup") for each in left(site))
    back_up(site)
    assert [each for each in left(site) if each.startswith(".")] == []


def test_failed_backup_is_recorded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup that fails leaves no file, and the audit log says so."""
    with site.open() as kms:
        monkeypatch.setattr(os, "fsync", full_disk(os.fsync, site.folder / ".backup.part"))
        with pytest.raises(StoreError, match="cannot be written: No space left"):
            kms.operator.backup(site.folder / "backup")
    assert [each for each in left(site) if each.startswith(".")] == []
    assert not (site.folder / "backup").exists()


def full_disk(fsync: Callable[[int], None], file: Path) -> Callable[[int], None]:
    """A disk that takes no more of that file."""

    def full(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink() == file:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    return full


# -- keys after a restore -------------------------------------------------------------------------------------------

WAYS: dict[str, Callable[[Kms, str], Any]] = {
    "encrypt": lambda kms, key: kms.encrypt(EncryptRequest(key_id=key, plaintext=b"secret")).ciphertext_blob,
    "data key": lambda kms, key: kms.generate_data_key(GenerateDataKeyRequest(key_id=key, key_spec="AES_256")),
    "data key without plaintext": lambda kms, key: kms.generate_data_key_without_plaintext(
        GenerateDataKeyWithoutPlaintextRequest(key_id=key, key_spec="AES_256")
    ),
    "data key pair": lambda kms, key: kms.generate_data_key_pair(
        GenerateDataKeyPairRequest(key_id=key, key_pair_spec="ECC_NIST_P256")
    ),
    "re-encrypt": lambda kms, key: kms.re_encrypt(
        ReEncryptRequest(ciphertext_blob=seal(kms, new_key(kms).key_id), destination_key_id=key)
    ),
}


def test_generated_keys_rotate_first(site: Site) -> None:
    """After a restore a generated key gets a new backing key before it encrypts, once, in every operation that does."""
    with site.open() as kms:
        keys = {way: new_key(kms).key_id for way in WAYS}
        idle = new_key(kms).key_id
        old = {key: material_of(kms, key) for key in (*keys.values(), idle)}
        sealed = {key: seal(kms, key) for key in old}
    file = back_up(site)
    lose(site)
    restore(site, file)
    with site.open() as kms:
        assert {unseal(kms, ciphertext) for ciphertext in sealed.values()} == {b"secret"}
        assert {key: material_of(kms, key) for key in old} == old
        for way, key in keys.items():
            answer = WAYS[way](kms, key)
            now = material_of(kms, key)
            assert now != old[key], way
            material_id = getattr(answer, "destination_key_material_id", None) or getattr(
                answer, "key_material_id", now
            )
            blob = answer if isinstance(answer, bytes) else None
            blob = blob or getattr(answer, "ciphertext_blob", None) or answer.private_key_ciphertext_blob
            assert kms.decrypt(DecryptRequest(ciphertext_blob=blob)).key_material_id == material_id == now, way
            WAYS[way](kms, key)
            assert [rotation.rotation_type for rotation in rotations(kms, key)] == ["AUTOMATIC"], way
        assert material_of(kms, idle) == old[idle]
        assert {unseal(kms, ciphertext) for ciphertext in sealed.values()} == {b"secret"}


def test_imported_keys_warn(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A key with imported material, which cannot rotate by itself, still encrypts, and is logged once per process."""
    with site.open() as kms:
        key = new_imported_key(kms)
        material = material_of(kms, key)
    file = back_up(site)
    lose(site)
    restore(site, file)
    with site.open() as kms, caplog.at_level(logging.WARNING, "hsmkms"):
        assert unseal(kms, seal(kms, key)) == unseal(kms, seal(kms, key)) == b"secret"
        assert material_of(kms, key) == material
    (messages,) = [record.getMessage() for record in caplog.records if "restored backup" in record.getMessage()]
    assert f"{material} of key {key} is older than the restored backup" in messages


def test_keys_that_cannot_rotate_go_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the rotation fails the key still encrypts, and rotates when it can."""
    with site.open() as kms:
        key = new_key(kms).key_id
        old = material_of(kms, key)
    file = back_up(site)
    lose(site)
    restore(site, file)
    with site.open() as kms:
        with monkeypatch.context() as broken:
            broken.setattr(kms._core.device.keys, "generate_backing_key", refuse)
            assert unseal(kms, seal(kms, key)) == b"secret"
            assert material_of(kms, key) == old
        kms._core.clock = lambda: wiring.utc_now().replace(year=2100)  # what was begun counts as interrupted
        assert unseal(kms, seal(kms, key)) == b"secret"
        assert material_of(kms, key) != old


def refuse(*_: object, **__: object) -> None:
    """No room for another key."""
    raise HsmKmsError("full")


def test_the_region_of_a_key_does_not_matter(site: Site) -> None:
    """A replica that encrypts first after a restore makes its set rotate."""
    with site.open() as kms:
        key = new_key(kms, multi_region=True).key_id
        kms.replicate_key(ReplicateKeyRequest(key_id=key, replica_region="us-east-1"), kms.caller(REGION, None))
        old = material_of(kms, key)
    file = back_up(site)
    lose(site)
    restore(site, file)
    with site.open() as kms:
        there = kms.caller("us-east-1", None)
        assert named_by(kms, seal(kms, key, caller=there)) != old
        assert material_of(kms, key) != old
