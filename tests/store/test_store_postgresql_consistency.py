"""How old what is cached may be: while the server answers, and while it does not. The clock is the test's own."""

import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from postgresql_cluster import Cluster
from sqlalchemy import text
from store_samples import NOW, REGION, a_key, write
from waiting import within

from hsmkms.errors import DependencyTimeoutException, ForkedProcessError
from hsmkms.store import aliases, changes, installation, leases
from hsmkms.store.consistency import Consistency
from hsmkms.store.database import ChangeSignal
from hsmkms.store.engine import Store
from hsmkms.store.postgresql import listener as listeners
from hsmkms.store.postgresql.signal import GenerationSignal
from hsmkms.store.postgresql.target import Target

MATERIAL = "ab" * 32
LONG_SECONDS = 60
SELECTABLE = 1024
"""No file descriptor from this one on can be given to select(2)."""


class Clock:
    """A clock that moves on demand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the seconds."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The clock of the signals."""
    return Clock()


@pytest.fixture
def open_store(target: Target, tmp_path: Path, clock: Clock) -> Iterator[Callable[..., Store]]:
    """Opens the test's database as a further node does, with limits of its own."""
    opened = []

    def open_one(*, strict: bool = False, stale_seconds: float = 30) -> Store:
        limits = Consistency(strict=strict, stale_seconds=stale_seconds, clock=clock)
        opened.append(Store.open(tmp_path, target=target, busy_timeout_seconds=LONG_SECONDS, consistency=limits))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


def note(store: Store) -> None:
    """Commit a change of the control plane."""
    with store.atomic() as tx:
        changes.note(tx, REGION, "subject")


@contextmanager
def signal_of(store: Store) -> Iterator[ChangeSignal]:
    """A signal of a store, closed at the end."""
    signal = store.change_signal()
    try:
        yield signal
    finally:
        signal.close()


@contextmanager
def server_away(cluster: Cluster, signal: ChangeSignal) -> Iterator[None]:
    """Stop the server until the end of the block, which begins when the signal knows."""
    cluster.stop()
    try:
        assert within(LONG_SECONDS, lambda: signal.outage() is not None)
        yield
    finally:
        cluster.start()
        cluster.admin = cluster.connect()
    assert within(LONG_SECONDS, lambda: signal.outage() is None)


def age(signal: ChangeSignal, clock: Clock, seconds: float) -> None:
    """Let the last answer of a server that is away be so old."""
    assert isinstance(signal, GenerationSignal)
    clock.now = signal._listener.read_at + seconds


# -- the server is away ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stale_seconds", "limit"), [(30, 30), (5, 5), (0, 1)])
def test_cached_records_have_an_end(
    open_store: Callable[..., Store], cluster: Cluster, clock: Clock, stale_seconds: float, limit: float
) -> None:
    """What is cached is used to the limit and not beyond it, as the outage says, and again when the server is back."""
    with signal_of(open_store(stale_seconds=stale_seconds)) as signal:
        with server_away(cluster, signal):
            age(signal, clock, limit)
            assert not signal.moved()
            outage = signal.outage()
            assert outage is not None
            assert outage.is_bridged
            assert "more, and nothing is changed" in outage.message
            age(signal, clock, limit + 0.001)
            with pytest.raises(DependencyTimeoutException, match="stale_seconds"):
                signal.moved()
            outage = signal.outage()
            assert outage is not None
            assert not outage.is_bridged
        assert signal.moved()
        assert not signal.moved()


def test_nothing_waits_for_a_server_that_is_away(open_store: Callable[..., Store], cluster: Cluster) -> None:
    """Transactions fail at once with an error that SDKs repeat, without a try to connect, and work when it is back."""
    store = open_store()
    with signal_of(store) as signal:
        note(store)
        with server_away(cluster, signal):
            tried: list[object] = []
            store.meta._engine.dispose()  # type: ignore[attr-defined]  # a test of this engine alone
            store.meta._engine.pool._creator = lambda *_: tried.append(1)  # type: ignore[attr-defined]
            for transaction in (store.reading, store.atomic, store.log.atomic):
                with pytest.raises(DependencyTimeoutException, match="connects again by itself"), transaction():
                    pytest.fail("it began")
            assert not tried
            store.meta._engine.pool._creator = store.target.connect  # type: ignore[attr-defined,union-attr]
        note(store)


