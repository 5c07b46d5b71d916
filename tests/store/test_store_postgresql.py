"""What only PostgreSQL does: its lock, repeated transactions, lost connections, the clock of leases, its errors."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from postgresql_cluster import ROLE, Cluster
from sqlalchemy import Connection, text, update
from sqlalchemy.exc import DBAPIError
from store_samples import NOW, REGION, a_key, read, write
from waiting import within

from hsmkms.errors import ClosedError, DependencyTimeoutException, StoreError, ValidationException
from hsmkms.store import aliases, changes, leases, log_schema, sweeper
from hsmkms.store.database import ChangeSignal
from hsmkms.store.engine import Store
from hsmkms.store.postgresql.target import Target

MATERIAL = "ab" * 32
LEASE = timedelta(minutes=5)
LONG_SECONDS = 60


@pytest.fixture
def open_store(target: Target, tmp_path: Path) -> Iterator[Callable[[float], Store]]:
    """Opens the test's database as a further node does."""
    opened = []

    def open_one(wait_seconds: float = LONG_SECONDS) -> Store:
        opened.append(Store.open(tmp_path, target=target, busy_timeout_seconds=wait_seconds))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


@pytest.fixture
def store(open_store: Callable[[], Store]) -> Store:
    """One node's store."""
    return open_store()


def note(store: Store) -> None:
    """Commit a change of the control plane."""
    with store.atomic() as tx:
        changes.note(tx, REGION, "subject")


def close_others(store: Store) -> None:
    """Have the server close all other connections to the database, as a restart or a failover does."""
    with store.log.atomic() as tx:
        tx.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )


# -- transactions -----------------------------------------------------------------------------------------------


def test_writers_wait_for_each_other_and_readers_do_not(store: Store, open_store: Callable[[float], Store]) -> None:
    """A second node cannot begin to change anything before the first has committed; it reads what was before."""
    impatient = open_store(0.05)
    key = write(store, a_key())
    with store.atomic() as tx:
        aliases.insert(tx, REGION, "alias/one", key.key_id, NOW)
        with pytest.raises(DependencyTimeoutException), impatient.atomic():
            pytest.fail("it began")
        with impatient.reading() as conn:
            assert aliases.every(conn, REGION) == []
    with impatient.atomic() as tx:
        assert [each.name for each in aliases.every(tx, REGION)] == ["alias/one"]


def test_counting_waits_for_no_change(store: Store, open_store: Callable[[float], Store]) -> None:
    """Leases and counts of one node go on while another changes the control plane."""
    with store.atomic():
        other = open_store(0.05)
        assert leases.reserve(other, MATERIAL, 3, 9) == (0, 3)


def test_a_reader_changes_nothing(store: Store) -> None:
    """A write in a read transaction is refused by the server."""
    with pytest.raises(DependencyTimeoutException, match="read-only"), store.reading() as conn:
        changes.note(conn, REGION, "subject")


def test_a_snapshot_stays_as_it_is(store: Store, open_store: Callable[[], Store]) -> None:
    """A reader sees one state of the control plane, whatever is committed meanwhile."""
    with store.reading() as conn:
        before = changes.latest(conn)
        note(open_store())
        assert changes.latest(conn) == before
    with store.reading() as conn:
        assert changes.latest(conn) > before


def test_a_failed_statement_is_never_committed(store: Store) -> None:
    """PostgreSQL answers COMMIT after a failed statement with a rollback and no error: that is an error here."""

    def swallow() -> None:
        with store.atomic() as tx:
            changes.note(tx, REGION, "lost")
            with suppress(DBAPIError):
                tx.execute(text("SELECT 1 / 0"))

    with pytest.raises(StoreError, match="rolled back"):
        swallow()
    with store.reading() as conn:
        assert changes.latest(conn) == 0


def test_a_taken_alias_leaves_the_transaction_usable(store: Store) -> None:
    """A violated constraint is undone by itself, so that the transaction can go on."""
    key = write(store, a_key())
    with store.atomic() as tx:
        aliases.insert(tx, REGION, "alias/one", key.key_id, NOW)
        with pytest.raises(Exception, match="already exists"):
            aliases.insert(tx, REGION, "alias/one", key.key_id, NOW)
        aliases.insert(tx, REGION, "alias/two", key.key_id, NOW)
    with store.reading() as conn:
        assert [each.name for each in aliases.every(conn, REGION)] == ["alias/one", "alias/two"]


