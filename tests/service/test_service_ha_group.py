"""HA groups: a member that fails is replaced by another one, and nothing that was acknowledged is lost.

Each member is a SoftHSM of its own behind the shim (tests/groups.py), so that it can fail alone.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import groups
import pytest
import second_token
from groups import SECOND_SERIAL, Group, Modules, replicate
from msgspec.structs import replace
from service_sites import NewSite, Site, new_key, seal, unseal
from waiting import until

from hsmkms.config.settings import PinSettings, Settings
from hsmkms.errors import ConfigurationError, HsmKmsError, ObjectLostError, PinError, TokenUnavailableError
from hsmkms.hsm.session import replicas
from hsmkms.hsm.session.last_member import LastMember
from hsmkms.hsm.session.login import LoginGate
from hsmkms.kms import Kms
from hsmkms.model.enums import KeySpec, KeyUsage, Origin, WrappingAlgorithm, WrappingKeySpec
from hsmkms.model.importing import GetParametersForImportRequest
from hsmkms.model.rotation import ListKeyRotationsRequest, RotateKeyOnDemandRequest
from hsmkms.process import exclusive
from hsmkms.service.operator.reconcile import Kind
from hsmkms.store import objects
from hsmkms.wiring import core as wiring
from hsmkms.wiring import pin_change
from hsmkms.wiring import tokens as token_wiring

PATIENCE = 60


class Grouped:
    """An installation on an HA group."""

    def __init__(self, site: Site, group: Group) -> None:
        self.site = site
        self.group = group
        self.settings: Settings = second_token.only(site.settings, group.settings)

    @contextmanager
    def opened(self) -> Iterator[Kms]:
        """Open it."""
        with Kms(wiring.core_of(self.settings)) as kms:
            yield kms


@pytest.fixture
def grouped(new_site: NewSite, group_modules: Modules) -> Grouped:
    """An installation on a group whose members share their objects."""
    site = new_site()
    return Grouped(site, Group.of(site.settings.token, site.folder / "ha", group_modules))


@pytest.fixture
def behind(new_site: NewSite, group_modules: Modules) -> Grouped:
    """An installation on a group whose second member gets nothing of what is made from now on."""
    site = new_site()
    return Grouped(site, Group.of(site.settings.token, site.folder / "ha", group_modules, behind=True))


def in_use(kms: Kms) -> str:
    """The serial of the member in use, as list-tokens shows it; token-info has it from the same device."""
    device = kms._core.device
    (serial,) = [each.serial for each in device.connection.member_states() if each.in_use]
    assert device.profile.serial == serial
    assert kms.operator.tokens()[0].member_in_use == serial
    return serial


def test_member_is_removed(grouped: Grouped) -> None:
    """The next call succeeds on the other member, which stays in use although the first is back; nothing is lost."""
    group = grouped.group
    with grouped.opened() as kms:
        key_id = new_key(kms).key_id
        sealed = [seal(kms, key_id)]
        assert in_use(kms) == group.first.serial
        group.first.fail()
        sealed.append(seal(kms, key_id))
        assert in_use(kms) == SECOND_SERIAL
        assert [each.present for each in kms.operator.token_info().members] == [False, True]
        other = new_key(kms).key_id
        sealed.append(seal(kms, other))
        assert [unseal(kms, each) for each in sealed] == [b"secret"] * 3
        assert kms.operator.find_differences() == []
        group.first.come_back()
    with grouped.opened() as kms:
        assert in_use(kms) == SECOND_SERIAL, "a new process begins with the member that answered last"
        group.second.fail()
        until(lambda: answers(kms, sealed[0]), PATIENCE)  # the first is listed once the module has been renewed
        assert in_use(kms) == group.first.serial
        assert [unseal(kms, each) for each in sealed] == [b"secret"] * 3
        assert kms.operator.find_differences() == []


def answers(kms: Kms, sealed: bytes) -> bool:
    """True if a ciphertext can be decrypted now; a retryable error is no answer."""
    try:
        return unseal(kms, sealed) == b"secret"
    except TokenUnavailableError:
        return False


@pytest.mark.parametrize("code", [0x30, 0x32, 0xE0, 0xB3], ids=["error", "removed", "not present", "session"])
def test_member_fails(grouped: Grouped, code: int) -> None:
    """Whatever code a member answers from now on, the call succeeds on the other one."""
    with grouped.opened() as kms:
        key_id = new_key(kms).key_id
        sealed = seal(kms, key_id)
        grouped.group.first.order(f"fault * * return {code:#x}")
        assert unseal(kms, sealed) == b"secret"
        assert in_use(kms) == SECOND_SERIAL
        assert unseal(kms, seal(kms, key_id)) == b"secret"


def test_handles_are_looked_up_again(new_site: NewSite, group_modules: Modules) -> None:
    """No handle of the member that was left is used with the other one, where it may be another key."""
    site = new_site()
    with Kms(wiring.core_of(site.settings)) as kms:
        sealed = seal(kms, new_key(kms).key_id)
    grouped = Grouped(site, Group.of(site.settings.token, site.folder / "ha", group_modules, behind=True))
    with grouped.opened() as kms:
        on_first_alone = new_key(kms).key_id
        assert unseal(kms, seal(kms, on_first_alone)) == b"secret"
        with kms._core.store.reading() as conn:
            (cka_id,) = [cka_id for _, cka_id, _, _, key_id in objects.present(conn) if key_id == on_first_alone]
        handles = kms._core.device.connection.handles
        assert handles.lookup(cka_id) is not None
        grouped.group.first.fail()
        assert unseal(kms, sealed) == b"secret"
        assert in_use(kms) == SECOND_SERIAL
        assert handles.lookup(cka_id) is None


def test_member_lacks_a_key(behind: Grouped) -> None:
    """A key that a member lacks is named, and neither deleted nor made anew; it works where it is."""
    with behind.opened() as kms:
        made = new_key(kms)
        sealed = seal(kms, made.key_id)
        behind.group.first.fail()
        with pytest.raises(
            ObjectLostError, match=f"{made.arn}: .* CKA_ID .* HA member with serial {SECOND_SERIAL}"
        ) as lost:
            unseal(kms, sealed)
        assert lost.value.code == "KeyUnavailableException"
        with pytest.raises(ObjectLostError):
            seal(kms, made.key_id)
        assert [(each.kind, each.key_id) for each in kms.operator.find_differences()] == [(Kind.MISSING, made.key_id)]
        assert kms.operator.missing_on_member(kms._core.device) == [made.key_id]
        assert kms.operator.maintain().steps == []
        behind.group.first.come_back()
        behind.group.second.fail()
        until(lambda: answers(kms, sealed), PATIENCE)
        assert in_use(kms) == behind.group.first.serial
        assert kms.operator.find_differences() == []


def test_removed_while_a_key_is_created(grouped: Grouped) -> None:
    """A creation whose answer was lost is not acknowledged, and reconcile shows it; the next one works."""
    with grouped.opened() as kms:
        sealed = seal(kms, new_key(kms).key_id)
        grouped.group.first.order("fault C_GenerateKey 1 return 0x32 after")
        with pytest.raises(HsmKmsError) as refused:
            new_key(kms)
        assert refused.value.code == "DependencyTimeoutException"
        grouped.group.first.fail()
        until(lambda: answers(kms, sealed), PATIENCE)
        assert in_use(kms) == SECOND_SERIAL
        assert [each.kind for each in kms.operator.find_differences()] == [Kind.UNACKNOWLEDGED]
        assert unseal(kms, seal(kms, new_key(kms).key_id)) == b"secret"


def test_another_member_took_over_while_a_key_was_created(grouped: Grouped) -> None:
    """A key that is on the member that was left is not acknowledged: nobody knows whether the other one has it."""
    with grouped.opened() as kms:
        connection = kms._core.device.connection

        def create() -> None:
            with connection.making():
                grouped.group.first.fail()
                connection.ready()

        with pytest.raises(TokenUnavailableError, match=f"{SECOND_SERIAL} took over"):
            create()
        assert unseal(kms, seal(kms, new_key(kms).key_id)) == b"secret"


def test_key_that_another_member_lacks_is_not_acknowledged(new_site: NewSite, group_modules: Modules) -> None:
    """A key, a rotation or a wrapping key that is not on every member that could take over is refused."""
    site = new_site()
    with Kms(wiring.core_of(site.settings)) as kms:
        key_id = new_key(kms).key_id
        empty = new_key(kms, origin=Origin.EXTERNAL).key_id
    group = Group.of(site.settings.token, site.folder / "ha", group_modules, behind=True, replication_seconds=0.2)
    grouped = Grouped(site, group)
    importing = GetParametersForImportRequest(
        key_id=empty,
        wrapping_algorithm=WrappingAlgorithm.RSAES_OAEP_SHA_1,
        wrapping_key_spec=WrappingKeySpec.RSA_2048,
    )
    with grouped.opened() as kms:
        before = rotations(kms, key_id)
        for create in (
            lambda: new_key(kms),
            lambda: new_key(kms, key_spec=KeySpec.ECC_NIST_P256, key_usage=KeyUsage.SIGN_VERIFY),
            lambda: kms.rotate_key_on_demand(RotateKeyOnDemandRequest(key_id=key_id)),
            lambda: kms.get_parameters_for_import(importing),
        ):
            with pytest.raises(TokenUnavailableError, match=f"not on {SECOND_SERIAL} after 0.2 s"):
                create()
        assert rotations(kms, key_id) == before
        assert {each.kind for each in kms.operator.find_differences()} <= {Kind.UNFINISHED}, "no key was left behind"
        assert unseal(kms, seal(kms, key_id)) == b"secret"
        group.second.fail()
        other = new_key(kms).key_id
        assert unseal(kms, seal(kms, other)) == b"secret", "a member that is not present cannot take over"


@pytest.mark.parametrize("function", ["C_FindObjectsInit", "C_GetSessionInfo"])
def test_standby_fails_once_while_it_is_asked(new_site: NewSite, group_modules: Modules, function: str) -> None:
    """A single call that fails on another member does not excuse it: a key that it lacks is not acknowledged."""
    site = new_site()
    group = Group.of(site.settings.token, site.folder / "ha", group_modules, behind=True, replication_seconds=0.2)
    with Grouped(site, group).opened() as kms:
        with pytest.raises(TokenUnavailableError, match=f"not on {SECOND_SERIAL}"):
            new_key(kms)  # logs in to the second member
        group.second.order(f"fault {function} 1 return 0x30")
        with pytest.raises(TokenUnavailableError, match=f"not on {SECOND_SERIAL}"):
            new_key(kms)


def test_standby_that_hangs(new_site: NewSite, group_modules: Modules) -> None:
    """Another member that hangs holds up nothing but the creation that asks it, for a limited time.

    Once it answers, keys are sought there again.
    """
    site = new_site()
    group = Group.of(site.settings.token, site.folder / "ha", group_modules, behind=True, replication_seconds=0.2)
    waiting = group.second.control.with_name(f"{group.second.control.name}.waiting")
    with Grouped(site, group).opened() as kms, ThreadPoolExecutor(1) as pool:
        with pytest.raises(TokenUnavailableError, match=f"not on {SECOND_SERIAL}"):
            new_key(kms)  # logs in to the second member
        group.second.order("fault C_FindObjectsInit * wait")
        creating = pool.submit(new_key, kms)
        try:
            until(waiting.exists, PATIENCE)
            kms._core.device.connection.ready()  # needs the login lock, as a failover does
            key_id = creating.result(PATIENCE).key_id
            assert unseal(kms, seal(kms, new_key(kms).key_id)) == b"secret"
            assert unseal(kms, seal(kms, key_id)) == b"secret"
            assert waiting.stat().st_size == 1, "it is not asked again while it hangs"
        finally:
            group.second.order()
        until(lambda: is_refused(kms), PATIENCE)


def test_standby_whose_login_hangs(new_site: NewSite, group_modules: Modules) -> None:
    """The login lock of all processes is free again once another member's login has hung for a while."""
    site = new_site()
    token = replace(site.settings.token, session_wait_seconds=0.2)
    group = Group.of(token, site.folder / "ha", group_modules, replication_seconds=0.2)
    with Grouped(site, group).opened() as kms:
        group.second.order("fault C_Login * wait")
        try:
            key_id = new_key(kms).key_id
            with exclusive(site.settings.data_dir / "login.lock", 0):
                assert unseal(kms, seal(kms, key_id)) == b"secret"
        finally:
            group.second.order()