def test_a_closed_signal_knows_of_no_outage(open_store: Callable[..., Store], cluster: Cluster) -> None:
    """Without a listener transactions try to connect themselves: nobody would say that the server is back."""
    store = open_store()
    signal = store.change_signal()
    cluster.stop()
    try:
        assert within(LONG_SECONDS, lambda: signal.outage() is not None)
        signal.close()
        with pytest.raises(DependencyTimeoutException, match="cannot be connected to"), store.reading():
            pytest.fail("it began")
    finally:
        cluster.start()
        cluster.admin = cluster.connect()
    note(store)


def test_a_server_that_hangs(open_store: Callable[..., Store], clock: Clock, cluster: Cluster, target: Target) -> None:
    """One that has taken the question and does not answer counts as away after a second; it is back when it answers."""
    with signal_of(open_store()) as signal, cluster.connect(str(target.url.database)) as admin:
        with admin.transaction():
            admin.execute("LOCK TABLE generation IN ACCESS EXCLUSIVE MODE")
            assert isinstance(signal, GenerationSignal)
            assert within(LONG_SECONDS, lambda: signal._listener._reading_since is not None)
            assert signal.outage() is None
            clock.now += 1.001
            outage = signal.outage()
            assert outage is not None
            assert outage.is_bridged
            assert not signal.moved()
            clock.now += 30
            with pytest.raises(DependencyTimeoutException, match="stale_seconds"):
                signal.moved()
        assert within(LONG_SECONDS, lambda: signal.outage() is None)
        assert not signal.moved()


