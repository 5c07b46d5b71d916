"""Moving the databases of an installation to another engine, and back: nothing is lost, mixed or counted twice."""

import time
from collections.abc import Iterator

import msgspec
import pytest
from postgresql_cluster import Cluster, name_of
from service_sites import NewFolder, Site, new_alias, new_key, run, seal, unseal
from sqlalchemy import select

from hsmkms.config.settings import StoreSettings
from hsmkms.errors import ConfigurationError, KMSInternalException, StoreError
from hsmkms.kms import Kms
from hsmkms.store import leases, log_schema, moving, presence, schema, transfer
from hsmkms.store.engine import Store
from hsmkms.store.presence import Process
from hsmkms.wiring import move_store
from hsmkms.wiring.stores import target_of

FILES = StoreSettings()
LONG_SECONDS = 10
STEPS = ("move 1", "move 2", "move 3", "move 4")


@pytest.fixture
def url(cluster: Cluster) -> Iterator[str]:
    """An empty database of the test's own."""
    with cluster.database() as made:
        yield made


def at(site: Site, url: str | None) -> Site:
    """The installation by a configuration that names a store."""
    return site.varied(f"{'server' if url else 'files'}.toml", store=StoreSettings(url=url))


def move(site: Site, url: str | None) -> Site:
    """Move the store; the installation by its new configuration."""
    move_store.move(site.settings, StoreSettings(url=url))
    return at(site, url)


def used(site: Site) -> tuple[str, bytes, str]:
    """Use an installation; its key, a ciphertext, and the material that has made it."""
    with site.open() as kms:
        key_id = new_key(kms, description="moved").key_id
        new_alias(kms, "alias/moved", key_id)
        return key_id, seal(kms, key_id), counted(kms)[0]


def counted(kms: Kms) -> tuple[str, int]:
    """The only material that has encrypted, and how often at most."""
    ((material, count),) = leases.beyond(kms._core.store, 1).items()
    return material, count


def rows(site: Site) -> dict[str, list[tuple[object, ...]]]:
    """All rows of a store that is not open, by table."""
    store = Store(site.settings.data_dir, target=target_of(site.settings))
    try:
        with store.meta.reading() as meta, store.log.reading() as log:
            return {
                table.name: [tuple(row) for row in conn.execute(select(table).order_by(*table.primary_key))]
                for conn, metadata in ((meta, schema.meta), (log, log_schema.log))
                for table in transfer.tables(metadata)
            }
    finally:
        store.close()


def test_there_and_back(site: Site, url: str) -> None:
    """Keys, ciphertexts, aliases and counts are there on either side; the audit log is one; what is left is refused."""
    key_id, sealed, material = used(site)
    files = at(site, None)
    server = move(files, url)
    with pytest.raises(StoreError, match=r"has moved to the PostgreSQL database .* Write url = \"postgresql"):
        files.open()
    with server.open() as kms:
        assert unseal(kms, sealed) == b"secret"
        assert counted(kms) == (material, 1)
        assert unseal(kms, seal(kms, "alias/moved")) == b"secret"
        assert counted(kms)[1] >= 2
        assert kms.operator.audit.verify_rows() == []
        assert kms.operator.audit.verify().faults == []
    before = rows(server)
    back = move(server, None)
    with pytest.raises(StoreError, match=r"has moved to files in .* Remove url, and what goes with it, from \[store\]"):
        server.open()
    after = rows(back)
    for table in ("material", "token_object", "encryption_count", "key_grant", "regional_key", "alias", "last_use"):
        assert before[table] == after[table], table
    with back.open() as kms:
        assert unseal(kms, sealed) == b"secret"
        assert counted(kms)[1] >= 2
        assert new_key(kms).key_id != key_id
        assert kms.operator.audit.verify_rows() == []
        assert kms.operator.audit.verify().faults == []
    assert [each.name for each in (site.folder).glob("set-aside-*/*.db")], "the files from before are kept"


