"""Rotation on demand, keys that do not rotate, and the list of rotations. Source: AWS KMS API Reference."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from lifecycle import (
    DONE,
    ROTATION,
    YEAR,
    backing_keys,
    disable,
    enable,
    material_of,
    named_by,
    new_empty_key,
    new_imported_key,
    next_date,
    rotate,
    rotations,
    schedule,
    status_of,
    sweep,
    switch_off,
    switch_on,
)
from service_sites import START, Site, StoppedClock, new_alias, new_key, seal

from hsmkms.config.settings import RotationSettings
from hsmkms.errors import (
    ConflictException,
    DisabledException,
    InvalidMarkerException,
    KMSInvalidStateException,
    NotFoundException,
    UnsupportedOperationException,
    ValidationException,
)
from hsmkms.kms import Kms
from hsmkms.model.enums import IncludeKeyMaterial, KeySpec, KeyUsage, Operation, RotationType
from hsmkms.model.rotation import ListKeyRotationsRequest, RotateKeyOnDemandRequest
from hsmkms.rules import paging, rotation
from hsmkms.service.keys import creation

SECOND = timedelta(seconds=1)
UNKNOWN = "12345678-1234-4123-8123-123456789012"
ALL = IncludeKeyMaterial.ALL_KEY_MATERIAL

Act = Callable[[Kms, str], object]
OPERATIONS: tuple[Act, ...] = (switch_on, switch_off, rotate, status_of, rotations)


@pytest.fixture
def kms(site: Site, clock: StoppedClock) -> Iterator[Kms]:
    """A fresh installation with a clock that moves only on demand."""
    with site.open(clock) as opened:
        yield opened


# -- on demand ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("automatic", [True, False])
def test_on_demand_moves_no_date(kms: Kms, clock: StoppedClock, *, automatic: bool) -> None:
    """It works whether or not automatic rotation is on, answers the ARN, and leaves the automatic dates alone."""
    made = new_key(kms)
    if automatic:
        switch_on(kms, made.key_id)
    clock.advance(days=100)
    answer = kms.rotate_key_on_demand(RotateKeyOnDemandRequest(key_id=made.key_id))
    assert answer.key_id == made.arn
    (entry,) = rotations(kms, made.key_id)
    assert (entry.rotation_date, entry.rotation_type) == (clock.now, RotationType.ON_DEMAND)
    assert next_date(kms, made.key_id) == (START + YEAR if automatic else None)
    clock.now = START + YEAR
    assert sweep(kms) == ([(ROTATION, made.key_id, DONE)] if automatic else [])


@pytest.mark.parametrize(
    ("before", "refused"),
    [
        (timedelta(minutes=20, seconds=1), False),
        (timedelta(minutes=20), True),
        (SECOND, True),
        (timedelta(), True),
        (-timedelta(days=3), True),
    ],
)
def test_shortly_before_an_automatic_one(kms: Kms, clock: StoppedClock, before: timedelta, *, refused: bool) -> None:
    """Within 20 minutes before an automatic rotation, and while that is overdue, it is a ConflictException."""
    key_id = new_key(kms).key_id
    switch_on(kms, key_id)
    clock.now = START + YEAR - before
    if refused:
        with pytest.raises(ConflictException, match="automatic rotation"):
            rotate(kms, key_id)
        assert rotations(kms, key_id) == []
        clock.now = START + YEAR + timedelta(days=3)
        sweep(kms)
    rotate(kms, key_id)
    assert rotations(kms, key_id)[-1].rotation_type == RotationType.ON_DEMAND


@pytest.mark.parametrize("step", ["rotate 1", "rotate 2"])
def test_while_one_is_under_way(kms: Kms, step: str) -> None:
    """While it runs its start is shown, the old material encrypts, another is refused, and nothing stops it."""
    key_id = new_key(kms).key_id
    switch_on(kms, key_id)
    first = material_of(kms, key_id)
    outcomes: list[Any] = []

    def meanwhile(done: str) -> None:
        if done.startswith(step):
            with pytest.raises(ConflictException, match="under way"):
                rotate(kms, key_id)
            switch_off(kms, key_id)
            outcomes.extend((status_of(kms, key_id).on_demand_rotation_start_date, named_by(kms, seal(kms, key_id))))
            outcomes.append(rotations(kms, key_id, include_key_material=ALL)[-1].key_material_id)

    kms._core.reached = meanwhile
    rotate(kms, key_id)
    assert outcomes == [START, first, first]
    assert status_of(kms, key_id).on_demand_rotation_start_date is None
    assert len(rotations(kms, key_id)) == 1
    assert backing_keys(kms) == {key_id: 2}


def test_while_an_automatic_one_is_under_way(kms: Kms, clock: StoppedClock) -> None:
    """An automatic rotation in progress shows no start date of one on demand, which is refused until it ends."""
    key_id = new_key(kms).key_id
    switch_on(kms, key_id)
    clock.now = START + YEAR
    outcomes = []

    def meanwhile(done: str) -> None:
        if done.startswith("rotate 1"):
            outcomes.append(status_of(kms, key_id).on_demand_rotation_start_date)
            with pytest.raises(ConflictException):
                rotate(kms, key_id)

    kms._core.reached = meanwhile
    assert sweep(kms) == [(ROTATION, key_id, DONE)]
    assert outcomes == [None]


# -- keys that do not rotate, or are not there ----------------------------------------------------------------------


def asymmetric_key(kms: Kms, spec: KeySpec, usage: KeyUsage) -> str:
    """A key of a kind that cannot be made yet, as it will stand in the database."""
    record = creation.new_record(
        kms._core, kms._root.region, creation.Nature(spec=spec, usage=usage), description="", policy="{}"
    )
    creation.make_empty(kms._core, record, {})
    return record.key_id


@pytest.mark.parametrize(
    ("spec", "usage"),
    [
        (KeySpec.RSA_2048, KeyUsage.SIGN_VERIFY),
        (KeySpec.RSA_4096, KeyUsage.ENCRYPT_DECRYPT),
        (KeySpec.ECC_NIST_P256, KeyUsage.KEY_AGREEMENT),
        (KeySpec.HMAC_256, KeyUsage.GENERATE_VERIFY_MAC),
    ],
)
def test_asymmetric_and_hmac_keys(kms: Kms, spec: KeySpec, usage: KeyUsage) -> None:
    """What sets, starts or lists rotation is an UnsupportedOperationException; the status reads false."""
    key_id = asymmetric_key(kms, spec, usage)
    for act in (switch_on, switch_off, rotate, rotations):
        with pytest.raises(UnsupportedOperationException, match="move the alias") as caught:
            act(kms, key_id)
        assert caught.value.silent
    for change in (enable, disable, schedule):
        change(kms, key_id)
        assert not status_of(kms, key_id).key_rotation_enabled


def test_imported_material(kms: Kms, clock: StoppedClock) -> None:
    """A key with imported material does not rotate, automatically or on demand, and its status reads false."""
    key_id = new_imported_key(kms)
    first = material_of(kms, key_id)
    for act in (switch_on, switch_off, rotate):
        with pytest.raises(UnsupportedOperationException, match="origin is EXTERNAL"):
            act(kms, key_id)
    disable(kms, key_id)
    for act in (switch_on, switch_off):
        with pytest.raises(DisabledException):
            act(kms, key_id)
    enable(kms, key_id)
    status = status_of(kms, key_id)
    assert (status.key_rotation_enabled, status.next_rotation_date) == (False, None)
    assert rotations(kms, key_id) == []
    clock.advance(days=3000)
    sweep(kms)
    assert material_of(kms, key_id) == first


def test_before_anything_was_imported(kms: Kms) -> None:
    """A key that waits for its first material neither rotates nor can be set to."""
    key_id = new_empty_key(kms)
    for act in (switch_on, switch_off):
        with pytest.raises(UnsupportedOperationException):
            act(kms, key_id)
    with pytest.raises(KMSInvalidStateException, match="pending import"):
        rotate(kms, key_id)
    assert rotations(kms, key_id) == []


def test_names(kms: Kms) -> None:
    """Id and ARN name the key; an alias does not, and an unknown key is a NotFoundException."""
    made = new_key(kms)
    new_alias(kms, "alias/named", made.key_id)
    for act in OPERATIONS:
        for wrong in ("alias/named", UNKNOWN):
            with pytest.raises(NotFoundException):
                act(kms, wrong)
        act(kms, made.arn)


# -- listing --------------------------------------------------------------------------------------------------------


def pages(kms: Kms, key_id: str, **members: object) -> list[list[str]]:
    """All pages of ListKeyRotations, as material ids."""
    listed, marker = [], None
    while True:
        page = kms.list_key_rotations(ListKeyRotationsRequest(key_id=key_id, marker=marker, **members))
        listed.append([rotation.key_material_id for rotation in page.rotations])
        assert page.truncated is (page.next_marker is not None)
        marker = page.next_marker
        if marker is None:
            return listed


def test_pages(kms: Kms) -> None:
    """Pages join to the whole list, oldest first; the first material is there only if it is asked for."""
    key_id = new_key(kms).key_id
    seen = [material_of(kms, key_id)]
    for _ in range(5):
        rotate(kms, key_id)
        seen.append(material_of(kms, key_id))
    assert pages(kms, key_id) == [seen[1:]]
    assert pages(kms, key_id, limit=2) == [seen[1:3], seen[3:5], seen[5:]]
    assert pages(kms, key_id, limit=5) == [seen[1:]]
    assert pages(kms, key_id, limit=3, include_key_material=ALL) == [seen[:3], seen[3:]]
    assert pages(kms, key_id, limit=1000, include_key_material="ROTATIONS_ONLY") == [seen[1:]]
    first, *others = rotations(kms, key_id, include_key_material=ALL)
    assert (first.rotation_date, first.rotation_type, first.import_state) == (None, None, None)
    assert {other.key_material_state for other in others[:-1]} | {first.key_material_state} == {"NON_CURRENT"}
    assert others[-1].key_material_state == "CURRENT"
    assert {other.key_id for other in others} == {key_id}


def test_bad_pages(kms: Kms) -> None:
    """Limits outside 1 to 1000 and unknown words are refused, and so is every marker that this list did not give."""
    key_id = new_key(kms).key_id
    for members in ({"limit": 0}, {"limit": 1001}, {"include_key_material": "SOME"}):
        with pytest.raises(ValidationException):
            rotations(kms, key_id, **members)
    good = paging.encode_marker(Operation.LIST_KEY_ROTATIONS, "1")
    assert rotations(kms, key_id, marker=good) == []
    forged = [paging.encode_marker(Operation.LIST_KEYS, "1"), good[:-1], good.swapcase(), "1", "%"]
    forged += [paging.encode_marker(Operation.LIST_KEY_ROTATIONS, each) for each in ("", "-1", "1.5", "x", "٣", "1\n")]
    for marker in forged:
        with pytest.raises(InvalidMarkerException):
            rotations(kms, key_id, marker=marker)
    endless = paging.encode_marker(Operation.LIST_KEY_ROTATIONS, "9" * 700)
    assert rotations(kms, key_id, marker=endless, include_key_material=ALL) == []


@pytest.mark.parametrize("stop", [disable, schedule])
def test_listed_in_every_state(kms: Kms, stop: Act) -> None:
    """Rotations and status are returned for disabled keys and for keys pending deletion."""
    key_id = new_key(kms).key_id
    rotate(kms, key_id)
    stop(kms, key_id)
    assert [rotation.rotation_type for rotation in rotations(kms, key_id)] == [RotationType.ON_DEMAND]
    assert not status_of(kms, key_id).key_rotation_enabled


def test_the_rule_is_the_missions_by_default() -> None:
    """365 days, not to be chosen, 1095 days for keys of services, and nothing imported rotates."""
    assert rotation.RotationPolicy() == rotation.RotationPolicy(
        period_days=365, custom_period=False, managed_period_days=1095, imported_on_demand=False
    )
    defaults = RotationSettings()
    assert (defaults.period_days, defaults.custom_period) == (365, False)
    assert (defaults.managed_period_days, defaults.imported_on_demand) == (1095, False)
