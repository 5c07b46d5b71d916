"""The service on tokens with deviations, played by the shim: the whole life cycle, and clear refusals."""

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import shims
import wrapped
from lifecycle import (
    MATERIAL,
    backing_keys,
    delete_material,
    described,
    enable,
    material_of,
    named_by,
    new_empty_key,
    rotate,
    schedule,
    sweep,
)
from pkcs11.constants import Attribute
from service_sites import START, NewFolder, Site, StoppedClock, close_everything, new_key, seal, unseal
from shims import (
    APPENDED,
    CUT_LABELS,
    EVERYTHING,
    PREPENDED,
    SHORT_LABELS,
    UNASKED_NO_CMAC,
    WRITTEN_BACK,
    Personality,
)
from test_service_crash import key_ids, restored_copy

from hsmkms.errors import IncorrectKeyMaterialException, TokenUnfitError
from hsmkms.kms import Kms
from hsmkms.model.crypto import GenerateDataKeyRequest, ReEncryptRequest
from hsmkms.model.enums import ExpirationModel, WrappingAlgorithm, WrappingKeySpec
from hsmkms.model.importing import GetParametersForImportRequest, ImportKeyMaterialRequest
from hsmkms.service.operator.reconcile import Kind, Mended
from hsmkms.wiring import core as wiring

CONTEXT = {"purpose": "test"}

NewPlayed = Callable[..., Site]


@pytest.fixture
def new_played(new_folder: NewFolder, shim_path: Path) -> Iterator[NewPlayed]:
    """Makes installations on a token that plays a personality from the first moment on."""

    def make(personality: Personality | None = None) -> Site:
        plain = Site.new_token(new_folder())
        control = plain.folder / "shim.control"
        shims.order(control, *(personality.orders if personality else ()))
        behind = plain.settings.token
        token = msgspec.structs.replace(
            behind, module=shim_path, environment=behind.environment | shims.variables(behind.module, control)
        )
        site = Site.written(plain.folder, msgspec.structs.replace(plain.settings, token=token), "hsmkms.toml")
        wiring.initialise(site.settings, lambda: START)
        return site

    yield make
    close_everything()


def order(site: Site, *lines: str) -> None:
    """Set the orders of the shim of a site's token."""
    shims.order(site.folder / "shim.control", *lines)


def import_(kms: Kms, key_id: str, algorithm: WrappingAlgorithm, material: bytes = MATERIAL) -> str | None:
    """Import material by that algorithm; its id."""
    parameters = kms.get_parameters_for_import(
        GetParametersForImportRequest(
            key_id=key_id, wrapping_algorithm=algorithm, wrapping_key_spec=WrappingKeySpec.RSA_2048
        )
    )
    request = ImportKeyMaterialRequest(
        key_id=key_id,
        import_token=parameters.import_token,
        encrypted_key_material=wrapped.wrap(parameters.public_key, algorithm, material),
        expiration_model=ExpirationModel.KEY_MATERIAL_DOES_NOT_EXPIRE,
    )
    return kms.import_key_material(request).key_material_id


def all_as_made(kms: Kms, *key_ids: str) -> bool:
    """Whether every backing key of these is as it was ordered, by what the token says now."""
    return all(backing_key.as_made for key_id in key_ids for backing_key in kms.operator.attest(key_id))


