"""The count of encryptions: never an undercount, no write per call, and an end at 2^32 (NIST SP 800-38D, 8.3)."""

from collections.abc import Iterator
from typing import NoReturn

import pytest
from lifecycle import described, new_imported_key
from service_sites import Site, finish, new_key, seal, start, unseal

from hsmkms.errors import DependencyTimeoutException, LimitExceededException
from hsmkms.kms import Kms
from hsmkms.model.crypto import GenerateDataKeyRequest, ReEncryptRequest
from hsmkms.service.runtime.encryption_counter import EncryptionCounter
from hsmkms.store import leases
from hsmkms.store.engine import Store
from hsmkms.wiring.stores import open_store

LIMIT = 2**32


@pytest.fixture
def store(site: Site) -> Iterator[Store]:
    """The databases of a fresh installation."""
    opened = open_store(site.settings)
    yield opened
    opened.close()


def material_of(kms: Kms) -> tuple[str, str]:
    """A new key, and the id of its material."""
    made = new_key(kms)
    assert made.current_key_material_id is not None
    return made.key_id, made.current_key_material_id


def test_doubling(store: Store) -> None:
    """Reservations are 1, 2, 4 and so on up to 65,536, each taken when the last one is used up."""
    book = EncryptionCounter(store)
    material = "ab" * 32
    counted = 0
    for granted in [2**power for power in range(17)] + [65_536] * 2:
        book.counter(material)()
        counted += granted
        assert leases.total(store, material) == counted
        for _ in range(granted - 1):
            book.counter(material)()
        assert leases.total(store, material) == counted


def test_count_while_open(site: Site) -> None:
    """The stored count is never below the encryptions made, and at most about twice as much."""
    with site.open() as kms:
        key_id, material = material_of(kms)
        for made in range(1, 40):
            seal(kms, key_id)
            assert made <= leases.total(kms._core.store, material) <= 2 * made


def test_clean_close_is_exact(site: Site, store: Store) -> None:
    """A clean close returns exactly what was not used, over all that encrypts, and several times."""
    with site.open() as kms:
        key_id, material = material_of(kms)
        for _ in range(10):
            sealed = seal(kms, key_id)
        kms.generate_data_key(GenerateDataKeyRequest(key_id=key_id, key_spec="AES_256"))
        kms.re_encrypt(ReEncryptRequest(ciphertext_blob=sealed, destination_key_id=key_id))
        unseal(kms, sealed)
    assert leases.total(store, material) == 12
    with site.open() as kms:
        seal(kms, key_id)
    assert leases.total(store, material) == 13


def test_what_cannot_be_returned(site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays counted, and the end of the process is a clean one all the same."""

    def refuse(*_: object) -> NoReturn:
        raise DependencyTimeoutException("the database does not answer")

    monkeypatch.setattr(leases, "give_back", refuse)
    with site.open() as kms:
        key_id = new_key(kms).key_id
        for _ in range(2):
            seal(kms, key_id)
    assert "1 reserved encryptions" in caplog.text


def test_two_users_add_up(site: Site, store: Store) -> None:
    """Two that encrypt under one material have leases of their own, and their counts add up."""
    with site.open() as first, site.open() as second:
        key_id, material = material_of(first)
        for _ in range(5):
            seal(first, key_id)
            seal(second, key_id)
    assert leases.total(store, material) == 10


def test_a_database_that_lost_commits(store: Store) -> None:
    """Once commits are in doubt no count ends below what was made, also if nothing is reserved any more."""
    book = EncryptionCounter(store)
    for material in ("reserves", "returns"):
        for _ in range(10):
            book.counter(material)()  # 15 are reserved
        leases.give_back(store, material, 12)  # as if a standby without the last reservations had taken over
    book.doubt()
    for _ in range(6):
        book.counter("reserves")()
    assert leases.total(store, "reserves") >= 16
    assert leases.total(store, "returns") == 15
    book.give_back()
    assert (leases.total(store, "reserves"), leases.total(store, "returns")) == (16, 10)


def test_reserves_for_an_outage(store: Store) -> None:
    """Material in use gets a reserve, counted at once, so that no further write is needed; what rests gets none."""
    book, material, resting = EncryptionCounter(store), "ab" * 32, "cd" * 32
    spend = book.counter(material)
    spend()
    book.counter(resting)
    book.reserve_ahead(30.0)
    counted = leases.total(store, material)
    assert counted >= 1 + 1024
    assert leases.total(store, resting) == 0
    for _ in range(1024):
        spend()
    assert leases.total(store, material) == counted
    book.reserve_ahead(30.0)
    counted = leases.total(store, material)
    for _ in range(2):
        book.reserve_ahead(30.0)
    assert leases.total(store, material) == counted
    book.give_back()
    assert leases.total(store, material) == 1025


def test_reserves_end_at_the_limit(store: Store) -> None:
    """Nothing is reserved beyond the last encryption, and each of them can be made."""
    book, material = EncryptionCounter(store), "ab" * 32
    leases.at_least(store, material, LIMIT - 5)
    spend = book.counter(material)
    spend()
    book.reserve_ahead(30.0)
    assert leases.total(store, material) == LIMIT
    for _ in range(4):
        spend()
    with pytest.raises(LimitExceededException):
        spend()
    assert book.nearly_spent[material].percent == 90


@pytest.mark.parametrize("after", [1, 50, 300])
def test_killed_in_the_middle(site: Site, store: Store, after: int) -> None:
    """After kill -9 the count covers every encryption that was made, and wastes less than as many again."""
    with site.open() as kms:
        key_id, material = material_of(kms)
    child = start("encrypt_for_ever", site.folder / "hsmkms.toml", key_id)
    assert child.stdout is not None
    for _ in range(after):
        assert child.stdout.readline()
    child.kill()
    # Not communicate(), which would lose what the pipe's reader holds already.
    counts = [after, *map(int, child.stdout.read().split())]
    assert finish(child, status=-9) == []
    assert counts[-1] <= leases.total(store, material) <= 2 * (counts[-1] + 1)


def test_the_last_encryptions(site: Site) -> None:
    """At 2^32 everything that encrypts is refused, to the very encryption, while Decrypt works on."""
    with site.open() as kms:
        key_id = new_imported_key(kms)  # a generated one would have been rotated long before
        material = described(kms, key_id).current_key_material_id or ""
        other_id, _ = material_of(kms)
        leases.at_least(kms._core.store, material, LIMIT - 4)
        sealed = [seal(kms, key_id) for _ in range(4)]
        for _ in range(2):
            with pytest.raises(LimitExceededException, match=r"2\^32"):
                seal(kms, key_id)
        with pytest.raises(LimitExceededException):
            kms.generate_data_key(GenerateDataKeyRequest(key_id=key_id, key_spec="AES_256"))
        with pytest.raises(LimitExceededException):
            kms.re_encrypt(ReEncryptRequest(ciphertext_blob=sealed[0], destination_key_id=key_id))
        assert [unseal(kms, ciphertext) for ciphertext in sealed] == [b"secret"] * 4
        moved = kms.re_encrypt(ReEncryptRequest(ciphertext_blob=sealed[0], destination_key_id=other_id))
        assert unseal(kms, moved.ciphertext_blob) == b"secret"
        assert leases.total(kms._core.store, material) == LIMIT


def test_the_end_outlives_a_restart(site: Site) -> None:
    """A material that is used up stays so for the next process."""
    with site.open() as kms:
        key_id, material = material_of(kms)
        leases.at_least(kms._core.store, material, LIMIT)
    with site.open() as kms, pytest.raises(LimitExceededException):
        seal(kms, key_id)
