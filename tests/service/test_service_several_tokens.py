"""Several tokens: keys are made at home, what was made before is used where it is, whatever is away or interrupted."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import second_token
from lifecycle import (
    delete_material,
    disable,
    enable,
    new_imported_key,
    request_to_import,
    schedule,
)
from msgspec import Struct
from service_sites import REGION, NewSite, Site, new_key, run, seal, start, unseal
from test_service_backup import lose

from hsmkms.config import settings as config
from hsmkms.config.settings import PinSettings, Secret, Settings
from hsmkms.errors import (
    BindingError,
    ConfigurationError,
    ExpiredImportTokenException,
    HsmKmsError,
    PinError,
    StoreError,
    TokenNotFoundError,
    TokenUnavailableError,
)
from hsmkms.kms import Kms
from hsmkms.model.asymmetric import GenerateMacRequest, SignRequest, VerifyMacRequest
from hsmkms.rules.rotation import UNDER_WAY
from hsmkms.service.backup.restore import Order
from hsmkms.service.operator.credentials import NewAccessKey
from hsmkms.service.operator.migration import Stays
from hsmkms.service.operator.reconcile import Kind, Mended
from hsmkms.wiring import core as wiring
from hsmkms.wiring import restore as restore_wiring
from hsmkms.wiring import tokens as token_wiring

STEPS = [
    "migrate 1",
    "migrate 2",
    "migrate 3",
    "rotate-own 1",
    "rotate-own 2",
    "rotate-own 3: a secret",
    "migrate 4",
    "migrate 5",
]


@pytest.fixture(params=[False, True], ids=["one module", "two modules"])
def both(new_site: NewSite, request: pytest.FixtureRequest) -> Settings:
    """An installation on one token, whose settings name a second one."""
    return with_second(new_site(), own_module=request.param)


@pytest.fixture
def apart(new_site: NewSite) -> Settings:
    """The same, with a module and a configuration of its own for the second token."""
    return with_second(new_site(), own_module=True)


def with_second(site: Site, *, own_module: bool) -> Settings:
    """The settings of an installation with a second token beside its own."""
    file = site.folder / "hsmkms.toml"
    second_token.add(file, own_module=own_module)
    return config.load(file)


def opened(settings: Settings, reread: Callable[[], Settings] | None = None) -> Kms:
    """Open it; the caller closes it."""
    return Kms(wiring.core_of(settings, reread=reread))


def settle(kms: Kms, settings: Settings) -> None:
    """Make the second token the home."""
    named = token_wiring.named_token(settings, second_token.LABEL)
    kms.operator.settle_on(token_wiring.open_device(settings, named))


def migrate(kms: Kms, settings: Settings) -> None:
    """The whole migration; nothing may fail."""
    settle(kms, settings)
    moved = kms.operator.move_keys(lambda: None)
    assert [each.fault for each in moved] == [None] * len(moved)


def token_of(kms: Kms, key_id: str) -> str:
    """The label of the token that a key's current material is on."""
    cached = kms._core.cache.key(REGION, key_id)
    assert cached is not None
    labels = {token.token_id: token.label for token in kms.operator.tokens()}
    return labels[cached.current_token_id]


@contextmanager
def away(settings: Settings, *, home: bool = False) -> Iterator[None]:
    """The old token cannot be reached in the block; or the home, the second one."""
    tokens_folder = Path(settings.tokens[home].environment["SOFTHSM2_CONF"]).parent / "tokens"
    tokens_folder.rename(tokens_folder.with_name("away"))
    tokens_folder.mkdir()
    yield
    if tokens_folder.with_name("away").exists():
        bring_back(tokens_folder)


def bring_back(tokens_folder: Path) -> None:
    """The token whose folder was renamed is there again."""
    tokens_folder.rmdir()
    tokens_folder.with_name("away").rename(tokens_folder)


