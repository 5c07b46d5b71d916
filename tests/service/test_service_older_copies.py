"""An older copy of a token in its place, unnoticed at first: no key that is acknowledged is made on it."""

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import second_token
from msgspec import Struct
from pkcs11.types import Session
from service_sites import NewSite, Site, new_key, seal, unseal
from swapping import TokenFolder
from test_service_several_tokens import opened, with_second
from test_service_wrong_tokens import AWAY, OLDER, asking, second_process, until

from hsmkms.config.settings import AuditSettings
from hsmkms.errors import StoreError
from hsmkms.hsm.session.identity import Shown
from hsmkms.hsm.session.token_login import TokenLogin
from hsmkms.kms import Kms
from hsmkms.service.operator.reconcile import Kind
from hsmkms.wiring import tokens as token_wiring


class Scene(Struct):
    """An open installation with a newest key, and the copy of its token from before the newest seal."""

    kms: Kms
    folder: TokenFolder
    newest: bytes

    @classmethod
    def of(cls, site: Site) -> Iterator["Scene"]:
        """Make it."""
        folder = TokenFolder.of(site.settings.token)
        with site.open() as kms:
            new_key(kms)
        folder.copy("older")
        with site.open() as kms:
            newest = seal(kms, new_key(kms).key_id)
        with site.open() as kms:
            new_key(kms)
            yield cls(kms, folder, newest)
            folder.put_back()

    def swap(self) -> set[str]:
        """The older copy is in the place of the right token; the files of its objects."""
        self.folder.vanish()
        self.folder.put(self.folder.place / "older")
        return self.folder.objects()

    def lose_login(self) -> None:
        """All sessions are gone, as after the reset of an HSM."""
        device = self.kms._core.tokens.home
        handles = [device.connection.login_handle, *(int(each.handle) for each in device.connection.pool._idle)]
        for handle in handles:
            device.connection.module.cryptoki.close_session(handle)

    def is_refused(self) -> None:
        """Assert that no key is created, and that the error says why."""
        code, message = asking(self.kms)("create")
        assert (code, OLDER in message) == (AWAY, True)
        assert OLDER in asking(self.kms)("ready")[1]

    def passes(self) -> None:
        """With the right token in its place all is as before."""
        self.folder.put_back()
        until(lambda: asking(self.kms)("ready") == ("", ""))
        assert unseal(self.kms, self.newest) == b"secret"
        assert asking(self.kms)("create")[0] == ""


@pytest.fixture
def scene(site: Site) -> Iterator[Scene]:
    """The installation of these tests."""
    yield from Scene.of(site)


def test_lost_login(scene: Scene) -> None:
    """The call that restores a lost login checks the token before it creates a key."""
    there = scene.swap()
    scene.lose_login()
    scene.is_refused()
    assert scene.folder.objects() == there
    scene.passes()


def test_under_living_sessions(scene: Scene) -> None:
    """A copy that takes the token's place in the same sessions is noticed before a key is made on it."""
    there = scene.swap()
    scene.is_refused()
    scene.is_refused()
    assert scene.folder.objects() == there
    scene.passes()


def test_note_of_another_process(site: Site) -> None:
    """A process that has verified a note does not take it for the newest after another process has left a newer one."""
    folder = TokenFolder.of(site.settings.token)
    with site.open() as kms:
        new_key(kms)
    folder.copy("older")
    with site.open() as kms:
        new_key(kms)
        with second_process(site) as ask:
            assert ask("create")[0] == ""
        new_key(kms)
        scene = Scene(kms, folder, seal(kms, new_key(kms).key_id))
        there = scene.swap()
        scene.is_refused()
        assert folder.objects() == there
        scene.passes()


