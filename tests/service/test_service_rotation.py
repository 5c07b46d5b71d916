"""Rotation end to end: the rule, its dates, its operations. Source: AWS KMS Developer Guide, "Rotate AWS KMS keys"."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from lifecycle import (
    DONE,
    ROTATION,
    YEAR,
    backing_keys,
    cancel,
    described,
    disable,
    enable,
    epoch,
    material_of,
    named_by,
    next_date,
    record_of,
    rotate,
    rotations,
    schedule,
    status_of,
    sweep,
    switch_off,
    switch_on,
)
from msgspec.structs import replace
from service_sites import START, NewSite, Site, StoppedClock, new_alias, new_key, seal, unseal

from hsmkms.config.settings import RotationSettings
from hsmkms.errors import (
    DisabledException,
    KMSInvalidStateException,
    LimitExceededException,
    ValidationException,
)
from hsmkms.kms import Kms
from hsmkms.model.crypto import (
    GenerateDataKeyRequest,
    GenerateDataKeyWithoutPlaintextRequest,
    ReEncryptRequest,
)
from hsmkms.model.enums import RotationType
from hsmkms.model.keys import ListKeysRequest
from hsmkms.model.shapes import Tag
from hsmkms.model.tags import ListResourceTagsRequest

SECOND = timedelta(seconds=1)

Act = Callable[[Kms, str], object]
OPERATIONS: tuple[Act, ...] = (switch_on, switch_off, rotate, status_of, rotations)


@pytest.fixture
def kms(site: Site, clock: StoppedClock) -> Iterator[Kms]:
    """A fresh installation with a clock that moves only on demand."""
    with site.open(clock) as opened:
        yield opened


# -- the rule and its dates -----------------------------------------------------------------------------------------


def test_off_by_default(kms: Kms, clock: StoppedClock) -> None:
    """A new key does not rotate until that is switched on, however old it gets; its status has nothing else."""
    made = new_key(kms)
    status = status_of(kms, made.arn)
    assert (status.key_id, status.key_rotation_enabled) == (made.arn, False)
    assert (status.rotation_period_in_days, status.next_rotation_date, status.on_demand_rotation_start_date) == (
        None,
    ) * 3
    clock.advance(days=4000)
    assert sweep(kms) == []
    assert rotations(kms, made.key_id) == []


def test_every_year_from_the_enabling(kms: Kms, clock: StoppedClock) -> None:
    """The first rotation is due 365 days after the enabling, to the second, and then one every 365 days."""
    made = new_key(kms)
    clock.advance(days=40)
    switch_on(kms, made.arn)
    enabled = clock.now
    seen = [material_of(kms, made.key_id)]
    for year in (1, 2, 3):
        due = enabled + year * YEAR
        status = status_of(kms, made.key_id)
        assert (status.key_rotation_enabled, status.rotation_period_in_days, status.next_rotation_date) == (
            True,
            365,
            due,
        )
        clock.now = due - SECOND
        assert sweep(kms) == []
        clock.now = due
        assert sweep(kms) == [(ROTATION, made.key_id, DONE)]
        assert sweep(kms) == []
        seen.append(material_of(kms, made.key_id))
    assert len(set(seen)) == 4
    listed = rotations(kms, made.key_id)
    assert [(each.rotation_date, each.rotation_type) for each in listed] == [
        (enabled + year * YEAR, RotationType.AUTOMATIC) for year in (1, 2, 3)
    ]
    assert [each.key_material_id for each in listed] == seen[1:]
    assert backing_keys(kms) == {made.key_id: 4}


def test_days_have_24_hours(kms: Kms, clock: StoppedClock) -> None:
    """A leap day moves the date of the year, and nothing moves the time of day."""
    key_id = new_key(kms).key_id
    switch_on(kms, key_id)
    dates = []
    for _ in range(3):
        due = next_date(kms, key_id)
        assert due is not None
        dates.append(due)
        clock.now = due
        sweep(kms)
    assert dates == [
        datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC),
        datetime(2028, 1, 2, 3, 4, 5, tzinfo=UTC),
        datetime(2029, 1, 1, 3, 4, 5, tzinfo=UTC),
    ]


def test_late_and_missed(kms: Kms, clock: StoppedClock) -> None:
    """A late rotation moves no later date, and several missed dates make one rotation."""
    key_id = new_key(kms).key_id
    switch_on(kms, key_id)
    clock.now = START + YEAR + timedelta(days=30)
    assert next_date(kms, key_id) == clock.now  # at once: a date in the past is never shown
    assert sweep(kms) == [(ROTATION, key_id, DONE)]
    assert next_date(kms, key_id) == START + 2 * YEAR
    clock.now = START + 4 * YEAR + SECOND
    assert sweep(kms) == [(ROTATION, key_id, DONE)]
    assert len(rotations(kms, key_id)) == 2
    assert next_date(kms, key_id) == START + 5 * YEAR


def test_enabling_twice(kms: Kms, clock: StoppedClock) -> None:
    """Enabling what is enabled succeeds, changes nothing, and moves no date."""
    key_id = new_key(kms).key_id
    switch_on(kms, key_id)
    clock.advance(days=100)
    before = epoch(kms)
    switch_on(kms, key_id)
    switch_on(kms, key_id, 365)
    assert epoch(kms) == before
    assert next_date(kms, key_id) == START + YEAR


def test_users_do_not_choose_the_period(kms: Kms) -> None:
    """Any period but 365 days is refused, and rotation stays as it was."""
    key_id = new_key(kms).key_id
    for expected in (None, START + YEAR):
        for days in (89, 90, 364, 366, 2560, 2561):
            with pytest.raises(ValidationException):
                switch_on(kms, key_id, days)
        assert next_date(kms, key_id) == expected
        switch_on(kms, key_id)


def test_the_operators_period(new_site: NewSite, clock: StoppedClock) -> None:
    """With another period of the operator's, that one holds, and a user may name that one only."""
    with new_site(rotation=RotationSettings(period_days=180)).open(clock) as kms:
        key_id = new_key(kms).key_id
        with pytest.raises(ValidationException, match="every 180 days"):
            switch_on(kms, key_id, 365)
        switch_on(kms, key_id, 180)
        assert (status_of(kms, key_id).rotation_period_in_days, next_date(kms, key_id)) == (
            180,
            START + timedelta(days=180),
        )