def test_ids_go_on(site: Site, url: str) -> None:
    """An epoch of the change log is never given out again, even after its row was removed."""
    used(site)
    files = at(site, None)
    store = Store(site.settings.data_dir)
    with store.reading() as conn:
        highest = conn.execute(select(schema.change_log.c.epoch).order_by(schema.change_log.c.epoch.desc())).scalar()
    store.close()
    assert highest is not None
    moved = files
    for place in (url, None):
        moved = move(moved, place)
        with moved.open() as kms:
            new_key(kms)
            with kms._core.store.reading() as conn:
                found = conn.execute(select(schema.change_log.c.epoch)).scalars().all()
        assert len(found) == len(set(found))
        assert max(found) > highest
        highest = max(found)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("direction", ["to server", "to files"])
def test_killed(site: Site, url: str, step: str, direction: str) -> None:
    """Kill -9 at any step: the store is not in use at two places, and the same command finishes the move."""
    _, sealed, material = used(site)
    files, to_server = at(site, None), direction == "to server"
    old, target = (files, url) if to_server else (move(files, url), None)
    run("move_until", old.folder / ("files.toml" if to_server else "server.toml"), target or "", step, status=-9)
    if step == "move 1":
        with old.open() as kms:
            assert unseal(kms, sealed) == b"secret"
    else:
        with pytest.raises(StoreError, match="is being moved to"):
            old.open()
    new = move(old, target)
    with pytest.raises(StoreError, match="has moved to"):
        old.open()
    with new.open() as kms:
        assert unseal(kms, sealed) == b"secret"
        assert counted(kms)[0] == material
        assert kms.operator.audit.verify_rows() == []
        assert kms.operator.audit.verify().faults == []
    assert not list(site.folder.glob(".move-*"))


@pytest.mark.parametrize("direction", ["to server", "to files"])
def test_cancelled(site: Site, url: str, direction: str) -> None:
    """An unfinished move is undone on demand, unless there is a copy, which may be in use."""
    _, sealed, _ = used(site)
    files, to_server = at(site, None), direction == "to server"
    old, target = (files, url) if to_server else (move(files, url), None)
    name = old.folder / ("files.toml" if to_server else "server.toml")
    destination = StoreSettings(url=target)
    with pytest.raises(ConfigurationError, match="not marked"):
        move_store.cancel(old.settings, destination)
    run("move_until", name, target or "", "move 2", status=-9)
    move_store.cancel(old.settings, destination)
    with old.open() as kms:
        assert unseal(kms, sealed) == b"secret"
        assert kms.operator.audit.verify_rows() == []
    run("move_until", name, target or "", "move 3", status=-9)
    with pytest.raises(StoreError, match="already"):
        move_store.cancel(old.settings, destination)
    move(old, target)
    with pytest.raises(StoreError, match="has moved to"):
        move_store.cancel(old.settings, destination)


def test_a_process_that_has_it_open(site: Site, url: str) -> None:
    """Nothing moves while a process has the installation open; one that is not seen can change and count nothing."""
    files = at(site, None)
    with files.open() as kms:
        key_id = new_key(kms).key_id
        with pytest.raises(ConfigurationError, match="stop them first"):
            move_store.move(files.settings, StoreSettings(url=url))
        run("unseen", files.folder / "files.toml", url)
        for _ in range(2):
            with pytest.raises(KMSInternalException, match="not as hsmkms wrote it"):
                seal(kms, key_id)
        assert "the installation has moved to another store" in kms._core.seals.alarms["store"]
        with pytest.raises(StoreError, match="has moved to another store"):
            leases.at_least(kms._core.store, "material", 1)