def test_standby_that_is_back(new_site: NewSite, group_modules: Modules, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that failed at once is asked again at once: no key is acknowledged without it for long."""
    monkeypatch.setattr(replicas, "RETRY_SECONDS", 24 * 3600.0)
    site = new_site()
    group = Group.of(site.settings.token, site.folder / "ha", group_modules, behind=True, replication_seconds=0.2)
    with Grouped(site, group).opened() as kms:
        assert is_refused(kms)
        group.second.order("fault C_FindObjectsInit * return 0x30")
        assert not is_refused(kms)
        group.second.order()
        until(lambda: is_refused(kms), PATIENCE)


def is_refused(kms: Kms) -> bool:
    """True if a creation is refused, since the second member lacks the key."""
    try:
        new_key(kms)
    except TokenUnavailableError:
        return True
    return False


def rotations(kms: Kms, key_id: str) -> int:
    """How often the key was rotated."""
    return len(kms.list_key_rotations(ListKeyRotationsRequest(key_id=key_id)).rotations)


def test_key_that_is_replicated_later(new_site: NewSite, group_modules: Modules) -> None:
    """A creation waits until the other member has the key, and does not lose it at a failover."""
    site = new_site()
    group = Group.of(site.settings.token, site.folder / "ha", group_modules, behind=True, replication_seconds=60)
    grouped = Grouped(site, group)
    ours = second_token.token_folder(site.settings.token)
    (theirs,) = (site.folder / "ha" / "copy" / "tokens").iterdir()
    with grouped.opened() as kms, ThreadPoolExecutor(1) as pool:
        there = {each.name for each in ours.glob("*.object")}
        creating = pool.submit(new_key, kms)
        until(lambda: bool({each.name for each in ours.glob("*.object")} - there), PATIENCE)
        until(lambda: kms._core.device.connection._replicas._members[SECOND_SERIAL]._session is not None, PATIENCE)
        assert not creating.done()
        replicate(ours, theirs)
        sealed = seal(kms, creating.result(PATIENCE).key_id)
        group.first.fail()
        assert unseal(kms, sealed) == b"secret"
        assert in_use(kms) == SECOND_SERIAL


def test_first_member_fails_the_probe(grouped: Grouped) -> None:
    """A member that does not work is not the first one either: the next one is, and the start succeeds."""
    with grouped.opened() as kms:
        sealed = seal(kms, new_key(kms).key_id)
    grouped.group.first.order("fault C_EncryptInit * return 0x5")
    LastMember(grouped.settings.data_dir, grouped.settings.token.serials).write(grouped.group.first.serial)
    with grouped.opened() as kms:
        assert in_use(kms) == SECOND_SERIAL
        assert unseal(kms, sealed) == b"secret"


@pytest.mark.parametrize("function", ["C_EncryptInit", "C_GenerateKey"])
def test_member_that_answers_and_does_not_work(grouped: Grouped, function: str) -> None:
    """A member whose sessions are well, and which fails at what it is asked for, is left for the other one."""
    with grouped.opened() as kms:
        key_id = new_key(kms).key_id
        grouped.group.first.order(f"fault {function} * return 0x5")

        def is_done() -> bool:
            try:
                new_key(kms) if function == "C_GenerateKey" else seal(kms, key_id)
            except TokenUnavailableError:
                return False
            return True

        assert not is_done()
        until(is_done, PATIENCE)
        assert in_use(kms) == SECOND_SERIAL
        assert unseal(kms, seal(kms, new_key(kms).key_id)) == b"secret"


def test_call_that_fails_on_a_member_that_works(grouped: Grouped) -> None:
    """A member that passes the probe stays in use, whatever single calls on it have answered."""
    with grouped.opened() as kms:
        key_id = new_key(kms).key_id
        probed = kms._core.device.connection._next_probe
        grouped.group.first.order("fault C_EncryptInit 1 return 0x5")
        with pytest.raises(TokenUnavailableError):
            seal(kms, key_id)
        until(lambda: kms._core.device.connection._next_probe > probed, PATIENCE)
        until(lambda: kms._core.device.connection._reconnector._thread is None, PATIENCE)
        assert in_use(kms) == grouped.group.first.serial
        assert unseal(kms, seal(kms, key_id)) == b"secret"


def test_only_member_that_is_left_stays_in_use(grouped: Grouped) -> None:
    """A member that fails the probe still does what it can while no other one is there."""
    with grouped.opened() as kms:
        key_id = new_key(kms).key_id
        sealed = seal(kms, key_id)
        grouped.group.second.fail()
        grouped.group.first.order("fault C_EncryptInit * return 0x5")
        probed = kms._core.device.connection._next_probe
        with pytest.raises(TokenUnavailableError):
            seal(kms, key_id)
        until(lambda: kms._core.device.connection._next_probe > probed, PATIENCE)
        until(lambda: kms._core.device.connection._reconnector._thread is None, PATIENCE)
        assert in_use(kms) == grouped.group.first.serial
        assert unseal(kms, sealed) == b"secret"


def test_two_takeovers_while_a_key_was_created(grouped: Grouped) -> None:
    """A key that was made on the one member, with the other one in use before and after, is not acknowledged."""
    with grouped.opened() as kms:
        connection, group = kms._core.device.connection, grouped.group

        def create() -> None:
            with connection.making():
                for leaving, back in ((group.first, group.second), (group.second, group.first)):
                    back.order()
                    leaving.order("fault C_GetSessionInfo * return 0xb3", "fault C_OpenSession * return 0x30")
                    connection.ready()

        with pytest.raises(TokenUnavailableError, match=f"{group.first.serial} took over"):
            create()
        assert in_use(kms) == group.first.serial
        assert unseal(kms, seal(kms, new_key(kms).key_id)) == b"secret"


def test_processes_use_the_same_member(grouped: Grouped) -> None:
    """A process follows another one that has failed over, before it creates a key, or where it lacks one."""
    with grouped.opened() as kms:
        sealed = seal(kms, new_key(kms).key_id)
        assert in_use(kms) == grouped.group.first.serial
        last = LastMember(grouped.settings.data_dir, grouped.settings.token.serials)
        assert last.read() == grouped.group.first.serial
        last.write(SECOND_SERIAL)  # as another process does after a failover
        assert unseal(kms, sealed) == b"secret"
        assert kms._core.device.connection.member == grouped.group.first.serial, "what works needs no other member"
        made = new_key(kms).key_id
        assert in_use(kms) == SECOND_SERIAL
        assert unseal(kms, seal(kms, made)) == b"secret"


def test_member_of_another_process_cannot_be_reached(grouped: Grouped) -> None:
    """A process stays with its member if that of another one does not answer here, and leaves the record as it is."""
    with grouped.opened() as kms:
        last = LastMember(grouped.settings.data_dir, grouped.settings.token.serials)
        last.write(SECOND_SERIAL)
        grouped.group.second.fail()
        made = new_key(kms).key_id
        assert in_use(kms) == grouped.group.first.serial
        assert unseal(kms, seal(kms, made)) == b"secret"
        assert last.read() == SECOND_SERIAL


def test_member_that_is_not_taken_is_not_recorded(grouped: Grouped) -> None:
    """A member that proves its identity and is refused for the way in which it works is not recorded as in use."""
    with grouped.opened() as kms:
        sealed = seal(kms, new_key(kms).key_id)
        grouped.group.second.order("iv appended")
        grouped.group.first.fail()
        with pytest.raises(TokenUnavailableError):
            unseal(kms, sealed)
        last = LastMember(grouped.settings.data_dir, grouped.settings.token.serials)
        assert last.read() == grouped.group.first.serial


def test_refused_pin_counts_for_all(grouped: Grouped) -> None:
    """After one member has refused the PIN, it is sent to no other one."""
    wrong = grouped.site.folder / "wrong-pin"
    wrong.touch(mode=0o600)
    wrong.write_text("a wrong horse\n")
    for member in (grouped.group.first, grouped.group.second):
        member.order("pin_tries 3")
    group = replace(grouped.settings.token, pin=PinSettings(file=wrong))
    settings = second_token.only(grouped.settings, group)
    with pytest.raises(PinError, match="refused the PIN"):
        wiring.core_of(settings)
    grouped.group.first.fail()
    alone = second_token.only(settings, replace(group, serial=SECOND_SERIAL))
    for each in (settings, grouped.settings, alone):
        with pytest.raises(PinError, match=f"serial {grouped.group.first.serial}.*retry-pin"):
            wiring.core_of(each)
    assert not grouped.group.second.control.with_name("second.control.pins").exists()
    assert token_wiring.retry_pin(grouped.settings, insisted=grouped.settings.token)
    assert LoginGate(grouped.settings.data_dir).mark() is None
    with grouped.opened() as kms:
        assert in_use(kms) == SECOND_SERIAL


def test_refused_pin_that_another_member_accepts(grouped: Grouped) -> None:
    """A PIN that one member has refused is not sent to it again, though another one has accepted it since."""
    first, second = grouped.group.first, grouped.group.second
    first.order("fault C_Login * return 0xa0")
    with pytest.raises(PinError, match="refused the PIN"):
        wiring.core_of(grouped.settings)
    first.fail()
    assert token_wiring.retry_pin(grouped.settings, insisted=grouped.settings.token)
    first.order("fault C_Login * return 0xa0")
    LastMember(grouped.settings.data_dir, grouped.settings.token.serials).write(first.serial)
    with grouped.opened() as kms:
        assert in_use(kms) == SECOND_SERIAL
        second.fail()
        with pytest.raises(HsmKmsError):
            new_key(kms)
    gate = LoginGate(grouped.settings.data_dir, grouped.settings.token.serials)
    assert gate.mark() is None, "a second refusal would have left one"
    first.order()
    assert not token_wiring.retry_pin(grouped.settings, insisted=grouped.settings.token)
    with grouped.opened() as kms:
        assert in_use(kms) == first.serial


def test_standby_refuses_the_pin(grouped: Grouped) -> None:
    """A member that is not in use and refuses the PIN gets it once; the one in use goes on, also after a restart."""
    first, second = grouped.group.first, grouped.group.second
    with grouped.opened() as kms:
        second.order("fault C_Login 1 return 0xa0")
        sealed = [seal(kms, new_key(kms).key_id) for _ in range(2)]
    mark = LoginGate(grouped.settings.data_dir).mark(SECOND_SERIAL)
    assert mark is not None
    assert LoginGate(grouped.settings.data_dir, grouped.settings.token.serials).mark(first.serial) is None
    with grouped.opened() as kms:
        new_key(kms)
        assert in_use(kms) == first.serial
        assert [unseal(kms, each) for each in sealed] == [b"secret"] * 2
        first.fail()
        with pytest.raises(PinError, match=f"serial {SECOND_SERIAL}.*retry-pin"):
            new_key(kms)
    first.order()
    assert token_wiring.retry_pin(grouped.settings, insisted=grouped.settings.token)
    assert LoginGate(grouped.settings.data_dir).mark() is None
    first.fail()
    with grouped.opened() as kms:
        assert in_use(kms) == SECOND_SERIAL


def test_locked_member_is_passed_over(grouped: Grouped) -> None:
    """A member whose PIN is locked is not used, and the other one is."""
    grouped.group.first.order("pin_tries 1")
    grouped.group.first.control.with_name("first.control.pins").write_text("1")
    with grouped.opened() as kms:
        assert in_use(kms) == SECOND_SERIAL


def test_first_member_is_a_stranger(behind: Grouped, stranger: Site) -> None:
    """At the start the member that answers the challenge is taken, not another token with a listed serial."""
    ours, theirs = (each.settings.token.environment["SOFTHSM2_CONF"] for each in (behind.site, stranger))
    members = behind.settings.token.environment["GROUP_MEMBERS"].replace(ours, theirs)
    token = replace(behind.settings.token, environment={"GROUP_MEMBERS": members})
    behind.settings = second_token.only(behind.settings, token)
    with behind.opened() as kms:
        assert in_use(kms) == SECOND_SERIAL
        assert unseal(kms, seal(kms, new_key(kms).key_id)) == b"secret"


def test_member_that_works_in_another_way(grouped: Grouped) -> None:
    """A member that treats IVs in another way than the one before is not used; the first one is, once it is back."""
    with grouped.opened() as kms:
        sealed = seal(kms, new_key(kms).key_id)
        grouped.group.second.order("iv appended")
        grouped.group.first.fail()
        with pytest.raises(TokenUnavailableError):
            unseal(kms, sealed)
        assert kms._core.device.connection.is_away
        grouped.group.first.come_back()
        until(lambda: answers(kms, sealed), PATIENCE)
        assert in_use(kms) == grouped.group.first.serial


def test_change_pin_is_refused(grouped: Grouped) -> None:
    """The members have a PIN each: hsmkms does not change that of one."""
    with pytest.raises(ConfigurationError, match="on every member"):
        pin_change.pin_file(grouped.settings.token)


def test_one_group_in_any_order(grouped: Grouped) -> None:
    """Whoever opens the group under its serials in another order shares the login that is there."""
    with grouped.opened() as kms:
        serials = grouped.settings.token.serials
        device = token_wiring.open_device(
            grouped.settings, replace(grouped.settings.token, serial=tuple(reversed(serials)))
        )
        assert device is kms._core.device
        device.close()
        member = token_wiring.open_member(grouped.settings, grouped.settings.token, groups.SECOND_SERIAL)
        assert member is not kms._core.device
        assert kms.operator.missing_on_member(member) == []
        member.close()
        assert unseal(kms, seal(kms, new_key(kms).key_id)) == b"secret"


def test_serials_with_padding(grouped: Grouped) -> None:
    """Serials that are copied with their padding, as some tools print it, name the same members."""
    token = grouped.settings.token
    padded = replace(token, serial=tuple(f"{each} " for each in token.serials))
    grouped.settings = second_token.only(grouped.settings, padded)
    with grouped.opened() as kms:
        sealed = seal(kms, new_key(kms).key_id)
        grouped.group.first.fail()
        assert unseal(kms, sealed) == b"secret"
        assert in_use(kms) == SECOND_SERIAL
