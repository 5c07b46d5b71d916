"""The life of a ``Kms``: opening by its configuration file, closing, and what a closed one does."""

import inspect
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from service_sites import Site, new_key, seal, unseal

from hsmkms import Kms as PublicKms
from hsmkms.errors import ClosedError, ConfigurationError, NotFoundException, StoreError
from hsmkms.kms import Kms
from hsmkms.model.operations import OPERATIONS
from hsmkms.wiring.stores import open_store


def test_closed_kms_refuses_everything(site: Site) -> None:
    """Every operation of a closed Kms raises ClosedError; a second close does nothing."""
    kms = site.open()
    kms.close()
    kms.close()
    for operation, shape in OPERATIONS.items():
        with pytest.raises(ClosedError, match="closed"):
            getattr(kms, operation.name.lower())(shape.request())


def test_context_manager_closes(site: Site) -> None:
    """Leaving the block closes the installation, also after an error, and the next opening has what was made."""
    with pytest.raises(NotFoundException), site.open() as kms:  # noqa: PT012 - the block's end is what is tested
        made = new_key(kms)
        sealed = seal(kms, made.key_id)
        seal(kms, "alias/nowhere")
    with pytest.raises(ClosedError):
        unseal(kms, sealed)
    with site.open() as kms:
        assert unseal(kms, sealed, key_id=made.key_id) == b"secret"


def test_look_while_it_closes(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A check of the token during the closing of the database is not taken for an outage of the token."""
    with site.open() as kms:
        device, store = kms._core.tokens.home, kms._core.store
        handle = device.connection.login_handle
        with pytest.MonkeyPatch.context() as patch:
            closed = open_store(site.settings)
            closed.close()
            patch.setattr(store, "meta", closed.meta)
            assert not device.connection._try_to_reconnect(0)
        assert not device.connection.is_away
        assert device.connection.login_handle == handle
        assert device.connection._try_to_reconnect(0)
        assert device.connection.sessions().outages == 0
    assert "away" not in caplog.text


def test_open_by_file(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """``Kms.open`` takes a configuration file by path, or finds the one that the environment names."""
    file = site.folder / "hsmkms.toml"
    for named in (file, str(file)):
        with PublicKms.open(named) as kms:
            made = new_key(kms)
    monkeypatch.setenv("HSMKMS_CONFIG", str(file))
    with PublicKms.open() as kms:
        assert kms.operator.attest(made.key_id)[0].as_made


def test_open_without_configuration(tmp_path: Path) -> None:
    """A configuration that is not there is named."""
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml"):
        PublicKms.open(tmp_path / "nowhere.toml")


def test_failed_close_still_lets_go(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Where unused leases cannot be returned, the log says so, and database and token are let go all the same."""
    kms = site.open()
    made = new_key(kms)
    for _ in range(4):
        sealed = seal(kms, made.key_id)
    kms._core.store.log.close()
    kms.close()
    assert "reserved encryptions" in caplog.text
    with site.open() as again:
        assert again._core.device is not kms._core.device
        assert unseal(again, sealed) == b"secret"


@pytest.mark.sqlite_alone("it destroys the file")
def test_failed_open_lets_go(site: Site) -> None:
    """A database that cannot be read is refused, and the next attempt after its repair works."""
    meta = site.settings.data_dir / "meta.db"
    whole = meta.read_bytes()
    with closing(sqlite3.connect(meta)) as conn:
        conn.execute("ALTER TABLE change_log RENAME TO elsewhere")
    with pytest.raises(StoreError):
        site.open()
    for each in ("-wal", "-shm"):
        meta.with_name(f"meta.db{each}").unlink(missing_ok=True)
    meta.write_bytes(whole)
    with site.open() as kms:
        assert new_key(kms).enabled


def test_every_operation_is_documented() -> None:
    """Every public method of Kms has a docstring."""
    methods = [each for name, each in inspect.getmembers(Kms, callable) if not name.startswith("_")]
    assert all(inspect.getdoc(method) for method in methods)
