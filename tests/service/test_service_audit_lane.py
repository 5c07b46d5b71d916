"""A lane of the audit log: which records share an fsync."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from waiting import until

from hsmkms.errors import StoreError
from hsmkms.rules.audit.chain import genesis
from hsmkms.service.runtime import gil_queue
from hsmkms.service.runtime.audit_lane import QUICK_WRITE_SECONDS, Journal
from hsmkms.service.runtime.gil_queue import GilQueue
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
