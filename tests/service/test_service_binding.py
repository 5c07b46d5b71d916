"""Database and token belong together, and ``init`` can be repeated after an interruption at any step."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from service_sites import NewFolder, Site, StoppedClock, mac_key, new_key, run, seal, unseal

from hsmkms.errors import BindingError, ConfigurationError, StoreError, ValidationException
from hsmkms.service.runtime import binding
from hsmkms.store import installation, migrate
from hsmkms.wiring import core as wiring
from hsmkms.wiring import tokens as token_wiring
from hsmkms.wiring.stores import open_store


@pytest.fixture(scope="session")
def prepared(never_opened: Site) -> Site:
    """An installation that has not been closed yet: what its first end makes matters here."""
    return never_opened


def test_wrong_pair(site: Site, stranger: Site) -> None:
    """A database with the token of another installation is refused with both tokens named, either way round."""
    crossed = site.varied("crossed.toml", token=stranger.settings.token)
    with pytest.raises(BindingError) as caught:
        crossed.open()
    message = str(caught.value)
    for each in (site, stranger):
        assert each.settings.token.serial in message
    with pytest.raises(BindingError):
        stranger.varied("crossed.toml", token=site.settings.token).open()
    for each in (site, stranger):
        with each.open() as kms:
            assert new_key(kms).enabled


@pytest.mark.sqlite_alone("its writer seals nothing, which a server refuses")
def test_forged_response(site: Site) -> None:
    """A stored answer that the token's key did not give is refused, although the token holds that key."""
    store = open_store(site.settings)
    with store.atomic() as tx:
        (token,) = installation.tokens(tx)
        installation.bind_token(tx, token.id, token.challenge or b"", bytes(32))
    store.close()
    with pytest.raises(BindingError, match="belongs to the token"):
        site.open()


def test_wrong_account(site: Site) -> None:
    """Another account in the configuration is refused with both named: it would change every ARN."""
    with pytest.raises(ConfigurationError, match=r"account_id is 999999999999, but .* created for 111122223333"):
        site.varied("other.toml", account_id="999999999999").open()
    with site.open() as kms:
        assert new_key(kms).aws_account_id == "111122223333"


def test_before_init(new_folder: NewFolder) -> None:
    """Without databases the missing one is named."""
    site = Site.new_token(new_folder())
    with pytest.raises(StoreError, match="run `hsmkms init`"):
        site.open()


def test_init_twice(site: Site) -> None:
    """A second init changes nothing: neither the installation nor its key on the token."""
    with site.open() as kms:
        made = new_key(kms)
        sealed = seal(kms, made.key_id)
    with site.open() as kms:  # the key of the audit log's seals is made at the end of the first use
        before = kms._core.installation, kms._core.device.keys.inventory(mac_key(kms))
    assert wiring.initialise(site.settings).id == before[0].id
    with site.open() as kms:
        assert kms._core.installation == before[0]
        assert len(kms._core.device.keys.inventory(mac_key(kms))) == len(before[1])
        assert unseal(kms, sealed) == b"secret"


@pytest.mark.parametrize("step", ["init 1", "init 2"])
def test_interrupted_init_says_so(new_folder: NewFolder, step: str) -> None:
    """After kill -9 within init the installation does not open, and says that init must be run again."""
    site = Site.new_token(new_folder())
    run("initialise", site.folder / "hsmkms.toml", step, status=-9)
    assert not wiring.is_initialised(site.settings)
    with pytest.raises(BindingError, match="`hsmkms init` was interrupted here: run it again"):
        site.open()


@pytest.mark.parametrize("step", ["init 1", "init 2", "init 3"])
def test_init_is_carried_on(new_folder: NewFolder, step: str) -> None:
    """After kill -9 at any step, init is carried on: the same installation, with one key on the token."""
    site = Site.new_token(new_folder())
    run("initialise", site.folder / "hsmkms.toml", step, status=-9)
    store = open_store(site.settings)
    with store.reading() as conn:
        begun = installation.fetch(conn)
    store.close()
    assert begun is not None
    assert wiring.initialise(site.settings).id == begun.id
    assert wiring.is_initialised(site.settings)
    with site.open() as kms:
        (only,) = kms._core.device.keys.inventory(mac_key(kms))
        assert only.label == f"hsmkms/{begun.id[:8]}/mac/1"
        assert kms.operator.find_differences() == []
        assert unseal(kms, seal(kms, new_key(kms).key_id)) == b"secret"


def test_init_steps_are_reported(new_folder: NewFolder, clock: StoppedClock) -> None:
    """The numbered steps of init come in their order, and the dates are those of the clock that was given."""
    site = Site.new_token(new_folder())
    migrate.create(site.settings.data_dir)
    device = token_wiring.open_device(site.settings)
    store = open_store(site.settings)
    steps: list[str] = []
    row = binding.initialise(store, device, site.settings.account_id, clock, steps.append)
    again: list[str] = []
    assert binding.initialise(store, device, site.settings.account_id, clock, again.append) == row
    store.close()
    device.close()
    assert [step[:6] for step in steps] == ["init 1", "init 2", "init 3"]
    assert [each[:6] for each in again] == ["init 1"]
    assert row.created_at == clock.now


def test_regions_may_change(site: Site) -> None:
    """A region that is left out of the configuration hides its keys and loses none; put back, they work."""
    with site.open() as kms:
        made = new_key(kms)
        sealed = seal(kms, made.key_id)
    with site.varied("fewer.toml", regions=("us-east-1",), default_region="us-east-1").open() as kms:
        with pytest.raises(ValidationException, match="eu-central-1 is not served"):
            unseal(kms, sealed, kms.caller("eu-central-1"))
        assert kms.operator.find_differences() == []
    with site.open() as kms:
        assert unseal(kms, sealed) == b"secret"


def test_several_inits_at_once(new_folder: NewFolder) -> None:
    """Three inits of one folder at the same instant make one installation, with one key on the token."""
    site = Site.new_token(new_folder())
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda _: wiring.initialise(site.settings), range(3)))
    assert len({each.id for each in made}) == 1
    with site.open() as kms:
        witness = mac_key(kms)
        assert [stored_key.cka_id for stored_key in kms._core.device.keys.inventory(witness)] == [witness]
