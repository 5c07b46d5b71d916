"""Forgetting a token that was left: refused while anything needs it, and afterwards nothing of it is there."""

from datetime import timedelta

import pytest
import second_token
from lifecycle import delete_material, new_imported_key, request_to_import, schedule
from service_sites import OTHER_REGION, NewSite, Site, new_key, seal, unseal
from test_service_several_tokens import Scene, migrate, opened, with_second

from hsmkms.config.settings import Settings
from hsmkms.errors import BindingError, ConfigurationError
from hsmkms.hsm.objects.objects import list_keys
from hsmkms.kms import Kms
from hsmkms.model.enums import RotationType
from hsmkms.model.keys import ReplicateKeyRequest
from hsmkms.service.keys import rotate as rotating
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


def forget(kms: Kms, name: str) -> int:
    """Forget a token; how many objects were destroyed on it."""
    forgotten = kms.operator.forget_token(kms.operator.find_forgettable(name))
    return forgotten.destroyed


def test_needed(apart: Settings) -> None:
    """The home, a stranger's name, and a token with keys on it are refused, with what needs it."""
    old = apart.token.label
    with opened(apart) as kms:
        Scene.of(kms)
        with pytest.raises(ConfigurationError, match="is the home"):
            kms.operator.find_forgettable(str(old))
        with pytest.raises(ConfigurationError, match=f"name one token .*{old}"):
            kms.operator.find_forgettable("no such")
        migrate(kms, apart)
        with pytest.raises(
            ConfigurationError, match=r"is still needed: objects of keys \(6: .*; wrapping keys of imports \(1: "
        ):
            kms.operator.find_forgettable(str(old))
        assert len(kms.operator.tokens()) == 2


def test_interrupted_change(apart: Settings) -> None:
    """An interrupted intent on the token is listed as well."""
    with opened(apart) as kms:
        key_id = new_key(kms).key_id

        def stop(done: str) -> None:
            if done.startswith("rotate 1"):
                raise InterruptedError

        kms._core.reached = stop
        with pytest.raises(InterruptedError):
            rotating.rotate(kms._core, key_id, "eu-central-1", RotationType.ON_DEMAND, lambda _: None)
        kms._core.reached = lambda _: None
        migrate_home(kms, apart)
        with pytest.raises(ConfigurationError, match=r"keys \(1: .*interrupted changes \(1: "):
            kms.operator.find_forgettable(str(apart.token.label))


def test_needed_again_meanwhile(apart: Settings) -> None:
    """What needs the token since it was checked is found again in the transaction, and nothing has changed then."""
    old = str(apart.token.label)
    with opened(apart) as kms:
        key_id = new_key(kms, multi_region=True).key_id
        sealed = seal(kms, key_id)
        migrate(kms, apart)
        (row,) = [each for each in kms.operator.tokens() if each.label == old]
        found = kms.operator.find_forgettable(old, abandoning=True)

        def replicate(done: str) -> None:
            if done == "forget 1: device":
                with opened(apart) as other:
                    other.replicate_key(ReplicateKeyRequest(key_id=key_id, replica_region=OTHER_REGION))

        kms._core.reached = replicate
        with pytest.raises(ConfigurationError, match=r"is still needed: objects of keys \(1: "):
            kms.operator.forget_token(found, abandoning=True)
        kms._core.reached = lambda _: None
        assert row.token_id in {each.token_id for each in kms.operator.tokens()}
        assert unseal(kms, sealed) == b"secret"
        assert kms.operator.forget_token(found, abandoning=True).abandoned == 1


def migrate_home(kms: Kms, settings: Settings) -> None:
    """The home moves, and no key is rotated yet."""
    device = token_wiring.open_device(settings, token_wiring.named_token(settings, second_token.LABEL))
    kms.operator.settle_on(device)


