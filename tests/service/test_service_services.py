"""Keys of services, ``alias/aws/NAME``. Source: AWS KMS Developer Guide, "AWS managed keys"."""

import ctypes
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta

import pytest
from lifecycle import (
    DONE,
    ROTATION,
    StoppedError,
    away,
    backing_keys,
    cancel,
    delete_material,
    described,
    disable,
    enable,
    epoch,
    material_of,
    named_by,
    next_date,
    parameters_for,
    record_of,
    rotate,
    rotations,
    schedule,
    status_of,
    stop_at,
    sweep,
    switch_off,
    switch_on,
)
from service_sites import ACCOUNT, OTHER_REGION, REGION, START, NewSite, StoppedClock, new_alias, new_key, seal, unseal
from service_sites import finish as finished
from service_sites import start as started

from hsmkms.config.settings import RotationSettings
from hsmkms.errors import AccessDeniedException, HsmKmsError, NotFoundException, TokenUnavailableError
from hsmkms.kms import Kms
from hsmkms.model.aliases import CreateAliasRequest, DeleteAliasRequest, ListAliasesRequest, UpdateAliasRequest
from hsmkms.model.crypto import GenerateDataKeyRequest, ReEncryptRequest
from hsmkms.model.deletion import GetKeyLastUsageRequest
from hsmkms.model.enums import KeyManager
from hsmkms.model.keys import ListKeysRequest, UpdateKeyDescriptionRequest
from hsmkms.model.shapes import Tag
from hsmkms.model.tags import ListResourceTagsRequest, TagResourceRequest, UntagResourceRequest
from hsmkms.service.operator.reconcile import Mended

ALIAS, OTHER_ALIAS = "alias/aws/photos", "alias/aws/mail"
ALIAS_ARN = f"arn:aws:kms:{REGION}:{ACCOUNT}:{ALIAS}"
SERVICES = ("photos", "mail")

Act = Callable[[Kms, str], object]


@pytest.fixture
def kms(new_site: NewSite, clock: StoppedClock) -> Iterator[Kms]:
    """A fresh installation with two services, and a clock that moves only on demand."""
    with new_site(services=SERVICES).open(clock) as opened:
        yield opened


def key_ids(kms: Kms, region: str = REGION) -> list[str]:
    """All keys of a region."""
    return [key.key_id for key in kms.list_keys(ListKeysRequest(), kms.caller(region)).keys]


# -- coming into being ----------------------------------------------------------------------------------------------


FIRST_USES: dict[str, Act] = {
    "Encrypt": seal,
    "DescribeKey": described,
    "GenerateDataKey": lambda kms, name: kms.generate_data_key(GenerateDataKeyRequest(key_id=name, number_of_bytes=8)),
    "ReEncrypt": lambda kms, name: kms.re_encrypt(
        ReEncryptRequest(ciphertext_blob=seal(kms, new_key(kms).key_id), destination_key_id=name)
    ),
}


@pytest.mark.parametrize(("operation", "name"), [("Encrypt", ALIAS_ARN), *((each, ALIAS) for each in FIRST_USES)])
def test_made_at_first_use(kms: Kms, operation: str, name: str) -> None:
    """The first use of a service's alias creates its key, whatever the operation, and later ones use the same."""
    assert key_ids(kms) == []
    FIRST_USES[operation](kms, name)
    made = described(kms, ALIAS)
    assert (made.key_manager, made.key_state, made.origin) == ("AWS", "Enabled", "AWS_KMS")
    assert "photos" in made.description
    assert made.key_id in key_ids(kms)
    assert backing_keys(kms)[made.key_id] == 1
    assert described(kms, made.key_id) == described(kms, name) == made
    assert unseal(kms, seal(kms, name), key_id=made.arn) == b"secret"
    assert kms.operator.find_differences() == []


def test_one_for_each_service_and_region(kms: Kms) -> None:
    """Each service has a key of its own in each region."""
    there = kms.caller(OTHER_REGION)
    described_ids = {described(kms, name, caller).key_id for name in (ALIAS, OTHER_ALIAS) for caller in (None, there)}
    assert len(described_ids) == 4
    assert (len(key_ids(kms)), len(key_ids(kms, OTHER_REGION))) == (2, 2)


