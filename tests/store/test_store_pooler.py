"""The store through PgBouncer in transaction mode, which lends a connection to one transaction after another."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from store_samples import NOW, REGION, a_key, read, write

from hsmkms.store import aliases, changes, leases, sweeper, usage
from hsmkms.store.engine import Store
from hsmkms.store.postgresql import creation
from hsmkms.store.postgresql.target import Target

MATERIAL = "ab" * 32
LONG_SECONDS = 60
LEASE = timedelta(minutes=5)


@pytest.fixture
def open_store(pooled_target: Target, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Opens the test's database through the pooler, as a further node does."""
    opened = []

    def open_one() -> Store:
        opened.append(Store.open(tmp_path, target=pooled_target, busy_timeout_seconds=LONG_SECONDS))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


def test_statements_are_not_prepared(open_store: Callable[[], Store]) -> None:
    """More nodes than the pooler has connections run the same statements many times, in turns."""
    nodes = [open_store() for _ in range(6)]
    key = write(nodes[0], a_key())
    failed: list[Exception] = []

    def work(node: Store) -> None:
        try:
            for _ in range(12):
                assert read(node, key) == key
                leases.reserve(node, MATERIAL, 2, 2**32)
                leases.give_back(node, MATERIAL, 1)
                with node.atomic() as tx:
                    for _ in range(8):  # psycopg prepares what it runs for the sixth time
                        changes.note(tx, REGION, key.key_id)
        except Exception as exc:  # noqa: BLE001 - raised below, in the test's own thread
            failed.append(exc)

    threads = [threading.Thread(target=work, args=(each,)) for each in nodes]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not failed
    assert leases.total(nodes[0], MATERIAL) == 6 * 12


def test_changes_are_heard_past_the_pooler(open_store: Callable[[], Store]) -> None:
    """The connection that waits for notifications is the server's own; the pooler would give it to others."""
    store, other = open_store(), open_store()
    signal = store.change_signal()
    for _ in range(3):
        with other.atomic() as tx:
            changes.note(tx, REGION, "subject")
        until = time.monotonic() + LONG_SECONDS
        while not signal.moved():
            assert time.monotonic() < until
            time.sleep(0.005)
    signal.close()


def test_nothing_of_a_transaction_stays(open_store: Callable[[], Store]) -> None:
    """Neither the lock nor a setting outlives it in a connection that others get: each has its own again."""
    store, other = open_store(), open_store()
    store.sealing = True
    locks = "(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')"
    shown = f"SELECT coalesce(current_setting('hsmkms.seals', true), ''), {locks}"
    for _ in range(8):
        with store.atomic() as tx:
            assert tx.execute(text(shown)).one() == ("sets", 1)
        with other.log.atomic() as tx:
            assert tx.execute(text(shown)).one() == ("", 0)


def test_everything_else(open_store: Callable[[], Store], pooled_target: Target, tmp_path: Path) -> None:
    """Creation's checks, migrations, constraint violations within a transaction, leases and uses work as without it."""
    store = open_store()
    assert creation.exists(pooled_target)
    assert creation.upgrade(pooled_target, tmp_path) == []
    key = write(store, a_key())
    with store.atomic() as tx:
        aliases.insert(tx, REGION, "alias/one", key.key_id, NOW)
        with pytest.raises(Exception, match="already exists"):
            aliases.insert(tx, REGION, "alias/one", key.key_id, NOW)
        aliases.insert(tx, REGION, "alias/two", key.key_id, NOW)
    with store.reading() as conn:
        assert [each.name for each in aliases.every(conn, REGION)] == ["alias/one", "alias/two"]
    assert sweeper.acquire_lease(store, "one", lambda: NOW, LEASE)
    assert not sweeper.acquire_lease(open_store(), "two", lambda: NOW, LEASE)
    assert usage.tracked_since(store) is not None
