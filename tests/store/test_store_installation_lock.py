"""The lock of an installation: one process of all nodes at a time, also after a node was stopped for too long."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import psycopg
import pytest
from msgspec import Struct
from sqlalchemy import Connection, text

from hsmkms.errors import ConflictException, DependencyTimeoutException
from hsmkms.process import uptime
from hsmkms.store import installation_lock, nodes, renewal
from hsmkms.store.engine import Store
from hsmkms.store.installation_lock import LeaseCheck, exclusive, require
from hsmkms.store.postgresql.target import Target

SECONDS = 60
"""After which a test gives up."""

OTHER = "'0123456789abcdef0123456789abcdef 1 other'"
"""The holder of a lease, another node."""


class Two(Struct):
    """Two nodes on one database."""

    one: Store
    two: Store
    target: Target

    def take_over(self, name: str) -> None:
        """Give a lease to another node, as if its holder had been stopped for longer than it lasts."""
        with self.target.connect() as conn:
            conn.execute(f"UPDATE lease SET holder = {OTHER}, until = until + 1 WHERE name = '{name}'")


@pytest.fixture
def two(target: Target, tmp_path: Path) -> Iterator[Two]:
    """Two nodes on one database."""
    (folder := tmp_path / "second").mkdir()
    one = Store.open(tmp_path, target=target)
    with one.atomic() as tx:
        nodes.register(tx, nodes.of_folder(folder, nodes.fetch_all(tx)[0].joined_at))
    both = Two(one, Store.open(folder, target=target), target)
    for each in (both.one, both.two):
        each.meta.companions.append(LeaseCheck(each))
    yield both
    both.one.close()
    both.two.close()


def test_one_node_at_a_time(two: Two) -> None:
    """The other one waits, and its error names who has the lock; other locks are free."""
    with exclusive(two.one, "act", 0):
        with (
            pytest.raises(DependencyTimeoutException, match=r"node [0-9a-f]{32} \(pid \d+\) has held the lock act"),
            exclusive(two.two, "act", 0),
        ):
            pass
        with exclusive(two.two, "another act", 0):
            pass
    with exclusive(two.two, "act", 0):
        pass


def test_the_next_one_begins_at_once(two: Two) -> None:
    """A node that waits gets the lock when it is released, not when the lease would have ended."""
    got = threading.Event()

    def wait() -> None:
        with exclusive(two.two, "act", SECONDS):
            got.set()

    waiting = threading.Thread(target=wait)
    with exclusive(two.one, "act", 0):
        waiting.start()
        assert not got.is_set()
    assert got.wait(renewal.LEASE.total_seconds() - 1)
    waiting.join(SECONDS)


@pytest.mark.both_engines
def test_reentrant(store: Store) -> None:
    """Within a thread it is held once; another thread waits. Where the databases are files it is a lock file."""
    faults: list[Exception] = []

    def enter() -> None:
        try:
            with exclusive(store, "act", 0):
                pass
        except DependencyTimeoutException as exc:
            faults.append(exc)

    with exclusive(store, "act", 0), exclusive(store, "act", 0):
        require(store)
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join(SECONDS)
    assert len(faults) == 1
    enter()
    assert len(faults) == 1


def test_a_node_that_died(two: Two) -> None:
    """Its lease ends by the clock of the database, or if it ends later than any can; until then others wait."""
    with two.target.connect() as conn:
        row = "INSERT INTO lease SELECT {}, {}, (extract(epoch FROM clock_timestamp() + {}) * 1000000)::bigint"
        for name, ends in {"dead": "'-1s'::interval", "ahead": "'1h'::interval", "alive": "'10s'::interval"}.items():
            conn.execute(row.format(f"'{name}'", OTHER, ends))
    for free in ("dead", "ahead"):
        with exclusive(two.one, free, 0):
            pass
    with (
        pytest.raises(DependencyTimeoutException, match="node 0123456789abcdef0123456789abcdef"),
        exclusive(two.one, "alive", 0),
    ):
        pass


def test_never_two_that_ask_at_once(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has read the clock before another node takes or renews the lease does not take that for an old one."""
    read_clock = two.two.log.lease_time
    with ExitStack() as held:

        def delayed(tx: Connection, now: datetime) -> datetime:
            monkeypatch.undo()
            time = read_clock(tx, now)
            held.enter_context(exclusive(two.one, "act", 0))
            return time

        monkeypatch.setattr(two.two.log, "lease_time", delayed)
        with pytest.raises(DependencyTimeoutException, match="has held the lock act"), exclusive(two.two, "act", 0):
            pass

        def asking(tx: Connection, now: datetime) -> datetime:
            monkeypatch.undo()
            with two.target.connect() as conn:
                assert conn.execute("SELECT name FROM lease FOR UPDATE SKIP LOCKED").fetchall() == []
            return read_clock(tx, now)

        monkeypatch.setattr(two.two.log, "lease_time", asking)
        with pytest.raises(DependencyTimeoutException, match="has held the lock act"), exclusive(two.two, "act", 0):
            pass