def test_chosen_period(new_site: NewSite, clock: StoppedClock) -> None:
    """Where users choose: a new period counts from the last rotation, else from the enabling; 365 if none is named."""
    with new_site(rotation=RotationSettings(custom_period=True)).open(clock) as kms:
        key_id = new_key(kms).key_id
        for days in (89, 2561):
            with pytest.raises(ValidationException):
                switch_on(kms, key_id, days)
        switch_on(kms, key_id, 2560)
        assert next_date(kms, key_id) == START + timedelta(days=2560)
        clock.advance(days=10)
        switch_on(kms, key_id, 90)
        assert next_date(kms, key_id) == START + timedelta(days=90)
        clock.now = START + timedelta(days=95)
        assert sweep(kms) == [(ROTATION, key_id, DONE)]
        assert next_date(kms, key_id) == START + timedelta(days=180)
        clock.advance(days=5)
        switch_on(kms, key_id, 200)
        assert next_date(kms, key_id) == START + timedelta(days=95 + 200)
        switch_on(kms, key_id)
        status = status_of(kms, key_id)
        assert (status.rotation_period_in_days, status.next_rotation_date) == (365, START + timedelta(days=95 + 365))


def test_shortened_period_is_overdue_now_and_not_in_the_past(new_site: NewSite, clock: StoppedClock) -> None:
    """A period that would have ended already makes the rotation due at once, not in the past."""
    with new_site(rotation=RotationSettings(custom_period=True)).open(clock) as kms:
        key_id = new_key(kms).key_id
        switch_on(kms, key_id)
        clock.advance(days=200)
        switch_on(kms, key_id, 90)
        assert next_date(kms, key_id) == clock.now
        assert sweep(kms) == [(ROTATION, key_id, DONE)]
        assert next_date(kms, key_id) == START + timedelta(days=270)


