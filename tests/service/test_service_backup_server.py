"""Backups of an installation whose database is on a PostgreSQL server, and backups that are restored to one."""

import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from backups import back_up
from postgresql_cluster import ROLE, Cluster, find_programs, name_of
from service_sites import NewFolder, Site, new_alias, new_key, run, seal, unseal

from hsmkms.config.settings import StoreSettings
from hsmkms.errors import StoreError
from hsmkms.kms import Kms
from hsmkms.model.keys import ListKeysRequest
from hsmkms.service.backup.restore import Order, Restored
from hsmkms.service.operator.reconcile import Kind
from hsmkms.store import leases, node_id, nodes
from hsmkms.wiring import restore as restore_wiring

STEPS = ("restore 1", "restore 2", "restore 3", "restore 4: audit", "restore 4: server")


@pytest.fixture
def url(cluster: Cluster) -> Iterator[str]:
    """An empty database of the test's own."""
    with cluster.database() as made:
        yield made


@pytest.fixture
def on_server(prepared_on_server: Site, new_folder: NewFolder) -> Iterator[Site]:
    """An installation with its database on the server."""
    site = prepared_on_server.copy(new_folder())
    yield site
    site.drop()


def at(site: Site, url: str | None) -> Site:
    """The installation by a configuration that names a store."""
    return site.varied(f"{'server' if url else 'files'}.toml", store=StoreSettings(url=url))


def used(site: Site) -> tuple[bytes, str]:
    """Use an installation; a ciphertext, and the material that has made it."""
    with site.open() as kms:
        key_id = new_key(kms).key_id
        new_alias(kms, "alias/saved", key_id)
        return seal(kms, key_id), next(iter(leases.beyond(kms._core.store, 1)))


def lose(site: Site) -> None:
    """The data folder's part of the databases, and the audit log, are gone."""
    for each in (*site.folder.glob("*.db*"), *site.folder.glob(".restore-*"), site.folder / "audit"):
        shutil.rmtree(each, ignore_errors=True) if each.is_dir() else each.unlink(missing_ok=True)


def restore(site: Site, file: Path, *, accept_rollback: bool = False) -> Restored:
    """Restore a backup that its token opens."""
    return restore_wiring.restore(site.settings, file, Order(accept_rollback=accept_rollback))


def require_whole(site: Site, sealed: bytes, material: str) -> None:
    """Everything that was backed up is there and valid."""
    with site.open() as kms:
        assert unseal(kms, sealed) == b"secret"
        assert material in leases.beyond(kms._core.store, 1)
        assert unseal(kms, seal(kms, "alias/saved")) == b"secret"
        assert kms.operator.audit.verify().faults == []
        assert kms.operator.audit.verify_rows() == []


def registered(kms: Kms) -> set[str]:
    """The ids of the nodes that the database knows."""
    with kms._core.store.reading() as conn:
        return {each.id for each in nodes.fetch_all(conn)}


def test_from_a_server_to_either_engine(on_server: Site, url: str) -> None:
    """One format: what was backed up from a server is restored to another one, or to files."""
    sealed, material = used(on_server)
    file = back_up(on_server)
    lose(on_server)
    (on_server.folder / node_id.FILE).unlink()
    elsewhere = at(on_server, url)
    assert restore(elsewhere, file).rollback is None
    require_whole(elsewhere, sealed, material)
    with elsewhere.open() as kms:
        assert str(node_id.read(on_server.folder)) in registered(kms)
    newer = back_up(elsewhere, name="newer")
    lose(on_server)
    files = at(on_server, None)
    restore(files, newer)
    require_whole(files, sealed, material)
    with files.open() as kms:
        assert registered(kms) == set()


def test_from_files_to_a_server(site: Site, url: str) -> None:
    """So a backup of files is a way to a server as well, and names what is in its way there."""
    sealed, material = used(site)
    file = back_up(site)
    lose(site)
    server = at(site, url)
    restore(server, file)
    require_whole(server, sealed, material)
    with pytest.raises(StoreError, match="is one of hsmkms already: it was left as it is"):
        restore(server, file)
    require_whole(server, sealed, material)