# -- the whole story ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("personality", [WRITTEN_BACK, PREPENDED, UNASKED_NO_CMAC, EVERYTHING], ids=lambda p: p.name)
def test_story(new_played: NewPlayed, clock: StoppedClock, personality: Personality) -> None:
    """Keys are made, encrypt, rotate, are imported, opened again, and die, and every ciphertext opens meanwhile."""
    site = new_played(personality)
    with site.open(clock) as kms:
        key_id = new_key(kms).key_id
        first = [seal(kms, key_id, encryption_context=CONTEXT) for _ in range(50)]
        assert len(set(first)) == 50
        old = material_of(kms, key_id)
        rotate(kms, key_id)
        second = seal(kms, key_id)
        assert named_by(kms, second) == material_of(kms, key_id) != old
        move = ReEncryptRequest(ciphertext_blob=first[0], source_encryption_context=CONTEXT, destination_key_id=key_id)
        moved = kms.re_encrypt(move).ciphertext_blob
        assert named_by(kms, moved) == material_of(kms, key_id)
        data_key = kms.generate_data_key(GenerateDataKeyRequest(key_id=key_id, number_of_bytes=32))
        assert unseal(kms, data_key.ciphertext_blob) == data_key.plaintext

        imported = new_empty_key(kms)
        algorithms = kms.operator.import_algorithms()
        assert ("RSAES_OAEP_SHA_256" in algorithms) is ("oaep_sha_256" in personality.orders)
        name = import_(kms, imported, algorithms[0])
        third = seal(kms, imported)
        delete_material(kms, imported)
        assert import_(kms, imported, algorithms[-1]) == name
        with pytest.raises(IncorrectKeyMaterialException):
            import_(kms, imported, algorithms[-1], bytes(32))
        assert not kms.operator.attest(imported)[0].host_unwrapped

    with site.open(clock) as kms:
        assert {unseal(kms, each, encryption_context=CONTEXT) for each in first} == {b"secret"}
        assert [unseal(kms, each) for each in (second, moved, third)] == [b"secret"] * 3
        assert all_as_made(kms, key_id, imported)
        assert kms.operator.find_differences() == []
        schedule(kms, key_id, 7)
        clock.advance(days=8)
        sweep(kms)
        assert set(backing_keys(kms)) == {imported}


@pytest.mark.parametrize("personality", [WRITTEN_BACK, APPENDED, PREPENDED], ids=lambda p: p.name)
def test_token_that_begins_to_choose(new_played: NewPlayed, personality: Personality) -> None:
    """After a firmware update that makes the token choose IVs, and after the way back, every ciphertext opens."""
    site = new_played()
    made: list[bytes] = []
    for orders in ((), personality.orders, ()):
        order(site, *orders)
        with site.open() as kms:
            key_id = key_ids(kms).pop() if made else new_key(kms).key_id
            made.append(seal(kms, key_id))
            assert [unseal(kms, each) for each in made] == [b"secret"] * len(made)


# -- short labels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("personality", [CUT_LABELS, SHORT_LABELS, EVERYTHING], ids=lambda p: p.name)
def test_adoption_by_short_labels(new_played: NewPlayed, personality: Personality) -> None:
    """On a token of 32-byte labels keys are made, found and adopted by the short form, with all their materials."""
    site = new_played(personality)

    def work(kms: Kms) -> tuple[str, list[bytes]]:
        key_id = new_key(kms).key_id
        first = seal(kms, key_id)
        rotate(kms, key_id)
        return key_id, [first, seal(kms, key_id)]

    key_id, sealed = restored_copy(site, work)
    with site.open() as kms:
        findings = kms.operator.find_differences()
        assert [(finding.kind, finding.key_id, finding.region) for finding in findings] == [
            (Kind.ORPHAN, key_id, None)
        ] * 2
        assert {len(finding.label) for finding in findings} == {32}
        assert [kms.operator.mend(finding) for finding in findings] == [Mended.ADOPTED, Mended.ADDED]
        enable(kms, key_id)
        assert [unseal(kms, ciphertext) for ciphertext in sealed] == [b"secret"] * 2
        assert all_as_made(kms, key_id)
        assert kms.operator.find_differences() == []
        assert kms.operator.credentials.create_access_key(None).secret_access_key


# -- what is refused clearly ----------------------------------------------------------------------------------------


def test_token_that_begins_to_ignore(new_played: NewPlayed) -> None:
    """Where the token ignores an attribute no key is made or rotated; the error names it, and nothing is left."""
    site = new_played()
    with site.open() as kms:
        key_id = new_key(kms).key_id
        sealed, material = seal(kms, key_id), material_of(kms, key_id)
        order(site, shims.ignoring(Attribute.EXTRACTABLE, value=True))
        for act in (lambda: new_key(kms), lambda: rotate(kms, key_id)):
            with pytest.raises(TokenUnfitError, match="CKA_EXTRACTABLE is True instead of False"):
                act()
        assert key_ids(kms) == {key_id}
        assert (material_of(kms, key_id), backing_keys(kms)) == (material, {key_id: 1})
        assert described(kms, key_id).enabled
        assert kms.operator.find_differences() == []
        assert unseal(kms, sealed) == b"secret"
        order(site)
        rotate(kms, key_id)
        assert unseal(kms, sealed) == b"secret"
