"""Generated material that has made many encryptions gets a successor. Source: NIST SP 800-38D, section 8.3."""

from collections.abc import Callable, Iterator

import pytest
from lifecycle import (
    DONE,
    FAILED,
    ROTATION,
    YEAR,
    backing_keys,
    disable,
    enable,
    in_threads,
    material_of,
    named_by,
    new_imported_key,
    next_date,
    rotations,
    status_of,
    sweep,
    switch_on,
)
from service_sites import REGION, START, Site, StoppedClock, new_key, seal

from hsmkms.errors import (
    LimitExceededException,
    TokenFullError,
)
from hsmkms.hsm.objects.attributes import AES_256_BACKING_KEY
from hsmkms.hsm.objects.objects import generate
from hsmkms.kms import Kms
from hsmkms.model.crypto import (
    GenerateDataKeyRequest,
    GenerateDataKeyWithoutPlaintextRequest,
    ReEncryptRequest,
)
from hsmkms.model.enums import RotationType
from hsmkms.model.ids import new_key_id
from hsmkms.rules.budget import LIMIT, ROTATE_AT
from hsmkms.rules.material import object_label
from hsmkms.service.operator.reconcile import Mended
from hsmkms.store import leases

Act = Callable[[Kms, str], object]


@pytest.fixture
def kms(site: Site, clock: StoppedClock) -> Iterator[Kms]:
    """A fresh installation with a clock that moves only on demand."""
    with site.open(clock) as opened:
        yield opened


# -- early, for the sake of AES-GCM ---------------------------------------------------------------------------------


def use_up(kms: Kms, key_id: str, count: int) -> str:
    """Count so many encryptions under the current material; its id."""
    material = material_of(kms, key_id)
    assert material is not None
    leases.at_least(kms._core.store, material, count)
    return material


ENCRYPTING: dict[str, Act] = {
    "Encrypt": seal,
    "GenerateDataKey": lambda kms, key_id: kms.generate_data_key(
        GenerateDataKeyRequest(key_id=key_id, number_of_bytes=8)
    ),
    "GenerateDataKeyWithoutPlaintext": lambda kms, key_id: kms.generate_data_key_without_plaintext(
        GenerateDataKeyWithoutPlaintextRequest(key_id=key_id, number_of_bytes=8)
    ),
    "ReEncrypt": lambda kms, key_id: kms.re_encrypt(
        ReEncryptRequest(ciphertext_blob=seal(kms, new_key(kms).key_id), destination_key_id=key_id)
    ),
}


@pytest.mark.parametrize("operation", ENCRYPTING)
def test_early_at_once(kms: Kms, operation: str) -> None:
    """Whatever encryption reaches half of the budget rotates the key, with rotation off, and the list shows it."""
    key_id = new_key(kms).key_id
    first = use_up(kms, key_id, ROTATE_AT - 1)
    sealed = ENCRYPTING[operation](kms, key_id)
    assert material_of(kms, key_id) != first
    (entry,) = rotations(kms, key_id)
    assert (entry.rotation_type, entry.rotation_date) == (RotationType.AUTOMATIC, START)
    assert not status_of(kms, key_id).key_rotation_enabled
    assert sealed is not None
    assert named_by(kms, seal(kms, key_id)) == material_of(kms, key_id)
    assert len(rotations(kms, key_id)) == 1


def test_not_before_half(kms: Kms) -> None:
    """One encryption less than half of the budget rotates nothing, neither at once nor in a sweep."""
    key_id = new_key(kms).key_id
    first = use_up(kms, key_id, ROTATE_AT - 2)
    seal(kms, key_id)
    assert sweep(kms) == []
    assert material_of(kms, key_id) == first


def test_early_in_a_sweep(kms: Kms) -> None:
    """A sweep rotates what has used half of its budget elsewhere, once, and no key that is disabled or imported."""
    key_id, off, imported = new_key(kms).key_id, new_key(kms).key_id, new_imported_key(kms)
    for each in (key_id, off, imported):
        use_up(kms, each, ROTATE_AT)
    disable(kms, off)
    assert sweep(kms) == [(ROTATION, key_id, DONE)]
    assert sweep(kms) == []
    enable(kms, off)
    assert sweep(kms) == [(ROTATION, off, DONE)]
    assert {key: count for key, count in backing_keys(kms).items() if key != imported} == {key_id: 2, off: 2}