def test_not_configured(kms: Kms) -> None:
    """A service that is not configured has no key and gets none."""
    before = epoch(kms)
    for name in ("alias/aws/unknown", "alias/aws/", "alias/aws/photos2", "alias/aws/Photos"):
        for act in (seal, described):
            with pytest.raises(NotFoundException, match="alias/aws"):
                act(kms, name)
    assert epoch(kms) == before


def test_no_longer_configured(new_site: NewSite, clock: StoppedClock) -> None:
    """A service that is taken out of the configuration keeps the key that it has."""
    site = new_site(services=SERVICES)
    with site.open(clock) as kms:
        sealed = seal(kms, ALIAS)
    with site.varied("fewer.toml", services=()).open(clock) as kms:
        assert unseal(kms, sealed, key_id=ALIAS) == b"secret"
        with pytest.raises(NotFoundException):
            seal(kms, OTHER_ALIAS)


def test_first_uses_in_threads(kms: Kms) -> None:
    """First uses in many threads at once make one key, all encrypt under it, and nothing is left on the token."""
    gate, sealed = threading.Barrier(8), []

    def use() -> None:
        gate.wait()
        sealed.append(seal(kms, ALIAS))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (key_id,) = key_ids(kms)
    assert [unseal(kms, ciphertext, key_id=key_id) for ciphertext in sealed] == [b"secret"] * 8
    assert backing_keys(kms) == {key_id: 1}
    assert kms.operator.find_differences() == []


def test_first_uses_in_processes(new_site: NewSite, clock: StoppedClock) -> None:
    """A process that loses the race for the first use takes the other's key, and its own object is destroyed."""
    site = new_site(services=SERVICES)
    body = json.dumps({"KeyId": ALIAS, "Plaintext": "cA=="})
    slow = started("act", site.folder / "hsmkms.toml", START.isoformat(), "wait create-key 2", "Encrypt", body)
    assert slow.stdout is not None
    assert slow.stdin is not None
    assert slow.stdout.readline() == "ready\n"
    slow.stdin.write("\n")
    slow.stdin.flush()
    assert slow.stdout.readline() == "ready\n"
    with site.open(clock) as kms:
        first = described(kms, ALIAS)
        assert len(backing_keys(kms)) == 2
        (answer,) = finished(slow)
        assert answer["KeyId"] == first.arn
        assert key_ids(kms) == [first.key_id]
        assert backing_keys(kms) == {first.key_id: 1}
        assert kms.operator.find_differences() == []


def overtaken(kms: Kms) -> Callable[[str], None]:
    """A checkpoint at which another process creates the service's key first."""

    def reached(done: str) -> None:
        if done.startswith("create-key 2"):
            kms._core.reached = lambda _: None
            described(kms, ALIAS)

    return reached


