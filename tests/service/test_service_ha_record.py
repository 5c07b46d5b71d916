"""HA groups: what is made while a member cannot be asked is recorded until the member has it."""

import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import second_token
from groups import SECOND_SERIAL, Group, Modules, replicate
from service_sites import NewSite, StoppedClock, new_key, seal, unseal
from test_service_ha_group import PATIENCE, Grouped, answers, in_use, is_refused, until

from hsmkms.errors import ObjectLostError, StoreError, TokenUnavailableError
from hsmkms.hsm.session import unreplicated
from hsmkms.kms import Kms
from hsmkms.model.deletion import ScheduleKeyDeletionRequest
from hsmkms.model.own_keys import KeyPurpose
from hsmkms.model.permit import OperatorAct
from hsmkms.service.keys.installation_keys import encryption_key, versions
from hsmkms.service.operator.reconcile import Kind
from hsmkms.wiring import core as wiring


@pytest.fixture
def behind(new_site: NewSite, group_modules: Modules) -> Grouped:
    """An installation on a group whose second member gets what is made when ``replicate`` is called."""
    site = new_site()
    group = Group.of(site.settings.token, site.folder / "ha", group_modules, behind=True, replication_seconds=0.2)
    return Grouped(site, group)


@pytest.fixture
def clock() -> StoppedClock:
    """The installation's time."""
    return StoppedClock()


@pytest.fixture
def kms(behind: Grouped, clock: StoppedClock) -> Iterator[Kms]:
    """The installation, open."""
    with Kms(wiring.core_of(behind.settings, clock=clock)) as opened:
        yield opened


def folders(behind: Grouped) -> tuple[Path, Path]:
    """The folders of both members' objects."""
    (theirs,) = (behind.site.folder / "ha" / "copy" / "tokens").iterdir()
    return second_token.token_folder(behind.site.settings.token), theirs


def recorded(kms: Kms) -> list[str]:
    """Maintain, and return the keys that are recorded for the second member."""
    kms.operator.maintain()
    names = kms.operator.made_without_members(kms._core.device)
    assert set(names) <= {SECOND_SERIAL}
    assert kms.operator.watch.figures().unreplicated == sum(map(len, names.values()))
    return names.get(SECOND_SERIAL, [])


def test_recorded_until_the_member_has_it(behind: Grouped, kms: Kms, caplog: pytest.LogCaptureFixture) -> None:
    """A key made without a member is recorded for all processes, until that member answers and has the key."""
    second = behind.group.second
    assert recorded(kms) == []
    second.fail()
    key_id = new_key(kms).key_id
    assert "made without the HA member with serial" in caplog.text
    assert recorded(kms) == [key_id]
    second.order()
    until(lambda: is_refused(kms), PATIENCE)
    assert recorded(kms) == [key_id], "it answers, and lacks the key"
    with behind.opened() as other:
        assert recorded(other) == [key_id]
    replicate(*folders(behind))
    assert recorded(kms) == []
    assert list((behind.settings.data_dir / unreplicated.FOLDER).iterdir()) == []


def test_member_that_is_seen_only_by_a_new_process(behind: Grouped, kms: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member whose return the module does not notice is asked again: the module is initialised anew for it."""
    second, connection = behind.group.second, kms._core.device.connection
    assert is_refused(kms), "it is asked, and lacks the key"
    second.fail()
    sealed = seal(kms, new_key(kms).key_id)
    second.come_back()
    assert recorded(kms), "it is not seen"
    monkeypatch.setattr(connection, "_next_look", 0.0)
    new_key(kms)
    until(lambda: is_refused(kms), PATIENCE)
    assert in_use(kms) == behind.group.first.serial
    replicate(*folders(behind))
    assert recorded(kms) == []
    assert unseal(kms, sealed) == b"secret"


def test_member_that_lacks_recorded_keys_takes_over(
    behind: Grouped, kms: Kms, caplog: pytest.LogCaptureFixture
) -> None:
    """A takeover by such a member is logged as an error; the key is not usable and works again once it is there."""
    group = behind.group
    group.second.fail()
    key_id = new_key(kms).key_id
    sealed = seal(kms, key_id)
    group.second.order()
    until(lambda: is_refused(kms), PATIENCE)
    group.first.fail()
    with pytest.raises(ObjectLostError):
        unseal(kms, sealed)
    assert in_use(kms) == SECOND_SERIAL
    errors = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    assert any(f"1 objects were made while the HA member with serial {SECOND_SERIAL}" in each for each in errors)
    assert recorded(kms) == [key_id]
    replicate(*folders(behind))
    until(lambda: answers(kms, sealed), PATIENCE)
    assert recorded(kms) == []


def test_key_that_is_destroyed(behind: Grouped, kms: Kms, clock: StoppedClock) -> None:
    """A key that is deleted while it is recorded leaves the record."""
    behind.group.second.fail()
    doomed, kept = new_key(kms).key_id, new_key(kms).key_id
    assert recorded(kms) == sorted([doomed, kept])
    kms.schedule_key_deletion(ScheduleKeyDeletionRequest(key_id=doomed, pending_window_in_days=7))
    clock.now += timedelta(days=8)
    assert recorded(kms) == [kept]


def test_record_that_cannot_be_written(behind: Grouped, kms: Kms) -> None:
    """Without the record no key is acknowledged, and none is left behind."""
    behind.group.second.fail()
    place = behind.settings.data_dir / unreplicated.FOLDER
    place.touch()
    with pytest.raises(StoreError, match=r"cannot be written .* not acknowledged"):
        new_key(kms)
    assert {each.kind for each in kms.operator.find_differences()} <= {Kind.UNFINISHED}
    place.unlink()
    key_id = new_key(kms).key_id
    assert recorded(kms) == [key_id]


def test_own_key_whose_creation_was_interrupted(behind: Grouped, kms: Kms) -> None:
    """A key of the installation whose creation a failover interrupts is made anew under another CKA_ID.

    The first one exists on the member that was left, and both members would come to have two of one CKA_ID.
    """
    group, core = behind.group, kms._core
    group.second.fail()
    sealed = seal(kms, new_key(kms).key_id)
    group.second.order()
    replicate(*folders(behind))
    group.first.order("fault C_GenerateKey 1 return 0x32 after")
    with pytest.raises(TokenUnavailableError):
        encryption_key(core, KeyPurpose.BACKUP, OperatorAct.BACKUP)
    (intended,) = versions(core, KeyPurpose.BACKUP)
    group.first.fail()
    until(lambda: answers(kms, sealed), PATIENCE)
    made = encryption_key(core, KeyPurpose.BACKUP, OperatorAct.BACKUP)
    assert in_use(kms) == SECOND_SERIAL
    assert made.cka_id != intended.cka_id
    assert versions(core, KeyPurpose.BACKUP) == [made]
    assert encryption_key(core, KeyPurpose.BACKUP, OperatorAct.BACKUP) == made
    assert core.device.keys.holds(made.cka_id)