def test_early_moves_no_date(kms: Kms, clock: StoppedClock) -> None:
    """An early rotation leaves the dates of the automatic ones as they are."""
    key_id = new_key(kms).key_id
    switch_on(kms, key_id)
    clock.advance(days=200)
    use_up(kms, key_id, ROTATE_AT)
    seal(kms, key_id)
    assert len(rotations(kms, key_id)) == 1
    assert next_date(kms, key_id) == START + YEAR


def test_early_in_threads(kms: Kms) -> None:
    """Many threads that encrypt when the budget is half used make one new backing key, and none of them fails."""
    key_id = new_key(kms).key_id
    use_up(kms, key_id, ROTATE_AT)
    assert in_threads(8, lambda: [seal(kms, key_id) for _ in range(5)]) == ["ok"] * 8
    assert backing_keys(kms) == {key_id: 2}


def test_early_that_fails(kms: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    """An early rotation that the token hinders does not fail the encryption, and the next sweep does it."""

    def full(*_: object) -> None:
        raise TokenFullError("no room")

    key_id = new_key(kms).key_id
    first = use_up(kms, key_id, ROTATE_AT)
    with monkeypatch.context() as patch:
        patch.setattr(kms._core.device.keys, "generate_backing_key", full)
        assert named_by(kms, seal(kms, key_id)) == first
        assert sweep(kms) == [(ROTATION, key_id, FAILED)]
    assert sweep(kms) == [(ROTATION, key_id, DONE)]
    assert kms.operator.find_differences() == []


def make_object(kms: Kms, cka_id: bytes, label: str) -> None:
    """Make a backing key on the token behind the back of the database."""
    with kms._core.device.connection.pool.session() as session:
        generate(session, AES_256_BACKING_KEY, cka_id, label)


def test_early_after_an_adoption(kms: Kms) -> None:
    """An adopted key's count is unknown, so it is rotated at its first encryption."""
    key_id = new_key_id(multi_region=False)
    make_object(kms, b"o" * 16, object_label(kms._core.installation.short_id, REGION, key_id, 1))
    (finding,) = kms.operator.find_differences()
    assert kms.operator.mend(finding) is Mended.ADOPTED
    assert sweep(kms) == []  # it is disabled
    enable(kms, key_id)
    adopted = material_of(kms, key_id)
    sealed = seal(kms, key_id)
    assert material_of(kms, key_id) != adopted
    assert named_by(kms, sealed) == adopted
    assert backing_keys(kms) == {key_id: 2}


def test_used_up(kms: Kms) -> None:
    """A key whose budget is used up, because it could not be rotated in time, works again after the next sweep."""
    key_id = new_key(kms).key_id
    old = seal(kms, key_id)
    first = use_up(kms, key_id, LIMIT)
    with pytest.raises(LimitExceededException, match="rotate the key"):
        seal(kms, key_id)
    assert sweep(kms) == [(ROTATION, key_id, DONE)]
    assert named_by(kms, seal(kms, key_id)) == material_of(kms, key_id) != first
    assert named_by(kms, old) == first


def test_budget_of_imported_material_only_warns(kms: Kms, caplog: pytest.LogCaptureFixture) -> None:
    """Imported material stays: at 50 and at 90 % one warning is logged, and every encryption works."""
    key_id = new_imported_key(kms)
    for count, share in ((ROTATE_AT, "50 %"), (LIMIT * 9 // 10, "90 %")):
        material = use_up(kms, key_id, count - 1)
        caplog.clear()
        for _ in range(5):
            assert named_by(kms, seal(kms, key_id)) == material
        assert [
            record.getMessage().count(share) for record in caplog.records if "imported material" in record.message
        ] == [1]
