"""Starting the installation's own keys afresh: after an interrupted migration whose old token is lost for good."""

import shutil
import signal

import pytest
import second_token
from service_sites import NewSite, Site, new_key, run, seal, unseal
from swapping import TokenFolder
from test_service_several_tokens import STEPS, Scene, migrate, opened, with_second

from hsmkms.config import settings as config
from hsmkms.config.settings import Settings
from hsmkms.errors import ConfigurationError, ObjectLostError, TokenUnavailableError
from hsmkms.kms import Kms
from hsmkms.service.keys import installation_keys
from hsmkms.store import audit_files, schema
from hsmkms.wiring import core as wiring
from hsmkms.wiring import tokens as token_wiring


@pytest.fixture(scope="session")
def prepared(never_opened: Site) -> Site:
    """An installation that has not been closed yet: what its first end makes matters here."""
    return never_opened


@pytest.fixture
def apart(new_site: NewSite) -> Settings:
    """An installation whose settings name a second token, with a module of its own."""
    return with_second(new_site(), own_module=True)


def assert_works(kms: Kms) -> None:
    """Assert that new keys encrypt, access keys are issued, seals and audit records verify, and a backup is written."""
    assert unseal(kms, seal(kms, new_key(kms).key_id)) == b"secret"
    made = kms.operator.credentials.create_access_key("alice")
    credential = kms.operator.credentials.find(made.access_key_id)
    assert credential is not None
    assert credential.secret == made.secret_access_key
    kms.operator.credentials.delete_access_key(made.access_key_id)
    assert kms.operator.audit.verify_rows() == []
    assert kms.operator.audit.verify().faults == []
    kms.operator.audit.check()
    file = kms._core.store.folder / "backup"
    kms.operator.backup(file)
    file.unlink()


@pytest.mark.parametrize("step", [each for each in STEPS if each not in ("migrate 1", "migrate 2")])
def test_old_token_is_lost(apart: Settings, step: str) -> None:
    """Whatever the migration had done after binding: then the installation works, and the migration is finished."""
    with opened(apart) as kms:
        scene = Scene.of(kms)
        kms.operator.backup(apart.data_dir / "backup")  # so that there is a key for it
    run("migrate_until", apart.data_dir / "hsmkms.toml", step, status=-signal.SIGKILL)
    shutil.rmtree(second_token.token_folder(apart.token))
    (apart.data_dir / "backup").unlink()
    with opened(apart) as kms:
        if step == "migrate 3":
            with pytest.raises(TokenUnavailableError):
                migrate(kms, apart)
            loss = kms.operator.lost_installation_keys()
            assert loss.tokens == [apart.token.label]
            assert loss.access_keys == [scene.access_key.access_key_id]
            assert set(loss.purposes) == {"audit-seal", "secrets", "backup"}
            assert loss.log
            assert loss.contradiction is None
        kms.operator.renew_installation_keys(kms.operator.lost_installation_keys())
        assert_works(kms)
        with pytest.raises(ConfigurationError, match="nothing is lost"):
            kms.operator.lost_installation_keys()
        migrate(kms, apart)
        assert unseal(kms, seal(kms, scene.symmetric)) == b"secret"
    with opened(apart) as kms:
        assert_works(kms)
        records = "".join(path.read_text() for path in (apart.data_dir / "audit").glob("*.jsonl"))
        assert '"RenewInstallationKeys"' in records


@pytest.mark.parametrize("step", ["renew 1", "renew 2", "renew 3"])
def test_interrupted(apart: Settings, step: str) -> None:
    """Interrupted at any step, the same command does the rest."""
    with opened(apart) as kms:
        Scene.of(kms)
    run("migrate_until", apart.data_dir / "hsmkms.toml", "migrate 3", status=-signal.SIGKILL)
    shutil.rmtree(second_token.token_folder(apart.token))
    with opened(apart) as kms:

        def stop(done: str) -> None:
            if done.startswith(step):
                raise InterruptedError

        kms._core.reached = stop
        with pytest.raises(InterruptedError):
            kms.operator.renew_installation_keys(kms.operator.lost_installation_keys())
        kms._core.reached = lambda _: None
        kms.operator.renew_installation_keys(kms.operator.lost_installation_keys())
        assert_works(kms)