class Scene(Struct, frozen=True):
    """Keys of all sorts, and what they have made."""

    symmetric: str
    disabled: str
    hmac: str
    pair: str
    imported: str
    doomed: str
    sealed: dict[str, bytes]
    mac: bytes
    access_key: NewAccessKey

    @classmethod
    def of(cls, kms: Kms) -> "Scene":
        """Make it all."""
        symmetric, disabled, doomed = (new_key(kms).key_id for _ in range(3))
        imported = new_imported_key(kms)
        hmac = new_key(kms, key_spec="HMAC_256", key_usage="GENERATE_VERIFY_MAC").key_id
        pair = new_key(kms, key_spec="ECC_NIST_P256", key_usage="SIGN_VERIFY").key_id
        sealed = {each: seal(kms, each) for each in (symmetric, disabled, imported)}
        disable(kms, disabled)
        schedule(kms, doomed)
        kms.operator.credentials.create_user("alice")
        return cls(
            symmetric,
            disabled,
            hmac,
            pair,
            imported,
            doomed,
            sealed,
            made_mac(kms, hmac),
            kms.operator.credentials.create_access_key("alice"),
        )

    def assert_whole(self, kms: Kms) -> None:
        """Assert that everything made before works, that new keys work, and that every check passes."""
        assert unseal(kms, seal(kms, new_key(kms).key_id)) == b"secret"
        for key_id in (self.symmetric, self.imported):
            assert unseal(kms, self.sealed[key_id]) == b"secret"
            assert unseal(kms, seal(kms, key_id)) == b"secret"
        assert made_mac(kms, self.hmac) == self.mac
        request = VerifyMacRequest(key_id=self.hmac, message=b"m", mac=self.mac, mac_algorithm="HMAC_SHA_256")
        assert kms.verify_mac(request).mac_valid
        signed = SignRequest(key_id=self.pair, message=b"m", signing_algorithm="ECDSA_SHA_256")
        assert kms.sign(signed).signature
        credential = kms.operator.credentials.find(self.access_key.access_key_id)
        assert credential is not None
        assert credential.secret == self.access_key.secret_access_key
        assert kms.operator.find_differences() == []
        assert kms.operator.audit.verify_rows() == []
        kms.operator.audit.check()


def made_mac(kms: Kms, key_id: str) -> bytes:
    """The HMAC of a message."""
    return kms.generate_mac(GenerateMacRequest(key_id=key_id, message=b"m", mac_algorithm="HMAC_SHA_256")).mac


# -- migration --------------------------------------------------------------------------------------------------------


def test_migration(both: Settings) -> None:
    """Generated keys encrypt at home from then on; what cannot move works where it is, and is listed."""
    old, new = both.token.label, second_token.LABEL
    with opened(both) as kms:
        scene = Scene.of(kms)
        assert [(token.label, token.home) for token in kms.operator.tokens()] == [(old, True)]
        assert [waiting.key_id for waiting in kms.operator.waiting_to_move(elsewhere="")] == [scene.symmetric]
        objects_before = kms.operator.tokens()[0].objects
        migrate(kms, both)
        assert [(token.label, token.home) for token in kms.operator.tokens()] == [(old, False), (new, True)]
        assert {(left_key.key_id, left_key.reason) for left_key in kms.operator.left_behind()} == {
            (scene.symmetric, Stays.OLDER),
            (scene.disabled, Stays.NEXT_USE),
            (scene.hmac, Stays.HMAC),
            (scene.pair, Stays.PAIR),
            (scene.imported, Stays.IMPORTED),
            (scene.doomed, Stays.DELETION),
        }
        scene.assert_whole(kms)
        assert token_of(kms, scene.symmetric) == new
        assert token_of(kms, scene.hmac) == old
        assert kms.operator.tokens()[0].objects == objects_before
    for file_order in (both, config.msgspec.structs.replace(both, token=both.tokens[1], further_tokens=(both.token,))):
        with opened(file_order) as kms:
            scene.assert_whole(kms)
            assert kms.operator.interrupted_rotations() == []
            migrate(kms, both)  # again: nothing is left to do
            assert len(kms.operator.tokens()) == 2
    assert kms.operator is not None