@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_aborted_transactions_are_run_again(store: Store, state: str) -> None:
    """Serialization failures and deadlocks cost time and nothing else; rows of the aborted runs are gone."""
    runs = []

    def work(tx: Connection) -> int:
        runs.append(state)
        tx.execute(log_schema.encryption_count.insert().values(material_id=f"m{len(runs)}", reserved=1))
        if len(runs) < 3:
            tx.execute(text(f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$"))
        return len(runs)

    assert store.log.run(work) == 3
    assert leases.beyond(store, 1) == {"m3": 1}


def test_transactions_that_never_succeed_end(store: Store) -> None:
    """After a few runs the error is one that clients repeat; other errors are not run again."""
    runs = []

    def work(tx: Connection) -> None:
        runs.append(1)
        tx.execute(text("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$"))

    with pytest.raises(DependencyTimeoutException):
        store.log.run(work)
    assert len(runs) == 6
    with pytest.raises(StoreError):
        store.log.run(lambda tx: tx.execute(text("SELECT 1 / 0")))


def test_a_real_deadlock(store: Store, open_store: Callable[[], Store]) -> None:
    """Two nodes that count two materials in opposite order both succeed."""
    for name in "ab":
        leases.reserve(store, name, 1, 9)
    nodes, both = (store, open_store()), threading.Barrier(2, timeout=LONG_SECONDS)

    def count(node: Store, order: str) -> None:
        runs = []

        def work(tx: Connection) -> None:
            for name in order:
                counted = update(log_schema.encryption_count).where(log_schema.encryption_count.c.material_id == name)
                tx.execute(counted.values(reserved=log_schema.encryption_count.c.reserved + 1))
                if not runs:
                    runs.append(name)
                    both.wait()

        node.log.run(work)

    threads = [threading.Thread(target=count, args=pair) for pair in zip(nodes, ("ab", "ba"), strict=True)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert leases.beyond(store, 1) == {"a": 3, "b": 3}


# -- text, errors -----------------------------------------------------------------------------------------------


def test_text_is_ordered_by_its_bytes(store: Store) -> None:
    """As on SQLite, whatever the language of the database is: pages follow this order."""
    key = write(store, a_key())
    names = ["alias/B", "alias/_", "alias/a", "alias/b"]
    with store.atomic() as tx:
        for name in reversed(names):
            aliases.insert(tx, REGION, name, key.key_id, NOW)
    with store.reading() as conn:
        assert [each.name for each in aliases.every(conn, REGION)] == names
        assert [each.name for each in aliases.page(conn, REGION, None, "alias/_", 9)] == names[2:]


@pytest.mark.parametrize("wrong", ["a\0b", "\ud800"])
def test_text_that_cannot_be_stored(store: Store, wrong: str) -> None:
    """It is an error of the request, not of the server."""
    with pytest.raises(ValidationException), store.atomic() as tx:
        changes.note(tx, REGION, wrong)


def test_after_close(store: Store) -> None:
    """A closed store opens no connection any more."""
    store.close()
    with pytest.raises(ClosedError), store.reading():
        pytest.fail("it was opened")


FORKED = """
import os, sys
from pathlib import Path
from hsmkms.errors import ForkedProcessError
from hsmkms.store import changes
from hsmkms.store.engine import Store
from hsmkms.store.postgresql.target import parse

store = Store.open(Path(sys.argv[1]), target=parse(sys.argv[2]))
signal = store.change_signal()
pid = os.fork()
if not pid:
    refused = 0
    for act in (signal.moved, lambda: store.reading().__enter__(), lambda: store.atomic().__enter__()):
        try:
            act()
        except ForkedProcessError:
            refused += 1
    signal.close()
    store.close()
    os._exit(refused)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
with store.atomic() as tx:
    changes.note(tx, "r", "s")
assert signal.moved()
signal.close()
store.close()
"""


def test_a_forked_child_uses_nothing_of_its_parent(target: Target, tmp_path: Path) -> None:
    """It is refused, and the parent's connections work on."""
    url = target.url.render_as_string()
    # Python 3.12 and newer warn of a fork beside threads, which is what is tried.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED, tmp_path, url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# -- lost connections -------------------------------------------------------------------------------------------


def test_connections_that_the_server_closed(store: Store, open_store: Callable[[], Store]) -> None:
    """After a failover each pooled connection is dead: the next transaction notices it before it has done anything."""
    key = write(store, a_key())
    with store.reading(), store.reading(), store.reading():
        pass
    close_others(open_store())
    assert read(store, key) == key
    note(store)


def test_a_connection_that_breaks_within_a_transaction(store: Store, open_store: Callable[[], Store]) -> None:
    """The transaction fails with an error that clients repeat, and nothing of it is committed."""
    other = open_store()

    def broken() -> None:
        with store.atomic() as tx:
            changes.note(tx, REGION, "lost")
            close_others(other)
            changes.note(tx, REGION, "lost")

    with pytest.raises(DependencyTimeoutException):
        broken()
    with store.reading() as conn:
        assert changes.latest(conn) == 0
    note(store)


def test_a_server_that_stops_and_comes_back(store: Store, cluster: Cluster) -> None:
    """While it is away requests get an error that SDKs repeat; what was committed is there after its crash."""
    key = write(store, a_key())
    cluster.stop()
    try:
        with pytest.raises(DependencyTimeoutException, match="that the server runs"), store.reading():
            pytest.fail("it answered")
    finally:
        cluster.start()
        cluster.admin = cluster.connect()
    assert read(store, key) == key
    note(store)


# -- the change signal ------------------------------------------------------------------------------------------


@pytest.fixture
def signal(store: Store) -> Iterator[ChangeSignal]:
    """A signal of the store."""
    opened = store.change_signal()
    yield opened
    opened.close()


def test_own_commits_are_seen_at_once(store: Store, signal: ChangeSignal) -> None:
    """A process that has committed sees that at its next look; rolling back, reading and counting is no change."""
    assert not signal.moved()
    note(store)
    assert signal.moved()
    leases.reserve(store, MATERIAL, 1, 9)
    with store.reading() as conn:
        changes.latest(conn)
    with suppress(ZeroDivisionError), store.atomic() as tx:
        changes.note(tx, REGION, "subject")
        raise ZeroDivisionError
    assert not signal.moved()


def test_commits_of_other_nodes_are_seen(signal: ChangeSignal, open_store: Callable[[], Store]) -> None:
    """By a notification, or by the number that is read each second."""
    other = open_store()
    for _ in range(3):
        note(other)
        assert within(LONG_SECONDS, signal.moved)


def test_a_lost_notification_costs_a_second(signal: ChangeSignal, open_store: Callable[[], Store]) -> None:
    """A change that came without a notification, as through a proxy that loses them, is read from the table."""
    with open_store().log.atomic() as tx:
        tx.execute(text("UPDATE generation SET number = number + 1"))
    assert within(LONG_SECONDS, signal.moved)


def test_notifications_of_others_mean_nothing(
    store: Store, signal: ChangeSignal, open_store: Callable[[], Store], cluster: Cluster, target: Target
) -> None:
    """Whoever may connect can send one; it neither ends the listening nor hides the changes that follow."""
    with cluster.connect(str(target.url.database)) as admin:
        for payload in ("rubbish", "99999999999999999999", "9223372036854775807"):
            admin.execute(f"NOTIFY hsmkms_generation, '{payload}'".encode())
    note(open_store())
    assert within(LONG_SECONDS, signal.moved)
    note(open_store())
    assert within(LONG_SECONDS, signal.moved)
    note(store)
    assert signal.moved()


@pytest.mark.parametrize("number", ["0", "9000000000000000000"])
def test_a_generation_that_was_edited(signal: ChangeSignal, open_store: Callable[[], Store], number: str) -> None:
    """It counts as a change, and so do those that follow."""
    other = open_store()
    note(other)
    assert within(LONG_SECONDS, signal.moved)
    with other.log.atomic() as tx:
        tx.execute(text(f"UPDATE generation SET number = {number}"))
    assert within(LONG_SECONDS, signal.moved)
    for _ in range(2):
        note(other)
        assert within(LONG_SECONDS, signal.moved)


@pytest.mark.parametrize("edit", ["DELETE FROM generation", "INSERT INTO generation VALUES (7)"])
def test_a_generation_that_is_not_one(store: Store, target: Target, edit: str) -> None:
    """Without it no process would learn of a change, so none is made."""
    with target.connect() as conn:
        conn.execute(edit.encode())
    with pytest.raises(StoreError, match="in place of one"):
        note(store)
    with pytest.raises(StoreError, match="in place of one"):
        store.change_signal()


def test_commits_that_would_be_lost(cluster: Cluster, target: Target, tmp_path: Path) -> None:
    """synchronous_commit that was turned off later holds for no transaction of hsmkms; a stronger one stays."""
    database = target.url.database
    for value, used in (("off", "on"), ("remote_apply", "remote_apply")):
        cluster.admin.execute(f"ALTER ROLE {ROLE} IN DATABASE {database} SET synchronous_commit = {value}".encode())
        later = Store(tmp_path, target=target)  # opening it is refused while it is off
        for each in (later.meta, later.log):
            with each.atomic() as tx:
                assert tx.scalar(text("SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit'")) == value
                assert tx.scalar(text("SHOW synchronous_commit")) == used
        later.close()


def test_readers_do_not_wait_for_ever(open_store: Callable[[float], Store], cluster: Cluster, target: Target) -> None:
    """A table that somebody has locked altogether is an error that clients repeat."""
    impatient = open_store(0.05)
    with cluster.connect(str(target.url.database)) as admin, admin.transaction():
        admin.execute("LOCK TABLE alias IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(DependencyTimeoutException, match="locked"), impatient.reading() as conn:
            aliases.every(conn, REGION)


def test_a_listener_that_was_cut_off(store: Store, signal: ChangeSignal, open_store: Callable[[], Store]) -> None:
    """It connects again, and sees what was committed meanwhile."""
    other = open_store()
    close_others(other)
    note(other)
    assert within(LONG_SECONDS, signal.moved)
    note(other)
    assert within(LONG_SECONDS, signal.moved)
    assert not signal.moved()
    note(store)
    assert signal.moved()


def test_a_refused_and_a_closed_signal(store: Store) -> None:
    """Both say so at each look."""
    signal = store.change_signal()
    signal.refuse(StoreError("it was replaced"))
    with pytest.raises(StoreError, match="replaced"):
        signal.moved()
    signal.close()
    signal.close()
    with pytest.raises(StoreError, match="closed"):
        signal.moved()


# -- leases -----------------------------------------------------------------------------------------------------


def test_leases_go_by_the_clock_of_the_database(store: Store, open_store: Callable[[], Store]) -> None:
    """Nodes whose clocks are years apart agree on who has the lease, and when it is over."""
    other, far = open_store(), NOW + timedelta(days=4000)
    assert sweeper.acquire_lease(store, "one", lambda: NOW, LEASE)
    assert not sweeper.acquire_lease(other, "two", lambda: far, LEASE)
    assert sweeper.acquire_lease(store, "one", lambda: far, LEASE)
    with store.log.atomic() as tx:
        tx.execute(update(log_schema.sweeper).values(until=store.log.lease_time(tx, NOW)))
    assert sweeper.acquire_lease(other, "two", lambda: NOW, LEASE)
    assert not sweeper.acquire_lease(store, "one", lambda: far, LEASE)


def test_the_clock_of_leases_is_not_read_too_early(
    store: Store, open_store: Callable[[], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease that another node takes right after the clock was read is none of a clock that was ahead."""
    other, read_clock = open_store(), store.log.lease_time

    def delayed(tx: Connection, now: datetime) -> datetime:
        time = read_clock(tx, now)
        assert sweeper.acquire_lease(other, "two", lambda: NOW, LEASE)
        return time

    monkeypatch.setattr(store.log, "lease_time", delayed)
    assert not sweeper.acquire_lease(store, "one", lambda: NOW, LEASE)


def test_one_of_many_gets_the_lease(store: Store) -> None:
    """Of threads that ask at the same moment for a lease that nobody has, one gets it."""
    begin, taken = threading.Barrier(4, timeout=LONG_SECONDS), []

    def take(name: str) -> None:
        begin.wait()
        if sweeper.acquire_lease(store, name, lambda: NOW, LEASE):
            taken.append(name)

    threads = [threading.Thread(target=take, args=(name,)) for name in "abcd"]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(taken) == 1


RESERVING = """
import sys, threading
from pathlib import Path
from hsmkms.store import leases
from hsmkms.store.engine import Store
from hsmkms.store.postgresql.target import parse

store = Store.open(Path(sys.argv[1]), target=parse(sys.argv[2]), busy_timeout_seconds=60)

def work():
    for size in range(1, 16):
        used, granted = leases.reserve(store, sys.argv[3], size, 400)
        sys.stdout.write(f"{used} {used + granted}\\n")  # print writes a line in parts, between which threads change

threads = [threading.Thread(target=work) for _ in range(2)]
for each in threads:
    each.start()
for each in threads:
    each.join()
store.close()
"""


def test_nodes_never_share_a_reservation_nor_pass_the_limit(target: Target, store: Store, tmp_path: Path) -> None:
    """Ranges of two processes follow on each other without overlap or gap, up to the limit and not beyond it."""
    arguments = [sys.executable, "-c", RESERVING, str(tmp_path), target.url.render_as_string(), MATERIAL]
    running = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    ranges = []
    for each in running:
        out, _ = each.communicate(timeout=120)
        assert each.returncode == 0
        ranges += [tuple(map(int, line.split())) for line in out.splitlines()]
    ranges = sorted(each for each in ranges if each[0] < each[1])
    assert ranges[0][0] == 0
    assert all(one[1] == other[0] for one, other in pairwise(ranges))
    assert ranges[-1][1] == leases.total(store, MATERIAL) == 400
