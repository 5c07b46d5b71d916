"""The home moves between the steps of what makes objects: they are made on the new one, or nothing is left of them."""

import threading
from collections.abc import Iterator

import pytest
from lifecycle import StoppedError, at, new_empty_key, request_to_import, stop_at
from service_sites import REGION, NewSite, new_key, seal, unseal
from test_service_several_tokens import opened, settle, token_of, with_second

from hsmkms.config.settings import Settings
from hsmkms.errors import ExpiredImportTokenException
from hsmkms.kms import Kms
from hsmkms.model.enums import RotationType
from hsmkms.model.permit import OperatorAct
from hsmkms.service.keys import installation_keys
from hsmkms.service.keys import rotate as rotating
from hsmkms.store import rotation

SECONDS = 60


class Scene:
    """An installation that another process migrates at a step of what this one does."""

    def __init__(self, kms: Kms, other: Kms, settings: Settings) -> None:
        self.kms = kms
        self.settings = settings
        self.other = other
        self.old, self.new = (token.label for token in settings.tokens)

    def migrate_at(self, step: str) -> None:
        """The home moves when that step is done, once."""
        self.kms._core.reached = at(step, lambda: settle(self.other, self.settings))

    def keys_on_first_token(self) -> int:
        """How many keys there are on the token that was there first."""
        core = self.kms._core
        row = core.tokens.rows()[0]
        return len(core.tokens.of(row.id).keys.inventory(installation_keys.witness(core, row.id)))

    def clean(self) -> None:
        """Neither intents nor objects without a key are left, and the database's seals are right."""
        assert self.kms.operator.find_differences() == []
        assert self.kms.operator.audit.verify_rows() == []
        with self.kms._core.store.reading() as conn:
            assert rotation.unfinished(conn) == []


@pytest.fixture
def scene(new_site: NewSite) -> Iterator[Scene]:
    """One whose settings name a second token."""
    settings = with_second(new_site(), own_module=True)
    with opened(settings) as kms, opened(settings) as other:
        yield Scene(kms, other, settings)


@pytest.mark.parametrize("step", ["create-key 1", "create-key 2"])
@pytest.mark.parametrize("spec", ["SYMMETRIC_DEFAULT", "ECC_NIST_P256"])
def test_creation(scene: Scene, step: str, spec: str) -> None:
    """The key is made on the new home; nothing is left on the token that was left."""
    new_key(scene.kms)
    before = scene.keys_on_first_token()
    scene.migrate_at(step)
    usage = "ENCRYPT_DECRYPT" if spec == "SYMMETRIC_DEFAULT" else "SIGN_VERIFY"
    key_id = new_key(scene.kms, key_spec=spec, key_usage=usage).key_id
    assert token_of(scene.kms, key_id) == scene.new
    assert scene.keys_on_first_token() == before
    scene.clean()


@pytest.mark.parametrize("step", ["rotate 1", "rotate 2"])
def test_rotation(scene: Scene, step: str) -> None:
    """The new key material is on the new home; nothing is left on the token that was left."""
    key_id = new_key(scene.kms).key_id
    sealed = seal(scene.kms, key_id)
    before = scene.keys_on_first_token()
    scene.migrate_at(step)
    rotating.rotate(scene.kms._core, key_id, REGION, RotationType.ON_DEMAND, lambda _: None)
    assert token_of(scene.kms, key_id) == scene.new
    assert scene.keys_on_first_token() == before
    assert {unseal(scene.kms, each) for each in (sealed, seal(scene.kms, key_id))} == {b"secret"}
    scene.clean()


@pytest.mark.parametrize("step", ["rotate 1", "rotate 2"])
def test_rotation_that_is_under_way(scene: Scene, step: str) -> None:
    """A migration that meets the rotation of another process waits for its end, and reports no failure."""
    key_id = new_key(scene.kms).key_id
    faults: list[str | None] = []

    def move() -> None:
        faults.extend(each.fault for each in scene.other.operator.move_keys(lambda: None))

    migration = threading.Thread(target=move)
    settle(scene.other, scene.settings)
    scene.kms._core.tokens.may_have_moved()
    met = threading.Event()
    scene.other._core.reached = at("migrate: a rotation is under way", met.set)
    scene.kms._core.reached = at(step, lambda: (migration.start(), met.wait(SECONDS)))
    rotating.rotate(scene.kms._core, key_id, REGION, RotationType.ON_DEMAND, lambda _: None)
    migration.join()
    assert met.is_set()
    assert faults == [None]
    assert token_of(scene.kms, key_id) == scene.new
    scene.clean()


@pytest.mark.parametrize("step", ["wrapping-key 1", "wrapping-key 2"])
def test_wrapping_key(scene: Scene, step: str) -> None:
    """It is made on the new home, and brings material there."""
    key_id = new_empty_key(scene.kms)
    before = scene.keys_on_first_token()
    scene.migrate_at(step)
    scene.kms.import_key_material(request_to_import(scene.kms, key_id))
    assert token_of(scene.kms, key_id) == scene.new
    assert scene.keys_on_first_token() == before
    scene.clean()


@pytest.mark.parametrize("step", ["import 1", "import 2"])
def test_import(scene: Scene, step: str) -> None:
    """It fails as for a wrapping key that is gone, leaves nothing, and succeeds with new parameters."""
    key_id = new_empty_key(scene.kms)
    request = request_to_import(scene.kms, key_id)
    before = scene.keys_on_first_token()
    scene.migrate_at(step)
    with pytest.raises(ExpiredImportTokenException, match="Get new parameters"):
        scene.kms.import_key_material(request)
    assert scene.keys_on_first_token() == before
    scene.clean()
    scene.kms.import_key_material(request_to_import(scene.kms, key_id))
    assert token_of(scene.kms, key_id) == scene.new
    scene.clean()


def test_own_key(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first key of a purpose, made on a token that was left just before, is followed by one on the new home."""
    core = scene.kms._core
    settle(scene.other, scene.settings)
    look, looks = core.tokens.may_have_moved, list[None]()

    def look_too_late() -> None:
        if looks:
            look()
        looks.append(None)

    monkeypatch.setattr(core.tokens, "may_have_moved", look_too_late)
    key = installation_keys.encryption_key(core, "secrets", OperatorAct.CREDENTIALS)
    assert (key.version, key.token_id) == (2, core.tokens.home_id)
    made = scene.kms.operator.credentials.create_access_key(None)
    credential = scene.kms.operator.credentials.find(made.access_key_id)
    assert credential is not None
    assert credential.secret == made.secret_access_key
    scene.clean()


def test_interrupted_rotation_on_a_token_that_was_left(scene: Scene) -> None:
    """What was begun there is never carried on: it is destroyed, and the key rotates at home."""
    core = scene.kms._core
    key_id = new_key(scene.kms).key_id
    before = scene.keys_on_first_token()
    core.reached = stop_at("rotate 2")
    with pytest.raises(StoppedError):
        rotating.rotate(core, key_id, REGION, RotationType.ON_DEMAND, lambda _: None)
    core.reached = lambda _: None
    settle(scene.other, scene.settings)
    with core.store.reading() as conn:
        (begun,) = rotation.unfinished(conn)
    scene.kms._core.tokens.may_have_moved()
    assert rotating.finish(core, begun) is None
    assert scene.kms.operator.maintain().steps
    assert scene.keys_on_first_token() == before
    scene.clean()
