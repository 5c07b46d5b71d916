"""HA groups under attack: strangers and laggards as members, and members that end in the middle of other changes."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
import second_token
import shims
import wrapped
from groups import SECOND_SERIAL, Group, Modules
from msgspec.structs import replace
from service_sites import NewSite, Site, StoppedClock, new_key, run, seal, unseal
from test_service_ha_group import PATIENCE, Grouped, answers, in_use, replicate, rotations, until

from hsmkms.errors import HsmKmsError, TokenUnavailableError
from hsmkms.kms import Kms
from hsmkms.model.deletion import ScheduleKeyDeletionRequest
from hsmkms.model.enums import ExpirationModel, KeyState, Origin, WrappingAlgorithm, WrappingKeySpec
from hsmkms.model.importing import GetParametersForImportRequest, ImportKeyMaterialRequest
from hsmkms.model.keys import DescribeKeyRequest
from hsmkms.model.rotation import RotateKeyOnDemandRequest
from hsmkms.process import exclusive
from hsmkms.wiring import core as wiring

RSA = WrappingAlgorithm.RSAES_OAEP_SHA_1


@pytest.fixture(scope="session")
def prepared(never_opened: Site) -> Site:
    """An installation that has not been closed yet: no note is read before the calls at which members end."""
    return never_opened


@pytest.fixture
def grouped(new_site: NewSite, group_modules: Modules) -> Grouped:
    """An installation on a group whose members share their objects."""
    site = new_site()
    return Grouped(site, Group.of(site.settings.token, site.folder / "ha", group_modules))


def refused(act: object) -> HsmKmsError:
    """The error with which a call fails."""
    assert callable(act)
    with pytest.raises(HsmKmsError) as caught:
        act()
    return caught.value


def test_stranger_does_not_take_over(grouped: Grouped, stranger: Site) -> None:
    """Another token under a listed serial gets no session and no key; the right one goes on once it is back."""
    ours, theirs = (each.settings.token for each in (grouped.site, stranger))
    first, *rest = grouped.settings.token.environment["GROUP_MEMBERS"].split(" ")
    swapped = " ".join(
        each.replace(ours.environment["SOFTHSM2_CONF"], theirs.environment["SOFTHSM2_CONF"]) for each in rest
    )
    token = replace(grouped.settings.token, environment={"GROUP_MEMBERS": f"{first} {swapped}"})
    grouped.settings = second_token.only(grouped.settings, token)
    there = sorted(second_token.token_folder(theirs).iterdir())
    with grouped.opened() as kms:
        sealed = seal(kms, new_key(kms).key_id)  # the stranger cannot take over, so that it lacks the key is no fault
        grouped.group.first.fail()
        for act in (lambda: unseal(kms, sealed), lambda: new_key(kms)):
            assert refused(act).code in ("DependencyTimeoutException", "KMSInternalException")
        assert sorted(second_token.token_folder(theirs).iterdir()) == there
        grouped.group.first.come_back()
        until(lambda: answers(kms, sealed), PATIENCE)
        assert in_use(kms) == grouped.group.first.serial


def test_member_without_the_newest_note(new_site: NewSite, group_modules: Modules) -> None:
    """A member that lags behind the newest seal decrypts, and no key is created on it."""
    site = new_site()
    with site.open() as kms:
        sealed = seal(kms, new_key(kms).key_id)
    grouped = Grouped(site, Group.of(site.settings.token, site.folder / "ha", group_modules, behind=True))
    with grouped.opened() as kms:
        new_key(kms)
        kms.operator.audit.look_after()
    with grouped.opened() as kms:
        new_key(kms)
        grouped.group.first.fail()
        assert unseal(kms, sealed) == b"secret"
        assert in_use(kms) == SECOND_SERIAL
        with pytest.raises(
            TokenUnavailableError, match=r"older copy.* wait until the HA group has brought this member up"
        ):
            new_key(kms)
        assert len(kms.operator.watch.alarms().older) == 1
        grouped.group.first.come_back()
        grouped.group.second.fail()
        until(lambda: answers(kms, sealed), PATIENCE)
        assert unseal(kms, seal(kms, new_key(kms).key_id)) == b"secret"
        assert kms.operator.watch.alarms().older == frozenset()


@pytest.mark.parametrize("moment", ["", " after"], ids=["before", "after"])
def test_member_ends_in_a_rotation(new_site: NewSite, group_modules: Modules, moment: str) -> None:
    """An interrupted rotation is completed or dropped on the other member; what was encrypted decrypts."""
    site, clock = new_site(), StoppedClock()
    grouped = Grouped(site, Group.of(site.settings.token, site.folder / "ha", group_modules))
    with Kms(wiring.core_of(grouped.settings, clock=clock)) as kms:
        key_id = new_key(kms).key_id
        sealed = [seal(kms, key_id)]
        grouped.group.first.order(f"fault C_GenerateKey 1+ return 0x32{moment}", "fault C_GetSessionInfo * return 0xb3")
        rotate = RotateKeyOnDemandRequest(key_id=key_id)
        assert refused(lambda: kms.rotate_key_on_demand(rotate)).code == "DependencyTimeoutException"
        grouped.group.first.fail()
        until(lambda: answers(kms, sealed[0]), PATIENCE)
        assert in_use(kms) == SECOND_SERIAL
        clock.now += timedelta(minutes=11)
        kms.operator.maintain()
        assert rotations(kms, key_id) == (1 if moment else 0)
        sealed.append(seal(kms, key_id))
        kms.rotate_key_on_demand(rotate)
        assert rotations(kms, key_id) == (2 if moment else 1)
        assert [unseal(kms, each) for each in sealed] == [b"secret"] * 2
        assert kms.operator.find_differences() == []


def test_interrupted_rotation_waits_for_the_other_member(new_site: NewSite, group_modules: Modules) -> None:
    """A rotation that a crash has interrupted is not completed before the other member has the key."""
    site, clock = new_site(), StoppedClock()
    with site.open(clock=clock) as kms:
        key_id = new_key(kms).key_id
    group = Group.of(site.settings.token, site.folder / "ha", group_modules, behind=True)
    grouped = Grouped(site, group)
    ours = second_token.token_folder(site.settings.token)
    (theirs,) = (site.folder / "ha" / "copy" / "tokens").iterdir()

    def crash(name: str) -> None:
        if name == "rotate 2: device":
            raise InterruptedError(name)

    with Kms(wiring.core_of(grouped.settings, clock=clock)) as kms:
        kms._core.reached = crash
        with pytest.raises(InterruptedError):
            kms.rotate_key_on_demand(RotateKeyOnDemandRequest(key_id=key_id))
    checked = second_token.only(grouped.settings, replace(group.settings, replication_seconds=0.2))
    with Kms(wiring.core_of(checked, clock=clock)) as kms:
        clock.now += timedelta(minutes=11)
        kms.operator.maintain()
        assert rotations(kms, key_id) == 0
        replicate(ours, theirs)
        kms.operator.maintain()
        assert rotations(kms, key_id) == 1
        sealed = seal(kms, key_id)
        group.first.fail()
        assert unseal(kms, sealed) == b"secret"
        assert in_use(kms) == SECOND_SERIAL


def test_member_ends_in_an_import(new_site: NewSite, group_modules: Modules) -> None:
    """An import that was interrupted leaves the key pending; the same material is imported on the other member."""
    site, clock = new_site(), StoppedClock()
    grouped = Grouped(site, Group.of(site.settings.token, site.folder / "ha", group_modules))
    with Kms(wiring.core_of(grouped.settings, clock=clock)) as kms:
        key_id = new_key(kms, origin=Origin.EXTERNAL).key_id
        asked = GetParametersForImportRequest(
            key_id=key_id, wrapping_algorithm=RSA, wrapping_key_spec=WrappingKeySpec.RSA_2048
        )
        parameters = kms.get_parameters_for_import(asked)
        request = ImportKeyMaterialRequest(
            key_id=key_id,
            import_token=parameters.import_token,
            encrypted_key_material=wrapped.wrap(parameters.public_key, RSA, bytes(range(32))),
            expiration_model=ExpirationModel.KEY_MATERIAL_DOES_NOT_EXPIRE,
        )
        # Two copies for the fingerprint and two for the proof of the length come before the key that stays.
        grouped.group.first.order("fault C_UnwrapKey 5 return 0x32 after")
        assert refused(lambda: kms.import_key_material(request)).code == "DependencyTimeoutException"
        assert state(kms, key_id) is KeyState.PENDING_IMPORT
        grouped.group.first.fail()

        clock.now += timedelta(minutes=11)

        def is_imported() -> bool:
            try:
                kms.import_key_material(request)
            except TokenUnavailableError:
                return False
            return True

        until(is_imported, PATIENCE)
        assert in_use(kms) == SECOND_SERIAL
        assert unseal(kms, seal(kms, key_id)) == b"secret"


def test_member_ends_in_a_deletion(new_site: NewSite, group_modules: Modules) -> None:
    """A destruction that was interrupted is completed on the member that took over; other keys stay."""
    site, clock = new_site(), StoppedClock()
    grouped = Grouped(site, Group.of(site.settings.token, site.folder / "ha", group_modules))
    with Kms(wiring.core_of(grouped.settings, clock=clock)) as kms:
        doomed, kept = new_key(kms).key_id, new_key(kms).key_id
        sealed = seal(kms, kept)
        kms.schedule_key_deletion(ScheduleKeyDeletionRequest(key_id=doomed, pending_window_in_days=7))
        clock.now += timedelta(days=8)
        grouped.group.first.order("fault C_DestroyObject * return 0x32 after")
        kms.operator.maintain()
        grouped.group.first.fail()
        until(lambda: answers(kms, sealed), PATIENCE)
        kms.operator.maintain()
        assert in_use(kms) == SECOND_SERIAL
        assert kms.operator.find_differences() == []
        assert refused(lambda: state(kms, doomed)).code == "NotFoundException"


def state(kms: Kms, key_id: str) -> KeyState:
    """The key's state."""
    return kms.describe_key(DescribeKeyRequest(key_id=key_id)).key_metadata.key_state


