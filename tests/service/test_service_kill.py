"""Kill -9 at every step of what changes keys: after a restart nothing is lost, half done, or unknown on the token."""

import json
from datetime import datetime, timedelta

import pytest
from lifecycle import (
    DONE,
    backing_keys,
    delete_material,
    described,
    enable,
    material_of,
    named_by,
    new_imported_key,
    request_to_import,
    rotate,
    rotations,
    schedule,
    sweep,
    switch_on,
)
from msgspec import Struct
from service_sites import START, NewSite, Site, StoppedClock, mac_key, new_alias, new_key, run, seal, unseal

from hsmkms.errors import AccessDeniedException, NotFoundException
from hsmkms.kms import Kms
from hsmkms.model.enums import WrappingAlgorithm, WrappingKeySpec
from hsmkms.model.importing import GetParametersForImportRequest
from hsmkms.model.wire import to_wire
from hsmkms.service.operator.reconcile import Kind, Mended
from hsmkms.service.operator.sweeper import StepKind

ALIAS = "alias/aws/photos"
UNDER_WAY = timedelta(minutes=10, seconds=1)
"""After that what was begun counts as interrupted."""


class Scene(Struct):
    """A key, and what is encrypted under it and under another one that nothing happens to."""

    key_id: str
    sealed: list[bytes]
    other: bytes


def bystander(kms: Kms) -> bytes:
    """A ciphertext of a key that nothing happens to."""
    return seal(kms, new_key(kms).key_id)


def kill(site: Site, when: datetime, step: str, what: str, *body: Struct | dict[str, object]) -> None:
    """Let a process do something, and kill it at a step."""
    words = [json.dumps(to_wire(each) if isinstance(each, Struct) else each) for each in body]
    assert run("act", site.folder / "hsmkms.toml", when.isoformat(), f"kill {step}", what, *words, status=-9) == []


def assert_whole(kms: Kms, scene: Scene) -> None:
    """Assert that database and token agree, that nothing is due, and that every ciphertext decrypts."""
    assert kms.operator.find_differences() == []
    assert sweep(kms) == []
    for each in (*scene.sealed, scene.other):
        assert unseal(kms, each) == b"secret"


# -- rotation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "rotated"), [("rotate 1", False), ("rotate 2", True), ("rotate 3", True)])
@pytest.mark.parametrize("automatic", [True, False])
def test_killed_rotation(site: Site, clock: StoppedClock, step: str, *, automatic: bool, rotated: bool) -> None:
    """The old or the new backing key is current, and after the next sweep all that was due is done, once."""
    with site.open(clock) as kms:
        key_id = new_key(kms).key_id
        scene = Scene(key_id, [seal(kms, key_id)], bystander(kms))
        if automatic:
            switch_on(kms, key_id)
    clock.advance(days=365)
    if automatic:
        kill(site, clock.now, step, "maintain")
    else:
        kill(site, clock.now, step, "RotateKeyOnDemand", {"KeyId": key_id})
    with site.open(clock) as kms:
        scene.sealed.append(seal(kms, key_id))
        clock.now += UNDER_WAY
        sweep(kms)
        assert len(rotations(kms, key_id)) == (1 if rotated or automatic else 0)
        scene.sealed.append(seal(kms, key_id))
        assert named_by(kms, scene.sealed[-1]) == material_of(kms, key_id)
        assert backing_keys(kms)[key_id] == len(rotations(kms, key_id)) + 1
        assert_whole(kms, scene)


# -- deletion -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["destroy-key 1", "destroy 1", "destroy 2", "destroy 3", "destroy-key 2"])
def test_killed_deletion(site: Site, clock: StoppedClock, step: str) -> None:
    """Once it has begun the key is gone for all processes, and the next sweep destroys what is left of it."""
    with site.open(clock) as kms:
        made = new_key(kms)
        old = [seal(kms, made.key_id)]
        for _ in range(2):
            rotate(kms, made.key_id)
            old.append(seal(kms, made.key_id))
        new_alias(kms, "alias/end", made.key_id)
        scene = Scene(made.key_id, [], bystander(kms))
        clock.now = schedule(kms, made.key_id, 7)
    kill(site, clock.now, step, "maintain")
    with site.open(clock) as kms:
        for name in (made.key_id, "alias/end"):
            with pytest.raises(NotFoundException):
                described(kms, name)
        left = backing_keys(kms)[made.key_id]
        assert [finding.kind for finding in kms.operator.find_differences()] == [Kind.DOOMED] * left
        clock.now += UNDER_WAY
        assert {kind for kind, _, _ in sweep(kms)} <= {StepKind.DESTRUCTION}
        assert backing_keys(kms)[made.key_id] == 0
        for each in old:
            with pytest.raises(AccessDeniedException):
                unseal(kms, each)
        assert_whole(kms, scene)