def test_a_holder_that_is_none(two: Two) -> None:
    """A row that was edited by hand ends in the same error: others hold the lock."""
    with exclusive(two.one, "act", 0), two.target.connect() as conn:
        conn.execute("UPDATE lease SET holder = 'x'")
        with (
            pytest.raises(DependencyTimeoutException, match=r"node x \(pid \?\) has held the lock act"),
            exclusive(two.two, "act", 0),
        ):
            pass


def test_a_machine_that_was_suspended(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of its suspension counts: before an act on a token the lease is known to be over."""
    with exclusive(two.one, "act", 0):
        require(two.one)
        later = uptime() + renewal.LEASE.total_seconds()
        monkeypatch.setattr(renewal, "uptime", lambda: later)
        with pytest.raises(ConflictException, match="stopped for so long"):
            require(two.one)


def test_a_lost_lease_commits_nothing(two: Two) -> None:
    """Whatever the node had written in that transaction is rolled back; without the lock it commits again."""
    with exclusive(two.one, "act", 0):
        with two.one.atomic() as tx:
            tx.execute(text("UPDATE installation SET account = '1'"))
        two.take_over("act")
        with pytest.raises(ConflictException, match="could take over the lock act"), two.one.atomic() as tx:
            tx.execute(text("UPDATE installation SET account = '2'"))
    with two.one.reading() as conn:
        assert conn.execute(text("SELECT account FROM installation")).scalar_one() == "1"
    with two.target.connect() as conn:
        assert conn.execute("SELECT count(*) FROM lease").fetchone() == (1,), "the lease of the other node is gone"
    with two.one.atomic() as tx:
        tx.execute(text("UPDATE installation SET account = '3'"))


def test_no_takeover_during_a_commit(two: Two) -> None:
    """A transaction that has checked its lease ends before another node can take that."""
    with exclusive(two.one, "act", 0), two.one.meta._write() as tx:  # type: ignore[attr-defined]
        LeaseCheck(two.one).before_commit(tx)
        with two.target.connect() as conn:
            conn.execute("SET lock_timeout = '50ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                conn.execute(f"UPDATE lease SET holder = {OTHER}")


def test_renewed_while_it_is_held(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread moves the end of the lease on; one that was lost is noticed before the next act on a token."""
    monkeypatch.setattr(renewal, "_RENEWAL_SECONDS", 0.01)
    renewals, lost = threading.Semaphore(0), threading.Event()
    renew = installation_lock._renew

    def count(store: Store, name: str, holder: str) -> bool:
        done = renew(store, name, holder)
        renewals.release()
        if not done:
            lost.set()
        return done

    monkeypatch.setattr(installation_lock, "_renew", count)
    with exclusive(two.one, "act", 0):
        with two.target.connect() as conn:
            conn.execute("UPDATE lease SET until = 0")
            for _ in range(3):
                assert renewals.acquire(timeout=SECONDS)
            assert conn.execute("SELECT until > 0 FROM lease").fetchone() == (True,)
        require(two.one)
        two.take_over("act")
        assert lost.wait(SECONDS)
        for thread in threading.enumerate():
            if thread.name == "lease act":
                thread.join(SECONDS)
        with pytest.raises(ConflictException, match="stopped for so long"):
            require(two.one)
