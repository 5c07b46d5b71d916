"""A lane of the audit log: which records share an fsync."""

import os
import pkgutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace

import pytest
from waiting import until

from hsmkms.errors import ForkedProcessError, StoreError
from hsmkms.rules.audit.chain import follows, genesis, head_of
from hsmkms.service.audit.following import Cursor, Follower
from hsmkms.service.runtime import gil_queue
from hsmkms.service.runtime.audit_lane import QUICK_WRITE_SECONDS, Journal
from hsmkms.service.runtime.gil_queue import GilQueue, Sleeper
from hsmkms.store import audit_files
from hsmkms.store.audit_files import LaneFile

SECONDS = 60.0
"""After which a test gives up."""


class Disk:
    """Counts fsyncs, and holds one back until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.syncs = 0
        self.begun = threading.Semaphore(0)
        self.let_go = threading.Semaphore(0)
        self.holds = False
        self.fails = False
        real = LaneFile.sync

        def sync(lane: LaneFile) -> None:
            self.syncs += 1
            self.begun.release()
            if self.holds:
                assert self.let_go.acquire(timeout=SECONDS)
            if self.fails:
                raise StoreError("the disk is full")
            real(lane)

        monkeypatch.setattr(LaneFile, "sync", sync)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """The disk of the lane."""
    return Disk(monkeypatch)


@pytest.fixture
def turns() -> GilQueue:
    """The queue of the threads that write to the lane."""
    return GilQueue()


@pytest.fixture
def journal(tmp_path: Path, disk: Disk, turns: GilQueue) -> Iterator[Journal]:
    """A journal that has written one record, which took long."""
    folder = tmp_path / audit_files.FOLDER
    folder.mkdir(mode=0o700)
    made = Journal(folder, partial(genesis, "0" * 32), SimpleNamespace(epoch=0), lambda: 0, 1 << 20, turns=turns)
    made.flush(made.add(b"{}"))
    assert disk.begun.acquire(timeout=SECONDS)
    made._write_seconds = 2 * QUICK_WRITE_SECONDS
    yield made
    disk.holds = False
    made.close()


def begin(act: Callable[[], object]) -> threading.Thread:
    """Run it in a thread."""
    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_one_thread_never_waits(journal: Journal, disk: Disk) -> None:
    """A thread that is alone has each of its records fsynced at once."""
    for _ in range(3):
        journal.flush(journal.add(b"{}"))
    assert disk.syncs == 4


def test_records_of_threads_that_wait_share_an_fsync(journal: Journal, disk: Disk) -> None:
    """What is added while another thread writes goes into one batch."""
    disk.holds = True
    first = begin(lambda: journal.flush(journal.add(b'{"first": 1}')))
    assert disk.begun.acquire(timeout=SECONDS)
    others = [begin(lambda: journal.flush(journal.add(b'{"other": 1}'))) for _ in range(3)]
    until(lambda: len(journal._sleepers) == 3)
    for _ in range(2):
        disk.let_go.release()
    for thread in (first, *others):
        thread.join(SECONDS)
    assert (disk.syncs, journal.safe) == (3, 5)


@pytest.fixture
def never_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder of the turn counts as quick, however long it takes."""
    monkeypatch.setattr(gil_queue, "ENDS_PER_SLICE", 0)