def test_token_fails_when_overtaken(kms: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that came too late and cannot be destroyed now is known as doomed, and goes with the next sweep."""
    kms._core.reached = overtaken(kms)
    with monkeypatch.context() as patch:
        patch.setattr(kms._core.device.keys, "destroy", away)
        with suppress(TokenUnavailableError):
            seal(kms, ALIAS)
    sweep(kms)
    assert kms.operator.find_differences() == []
    assert backing_keys(kms) == {described(kms, ALIAS).key_id: 1}


def test_lost_login_at_first_use(kms: Kms) -> None:
    """A login that is lost on the way harms nothing."""
    device = kms._core.device
    library = ctypes.CDLL(str(device.connection.module.path))
    kms._core.reached = lambda _: library.C_Logout(ctypes.c_ulong(device.connection.login_handle))
    assert unseal(kms, seal(kms, ALIAS), key_id=ALIAS) == b"secret"
    assert kms.operator.find_differences() == []


@pytest.mark.parametrize("step", ["create-key 1", "create-key 2", "create-key 3"])
def test_interrupted_first_use(kms: Kms, step: str) -> None:
    """The next use after an interrupted one creates the key; the mended one is a key that its user can manage."""
    kms._core.reached = stop_at(step)
    with pytest.raises(StoppedError):
        seal(kms, ALIAS)
    kms._core.reached = lambda _: None
    assert unseal(kms, seal(kms, ALIAS), key_id=ALIAS) == b"secret"
    for finding in kms.operator.find_differences():
        mended = kms.operator.mend(finding)
        if mended is Mended.ADOPTED:
            assert record_of(kms, finding.key_id).manager is KeyManager.CUSTOMER
            schedule(kms, finding.key_id)
    assert kms.operator.find_differences() == []


# -- who may do what ------------------------------------------------------------------------------------------------


MANAGING: dict[str, Act] = {
    "EnableKey": enable,
    "DisableKey": disable,
    "ScheduleKeyDeletion": schedule,
    "CancelKeyDeletion": cancel,
    "EnableKeyRotation": switch_on,
    "DisableKeyRotation": switch_off,
    "RotateKeyOnDemand": rotate,
    "GetParametersForImport": parameters_for,
    "DeleteImportedKeyMaterial": delete_material,
    "CreateAlias": lambda kms, key_id: kms.create_alias(
        CreateAliasRequest(alias_name="alias/mine", target_key_id=key_id)
    ),
    "UpdateAlias to it": lambda kms, key_id: kms.update_alias(
        UpdateAliasRequest(alias_name="alias/users", target_key_id=key_id)
    ),
    "UpdateAlias away": lambda kms, _: kms.update_alias(
        UpdateAliasRequest(alias_name=ALIAS, target_key_id=described(kms, "alias/users").key_id)
    ),
    "DeleteAlias": lambda kms, _: kms.delete_alias(DeleteAliasRequest(alias_name=ALIAS)),
    "TagResource": lambda kms, key_id: kms.tag_resource(
        TagResourceRequest(key_id=key_id, tags=[Tag(tag_key="a", tag_value="1")])
    ),
    "UntagResource": lambda kms, key_id: kms.untag_resource(UntagResourceRequest(key_id=key_id, tag_keys=["a"])),
    "UpdateKeyDescription": lambda kms, key_id: kms.update_key_description(
        UpdateKeyDescriptionRequest(key_id=key_id, description="mine")
    ),
}


def test_nobody_manages_it(kms: Kms) -> None:
    """Whatever would change the key or its alias is an AccessDeniedException, and changes nothing."""
    new_alias(kms, "alias/users", new_key(kms).key_id)
    made = described(kms, ALIAS)
    before = epoch(kms)
    for operation, act in MANAGING.items():
        with pytest.raises(AccessDeniedException, match="belongs to a service"):
            act(kms, made.key_id)
        assert epoch(kms) == before, operation
    assert described(kms, ALIAS) == made


def test_every_principal_uses_it(kms: Kms) -> None:
    """It is used and looked at like any other key."""
    sealed = seal(kms, ALIAS)
    made = described(kms, ALIAS)
    assert unseal(kms, sealed) == b"secret"
    moved = kms.re_encrypt(ReEncryptRequest(ciphertext_blob=sealed, destination_key_id=new_key(kms).key_id))
    assert moved.source_key_id == made.arn
    assert kms.list_resource_tags(ListResourceTagsRequest(key_id=made.key_id)).tags == []
    assert rotations(kms, made.key_id) == []
    used = kms.get_key_last_usage(GetKeyLastUsageRequest(key_id=made.key_id)).key_last_usage
    assert used.operation == "ReEncrypt"
    assert [backing_key.as_made for backing_key in kms.operator.attest(ALIAS)] == [True]


@pytest.mark.parametrize("name", [ALIAS, "alias/aws/unknown"])
def test_its_names_are_nobodys(kms: Kms, name: str) -> None:
    """A name of a service can neither be taken nor moved nor deleted, before there is a key and without a service."""
    target = new_key(kms).key_id
    before = epoch(kms)
    for act in (
        lambda: new_alias(kms, name, target),
        lambda: kms.update_alias(UpdateAliasRequest(alias_name=name, target_key_id=target)),
        lambda: kms.delete_alias(DeleteAliasRequest(alias_name=name)),
    ):
        with pytest.raises(HsmKmsError) as caught:
            act()
        assert caught.value.code in ("AccessDeniedException", "NotAuthorizedException")
    assert epoch(kms) == before


# -- listing --------------------------------------------------------------------------------------------------------


def listed(kms: Kms, **members: object) -> list[tuple[str, str | None]]:
    """Names and key ids of one page of aliases."""
    aliases_listed = kms.list_aliases(ListAliasesRequest(**members)).aliases
    return [(each.alias_name, each.target_key_id) for each in aliases_listed]


def test_listed_before_it_exists(kms: Kms) -> None:
    """The names of services are listed without key id and dates until they are used, in the order of all names."""
    mine = new_key(kms).key_id
    for name in ("alias/a", "alias/zoo"):
        new_alias(kms, name, mine)
    assert listed(kms) == [("alias/a", mine), (OTHER_ALIAS, None), (ALIAS, None), ("alias/zoo", mine)]
    (entry,) = kms.list_aliases(ListAliasesRequest(limit=1, marker=None)).aliases
    assert entry.alias_name == "alias/a"
    unused = next(alias for alias in kms.list_aliases(ListAliasesRequest()).aliases if alias.alias_name == ALIAS)
    assert (unused.alias_arn, unused.creation_date, unused.last_updated_date) == (ALIAS_ARN, None, None)
    key_id = described(kms, ALIAS).key_id
    assert listed(kms) == [("alias/a", mine), (OTHER_ALIAS, None), (ALIAS, key_id), ("alias/zoo", mine)]
    assert listed(kms, key_id=key_id) == [(ALIAS, key_id)]
    assert listed(kms, key_id=mine) == [("alias/a", mine), ("alias/zoo", mine)]


def test_listed_page_by_page(kms: Kms) -> None:
    """Pages of any size join to the whole list, each name once."""
    for name in ("alias/a", "alias/b", "alias/zoo"):
        new_alias(kms, name, new_key(kms).key_id)
    seal(kms, OTHER_ALIAS)
    for limit in (1, 2, 3, 4, 5):
        pages, marker = [], None
        while marker is not None or not pages:
            page = kms.list_aliases(ListAliasesRequest(limit=limit, marker=marker))
            assert len(page.aliases) <= limit
            pages += [alias.alias_name for alias in page.aliases]
            marker = page.next_marker
        assert pages == ["alias/a", OTHER_ALIAS, ALIAS, "alias/b", "alias/zoo"]


# -- rotation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("days", [1095, 365])
def test_always_rotates(new_site: NewSite, clock: StoppedClock, days: int) -> None:
    """It rotates every 1095 days from its creation, or every 365 as in today's AWS, and its status reads true."""
    settings = RotationSettings(managed_period_days=days)
    with new_site(services=SERVICES, rotation=settings).open(clock) as kms:
        clock.advance(days=10)
        key_id = described(kms, ALIAS).key_id
        made, sealed = clock.now, seal(kms, ALIAS)
        for number in (1, 2):
            due = made + number * timedelta(days=days)
            status = status_of(kms, key_id)
            assert (status.key_rotation_enabled, status.rotation_period_in_days) == (True, days)
            assert next_date(kms, key_id) == due
            clock.now = due - timedelta(seconds=1)
            assert sweep(kms) == []
            clock.now = due
            assert sweep(kms) == [(ROTATION, key_id, DONE)]
        assert [rotation.rotation_type for rotation in rotations(kms, key_id)] == ["AUTOMATIC"] * 2
        assert named_by(kms, seal(kms, ALIAS)) == material_of(kms, key_id)
        assert named_by(kms, sealed) != material_of(kms, key_id)
        assert described(kms, ALIAS).key_id == key_id


def test_default_is_three_years() -> None:
    """Without a setting it is 1095 days, and no service has a key."""
    assert RotationSettings().managed_period_days == 1095