def test_disabled_key_is_rotated_at_its_next_use(both: Settings) -> None:
    """Nothing is encrypted on a token that was left, as soon as that can be avoided."""
    with opened(both) as kms:
        scene = Scene.of(kms)
        migrate(kms, both)
        enable(kms, scene.disabled)
        assert token_of(kms, scene.disabled) == both.token.label
        again = seal(kms, scene.disabled)
        assert token_of(kms, scene.disabled) == second_token.LABEL
        assert {unseal(kms, each) for each in (again, scene.sealed[scene.disabled])} == {b"secret"}


def test_imported_material_moves_by_importing_it_again(apart: Settings) -> None:
    """Deleted and imported again it is at home; a wrapping key of the token that was left takes nothing in any more."""
    with opened(apart) as kms:
        key_id = new_imported_key(kms)
        sealed = seal(kms, key_id)
        stale = request_to_import(kms, key_id)
        migrate(kms, apart)
        delete_material(kms, key_id)
        with pytest.raises(ExpiredImportTokenException, match="Get new parameters"):
            kms.import_key_material(stale)
        kms.import_key_material(request_to_import(kms, key_id))
        assert token_of(kms, key_id) == second_token.LABEL
        assert unseal(kms, sealed) == b"secret"
        assert kms.operator.left_behind() == []
        assert kms.operator.find_differences() == []


@pytest.mark.parametrize("step", STEPS)
def test_killed(apart: Settings, step: str) -> None:
    """Whatever was done, everything works, and the same command does the rest."""
    with opened(apart) as kms:
        scene = Scene.of(kms)
    run("migrate_until", apart.data_dir / "hsmkms.toml", step, status=-signal.SIGKILL)
    with opened(apart) as kms:
        scene.assert_whole(kms)
        migrate(kms, apart)
        scene.assert_whole(kms)
        assert token_of(kms, scene.symmetric) == second_token.LABEL
        assert kms.operator.interrupted_rotations() == []
        assert kms.operator.interrupted_migrations() == []
        assert len(kms.operator.tokens()) == 2


@pytest.mark.parametrize("step", ["rotate 1", "rotate 2", "rotate 3"])
def test_killed_in_a_key(apart: Settings, step: str) -> None:
    """The rotation that was cut short counts as interrupted after a while, and the same command finishes it."""
    with opened(apart) as kms:
        key_id = new_key(kms).key_id
        sealed = seal(kms, key_id)
    run("migrate_until", apart.data_dir / "hsmkms.toml", step, status=-signal.SIGKILL)
    with Kms(wiring.core_of(apart, lambda: wiring.utc_now() + UNDER_WAY + timedelta(minutes=1))) as kms:
        assert unseal(kms, sealed) == b"secret"
        migrate(kms, apart)
        assert token_of(kms, key_id) == second_token.LABEL
        assert {unseal(kms, each) for each in (sealed, seal(kms, key_id))} == {b"secret"}
        assert kms.operator.find_differences() == []


def test_no_way_back(apart: Settings) -> None:
    """The token that was left does not become the home again, and nothing is changed by the attempt."""
    with opened(apart) as kms:
        scene = Scene.of(kms)
        migrate(kms, apart)
        device = token_wiring.open_device(apart, apart.token)
        with pytest.raises(BindingError, match="is a former home"):
            kms.operator.settle_on(device)
        scene.assert_whole(kms)
        assert token_of(kms, new_key(kms).key_id) == second_token.LABEL


def test_other_processes_follow(apart: Settings) -> None:
    """An installation that was open before uses the new home at its next call."""
    with opened(apart) as before, opened(apart) as kms:
        scene = Scene.of(before)
        migrate(kms, apart)
        sealed = seal(kms, scene.symmetric)
        assert unseal(before, sealed) == b"secret"
        scene.assert_whole(before)
        assert token_of(before, new_key(before).key_id) == second_token.LABEL