def test_standby_that_has_not_answered_a_pin_gets_no_other(new_site: NewSite, group_modules: Modules) -> None:
    """While a standby has a PIN that it has not answered, no process and no failover sends it another one."""
    site = new_site()
    token = replace(site.settings.token, session_wait_seconds=0.2)
    group = Group.of(token, site.folder / "ha", group_modules, replication_seconds=0.2)
    grouped = Grouped(site, group)
    with grouped.opened() as kms:
        group.second.order("fault C_Login * wait")
        try:
            sealed = seal(kms, new_key(kms).key_id)
            assert shims.waiting(group.second.control) == 1
            site.varied("group.toml", token=group.settings)
            run("act", site.folder / "group.toml", datetime.now(UTC).isoformat(), "", "CreateKey", "{}")
            group.first.fail()
            with pytest.raises(TokenUnavailableError):
                unseal(kms, sealed)
            assert shims.waiting(group.second.control) == 1
        finally:
            group.second.order()
        until(lambda: answers(kms, sealed), PATIENCE)
        assert in_use(kms) == SECOND_SERIAL


def test_standby_that_hangs_twice(new_site: NewSite, group_modules: Modules) -> None:
    """A standby that was given up gets no PIN: a second one that it does not answer would lock out all processes."""
    site = new_site()
    token = replace(site.settings.token, session_wait_seconds=0.2)
    group = Group.of(token, site.folder / "ha", group_modules, replication_seconds=0.2)
    with Grouped(site, group).opened() as kms:
        group.second.order("fault C_OpenSession * wait")
        try:
            new_key(kms)
            assert shims.waiting(group.second.control) == 1
            group.second.order("fault C_Login * wait")
            until(lambda: "hsmkms standby" not in {each.name for each in threading.enumerate()}, PATIENCE)
            assert shims.waiting(group.second.control) == 0
            with exclusive(site.settings.data_dir / "login.lock", 0):
                pass
        finally:
            group.second.order()