@pytest.mark.usefixtures("never_slow")
def test_a_thread_that_is_about_to_add_shares_the_fsync(
    journal: Journal, disk: Disk, turns: GilQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another thread waits for the turn, a thread leaves it to that one to write both records."""
    order: list[str] = []

    def second() -> None:
        turns.enter()
        order.append("second")
        journal.flush(journal.add(b'{"second": 1}'))
        turns.leave()

    turns.enter()
    monkeypatch.setattr(gil_queue, "SLICE_MILLISECONDS", int(SECONDS * 1000))
    other = begin(second)
    until(lambda: turns.is_wanted)
    order.append("first")
    journal.flush(journal.add(b'{"first": 1}'))
    turns.leave()
    other.join(SECONDS)
    assert order == ["first", "second"]
    assert (disk.syncs, journal.safe) == (2, 3)


@pytest.mark.usefixtures("never_slow")
def test_a_thread_does_not_wait_forever_for_another_one(journal: Journal, disk: Disk, turns: GilQueue) -> None:
    """If the thread that was about to add a record does something else, the one that waits writes its own."""
    done, may_end = threading.Event(), threading.Event()

    def idle() -> None:
        turns.enter()
        turns.leave()
        done.set()
        assert may_end.wait(SECONDS)

    turns.enter()
    other = begin(idle)
    until(lambda: turns.is_wanted)
    journal.flush(journal.add(b"{}"))
    assert done.wait(SECONDS)
    may_end.set()
    turns.leave()
    other.join(SECONDS)
    assert (disk.syncs, journal.safe) == (2, 2)


def test_threads_of_a_batch_that_fails_are_all_refused(journal: Journal, disk: Disk) -> None:
    """If the disk fails, every thread that waits tries for itself, and gets the error; the records stay in memory."""
    disk.holds, disk.fails = True, True
    errors: list[str] = []

    def write() -> None:
        try:
            journal.flush(journal.add(b"{}"))
        except StoreError as exc:
            errors.append(str(exc))

    first = begin(write)
    assert disk.begun.acquire(timeout=SECONDS)
    others = [begin(write) for _ in range(2)]
    until(lambda: len(journal._sleepers) == 2)
    for _ in range(3):
        disk.let_go.release()
    for thread in (first, *others):
        thread.join(SECONDS)
    assert errors == ["the disk is full"] * 3
    disk.holds = disk.fails = False
    journal.flush()
    assert journal.safe == 4


def test_many_threads_lose_no_record(journal: Journal, turns: GilQueue) -> None:
    """Eight threads with turns and two without write to one lane; each returns only when its record is on disk."""
    late: list[int] = []

    def work(*, in_turn: bool) -> None:
        for _ in range(100):
            if in_turn:
                turns.enter()
            number = journal.add(b"{}")
            journal.flush(number)
            if journal.safe < number:
                late.append(number)
            turns.leave()

    threads = [begin(partial(work, in_turn=each < 8)) for each in range(10)]
    for thread in threads:
        thread.join(SECONDS)
    assert not any(thread.is_alive() for thread in threads)
    assert (journal.safe, late) == (1001, [])


def records(journal: Journal) -> list[int]:
    """Return the numbers of the records on disk; each follows the one before it."""
    numbers, previous = list[int](), genesis("0" * 32, "0001")
    for segment in audit_files.segments(journal._folder)["0001"]:
        for line in segment.path.read_bytes().splitlines(keepends=True):
            head = head_of(line, segment.number)
            assert head is not None
            assert follows(previous, line)
            numbers.append(head.sequence)
            previous = head.hash
    return numbers


@pytest.mark.parametrize("fault", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize(
    "place",
    [
        "audit_lane.audit_chain.extend",
        "audit_lane.LaneFile.write",
        "audit_lane.LaneFile.sync",
        "audit_lane.Head",
        "gil_queue.GilQueue.give_up",
        "gil_queue.GilQueue.wake",
    ],
)
def test_an_interrupted_write_loses_no_record(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, place: str, fault: type[BaseException]
) -> None:
    """If writing is interrupted, before or after any of its steps, its records are written once, by the next thread."""
    module = "hsmkms.service.runtime."
    real = pkgutil.resolve_name(module + place)
    for late in (False, True):

        def interrupted(*given: object, **named: object) -> None:
            if late:  # noqa: B023 - it is called before the next round
                real(*given, **named)
            raise fault

        number = journal.add(b"{}")
        waiting = Sleeper(number, wants_turn=True)
        journal._sleepers.append(waiting)
        with monkeypatch.context() as patch:
            patch.setattr(module + place, interrupted)
            with pytest.raises(fault):
                journal.flush(number)
        begin(journal.flush).join(SECONDS)
        journal._sleepers.clear()
        assert journal.safe == number
        assert records(journal) == list(range(1, number + 1))


def test_an_interrupted_writer_does_not_stop_those_who_wait(
    journal: Journal, disk: Disk, turns: GilQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If nobody wakes a thread any more, it looks for itself."""
    monkeypatch.setattr(gil_queue, "SLICE_MILLISECONDS", 1)
    disk.holds = True

    def interrupted() -> None:
        with pytest.raises(KeyboardInterrupt):
            journal.flush(journal.add(b"{}"))

    def never(*_: object) -> None:
        raise KeyboardInterrupt

    first = begin(interrupted)
    assert disk.begun.acquire(timeout=SECONDS)
    second = begin(lambda: journal.flush(journal.add(b"{}")))
    until(lambda: len(journal._sleepers) == 1)
    monkeypatch.setattr(turns, "wake_without_turn", never)
    disk.holds = False
    disk.let_go.release()
    for thread in (first, second):
        thread.join(SECONDS)
        assert not thread.is_alive()
    assert records(journal) == [1, 2, 3]


def test_a_write_that_cannot_be_undone_at_once_is_undone_later(
    journal: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the file cannot be truncated after a failure either, the next write does so; no record is there twice."""

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    disk.fails = True
    number = journal.add(b"{}")
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", broken)
        with pytest.raises(StoreError):
            journal.flush(number)
    disk.fails = False
    journal.flush(journal.add(b"{}"))
    assert records(journal) == [1, 2, 3]


def test_a_new_file_counts_only_when_its_folder_was_synced(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the folder of a new segment cannot be synced (no file descriptor is left, say), the next write does it."""
    synced: list[bool] = []

    def sync_folder(_folder: Path) -> None:
        synced.append(len(synced) > 0)
        if not synced[-1]:
            raise OSError(24, "Too many open files")

    monkeypatch.setattr(audit_files.atomic_write, "sync_folder", sync_folder)
    journal._segment_bytes = 1
    with pytest.raises(StoreError, match="Too many open files"):
        journal.flush(journal.add(b"{}"))
    journal.flush()
    assert synced == [False, True]
    assert records(journal) == [1, 2]


def test_a_follower_reads_only_what_it_has_synced(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that is written after the sync is left for the next read: a crash might take it back."""
    real = audit_files.sync

    def sync(path: Path) -> None:
        real(path)
        journal.flush(journal.add(b"{}"))

    monkeypatch.setattr(audit_files, "sync", sync)
    follower = Follower([journal._folder], Cursor({}))
    for number in (1, 2):
        follower.read()
        assert follower.cursor.lanes["0001"].sequence == number


def test_a_forked_child_is_refused_at_once(journal: Journal) -> None:
    """A child does not wait for a lock that a thread of the parent held at the fork."""
    receiver, sender = Pipe(duplex=False)
    with journal._adding, journal._batching:
        child = os.fork()
        if child == 0:
            refused = 0
            try:
                for act in (journal.take, lambda: journal.add(b"{}"), lambda: journal.flush(9)):
                    with suppress(ForkedProcessError):
                        act()
                        refused -= 1
                    refused += 1
                sender.send(refused)
            finally:
                os._exit(0)
    try:
        assert receiver.poll(SECONDS)
        assert receiver.recv() == 3
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