def test_off_and_on_again(kms: Kms, clock: StoppedClock) -> None:
    """Switched off nothing rotates and all materials stay; switched on again the date counts from then."""
    key_id = new_key(kms).key_id
    switch_on(kms, key_id)
    clock.now = START + YEAR
    sweep(kms)
    sealed = seal(kms, key_id)
    current = material_of(kms, key_id)
    switch_off(kms, key_id)
    switch_off(kms, key_id)
    status = status_of(kms, key_id)
    assert (status.key_rotation_enabled, status.rotation_period_in_days, status.next_rotation_date) == (
        False,
        None,
        None,
    )
    clock.now = START + 3 * YEAR + timedelta(days=7)
    assert sweep(kms) == []
    assert material_of(kms, key_id) == current
    switch_on(kms, key_id)
    assert next_date(kms, key_id) == clock.now + YEAR
    assert named_by(kms, sealed) == current
    assert backing_keys(kms) == {key_id: 2}


# -- what pauses it -------------------------------------------------------------------------------------------------


def test_disabled_key_overdue(kms: Kms, clock: StoppedClock) -> None:
    """A disabled key is not rotated; enabled when it is overdue it rotates at once, and then by its old dates."""
    key_id = new_key(kms).key_id
    switch_on(kms, key_id)
    before = material_of(kms, key_id)
    disable(kms, key_id)
    clock.now = START + YEAR + timedelta(days=3)
    assert sweep(kms) == []
    assert material_of(kms, key_id) == before
    assert status_of(kms, key_id).key_rotation_enabled
    enable(kms, key_id)
    (entry,) = rotations(kms, key_id)
    assert (entry.rotation_date, entry.key_material_id) == (clock.now, material_of(kms, key_id))
    assert entry.key_material_id != before
    assert next_date(kms, key_id) == START + 2 * YEAR
    enable(kms, key_id)
    assert len(rotations(kms, key_id)) == 1


def test_disabled_key_not_overdue(kms: Kms, clock: StoppedClock) -> None:
    """A key that is enabled again in time rotates at its old date and not before."""
    key_id = new_key(kms).key_id
    switch_on(kms, key_id)
    disable(kms, key_id)
    clock.advance(days=364)
    enable(kms, key_id)
    assert rotations(kms, key_id) == []
    assert next_date(kms, key_id) == START + YEAR


def test_setting_of_a_disabled_key(kms: Kms) -> None:
    """The setting of a disabled key cannot be changed, nor is it rotated on demand."""
    key_id = new_key(kms).key_id
    switch_on(kms, key_id)
    disable(kms, key_id)
    before = epoch(kms)
    for act in (switch_on, switch_off, rotate):
        with pytest.raises(DisabledException):
            act(kms, key_id)
    assert epoch(kms) == before


def test_pending_deletion_pauses(kms: Kms, clock: StoppedClock) -> None:
    """A key pending deletion shows false and does not rotate; cancelled, its setting is back and waits for enabling."""
    key_id = new_key(kms).key_id
    switch_on(kms, key_id)
    clock.now = START + YEAR - timedelta(days=5)
    schedule(kms, key_id, 30)
    for act in (switch_on, switch_off, rotate):
        with pytest.raises(KMSInvalidStateException, match="pending deletion"):
            act(kms, key_id)
    clock.now = START + YEAR + timedelta(days=5)
    status = status_of(kms, key_id)
    assert (status.key_rotation_enabled, status.rotation_period_in_days, status.next_rotation_date) == (
        False,
        None,
        None,
    )
    assert rotations(kms, key_id) == []
    assert sweep(kms) == []
    cancel(kms, key_id)
    status = status_of(kms, key_id)
    assert (status.key_rotation_enabled, status.rotation_period_in_days) == (True, 365)
    assert sweep(kms) == []
    enable(kms, key_id)
    assert [rotation.rotation_date for rotation in rotations(kms, key_id)] == [clock.now]
    assert next_date(kms, key_id) == START + 2 * YEAR


# -- what stays and what changes ------------------------------------------------------------------------------------