def test_what_waits_for_a_server_that_hangs(
    open_store: Callable[..., Store],
    clock: Clock,
    cluster: Cluster,
    target: Target,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It fails soon after the server counts as away: no thread, and no loop, waits for as long as the server hangs."""
    monkeypatch.setattr(listeners, "_LOOK_SECONDS", 0.01)
    store, refused = open_store(), list[bool]()

    def reserve() -> None:
        try:
            leases.reserve(store, MATERIAL, 1, 10)
        except DependencyTimeoutException:
            refused.append(True)

    waits = "SELECT count(*) FROM pg_locks WHERE relation = 'encryption_count'::regclass AND NOT granted"
    with signal_of(store) as signal, cluster.connect(str(target.url.database)) as admin:
        assert isinstance(signal, GenerationSignal)
        listener = signal._listener
        with admin.transaction():
            admin.execute("LOCK TABLE generation, encryption_count IN ACCESS EXCLUSIVE MODE")
            waiting = threading.Thread(target=reserve)
            waiting.start()
            assert within(LONG_SECONDS, lambda: admin.execute(waits).fetchone() == (1,))
            assert within(LONG_SECONDS, lambda: listener._reading_since is not None)
            assert not refused
            clock.now += 1.001
            waiting.join(LONG_SECONDS / 6)
            assert refused == [True]
        assert within(LONG_SECONDS, lambda: signal.outage() is None)
        assert leases.reserve(store, MATERIAL, 1, 10) == (0, 1)


def test_an_overdue_answer_is_waited_for(open_store: Callable[..., Store], clock: Clock) -> None:
    """After the machine has slept, the generation is read before anything that is cached is used."""
    store, other = open_store(), open_store()
    with signal_of(store) as signal:
        assert isinstance(signal, GenerationSignal)
        with signal._listener._asking:  # keeps the listener from reading
            assert within(LONG_SECONDS, lambda: signal._listener._reading_since is None)
            note(other)
            clock.now += 3600
            answers: list[bool] = []
            looking = threading.Thread(target=lambda: answers.append(signal.moved()))
            looking.start()
            assert not answers
        looking.join()
        assert answers == [True]


# -- strict ------------------------------------------------------------------------------------------------------


def test_strict_sees_every_commit(open_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """What another node has committed before a look is seen by it, also without a notification."""
    monkeypatch.setattr(listeners, "POLL_SECONDS", LONG_SECONDS)
    other = open_store()
    with signal_of(open_store(strict=True)) as signal:
        for _ in range(20):
            with other.log.atomic() as tx:
                tx.execute(text("UPDATE generation SET number = number + 1"))
            assert signal.moved()
            assert not signal.moved()


def test_a_turn_shares_one_answer(open_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """Within its block no look asks again, and a failed one refuses all; other threads ask for themselves."""
    asked = []
    ask = listeners.Listener.ask
    monkeypatch.setattr(listeners.Listener, "ask", lambda self, done: (asked.append(1), ask(self, done))[1])
    with signal_of(open_store(strict=True)) as signal:
        with signal.asking():
            assert [signal.moved() for _ in range(3)] == [False] * 3
            assert len(asked) == 1
            other = threading.Thread(target=signal.moved)
            other.start()
            other.join()
            assert len(asked) == 2
        with signal.sharing(answered=False), pytest.raises(DependencyTimeoutException, match="strict"):
            signal.moved()
        assert len(asked) == 2
        signal.moved()
        assert len(asked) == 3


def test_strict_uses_nothing_while_the_server_is_away(open_store: Callable[..., Store], cluster: Cluster) -> None:
    """Every look is refused, at once, however long stale_seconds is."""
    with signal_of(open_store(strict=True, stale_seconds=3600)) as signal:
        assert not signal.moved()
        with server_away(cluster, signal):
            with pytest.raises(DependencyTimeoutException, match="strict"):
                signal.moved()
            outage = signal.outage()
            assert outage is not None
            assert not outage.is_bridged
        assert signal.moved()


@pytest.fixture
def many_files() -> Iterator[None]:
    """As many open files as a worker with many clients has."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], min(2 * SELECTABLE, before[1])), before[1]))
    with ExitStack() as opened:
        opened.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        while (descriptor := os.dup(0)) <= SELECTABLE:
            opened.callback(os.close, descriptor)
        opened.callback(os.close, descriptor)
        yield


def answer_of(signal: ChangeSignal) -> bool | None:
    """What whoever asks is answered; None if that is nothing."""
    answers = list[bool]()
    signal.ask(answers.append)
    return answers[0] if within(LONG_SECONDS / 6, lambda: bool(answers)) else None


@pytest.mark.usefixtures("many_files")
def test_a_worker_with_many_clients(open_store: Callable[..., Store]) -> None:
    """The listener connects however many files are open."""
    with signal_of(open_store()) as signal:
        assert answer_of(signal) is True


def test_a_fault_that_nobody_expects(open_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """The listener goes on after any error: without it everything cached would be refused until a restart."""
    with signal_of(open_store()) as signal:
        with monkeypatch.context() as patched:
            patched.setattr(listeners, "only", None)
            assert answer_of(signal) is False
        assert within(LONG_SECONDS, lambda: signal.outage() is None)
        assert answer_of(signal) is True


def test_whoever_asks_is_answered(open_store: Callable[..., Store], cluster: Cluster) -> None:
    """Also those who ask just when the server goes away, or the signal is closed."""
    answers: list[bool] = []
    with signal_of(open_store(strict=True)) as signal:
        for _ in range(50):
            signal.ask(answers.append)
        assert within(LONG_SECONDS, lambda: len(answers) == 50)
        cluster.stop()
        for _ in range(50):
            signal.ask(answers.append)
        assert within(LONG_SECONDS, lambda: len(answers) == 100)
        cluster.start()
        cluster.admin = cluster.connect()
        for _ in range(50):
            signal.ask(answers.append)
    signal.ask(answers.append)
    assert len(answers) == 151
    assert answers[:50] == [True] * 50
    assert not answers[-1]


# -- what the change log explains ---------------------------------------------------------------------------------


def explained(store: Store, signal: ChangeSignal, after: int) -> bool:
    """Whether the signal takes the entries of the change log after an epoch for all that has changed."""
    assert within(LONG_SECONDS, signal.moved)
    with store.reading() as conn:
        return signal.explains(conn, len(changes.since(conn, after)))


def latest(store: Store) -> int:
    """The epoch of the newest change."""
    with store.reading() as conn:
        return changes.latest(conn)


def test_changes_explain_the_generation(open_store: Callable[..., Store]) -> None:
    """Commits of this node and of others, with one entry of the change log or several."""
    store, other = open_store(), open_store()
    with signal_of(store) as signal:
        for nodes in ((store,), (other,), (other, store, other)):
            before = latest(store)
            for node in nodes:
                note(node)
            with other.atomic() as tx:
                changes.note(tx, REGION, "one")
                changes.note(tx, REGION, "two")
            assert within(LONG_SECONDS, lambda: signal._generation.number == number(store))  # type: ignore[attr-defined]
            assert explained(store, signal, before)


def number(store: Store) -> int:
    """The generation in the database."""
    with store.reading() as conn:
        return int(conn.execute(text("SELECT number FROM generation")).scalar_one())


@pytest.mark.parametrize("edit", ["number + 1", "number - 1", "number + 1000"])
def test_a_gap_that_nothing_explains(open_store: Callable[..., Store], edit: str) -> None:
    """A generation without an entry, or one that went back, is none that the change log explains; the next is."""
    store, other = open_store(), open_store()
    with signal_of(store) as signal:
        before = latest(store)
        with other.log.atomic() as tx:
            tx.execute(text(f"UPDATE generation SET number = {edit}"))
        assert not explained(store, signal, before)
        note(other)
        assert explained(store, signal, before)


def test_entries_that_are_gone(open_store: Callable[..., Store]) -> None:
    """A change whose entry was removed is not explained by those that are left."""
    store, other = open_store(), open_store()
    with signal_of(store) as signal:
        before = latest(store)
        for _ in range(3):
            note(other)
        with other.log.atomic() as tx:
            tx.execute(text("DELETE FROM change_log WHERE epoch = (SELECT max(epoch) FROM change_log)"))
        assert within(LONG_SECONDS, lambda: signal._generation.number == number(store))  # type: ignore[attr-defined]
        assert not explained(store, signal, before)


def test_a_new_connection_explains_nothing(open_store: Callable[..., Store]) -> None:
    """The server may be another one, which lacks the last commits."""
    store = open_store()
    with signal_of(store) as signal:
        before = latest(store)
        with store.log.atomic() as tx:
            tx.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        assert not explained(store, signal, before)
        note(store)
        assert explained(store, signal, before)


def test_what_changes_nothing_moves_nothing(open_store: Callable[..., Store]) -> None:
    """A sealed installation's transaction without an entry raises no generation, so no process looks for changes."""
    store = open_store()
    store.sealing = True
    with signal_of(store) as signal:
        before = number(store)
        with store.atomic() as tx:
            installation.fetch(tx)
        leases.total(store, MATERIAL)
        assert number(store) == before
        assert not signal.moved()
        key = write(store, a_key())
        with store.atomic() as tx:
            aliases.insert(tx, REGION, "alias/one", key.key_id, NOW)
        assert number(store) > before
        assert signal.moved()


def test_a_forked_child_asks_nothing(open_store: Callable[..., Store]) -> None:
    """A signal of the parent is refused."""
    with signal_of(open_store()) as signal:
        assert isinstance(signal, GenerationSignal)
        signal._guard.foreign = True
        with pytest.raises(ForkedProcessError):
            signal.moved()
        signal._guard.foreign = False