# -- keys of services -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["create-key 1", "create-key 2", "create-key 3"])
def test_killed_first_use(new_site: NewSite, clock: StoppedClock, step: str) -> None:
    """The next use creates the service's key, or finds it created; what is left over is listed and can be mended."""
    site = new_site(services=("photos",))
    with site.open(clock) as kms:
        scene = Scene("", [], bystander(kms))
    kill(site, clock.now, step, "Encrypt", {"KeyId": ALIAS, "Plaintext": "cA=="})
    with site.open(clock) as kms:
        scene.sealed.append(seal(kms, ALIAS))
        key_id = described(kms, ALIAS).key_id
        for finding in kms.operator.find_differences():
            assert finding.key_id != key_id
            assert kms.operator.mend(finding) in (Mended.FORGOTTEN, Mended.ADOPTED)
        assert_whole(kms, scene)


# -- import ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["wrapping-key 1", "wrapping-key 2", "wrapping-key 3"])
def test_killed_parameters(site: Site, clock: StoppedClock, step: str) -> None:
    """An unacknowledged wrapping key is destroyed by a sweep, at the latest after its 24 hours."""
    with site.open(clock) as kms:
        key_id = new_empty(kms)
        scene = Scene(key_id, [], bystander(kms))
    kill(
        site,
        clock.now,
        step,
        "GetParametersForImport",
        GetParametersForImportRequest(
            key_id=key_id,
            wrapping_algorithm=WrappingAlgorithm.RSAES_OAEP_SHA_1,
            wrapping_key_spec=WrappingKeySpec.RSA_2048,
        ),
    )
    with site.open(clock) as kms:
        assert wrapping_keys(kms) == (0 if step == "wrapping-key 1" else 1)
        clock.now += UNDER_WAY if step != "wrapping-key 3" else timedelta(hours=24)
        assert sweep(kms) == [(StepKind.WRAPPING_KEY, key_id, DONE)]
        assert wrapping_keys(kms) == 0
        assert_whole(kms, scene)


def wrapping_keys(kms: Kms) -> int:
    """How many private keys the token holds."""
    inventory = kms._core.device.keys.inventory(mac_key(kms))
    return sum(not stored_key.is_secret_key for stored_key in inventory)


@pytest.mark.parametrize(
    ("step", "again"), [("import 1", False), ("import 2", False), ("import 2", True), ("import 3", True)]
)
def test_killed_import(site: Site, clock: StoppedClock, step: str, *, again: bool) -> None:
    """The same request may be repeated until it is answered, and then the key opens what it ever made."""
    with site.open(clock) as kms:
        scene = Scene("", [], bystander(kms))
        if again:
            scene.key_id = new_imported_key(kms)
            scene.sealed = [seal(kms, scene.key_id)]
            delete_material(kms, scene.key_id)
        else:
            scene.key_id = new_empty(kms)
        request = request_to_import(kms, scene.key_id)
    kill(site, clock.now, step, "ImportKeyMaterial", request)
    with site.open(clock) as kms:
        done = step == "import 3"
        assert described(kms, scene.key_id).key_state == ("Enabled" if done else "PendingImport")
        clock.now += UNDER_WAY
        sweep(kms)
        assert kms.operator.find_differences() == []
        assert backing_keys(kms)[scene.key_id] == (1 if done else 0)
        for _ in range(2):
            kms.import_key_material(request)
        assert described(kms, scene.key_id).key_state == "Enabled"
        assert backing_keys(kms)[scene.key_id] == 1
        scene.sealed.append(seal(kms, scene.key_id))
        assert_whole(kms, scene)


def new_empty(kms: Kms) -> str:
    """A key that waits for its material."""
    return new_key(kms, origin="EXTERNAL").key_id


@pytest.mark.parametrize("step", ["delete-material 1", "destroy 2"])
def test_killed_loss_of_material(site: Site, clock: StoppedClock, step: str) -> None:
    """Material whose deletion has begun works no more, goes with the next sweep, and may be imported again."""
    with site.open(clock) as kms:
        key_id = new_imported_key(kms)
        scene = Scene(key_id, [seal(kms, key_id)], bystander(kms))
        request = request_to_import(kms, key_id)
    kill(site, clock.now, step, "DeleteImportedKeyMaterial", {"KeyId": key_id})
    with site.open(clock) as kms:
        assert described(kms, key_id).key_state == "PendingImport"
        assert len(kms.operator.find_differences()) == backing_keys(kms)[key_id]
        sweep(kms)
        assert backing_keys(kms)[key_id] == 0
        assert kms.operator.find_differences() == []
        kms.import_key_material(request)
        assert_whole(kms, scene)


def test_killed_expiry(site: Site, clock: StoppedClock) -> None:
    """Material that has expired stays expired whatever happens to the sweep that destroys it."""
    with site.open(clock) as kms:
        key_id = new_imported_key(kms, valid_to=START + timedelta(days=2))
        scene = Scene(key_id, [seal(kms, key_id)], bystander(kms))
        clock.advance(days=1)
        sweep(kms)
    clock.advance(days=1)
    kill(site, clock.now, "destroy 1", "maintain")
    with site.open(clock) as kms:
        assert described(kms, key_id).key_state == "PendingImport"
        clock.now += UNDER_WAY
        sweep(kms)
        assert backing_keys(kms)[key_id] == 0
        kms.import_key_material(request_to_import(kms, key_id))
        enable(kms, key_id)
        assert_whole(kms, scene)