def test_old_token_gone_before_it_is_noticed(apart: Settings) -> None:
    """A process that has done nothing since a migration keeps working when the former home is gone."""
    with opened(apart) as kms:
        new_key(kms)
    other = start("ask", apart.data_dir / "hsmkms.toml")
    try:
        assert other.stdout is not None
        assert json.loads(other.stdout.readline()) == "open"
        with opened(apart) as kms:
            migrate(kms, apart)
        with away(apart):
            output, _ = other.communicate("create\nready\n", timeout=120)
    finally:
        other.kill()
    assert [json.loads(line)[0] for line in output.splitlines()] == ["", ""]


def test_process_that_cannot_follow(apart: Settings) -> None:
    """No migration begins while such a process runs; if one does, the process's calls fail without an alarm."""
    alone = config.msgspec.structs.replace(apart, further_tokens=())
    with opened(alone) as before, opened(apart) as kms:
        scene = Scene.of(before)
        with pytest.raises(ConfigurationError, match=rf"pid {os.getpid()}\): name it .* restart them first"):
            migrate(kms, apart)
        scene.assert_whole(before)
        before._core.tokens._process_file.publish(each.profile for each in kms._core.tokens._spare)
        migrate(kms, apart)
        sealed = seal(kms, new_key(kms).key_id)
        for call in (lambda: new_key(before), lambda: unseal(before, sealed)):
            with pytest.raises(TokenUnavailableError, match="add it to the configuration"):
                call()
        assert before.operator.watch.alarms().altered == frozenset()


# -- outages ----------------------------------------------------------------------------------------------------------


def test_old_token_is_away(apart: Settings) -> None:
    """Keys at home work, those on the old token fail, and work when it is back, without a restart."""
    with opened(apart) as kms:
        scene = Scene.of(kms)
        migrate(kms, apart)
        new = seal(kms, scene.symmetric)
    with away(apart), opened(apart) as kms:
        assert unseal(kms, new) == b"secret"
        assert unseal(kms, seal(kms, new_key(kms).key_id)) == b"secret"
        assert kms.operator.credentials.find(scene.access_key.access_key_id) is not None
        for call in (lambda: unseal(kms, scene.sealed[scene.symmetric]), lambda: made_mac(kms, scene.hmac)):
            with pytest.raises(TokenUnavailableError):
                call()
        kms.operator.watch.check_token()
        assert kms.operator.watch.sessions().away == 1
        assert [bool(token.away) for token in kms.operator.tokens()] == [True, False]
        assert [finding.kind for finding in kms.operator.find_differences()] == [Kind.AWAY]
        bring_back(Path(apart.token.environment["SOFTHSM2_CONF"]).parent / "tokens")
        wait_for(lambda: made_mac(kms, scene.hmac) == scene.mac)
        assert unseal(kms, scene.sealed[scene.symmetric]) == b"secret"
        assert kms.operator.watch.sessions().away == 0
        scene.assert_whole(kms)


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until a condition holds; faults of tokens count as not yet."""
    end = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except HsmKmsError:
            if time.monotonic() > end:
                raise
        assert time.monotonic() < end
        time.sleep(0.05)


def test_home_is_away(apart: Settings) -> None:
    """Without its home nothing starts, and the error is that of the home."""
    with opened(apart) as kms:
        migrate(kms, apart)
    with away(apart, home=True), pytest.raises(TokenNotFoundError, match=second_token.LABEL):
        opened(apart)


def test_refused_pin_of_the_old_token(apart: Settings) -> None:
    """The PIN is sent once; the old token is away, and the home is not affected."""
    with opened(apart) as kms:
        scene = Scene.of(kms)
        migrate(kms, apart)
    pin = apart.token.pin.file
    assert pin is not None
    right = pin.read_text()
    pin.write_text("wrong\n")
    for _ in range(2):
        with opened(apart) as kms:
            new_key(kms)
            with pytest.raises(TokenUnavailableError, match="refused the PIN"):
                made_mac(kms, scene.hmac)
    pin.write_text(right)
    with opened(apart) as kms, pytest.raises(TokenUnavailableError, match="refused the PIN"):
        made_mac(kms, scene.hmac)
    with pytest.raises(PinError, match="may still give the PIN that was refused"):
        token_wiring.retry_pin(apart)
    assert token_wiring.retry_pin(apart, insisted=apart.token)
    with opened(apart) as kms:
        scene.assert_whole(kms)


def test_both_pins_are_refused(apart: Settings) -> None:
    """Each token's refusal leaves a mark of its own: neither PIN is tried again."""
    files = [token.pin.file for token in apart.tokens]
    for file in files:
        assert file is not None
        file.write_text("wrong\n")
    for _ in range(2):
        for token in apart.tokens:
            with pytest.raises(PinError, match=f"{token.label}.* refused the PIN"):
                token_wiring.open_device(apart, token)
    assert len(list(apart.data_dir.glob("pin-refused*.json"))) == 2


