"""Clones: a copy of a token under another serial is refused until the operator accepts it, and HA groups work."""

from pathlib import Path

import pytest
import second_token
from msgspec.structs import replace
from service_sites import NewSite, Site, new_key, seal, unseal
from swapping import TokenFolder
from test_service_backup import lose
from test_service_several_tokens import Scene, migrate, opened, wait_for, with_second
from test_service_wrong_tokens import asking, until

from hsmkms.config import settings as config
from hsmkms.config.settings import Settings, TokenSettings
from hsmkms.errors import (
    BindingError,
    CloneError,
    ConfigurationError,
    HsmKmsError,
    TokenNotFoundError,
    TokenUnavailableError,
)
from hsmkms.kms import Kms
from hsmkms.service.backup.restore import Order
from hsmkms.wiring import core as wiring
from hsmkms.wiring import restore as restore_wiring
from hsmkms.wiring import tokens as token_wiring


@pytest.fixture(scope="session")
def prepared(never_opened: Site) -> Site:
    """An installation that has not been closed yet: what its first end makes matters here."""
    return never_opened


@pytest.fixture
def cloned(new_site: NewSite) -> Settings:
    """An installation whose settings name its token and a clone of that one."""
    file = new_site().folder / "hsmkms.toml"
    second_token.add_clone(file)
    return config.load(file)


def accept(settings: Settings, named: TokenSettings) -> int:
    """What `hsmkms accept-clone` does; how many objects are missing on the clone."""
    device = token_wiring.open_device(settings, named)
    try:
        with Kms(wiring.core_of(settings, accepting=named)) as kms:
            clone = kms.operator.find_clone(device)
            kms.operator.accept_clone(clone)
    finally:
        device.close()
    return clone.missing


def serials(kms: Kms) -> list[str]:
    """The serials that are recorded."""
    return [token.serial for token in kms.operator.tokens()]


def test_the_home_is_away(cloned: Settings) -> None:
    """Nothing starts on the clone; the error names both serials, and what to do."""
    home, clone = cloned.tokens
    with opened(cloned) as kms:
        assert serials(kms) == [home.serial]
    with second_token.away(home), pytest.raises(TokenNotFoundError, match="no token fits") as caught:
        opened(cloned)
    for word in (home.serial, clone.serial, "is a clone of", "hsmkms accept-clone"):
        assert str(word) in str(caught.value)
    with pytest.raises(CloneError, match="list all their serials"):
        opened(second_token.only(cloned, clone))


def test_accepted(cloned: Settings) -> None:
    """The clone takes the token's place after the operator's word, and the token with the older serial is refused."""
    home, clone = cloned.tokens
    with opened(cloned) as kms:
        sealed = seal(kms, new_key(kms).key_id)
    # That one was made after the copy, and on SQLite the key of the audit log's seals.
    assert accept(cloned, clone) in (1, 2)
    with opened(cloned) as kms:
        assert serials(kms) == [clone.serial]
        with pytest.raises(HsmKmsError):
            unseal(kms, sealed)
        assert unseal(kms, seal(kms, new_key(kms).key_id)) == b"secret"
    with pytest.raises(CloneError, match=rf"serial {home.serial}\) is a clone of .*serial {clone.serial}"):
        opened(second_token.only(cloned, home))
    with pytest.raises(ConfigurationError, match="nothing needs to be accepted"):
        accept(cloned, clone)
    records = "".join(path.read_text() for path in (cloned.data_dir / "audit").glob("*.jsonl"))
    assert '"AcceptClone"' in records


def test_foreign_token_is_not_accepted(new_site: NewSite) -> None:
    """What does not answer the challenge is no clone."""
    settings = with_second(new_site(), own_module=True)
    with pytest.raises(BindingError, match="so it is no clone"):
        accept(settings, settings.tokens[1])


