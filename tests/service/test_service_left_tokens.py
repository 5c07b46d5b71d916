"""What a token that was left remembers: databases from before the migration are noticed wherever the disk is older."""

import shutil
import signal
from pathlib import Path

import pytest
import second_token
from msgspec.structs import replace
from service_sites import NewSite, Site, new_key, run, seal, unseal
from test_service_backup import lose
from test_service_several_tokens import Scene, migrate, opened, with_second

from hsmkms.config import settings as config
from hsmkms.config.settings import AuditSettings, Settings
from hsmkms.errors import StoreError, UnsupportedOperationException
from hsmkms.hsm.own_objects import OwnObjects
from hsmkms.kms import Kms
from hsmkms.rules.audit.chain import ROLLED_BACK
from hsmkms.wiring import tokens as token_wiring

OLDER = "older than the migration to the token 'new hsm'"


@pytest.fixture
def apart(new_site: NewSite) -> Settings:
    """An installation whose settings name a second token, with a module of its own."""
    return with_second(new_site(), own_module=True)


def copy(settings: Settings) -> Path:
    """A copy of the databases and of the audit folder, as a thief or a careless operator takes it."""
    place = settings.data_dir / "copy"
    place.mkdir()
    for each in (*settings.data_dir.glob("*.db*"), *settings.data_dir.glob("audit")):
        (shutil.copytree if each.is_dir() else shutil.copy2)(each, place / each.name)
    return place


def put_back(settings: Settings, place: Path) -> None:
    """The copy takes the place of what is there."""
    lose(Site(folder=settings.data_dir, settings=settings))
    for path in place.iterdir():
        shutil.move(path, settings.data_dir / path.name)


def assert_rollback_reported(kms: Kms) -> None:
    """Assert that the alarm was raised at the start, and that check and verification report the rollback."""
    assert OLDER in (kms.operator.audit.log.alarm or "")
    with pytest.raises(StoreError, match=OLDER):
        kms.operator.audit.check()
    assert ROLLED_BACK in {fault.kind for fault in kms.operator.audit.verify().faults}
    assert kms.operator.audit.log.alarm is not None


def test_rolled_back_to_before_a_migration(apart: Settings) -> None:
    """Databases and audit folder put back bring a deleted user back, with an alarm; accepted, everything works."""
    with opened(apart) as kms:
        scene = Scene.of(kms)
    place = copy(apart)
    with opened(apart) as kms:
        kms.operator.credentials.delete_access_key(scene.access_key.access_key_id)
        kms.operator.credentials.delete_user("alice")
        migrate(kms, apart)
    with opened(apart) as kms:
        assert kms.operator.audit.log.alarm is None
    put_back(apart, place)
    with opened(apart) as kms:
        assert_rollback_reported(kms)
        kms.operator.audit.accept()
        scene.assert_whole(kms)
    with opened(apart) as kms:
        assert kms.operator.audit.log.alarm is None
        assert kms.operator.audit.verify().faults == []
        migrate(kms, apart)
        kms.operator.audit.check()
        assert kms.operator.interrupted_migrations() == []


def test_rolled_back_to_between_two_migrations(apart: Settings) -> None:
    """Each former home reports the rollback: here the second one."""
    with opened(apart) as kms:
        migrate(kms, apart)
        key_id = new_key(kms).key_id
    place = copy(apart)
    file = apart.data_dir / "hsmkms.toml"
    second_token.add(file, own_module=True, label="third hsm", folder="third-hsm")
    three = config.load(file)
    with opened(three) as kms:
        kms.operator.settle_on(token_wiring.open_device(three, token_wiring.named_token(three, "third hsm")))
    put_back(three, place)
    with opened(three) as kms:
        assert "older than the migration to the token 'third hsm'" in (kms.operator.audit.log.alarm or "")
        assert unseal(kms, seal(kms, key_id)) == b"secret"


def test_without_an_audit_log(apart: Settings) -> None:
    """Where nothing is sealed a token that was left is no home again unnoticed either."""
    silent = replace(apart, audit=AuditSettings(durability="off"))
    with opened(silent) as kms:
        scene = Scene.of(kms)
    place = copy(silent)
    with opened(silent) as kms:
        migrate(kms, silent)
    put_back(silent, place)
    with opened(silent) as kms:
        assert_rollback_reported(kms)
        kms.operator.audit.accept()
        scene.assert_whole(kms)


@pytest.mark.parametrize("step", ["migrate 3", "migrate 5"])
def test_interrupted(apart: Settings, step: str) -> None:
    """A migration that left no note is reported, and the same command leaves it."""
    run("migrate_until", apart.data_dir / "hsmkms.toml", step, status=-signal.SIGKILL)
    with opened(apart) as kms:
        assert [migration.label for migration in kms.operator.interrupted_migrations()] == [apart.token.label]
        migrate(kms, apart)
        assert kms.operator.interrupted_migrations() == []