def test_everything_else_stays(kms: Kms, clock: StoppedClock) -> None:
    """Id, ARN, state, description, policy, tags and alias are those from before; only the current material changes."""
    made = new_key(kms, description="payroll", tags=[Tag(tag_key="team", tag_value="red")])
    new_alias(kms, "alias/payroll", made.key_id)
    before = record_of(kms, made.key_id)
    clock.advance(days=1)
    rotate(kms, made.key_id)
    shown = described(kms, "alias/payroll")
    assert shown == replace(made, current_key_material_id=shown.current_key_material_id)
    assert shown.current_key_material_id != made.current_key_material_id
    after = record_of(kms, made.key_id)
    assert after == replace(before, version=after.version, materials=after.materials)
    assert kms.list_resource_tags(ListResourceTagsRequest(key_id=made.key_id)).tags == [
        Tag(tag_key="team", tag_value="red")
    ]
    assert [key.key_id for key in kms.list_keys(ListKeysRequest()).keys] == [made.key_id]


def test_new_encryptions_name_the_new_material(kms: Kms) -> None:
    """From the rotation on everything that encrypts uses the new backing key, in every process at its next call."""
    key_id = new_key(kms).key_id
    rotate(kms, key_id)
    current = material_of(kms, key_id)
    data_key = kms.generate_data_key(GenerateDataKeyRequest(key_id=key_id, key_spec="AES_256"))
    sealed_only = kms.generate_data_key_without_plaintext(
        GenerateDataKeyWithoutPlaintextRequest(key_id=key_id, key_spec="AES_256")
    )
    assert {data_key.key_material_id, sealed_only.key_material_id, named_by(kms, seal(kms, key_id))} == {current}
    assert unseal(kms, data_key.ciphertext_blob) == data_key.plaintext


def test_others_see_it_at_their_next_call(site: Site, clock: StoppedClock) -> None:
    """A rotation in another process is seen by processes that have the key in their cache."""
    with site.open(clock) as here, site.open(clock) as there:
        key_id = new_key(here).key_id
        old = seal(there, key_id)
        rotate(here, key_id)
        assert named_by(there, seal(there, key_id)) == material_of(here, key_id)
        assert named_by(there, old) != material_of(here, key_id)


def test_re_encrypt_moves_forward(kms: Kms) -> None:
    """ReEncrypt takes a ciphertext from the material that it names to the current one."""
    key_id = new_key(kms).key_id
    first, old = material_of(kms, key_id), seal(kms, key_id)
    rotate(kms, key_id)
    moved = kms.re_encrypt(ReEncryptRequest(ciphertext_blob=old, destination_key_id=key_id))
    assert (moved.source_key_material_id, moved.destination_key_material_id) == (first, material_of(kms, key_id))
    assert named_by(kms, moved.ciphertext_blob) == material_of(kms, key_id)
    assert named_by(kms, old) == first


def test_many_rotations_and_their_limit(site: Site, clock: StoppedClock) -> None:
    """25 rotations on demand and no more, while automatic ones continue; every old ciphertext decrypts, also later."""
    with site.open(clock) as kms:
        made = new_key(kms)
        sealed = {made.current_key_material_id: seal(kms, made.key_id)}
        for _ in range(25):
            rotate(kms, made.key_id)
            sealed[material_of(kms, made.key_id)] = seal(kms, made.key_id)
        before = epoch(kms)
        with pytest.raises(LimitExceededException, match=f"performed for this key: {made.arn}"):
            rotate(kms, made.key_id)
        assert epoch(kms) == before
        switch_on(kms, made.key_id)
        clock.advance(days=365)
        sweep(kms)
        sealed[material_of(kms, made.key_id)] = seal(kms, made.key_id)
        assert len(rotations(kms, made.key_id)) == 26
    with site.open(clock) as kms:
        assert {material: named_by(kms, each) for material, each in sealed.items()} == {
            ciphertext: ciphertext for ciphertext in sealed
        }
        assert backing_keys(kms) == {made.key_id: 27}
        assert all(backing_key.as_made for backing_key in kms.operator.attest(made.key_id))