def test_accepting_waits_for_other_processes(cloned: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a process has the recorded token open, no clone takes its place."""
    with opened(cloned):
        monkeypatch.setattr("hsmkms.service.runtime.open_processes.os.getpid", lambda: 1)  # we are another process now
        with pytest.raises(ConfigurationError, match=r"open \(pid .*stop them first"):
            accept(cloned, cloned.tokens[1])


def test_migration_to_a_clone(cloned: Settings) -> None:
    """It is refused with a sentence that says what to do; nothing is changed."""
    with opened(cloned) as kms:
        device = token_wiring.open_device(cloned, cloned.tokens[1])
        with pytest.raises(CloneError, match="A migration to it would move nothing"):
            kms.operator.settle_on(device)
        assert len(kms.operator.tokens()) == 1
        assert unseal(kms, seal(kms, new_key(kms).key_id)) == b"secret"


def test_group(cloned: Settings) -> None:
    """Any listed member of an HA group is the token, whichever is first; a copy that is not listed is refused."""
    home, clone = cloned.tokens
    assert isinstance(home.serial, str)
    assert isinstance(clone.serial, str)
    members = (home.serial, clone.serial)
    with opened(second_token.only(cloned, home)) as kms:
        sealed = seal(kms, new_key(kms).key_id)
    second_token.clone_again(home, clone)
    for token in (home, clone):
        with opened(second_token.only(cloned, replace(token, serial=members))) as kms:
            assert unseal(kms, sealed) == b"secret"
            assert serials(kms) == [home.serial]
            assert kms.operator.find_differences() == []
    words = rf"lacks the recorded serial .*{home.serial}, .*`hsmkms accept-clone --token {clone.serial}`"
    with pytest.raises(CloneError, match=words):
        opened(second_token.only(cloned, replace(clone, serial=(clone.serial, "no such member"))))


def test_another_member_after_an_outage(new_site: NewSite) -> None:
    """The member that takes over is the same token for every opening after it: one login, and no session is lost."""
    settings = new_site().settings
    home = settings.token
    assert isinstance(home.serial, str)
    with opened(settings) as kms:
        sealed = seal(kms, new_key(kms).key_id)
    group = second_token.only(settings, replace(home, serial=(home.serial, second_token.CLONE_SERIAL)))
    with opened(group) as kms:
        device = kms._core.tokens.home
        with second_token.swapped_for_clone(home):
            device.connection.module.cryptoki.close_session(device.connection.login_handle)
            wait_for(
                lambda: (
                    kms.operator.watch.check_token() is None and device.connection.token.serial.decode() != home.serial
                )
            )
            assert unseal(kms, sealed) == b"secret"
            again = token_wiring.open_device(group, group.token)
            assert again is device
            again.close()
            assert device.connection.module.cryptoki.logged_in(device.connection.login_handle)
            assert unseal(kms, sealed) == b"secret"


def test_stranger_beside_a_token_that_is_sought(new_site: NewSite) -> None:
    """While another token is looked for, no PIN goes to a stranger in the place of one that this process had open."""
    settings = with_second(new_site(), own_module=True)
    home = settings.tokens[1]
    with opened(settings) as kms:
        (left,) = kms.operator.tokens()
        new_key(kms)
        migrate(kms, settings)
    with second_token.away(settings.token), opened(settings) as kms:
        folder = TokenFolder.of(home)
        stranger = folder.with_another_serial(second_token.LABEL, Path(home.environment["SOFTHSM2_CONF"]))
        folder.vanish()
        folder.put(stranger)
        device = kms._core.tokens.home
        device.connection.module.cryptoki.close_session(device.connection.login_handle)
        until(lambda: "is not sent the PIN" in asking(kms)("ready")[1])
        with pytest.raises(HsmKmsError):
            token_wiring.seek(lambda: settings, kms._core.store, kms._core.tokens._row(left.token_id))
        assert not list(settings.data_dir.glob("pin-refus*"))
        folder.put_back()
        until(lambda: asking(kms)("ready")[0] == "")


def test_two_members_in_one_module(new_site: NewSite) -> None:
    """Where a module shows several members of a group, the one whose serial stands first is taken."""
    settings = new_site().settings
    home = settings.token
    assert isinstance(home.serial, str)
    second_token.clone(home)
    for members in ((home.serial, second_token.CLONE_SERIAL), (second_token.CLONE_SERIAL, home.serial)):
        device = token_wiring.open_device(settings, replace(home, label=None, serial=members))
        assert device.profile.serial == members[0]
        device.close()


def test_no_serial_in_the_settings(new_site: NewSite) -> None:
    """Settings with a label alone still work; a clone in the token's place is refused at the start."""
    settings = new_site().settings
    by_label = second_token.only(settings, replace(settings.token, serial=None))
    with opened(by_label) as kms:
        sealed = seal(kms, new_key(kms).key_id)
        assert serials(kms) == [settings.token.serial]
    original = second_token.token_folder(settings.token)
    second_token.clone(settings.token)
    original.rename(settings.data_dir / "original")
    with pytest.raises(CloneError):
        opened(by_label)
    assert accept(by_label, by_label.token) == 0
    with opened(by_label) as kms:
        assert unseal(kms, sealed) == b"secret"


def test_no_recorded_serial(new_site: NewSite) -> None:
    """A token that had no serial when it was recorded is known by its challenge; accepting it records its serial."""
    settings = new_site().settings
    with opened(settings) as kms, kms._core.store.atomic() as tx:
        (row,) = kms._core.tokens.rows()
        wiring.installation.rename_token(tx, row.id, row.label, "")
    with opened(settings) as kms:
        assert serials(kms) == [""]
    assert accept(settings, settings.token) == 0
    with opened(settings) as kms:
        assert serials(kms) == [settings.token.serial]


def test_clone_after_an_outage(new_site: NewSite) -> None:
    """A process whose token has gone does not log in to the clone with the same label that came in its place."""
    settings = new_site().settings
    by_label = second_token.only(settings, replace(settings.token, serial=None))
    with opened(by_label) as kms:
        key_id = new_key(kms).key_id
        with second_token.swapped_for_clone(settings.token):
            kms._core.device.connection.module.renew()
            with pytest.raises(TokenUnavailableError):
                seal(kms, key_id)
            with pytest.raises(TokenUnavailableError):
                new_key(kms)
        wait_for(lambda: unseal(kms, seal(kms, key_id)) == b"secret")


def test_clone_of_a_token_that_was_left(new_site: NewSite) -> None:
    """It is away until it is accepted; the home works all the time."""
    site = new_site()
    settings = with_second(site, own_module=True)
    with opened(settings) as kms:
        scene = Scene.of(kms)
        migrate(kms, settings)
    clone = second_token.add_clone(site.folder / "hsmkms.toml")
    settings = config.load(site.folder / "hsmkms.toml")
    with second_token.away(settings.token):
        with opened(settings) as kms:
            assert [bool(token.away) for token in kms.operator.tokens()] == [True, False]
            assert "is a clone of" in str(kms.operator.tokens()[0].away)
            assert unseal(kms, seal(kms, scene.symmetric)) == b"secret"
            with pytest.raises(TokenUnavailableError, match="accept-clone"):
                unseal(kms, scene.sealed[scene.symmetric])
        assert accept(settings, clone) == 0
        with opened(settings) as kms:
            scene.assert_whole(kms)


def test_restore_onto_a_clone(cloned: Settings, tmp_path: Path) -> None:
    """After the total loss of the token a backup is restored onto its clone, at the operator's word."""
    home, clone = cloned.tokens
    with opened(cloned) as kms:
        sealed = seal(kms, new_key(kms).key_id)
        kms.operator.backup(tmp_path / "backup")
    second_token.clone_again(home, clone)
    lose(Site(folder=cloned.data_dir, settings=cloned))
    alone = second_token.only(cloned, clone)
    with pytest.raises(CloneError, match="restore --accept-clone"):
        restore_wiring.restore(alone, tmp_path / "backup", Order())
    done = restore_wiring.restore(alone, tmp_path / "backup", Order(accept_clone=str(clone.serial)))
    assert done.missing == []
    with opened(alone) as kms:
        assert serials(kms) == [clone.serial]
        assert unseal(kms, sealed) == b"secret"