def test_old_token_was_away(apart: Settings) -> None:
    """A token that is away during the migration gets its note by the same command, once it is back."""
    run("migrate_until", apart.data_dir / "hsmkms.toml", "migrate 5", status=-signal.SIGKILL)
    with second_token.away(apart.token), opened(apart) as kms:
        migrate(kms, apart)
        assert len(kms.operator.interrupted_migrations()) == 1
    with opened(apart) as kms:
        migrate(kms, apart)
        assert kms.operator.interrupted_migrations() == []


def aside(settings: Settings) -> Path:
    """Where copies of the first token are."""
    place = settings.data_dir / "aside"
    place.mkdir(exist_ok=True)
    return place


def older_tokens(kms: Kms) -> list[str]:
    """The warnings about tokens that are older copies of themselves."""
    kms.operator.watch.check_token()
    return kms.operator.watch.older_tokens()


@pytest.fixture
def older_left(apart: Settings) -> Settings:
    """A migration was interrupted, and an older copy is in the place of the token that it leaves; "right" is aside."""
    with opened(apart) as kms:
        new_key(kms)
    place = second_token.token_folder(apart.token)
    shutil.copytree(place, aside(apart) / "older")
    with opened(apart) as kms:
        new_key(kms)
    run("migrate_until", apart.data_dir / "hsmkms.toml", "migrate 4", status=-signal.SIGKILL)
    with opened(apart) as kms:
        new_key(kms)
    with opened(apart) as kms:
        new_key(kms)
    place.rename(aside(apart) / "right")
    (aside(apart) / "older").rename(place)
    return apart


def test_an_older_copy_is_left(older_left: Settings) -> None:
    """An older copy gets no note and stays reported; the right token is accepted when it is back, and gets the note."""
    with opened(older_left) as kms:
        assert len(older_tokens(kms)) == 1
        migrate(kms, older_left)
        assert len(older_tokens(kms)) == 1
        assert [migration.label for migration in kms.operator.interrupted_migrations()] == [older_left.token.label]
    with opened(older_left) as kms:
        assert len(older_tokens(kms)) == 1
    place = second_token.token_folder(older_left.token)
    place.rename(aside(older_left) / "older")
    (aside(older_left) / "right").rename(place)
    with opened(older_left) as kms:
        assert older_tokens(kms) == []
        assert kms.operator.audit.verify().faults == []
        migrate(kms, older_left)
        assert kms.operator.interrupted_migrations() == []


def test_an_older_copy_is_accepted(older_left: Settings) -> None:
    """On the operator's order it is accepted as it is, and gets the note of the migration."""
    with opened(older_left) as kms:
        assert len(older_tokens(kms)) == 1
        kms.operator.audit.accept()
        assert older_tokens(kms) == []
        assert kms.operator.interrupted_migrations() == []
    with opened(older_left) as kms:
        assert older_tokens(kms) == []
        kms.operator.audit.check()


def test_a_copy_that_looks_like_the_right_one(apart: Settings) -> None:
    """A copy with the same note is left with a note of a later seal; the right token is not called older for that."""
    with opened(apart) as kms:
        new_key(kms)
    place = second_token.token_folder(apart.token)
    shutil.copytree(place, aside(apart) / "right")
    run("migrate_until", apart.data_dir / "hsmkms.toml", "migrate 4", status=-signal.SIGKILL)
    for _ in range(2):
        with opened(apart) as kms:
            new_key(kms)
    with opened(apart) as kms:
        migrate(kms, apart)
    shutil.rmtree(place)
    (aside(apart) / "right").rename(place)
    with opened(apart) as kms:
        assert older_tokens(kms) == []
        migrate(kms, apart)
        assert kms.operator.interrupted_migrations() == []


def test_tokens_without_data_objects(apart: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What such tokens would remember is in audit.seal_file, one note a line; it is kept through later seals."""
    monkeypatch.setattr(OwnObjects, "replace_note", _no_data_objects)
    named = replace(apart, audit=AuditSettings(seal_file=tmp_path / "seal"))
    with opened(named) as kms:
        Scene.of(kms)
    place = copy(named)
    with opened(named) as kms:
        migrate(kms, named)
    with opened(named) as kms:
        new_key(kms)
    assert len((tmp_path / "seal").read_bytes().splitlines()) == 2
    put_back(named, place)
    with opened(named) as kms:
        with pytest.raises(StoreError, match=OLDER):
            kms.operator.audit.check()
        kms.operator.audit.accept()
        kms.operator.audit.check()


def _no_data_objects(*_: object) -> None:
    raise UnsupportedOperationException("no data objects here")