def test_a_process_on_another_node(prepared_on_server: Site, new_folder: NewFolder) -> None:
    """One that nobody sees, as a program that uses hsmkms as a library, uses nothing that it has cached any more."""
    server = prepared_on_server.copy(new_folder())
    folder, target = server.settings.data_dir, target_of(server.settings)
    with server.open() as kms:
        sealed = seal(kms, new_key(kms).key_id)
        assert unseal(kms, sealed) == b"secret"
        moving.mark(folder, target, moving.mark_for(folder, None))
        generation = kms._core.cache.signal._generation  # type: ignore[attr-defined]
        until, before = time.monotonic() + LONG_SECONDS, generation.changes
        while generation.changes == before and time.monotonic() < until:
            time.sleep(0.01)
        with pytest.raises(KMSInternalException, match="not as hsmkms wrote it"):
            unseal(kms, sealed)
        assert "the installation has moved to another store" in kms._core.seals.alarms["store"]
    server.drop()


def test_a_server_on_another_node(site: Site, url: str) -> None:
    """Nothing moves from a database while a server of another node shows by its heartbeats that it runs."""
    server = move(at(site, None), url)
    other = Process(node_id="0" * 32, name="1-x", version="1", revision="", epoch=0, tokens=[])
    with server.open() as kms:
        key_id = new_key(kms).key_id
        presence.beat(kms._core.store, other)
    with pytest.raises(ConfigurationError, match=rf"run on other nodes \({'0' * 32}\): stop them"):
        move_store.move(server.settings, FILES)
    with server.open() as kms:
        assert unseal(kms, seal(kms, key_id)) == b"secret"
        presence.leave(kms._core.store, other)
    with move(server, None).open() as kms:
        assert unseal(kms, seal(kms, key_id)) == b"secret"


def test_reopened(site: Site, url: str) -> None:
    """Files that a move has left are used again on demand: generated keys rotate before they encrypt again."""
    key_id, sealed, material = used(site)
    files = at(site, None)
    server = move(files, url)
    with server.open() as kms:
        seal(kms, key_id)
    with pytest.raises(ConfigurationError, match="names a server"):
        move_store.reopen(server.settings)
    move_store.reopen(files.settings)
    with files.open() as kms:
        assert unseal(kms, sealed) == b"secret"
        seal(kms, key_id)
        assert material in leases.beyond(kms._core.store, 1)
        assert len(leases.beyond(kms._core.store, 1)) == 2, "another material encrypts"
        faults = kms.operator.audit.verify().faults
        assert faults, "the token remembers a newer state"


def test_refusals(site: Site, url: str, cluster: Cluster) -> None:
    """Each names what is in the way, and leaves both sides as they were."""
    used(site)
    files = at(site, None)
    with pytest.raises(ConfigurationError, match="already"):
        move_store.move(files.settings, FILES)
    with cluster.connect(name_of(url)) as admin:
        admin.execute("CREATE TABLE of_others (x int)")
        with pytest.raises(StoreError, match="is not empty: its schema public has 'of_others'"):
            move_store.move(files.settings, StoreSettings(url=url))
        admin.execute("DROP TABLE of_others")
    store = Store(site.settings.data_dir)
    with store.meta._reader.connect() as conn:
        conn.exec_driver_sql("UPDATE regional_key SET description = 'edited'")
        conn.exec_driver_sql("COMMIT")
    store.close()
    with pytest.raises(StoreError, match="verify-store"):
        move_store.move(files.settings, StoreSettings(url=url))
    with cluster.connect(name_of(url)) as admin:
        assert admin.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)
    assert msgspec.structs.asdict(files.settings.store)["url"] is None


def test_a_text_that_the_server_cannot_store(site: Site, url: str) -> None:
    """A NUL character is named with its row, and the installation stays where it is."""
    with site.open() as kms:
        key_id = new_key(kms, description="a\0b").key_id
    files = at(site, None)
    with pytest.raises(StoreError, match=rf"regional_key.*{key_id}.*NUL"):
        move_store.move(files.settings, StoreSettings(url=url))
    with files.open() as kms:
        seal(kms, key_id)
