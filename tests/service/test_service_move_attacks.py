"""What goes wrong while a store moves: the installation stays where it was, and the next attempt works."""

import resource
from collections.abc import Iterator

import pytest
from postgresql_cluster import Cluster, name_of
from service_sites import Site, new_key, seal, start, unseal

from hsmkms.config.settings import StoreSettings
from hsmkms.errors import DependencyTimeoutException, HsmKmsError, MigrationError, PinError, StoreError
from hsmkms.store import moving
from hsmkms.store.sqlite import connections
from hsmkms.wiring import move_store

SMALL_BYTES = 65536


@pytest.fixture
def url(cluster: Cluster) -> Iterator[str]:
    """An empty database of the test's own."""
    with cluster.database() as made:
        yield made


def at(site: Site, url: str | None) -> Site:
    """The installation by a configuration that names a store."""
    return site.varied(f"{'server' if url else 'files'}.toml", store=StoreSettings(url=url))


def used(site: Site) -> bytes:
    """A ciphertext of the installation."""
    with site.open() as kms:
        return seal(kms, new_key(kms).key_id)


def test_a_connection_that_breaks(site: Site, url: str, cluster: Cluster) -> None:
    """Where the server ends the connection in the middle of the copy, nothing is there, and nothing is marked."""
    sealed, files = used(site), at(site, None)
    with cluster.connect(name_of(url)) as admin:

        def cut(_more: int, _total: int) -> None:
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'hsmkms'")

        with pytest.raises(DependencyTimeoutException):
            move_store.move(files.settings, StoreSettings(url=url), cut)
        assert admin.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)
    with files.open() as kms:
        assert unseal(kms, sealed) == b"secret"
    move_store.move(files.settings, StoreSettings(url=url))
    with at(site, url).open() as kms:
        assert unseal(kms, sealed) == b"secret"


def test_a_full_disk(site: Site, url: str) -> None:
    """Where the files cannot be written the database stays in use; what was written of them is removed."""
    sealed = used(site)
    move_store.move(at(site, None).settings, StoreSettings(url=url))
    server, limits = at(site, url), resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(_more: int, _total: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_BYTES, limits[1]))

    try:
        with pytest.raises(HsmKmsError, match=r"full|written"):
            move_store.move(server.settings, StoreSettings(), fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(site.folder.glob(".move-*"))
    with server.open() as kms:
        assert unseal(kms, sealed) == b"secret"
    move_store.move(server.settings, StoreSettings())
    files = at(site, None)
    with files.open() as kms:
        assert unseal(kms, sealed) == b"secret"
    assert {each.stat().st_mode & 0o777 for each in site.folder.glob("*.db")} == {0o600}


def test_what_is_refused_before_the_mark(site: Site, url: str) -> None:
    """With an older schema, or a PIN that the token refuses, nothing is marked and nothing is made on the server."""
    used(site)
    files, pin = at(site, None), (site.folder / "pin").read_text()
    meta = connections.connect(site.folder / "meta.db")
    ((revision,),) = meta.execute("SELECT version_num FROM alembic_version").fetchall()
    meta.execute("UPDATE alembic_version SET version_num = 'meta_0008'")
    with pytest.raises(MigrationError, match="run `hsmkms migrate`"):
        move_store.move(files.settings, StoreSettings(url=url))
    meta.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    meta.close()
    (site.folder / "pin").write_text("wrong\n")
    with pytest.raises(PinError):
        move_store.move(files.settings, StoreSettings(url=url))
    (site.folder / "pin").write_text(pin)
    assert moving.read_mark(site.folder, None) is None
    with pytest.raises(StoreError, match="is no database of hsmkms"):
        at(site, url).open()


def test_two_at_once(site: Site, url: str) -> None:
    """Of two moves of one installation one is made, and the other one is told where the installation is."""
    sealed = used(site)
    at(site, None)
    moves = [start("move_until", site.folder / "files.toml", url, "never") for _ in range(2)]
    ended = [(each.wait(120), each) for each in moves]
    assert sorted(status for status, _ in ended) == [0, 1]
    for status, each in ended:
        _, errors = each.communicate()
        assert ("has moved to" in errors) == (status == 1), errors
    with at(site, url).open() as kms:
        assert unseal(kms, sealed) == b"secret"