def test_no_alarm(apart: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """After the destruction of the token's key no check takes the token for being away."""
    with opened(apart) as kms:
        (left,) = kms.operator.tokens()
        migrate_home(kms, apart)
        device = kms._core.tokens.of(left.token_id)

        def look(done: str) -> None:
            if done == "forget 1: device":
                assert device.connection._try_to_reconnect(0)
                assert not device.connection.is_away

        kms._core.reached = look
        assert forget(kms, str(apart.token.label)) > 0
    assert "away" not in caplog.text


def test_forgotten(apart: Settings) -> None:
    """Its keys and notes are destroyed, the list is without it, and everything works without it and with it away."""
    old = str(apart.token.label)
    with opened(apart) as kms:
        imported = new_imported_key(kms)
        sealed = seal(kms, imported)
        doomed = new_key(kms).key_id
        schedule(kms, doomed, 7)
        kms.operator.credentials.create_user("alice")
        access_key = kms.operator.credentials.create_access_key("alice")
        migrate(kms, apart)
        delete_material(kms, imported)
        with pytest.raises(ConfigurationError, match=r"still needed: objects of keys \("):
            kms.operator.find_forgettable(old)
    with Kms(wiring.core_of(apart, lambda: wiring.utc_now() + timedelta(days=8))) as kms:
        kms.operator.maintain()
        assert forget(kms, old) == 2
        assert [token.label for token in kms.operator.tokens()] == [second_token.LABEL]
        assert kms.operator.find_differences() == []
        kms.import_key_material(request_to_import(kms, imported))
        assert unseal(kms, sealed) == b"secret"
        credential = kms.operator.credentials.find(access_key.access_key_id)
        assert credential is not None
        assert credential.secret == access_key.secret_access_key
        assert kms.operator.audit.verify_rows() == []
        assert kms.operator.audit.verify().faults == []
        assert [backing_key.present for backing_key in kms.operator.attest(imported)] == [True]
    device = token_wiring.open_device(apart, apart.token)
    with device.connection.pool.session() as session:
        assert list(list_keys(session)) == []
    device.close()
    with second_token.away(apart.token), opened(apart) as kms:
        assert unseal(kms, sealed) == b"secret"
        assert unseal(kms, seal(kms, new_key(kms).key_id)) == b"secret"
        assert kms.operator.watch.sessions().away == 0
    with pytest.raises(BindingError):
        opened(second_token.only(apart, apart.token))


def test_away_or_interrupted(apart: Settings) -> None:
    """A token that cannot be reached is forgotten with its own keys on it; an interrupted forgetting is done again."""
    old = str(apart.token.label)
    with opened(apart) as kms:
        new_key(kms)
        migrate(kms, apart)
        key_ids = {left_key.key_id for left_key in kms.operator.left_behind()}
        for key_id in key_ids:
            schedule(kms, key_id, 7)
    with Kms(wiring.core_of(apart, lambda: wiring.utc_now() + timedelta(days=8))) as kms:
        kms.operator.maintain()

        def stop(done: str) -> None:
            if done.startswith("forget 1"):
                raise InterruptedError

        kms._core.reached = stop
        with pytest.raises(InterruptedError):
            forget(kms, old)
    with second_token.away(apart.token), opened(apart) as kms:
        forgotten = kms.operator.forget_token(kms.operator.find_forgettable(old))
        assert forgotten.destroyed == 0
        assert forgotten.away is not None
    with opened(apart) as kms:
        assert [token.label for token in kms.operator.tokens()] == [second_token.LABEL]
        assert unseal(kms, seal(kms, new_key(kms).key_id)) == b"secret"
        assert kms.operator.audit.verify().faults == []


def test_other_processes_drop_it(apart: Settings) -> None:
    """An installation that was open before closes the token at its next call, and needs it no more."""
    with opened(apart) as before, opened(apart) as kms:
        migrate(kms, apart)
        key_id = new_key(before).key_id
        forget(kms, str(apart.token.label))
        assert unseal(before, seal(before, key_id)) == b"secret"
        assert len(before._core.tokens.opened()) == 1
        with second_token.away(apart.token):
            assert unseal(before, seal(before, new_key(before).key_id)) == b"secret"
            assert before.operator.watch.sessions().away == 0


def test_accepted_faults_stay_accepted(apart: Settings) -> None:
    """What was accepted with a seal of the token that is forgotten is accepted by one of the home."""
    with opened(apart) as kms:
        new_key(kms)
        kms.operator.audit.accept()
        before = kms.operator.audit.verify()
        migrate(kms, apart)
        for left_key in kms.operator.left_behind():
            schedule(kms, left_key.key_id, 7)
    with Kms(wiring.core_of(apart, lambda: wiring.utc_now() + timedelta(days=8))) as kms:
        kms.operator.maintain()
        forget(kms, str(apart.token.label))
        after = kms.operator.audit.verify()
        assert (after.faults, after.accepted) == ([], before.accepted)