def test_nothing_is_lost(apart: Settings) -> None:
    """While all can be had nothing is started afresh, not even with an interrupted migration."""
    with opened(apart) as kms:
        Scene.of(kms)
    run("migrate_until", apart.data_dir / "hsmkms.toml", "migrate 3", status=-signal.SIGKILL)
    with opened(apart) as kms, pytest.raises(ConfigurationError, match="finished by `hsmkms migrate-token`"):
        kms.operator.lost_installation_keys()


def test_clone_without_the_newest_keys(new_site: NewSite) -> None:
    """A clone that was copied before some of the installation's own keys were made works once these are renewed."""
    file = new_site().folder / "hsmkms.toml"
    clone = second_token.add_clone(file)
    settings = config.load(file)
    with opened(settings) as kms:
        kms.operator.credentials.create_user("alice")
        lost = kms.operator.credentials.create_access_key("alice").access_key_id
    shutil.rmtree(second_token.token_folder(settings.token))
    device = token_wiring.open_device(settings, clone)
    with Kms(wiring.core_of(settings, accepting=clone)) as kms:
        kms.operator.accept_clone(kms.operator.find_clone(device))
        device.close()
    with opened(settings) as kms:
        loss = kms.operator.lost_installation_keys()
        assert (loss.access_keys, set(loss.purposes), loss.tokens) == ([lost], {"audit-seal", "secrets"}, [])
        kms.operator.renew_installation_keys(loss)
        assert_works(kms)


@pytest.mark.sqlite_alone("the heads of the audit log in a server's database contradict first")
def test_contradiction_is_reported(apart: Settings) -> None:
    """What contradicts the newest seal, though that cannot be proven, is shown before it is accepted."""
    with opened(apart) as kms:
        Scene.of(kms)
    run("migrate_until", apart.data_dir / "hsmkms.toml", "migrate 3", status=-signal.SIGKILL)
    shutil.rmtree(second_token.token_folder(apart.token))
    for parts in audit_files.segments(apart.data_dir / "audit").values():
        for part in parts:
            part.path.unlink()
    with opened(apart) as kms:
        assert "were sealed" in (kms.operator.lost_installation_keys().contradiction or "")


def rotated(kms: Kms) -> None:
    """Rotate the keys that seals, stored secrets and backups need, and use each."""
    for purpose in ("audit-seal", "secrets", "backup"):
        kms.operator.rotate_installation_key(purpose)
    new_key(kms)
    kms.operator.backup(kms._core.store.folder / "after")


def with_all_keys(kms: Kms) -> str:
    """Make a user with an access key (its id), a seal and a backup, so that there are all keys."""
    kms.operator.credentials.create_user("alice")
    new_key(kms)
    kms.operator.backup(kms._core.store.folder / "before")
    return kms.operator.credentials.create_access_key("alice").access_key_id


def newest(kms: Kms, purpose: str) -> int:
    """The version that is used."""
    return installation_keys.versions(kms._core, purpose)[-1].version