def test_while_a_key_is_made(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that was made on a copy is not acknowledged, and none is made after it."""
    lock = scene.kms._core.tokens.home.connection._write_lock
    held = lock.held

    def swapped() -> AbstractContextManager[bool]:
        scene.swap()
        return held()

    with monkeypatch.context() as patch:
        patch.setattr(lock, "held", swapped)
        scene.is_refused()
    there = scene.folder.objects()
    scene.is_refused()
    assert scene.folder.objects() == there


@pytest.mark.parametrize("moment", ["before the proof of identity", "between it and the read-back"])
def test_after_a_key_was_made(site: Site, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """A copy that takes the token's place then proves its identity and has no notes: that it lacks the key is seen."""
    site = site.varied("hsmkms.toml", audit=AuditSettings(durability="off"))
    folder = TokenFolder.of(site.settings.token)
    folder.copy("older")
    with site.open() as kms:
        new_key(kms)
        scene, connection = Scene(kms, folder, b""), kms._core.tokens.home.connection
        before, swapped = folder.objects(), list[set[str]]()

        def swap() -> None:
            if not swapped:
                assert folder.objects() - before, "the key is not made yet"
                swapped.append(scene.swap())

        def proving(session: Session) -> Shown:
            if moment == "before the proof of identity":
                swap()
            shown = TokenLogin.require_identity(connection, session)  # type: ignore[arg-type]
            swap()
            return shown

        with monkeypatch.context() as patch:
            patch.setattr(connection, "require_identity", proving)
            assert asking(kms)("create")[0] == AWAY
        assert swapped == [folder.objects()]
    folder.put_back()
    with site.open() as kms:
        assert [finding.kind for finding in kms.operator.find_differences()] == [Kind.UNACKNOWLEDGED]
        assert asking(kms)("create")[0] == ""


def test_copy_from_before_a_rotation_of_the_mac_key(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without notes, a copy that lacks the newest MAC key is known by that, also if the key was made on it."""
    site = site.varied("hsmkms.toml", audit=AuditSettings(durability="off"))
    folder = TokenFolder.of(site.settings.token)
    folder.copy("older")
    with site.open() as kms:
        kms.operator.rotate_installation_key("mac")
    with site.open() as kms:
        scene = Scene(kms, folder, seal(kms, new_key(kms).key_id))
        lock = kms._core.tokens.home.connection._write_lock
        held, swapped = lock.held, list[set[str]]()

        def swapping() -> AbstractContextManager[bool]:
            swapped.append(scene.swap())
            return held()

        with monkeypatch.context() as patch:
            patch.setattr(lock, "held", swapping)
            code, message = asking(kms)("create")
        assert (code, OLDER in message) == (AWAY, True)
        assert folder.objects() - swapped[0], "the key was made on the copy"
        scene.is_refused()
    folder.put_back()
    with site.open() as kms:
        assert asking(kms)("create")[0] == ""
        assert asking(kms)("ready") == ("", "")
        assert unseal(kms, scene.newest) == b"secret"


def test_alarm_ends_without_a_log(site: Site) -> None:
    """Where no log is kept, the periodic work ends the alarm as well, though no key is created and no page read."""
    site = site.varied("hsmkms.toml", audit=AuditSettings(durability="off"))
    folder = TokenFolder.of(site.settings.token)
    folder.copy("older")
    with site.open() as kms:
        kms.operator.rotate_installation_key("mac")
    with site.open() as kms:
        scene = Scene(kms, folder, seal(kms, new_key(kms).key_id))
        scene.swap()
        assert asking(kms)("create")[0] == AWAY
        kms.operator.audit.look_after()
        assert len(kms.operator.watch.alarms().older) == 1
        folder.put_back()
        kms.operator.audit.look_after()
        assert kms.operator.watch.alarms().older == frozenset()
        assert asking(kms)("create")[0] == ""


def test_refused_pin_after_a_key_was_made(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The intent stays with the key that was made, although no login can be had to check the token again."""
    pin = site.folder / "pin"
    right = pin.read_text()
    with site.open() as kms:
        new_key(kms)  # the seal at the end leaves a note, which is looked at after a key was made
    with site.open() as kms:
        scene = Scene(kms, TokenFolder.of(site.settings.token), b"")
        lock = kms._core.tokens.home.connection._write_lock
        held = lock.held

        @contextmanager
        def refused_after_it() -> Iterator[bool]:
            with held() as stale:
                yield stale
            pin.write_text("wrong horse\n")
            scene.lose_login()

        with monkeypatch.context() as patch:
            patch.setattr(lock, "held", refused_after_it)
            assert asking(kms)("create")[0] == AWAY
    pin.write_text(right)
    assert token_wiring.retry_pin(site.settings, insisted=site.settings.token)
    with site.open() as kms:
        assert [finding.kind for finding in kms.operator.find_differences()] == [Kind.UNACKNOWLEDGED]


def test_seen_by_the_sealer(scene: Scene) -> None:
    """From the seal on that finds the token older, none is made on it."""
    there = scene.swap()
    scene.kms.operator.audit.look_after()
    assert OLDER in str(scene.kms._core.audit.alarm)
    assert len(scene.kms.operator.watch.alarms().older) == 1
    scene.is_refused()
    assert scene.folder.objects() == there
    scene.passes()


@pytest.mark.parametrize("seal_file", [None, Path("outside.seal")], ids=["notes alone", "and a file elsewhere"])
def test_from_before_the_first_note(new_site: NewSite, seal_file: Path | None) -> None:
    """A copy that was made right after init remembers no seal, and is reported all the same."""
    site = new_site()
    folder = TokenFolder.of(site.settings.token)
    folder.copy("older")
    site = site.varied("hsmkms.toml", audit=AuditSettings(seal_file=seal_file))
    with site.open() as kms:
        newest = seal(kms, new_key(kms).key_id)
    folder.vanish()
    folder.put(folder.place / "older")
    there = folder.objects()
    with site.open() as kms:
        scene = Scene(kms, folder, newest)
        scene.is_refused()
        assert folder.objects() == there
        scene.passes()


@pytest.mark.parametrize("damage", [b"", b'{"a":', b"\xff"])
def test_what_was_noted_cannot_be_read(site: Site, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Whether a token is an older copy is unknown then: no key is created, all else works, and the error says why."""
    with site.open() as kms:
        newest = seal(kms, new_key(kms).key_id)
    noted = site.settings.data_dir / "audit" / "noted.json"
    right = noted.read_bytes()
    noted.write_bytes(damage)
    with site.open() as kms:
        assert f"{noted} is not as hsmkms wrote it" in caplog.text
        assert unseal(kms, newest) == b"secret"
        for _ in range(2):
            code, message = asking(kms)("create")
            assert (code, "is not as hsmkms wrote it" in message) == (AWAY, True)
        with pytest.raises(StoreError, match="is not as hsmkms wrote it"):
            kms.operator.audit.look_after()
        assert noted.read_bytes() == damage
        assert kms.operator.find_differences() == []
        noted.write_bytes(right)
        assert asking(kms)("create")[0] == ""


def test_module_that_was_renewed_for_another_token(new_site: NewSite) -> None:
    """After the login that follows the renewal the token is looked at, whether or not a key is made."""
    settings = with_second(new_site(), own_module=False)
    home = second_token.token_folder(settings.token)
    place = home.parent.parent / "aside"
    with opened(settings) as kms:
        new_key(kms)
    shutil.copytree(home, place / "older")
    with opened(settings) as kms:
        new_key(kms)
    with opened(settings) as kms:
        new_key(kms)
        (other,) = kms._core.tokens._spare
        home.rename(place / "right")
        (place / "older").rename(home)
        assert other.connection.module.renew(other)
        until(lambda: bool(kms.operator.watch.alarms().older))
        assert asking(kms)("create")[0] == AWAY
        home.rename(place / "older")
        (place / "right").rename(home)