# -- backups ----------------------------------------------------------------------------------------------------------


def test_restore(apart: Settings, tmp_path: Path) -> None:
    """A backup names the objects of both tokens; where the old one is lost, its objects are missing, and no others."""
    site = Site(folder=apart.data_dir, settings=apart)
    with opened(apart) as kms:
        scene = Scene.of(kms)
        migrate(kms, apart)
        file = tmp_path / "backup"
        made = kms.operator.backup(file)
        objects_by_label = {token.label: token.objects for token in kms.operator.tokens()}
    assert made.objects > sum(objects_by_label.values())
    lose(site)
    assert restore_wiring.restore(apart, file).missing == []
    with opened(apart) as kms:
        scene.assert_whole(kms)
        newer = tmp_path / "newer"
        kms.operator.backup(newer)
    lose(site)
    with away(apart):
        missing = restore_wiring.restore(apart, newer).missing
        assert {each.token for each in missing} == {apart.token.label}
        assert scene.hmac in {each.key_id for each in missing}
        with opened(apart) as kms:
            assert unseal(kms, seal(kms, scene.symmetric)) == b"secret"


def test_restore_with_a_refused_pin(apart: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that refuses its PIN during a restore is not asked again from the folder where that is prepared."""
    with opened(apart) as kms:
        migrate(kms, apart)
        kms.operator.backup(tmp_path / "backup")
    lose(Site(folder=apart.data_dir, settings=apart))
    pin = apart.token.pin.file
    assert pin is not None
    pin.write_text("wrong\n")
    read: list[Path | None] = []
    usual = config.read_secret

    def counting(source: PinSettings, **more: Callable[[], str] | None) -> Secret:
        read.append(source.file)
        return usual(source, **more)

    monkeypatch.setattr(config, "read_secret", counting)
    assert restore_wiring.restore(apart, tmp_path / "backup", Order()).missing
    assert read.count(pin) == 1
    assert (apart.data_dir / "pin-refused.json").exists()


def test_restore_from_before_a_migration(apart: Settings, tmp_path: Path) -> None:
    """Migrated again, the keys that the newer database had made on the new token are found there and adopted."""
    with opened(apart) as kms:
        scene = Scene.of(kms)
        kms.operator.backup(tmp_path / "backup")
        migrate(kms, apart)
        newer = seal(kms, scene.symmetric)
    lose(Site(folder=apart.data_dir, settings=apart))
    with pytest.raises(
        StoreError, match=rf"older than the migration to the token '{second_token.LABEL}'.*accept-rollb"
    ):
        restore_wiring.restore(apart, tmp_path / "backup", Order())
    assert restore_wiring.restore(apart, tmp_path / "backup", Order(accept_rollback=True)).missing == []
    with opened(apart) as kms:
        with pytest.raises(HsmKmsError):
            unseal(kms, newer)
        migrate(kms, apart)
        differences = kms.operator.find_differences()
        assert {finding.kind for finding in differences} == {Kind.ORPHAN}
        for finding in differences:
            assert kms.operator.mend(finding) is Mended.ADDED
        assert unseal(kms, newer) == b"secret"
        scene.assert_whole(kms)