def test_killed_restore(site: Site, cluster: Cluster) -> None:
    """Kill -9 at any step leaves no database on the server, or a complete one; the next restore works as the first."""
    sealed, material = used(site)
    file = back_up(site)
    for step in STEPS:
        lose(site)
        with cluster.database() as url:
            server = at(site, url)
            run("restore_until", site.folder / "server.toml", str(file), step, status=-9)
            if step != STEPS[-1]:
                with pytest.raises(StoreError, match="is no database of hsmkms"):
                    server.open()
                restore(server, file)
                assert not [each for each in site.folder.iterdir() if each.name.startswith(".restore")]
            require_whole(server, sealed, material)
            file = back_up(server, name=step)


def test_a_server_that_cannot_take_it(site: Site, url: str, cluster: Cluster) -> None:
    """Where the copy fails the database stays empty, and the folder as it was."""
    sealed, material = used(site)
    file = back_up(site)
    lose(site)
    before = sorted(each.name for each in site.folder.iterdir())
    server = at(site, url)
    with cluster.connect(name_of(url)) as admin:
        admin.execute(
            "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS "
            "$$BEGIN RAISE EXCEPTION USING ERRCODE = 'disk_full'; END$$"
        )
        admin.execute("ALTER FUNCTION refuse() SET SCHEMA information_schema")
        admin.execute(
            "CREATE EVENT TRIGGER full_disk ON ddl_command_end WHEN TAG IN ('CREATE TRIGGER') "
            "EXECUTE FUNCTION information_schema.refuse()"
        )
        with pytest.raises(StoreError, match="has no room left"):
            restore(server, file)
        after = {each.name for each in site.folder.iterdir()}
        assert after - {*before, "server.toml", node_id.FILE} == set()
        assert admin.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)
        admin.execute("DROP EVENT TRIGGER full_disk")
        admin.execute("DROP FUNCTION information_schema.refuse()")
    restore(server, file)
    require_whole(server, sealed, material)


def test_while_others_work(on_server: Site) -> None:
    """A backup is one instant: each change that its audit log has is in its database, and the other way round."""
    stop, made = threading.Event(), list[str]()
    with on_server.open() as kms:

        def create() -> None:
            while not stop.is_set():
                made.append(new_key(kms).key_id)

        worker = threading.Thread(target=create)
        worker.start()
        try:
            while len(made) < 3:
                stop.wait(0.01)
            file = on_server.folder / "backup"
            kms.operator.backup(file, [], b"the configuration")
        finally:
            stop.set()
            worker.join()
    lose(on_server)
    files = at(on_server, None)
    restore(files, file, accept_rollback=True)
    with files.open() as kms:
        assert {finding.kind for finding in kms.operator.find_differences()} <= {Kind.ORPHAN, Kind.UNACKNOWLEDGED}
        assert kms.operator.audit.verify().faults == []
        assert kms.operator.audit.verify_rows() == []
        kept = {each.key_id for each in kms.list_keys(ListKeysRequest(limit=1000)).keys}
    assert len(made) > len(kept) >= 3
    assert [each for each in made if each in kept] == made[: len(kept)], "the older ones, and all of them"


def test_an_older_dump(on_server: Site, cluster: Cluster, url: str) -> None:
    """A database that the server's own tools have restored to an older state is noticed by the token's note."""
    used(on_server)
    programs, source = find_programs(), name_of(str(on_server.settings.store.url))
    connected = ("--host", str(cluster.folder), "--username", ROLE)
    dump = on_server.folder / "dump.sql"
    subprocess.run([programs / "pg_dump", *connected, "--file", dump, source], check=True)
    newest = at(on_server, url)
    with on_server.open() as kms:
        new_key(kms)
        assert kms.operator.audit.verify().faults == []
    subprocess.run(
        [programs / "psql", *connected, "--quiet", "--set", "ON_ERROR_STOP=1", "--file", dump, name_of(url)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    with newest.open() as kms:
        assert kms.operator.audit.verify_rows() == [], "every row is as hsmkms wrote it"
        faults = kms.operator.audit.verify().faults
        assert any("the control-plane database is" in str(each) for each in faults), faults
        kms.operator.audit.accept()
        assert unseal(kms, seal(kms, "alias/saved")) == b"secret"
        assert len(leases.beyond(kms._core.store, 1)) == 2, "the key has rotated, since its count may be too low"
        assert kms.operator.audit.verify().faults == []
