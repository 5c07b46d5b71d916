"""The home moves between a token that has AES-GCM and one that has not, and back: both formats live side by side."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
import second_token
import shims
from lifecycle import at, backing_keys, record_of, schedule
from service_sites import NewSite, Site, new_key, seal, unseal
from shims import NO_GCM
from test_service_several_tokens import migrate, opened, settle, token_of, with_second

from hsmkms.config.settings import Settings
from hsmkms.kms import Kms
from hsmkms.model.cipher_format import CipherFormat, format_of
from hsmkms.model.crypto import ReEncryptRequest
from hsmkms.model.own_keys import KeyPurpose
from hsmkms.rules import blob
from hsmkms.service.keys.installation_keys import versions

GCM, CBC = CipherFormat.AES_256_GCM, CipherFormat.AES_256_CBC_HMAC_SHA_256


class Formats(NamedTuple):
    """The formats of the first token of an installation, and of its second."""

    before: CipherFormat
    after: CipherFormat


def without_gcm(site: Site, settings: Settings, number: int, shim: Path) -> Settings:
    """The settings with a shim, which hides AES-GCM, in front of one of the two tokens."""
    control = site.folder / "shim.control"
    shims.order(control, *NO_GCM.orders)
    behind = settings.tokens[number]
    assert behind.module is not None
    environment = behind.environment | shims.variables(behind.module, control)
    own = Path(shutil.copy(shim, site.folder / "shim.so"))  # a loaded shim keeps to the module that it was for first
    token = msgspec.structs.replace(behind, module=own, environment=environment)
    return msgspec.structs.replace(settings, **({"further_tokens": (token,)} if number else {"token": token}))


@pytest.fixture(
    params=[Formats(CBC, GCM), Formats(GCM, CBC)], ids=["from AES-CBC to AES-GCM", "from AES-GCM to AES-CBC"]
)
def expected(request: pytest.FixtureRequest) -> Formats:
    """Which token has which format."""
    formats: Formats = request.param
    return formats


@pytest.fixture
def settings(expected: Formats, new_site: NewSite, shim_path: Path) -> Settings:
    """An installation of two tokens, of which one has no AES-GCM; nothing but its first key is on the first yet."""
    site = new_site()
    return without_gcm(site, with_second(site, own_module=True), expected.index(CBC), shim_path)


def formats(*ciphertexts: bytes) -> list[CipherFormat]:
    """The formats of ciphertexts."""
    return [blob.parse(ciphertext).cipher_format for ciphertext in ciphertexts]


def test_migration(settings: Settings, expected: Formats) -> None:
    """Each token encrypts in its own format; keys of users and the installation's own move; every ciphertext opens."""
    before, after = expected
    with opened(settings) as kms:
        key_id = new_key(kms).key_id
        first = seal(kms, key_id)
        access_key = kms.operator.credentials.create_access_key(None)
        migrate(kms, settings)
        assert token_of(kms, key_id) == second_token.LABEL
        second, third = seal(kms, key_id), seal(kms, new_key(kms).key_id)
        moved = kms.re_encrypt(ReEncryptRequest(ciphertext_blob=first, destination_key_id=key_id)).ciphertext_blob
        assert formats(first, second, third, moved) == [before, after, after, after]
        assert {unseal(kms, each) for each in (first, second, third, moved)} == {b"secret"}
        assert [backing_key.as_made for backing_key in kms.operator.attest(key_id)] == [True, True]
        own = versions(kms._core, KeyPurpose.SECRETS)
        assert [format_of(each.cka_id) for each in own] == [before, after]
    with opened(settings) as kms:
        credential = kms.operator.credentials.find(access_key.access_key_id)
        assert credential is not None
        assert credential.secret == access_key.secret_access_key
        assert {unseal(kms, each) for each in (first, second, third, moved)} == {b"secret"}
        assert kms.operator.find_differences() == []


@pytest.fixture
def two(settings: Settings) -> Iterator[tuple[Kms, Kms]]:
    """The installation, opened twice."""
    with opened(settings) as kms, opened(settings) as other:
        yield kms, other


@pytest.mark.parametrize("step", ["create-key 1", "create-key 2"])
def test_creation_that_meets_a_migration(
    settings: Settings, expected: Formats, two: tuple[Kms, Kms], step: str
) -> None:
    """A key whose creation began on the old token is created on the new one, in its format; nothing else is left."""
    kms, other = two
    kms._core.reached = at(step, lambda: settle(other, settings))
    created = new_key(kms)
    assert token_of(kms, created.key_id) == second_token.LABEL
    (material,) = record_of(kms, created.key_id).materials
    assert format_of(material.cka_id) is expected.after
    assert created.current_key_material_id == material.material_id
    sealed = seal(kms, created.key_id)
    assert (formats(sealed), unseal(kms, sealed)) == ([expected.after], b"secret")
    assert kms.operator.find_differences() == []
    schedule(kms, created.key_id, 7)
    assert set(backing_keys(kms)) == {created.key_id}