def test_clone_from_before_a_rotation(new_site: NewSite) -> None:
    """The lost versions are never made again: seals by them count as unproven, and the next ones are made."""
    file = new_site().folder / "hsmkms.toml"
    with opened(config.load(file)) as kms:
        with_all_keys(kms)
    clone = second_token.add_clone(file)
    settings = config.load(file)
    with opened(settings) as kms:
        rotated(kms)
    shutil.rmtree(second_token.token_folder(settings.token))
    device = token_wiring.open_device(settings, clone)
    with Kms(wiring.core_of(settings, accepting=clone)) as kms:
        candidate = kms.operator.find_clone(device)
        assert set(candidate.lost_purposes) == {"audit-seal", "secrets", "backup"}
        kms.operator.accept_clone(candidate)
        device.close()
    with opened(settings) as kms:
        with pytest.raises(ObjectLostError, match="renew-installation-keys"):
            kms.operator.audit.check()
        with pytest.raises(ObjectLostError, match="renew-installation-keys"):
            kms.operator.credentials.create_access_key("alice")
        with pytest.raises(ObjectLostError, match="renew-installation-keys"):
            kms.operator.rotate_installation_key("secrets")
        verdict = kms.operator.audit.verify()
        assert (verdict.faults, [fault.kind for fault in verdict.unproven]) == ([], ["not proven"])
        assert kms.operator.interrupted_rotations() == []
        kms.operator.renew_installation_keys(kms.operator.lost_installation_keys())
        assert_works(kms)
        assert [newest(kms, each) for each in ("audit-seal", "secrets", "backup")] == [3, 3, 3]
        assert kms.operator.lost_purposes() == []
    with opened(settings) as kms:
        assert_works(kms)


@pytest.mark.parametrize("noted", [True, False], ids=["noted", "made by an older program"])
def test_older_copy_from_before_a_rotation(new_site: NewSite, noted: bool) -> None:  # noqa: FBT001 - a parameter
    """It is not taken without new keys, which the renewal makes; then the log has no faults and keys are made."""
    site = new_site()
    folder = TokenFolder.of(site.settings.token)
    with site.open() as kms:
        lost = with_all_keys(kms)
    older = folder.copy("older")
    with site.open() as kms:
        rotated(kms)
    if not noted:
        with site.open() as kms, kms._core.store.atomic() as tx:
            tx.execute(schema.installation_key.update().values(made_at=None))
    folder.vanish()
    folder.put(older)
    with site.open() as kms:
        with pytest.raises(ObjectLostError, match="renew-installation-keys"):
            kms.operator.audit.accept()
        loss = kms.operator.lost_installation_keys()
        assert loss.access_keys == [lost]
        assert {"audit-seal", "secrets"} <= set(loss.purposes)
        assert "older copy of itself" in (loss.contradiction or "")
        kms.operator.renew_installation_keys(loss)
        assert_works(kms)
    with site.open() as kms:
        assert_works(kms)
        assert kms.operator.watch.older_tokens() == []


def test_older_copy_from_before_the_mac_key(new_site: NewSite) -> None:
    """Its older version of the key identifies it; nothing is made on it until the renewal binds it again."""
    site = new_site()
    folder = TokenFolder.of(site.settings.token)
    with site.open() as kms:
        with_all_keys(kms)
        key_id = new_key(kms).key_id
        sealed = seal(kms, key_id)
    older = folder.copy("older")
    with site.open() as kms:
        for _ in range(2):
            kms.operator.rotate_installation_key("mac")
    folder.vanish()
    folder.put(older)
    with site.open() as kms:
        assert "from before the rotation" in kms.operator.watch.older_tokens()[0]
        with pytest.raises(TokenUnavailableError, match="older copy of itself"):
            new_key(kms)
        with pytest.raises(TokenUnavailableError, match="from before the rotation"):
            kms.operator.credentials.create_user("bob")
        with pytest.raises(ObjectLostError, match="renew-installation-keys"):
            kms.operator.audit.accept()
        loss = kms.operator.lost_installation_keys()
        assert (loss.purposes, loss.rows) == (["mac"], True)
        kms.operator.renew_installation_keys(loss)
        assert_works(kms)
    with site.open() as kms:
        assert_works(kms)
        assert unseal(kms, sealed) == b"secret"
        assert kms.operator.watch.older_tokens() == []
        kms.operator.rotate_installation_key("mac")
        assert_works(kms)
        with pytest.raises(ConfigurationError, match="nothing is lost"):
            kms.operator.lost_installation_keys()
