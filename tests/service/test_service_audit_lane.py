"""A lane of the audit log: which records share an fsync."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from hsmkms.rules.audit.chain import genesis
from hsmkms.service.runtime.audit_lane import GATHER_SHARE, MOST_GATHER_SECONDS, Journal
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
        real = LaneFile.sync

        def sync(lane: LaneFile) -> None:
            self.syncs += 1
            self.begun.release()
            if self.holds:
                assert self.let_go.acquire(timeout=SECONDS)
            real(lane)

        monkeypatch.setattr(LaneFile, "sync", sync)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """The disk of the lane."""
    return Disk(monkeypatch)


@pytest.fixture
def pauses() -> list[float]:
    """How long threads waited for others before they wrote."""
    return []


@pytest.fixture
def journal(tmp_path: Path, disk: Disk, pauses: list[float]) -> Iterator[Journal]:
    """A journal that has written one record."""
    folder = tmp_path / audit_files.FOLDER
    folder.mkdir(mode=0o700)
    made = Journal(
        folder, partial(genesis, "0" * 32), SimpleNamespace(epoch=0), lambda: 0, 1 << 20, pause=pauses.append
    )
    made.flush(made.add(b"{}"))
    assert disk.begun.acquire(timeout=SECONDS)
    yield made
    disk.holds = False
    made.close()


def begin(act: Callable[[], object]) -> threading.Thread:
    """Run it in a thread."""
    thread = threading.Thread(target=act)
    thread.start()
    return thread


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    pause = threading.Event()
    for _ in range(int(SECONDS * 100)):
        if true():
            return
        pause.wait(0.01)
    raise TimeoutError


def test_one_thread_never_waits(journal: Journal, disk: Disk, pauses: list[float]) -> None:
    """A thread that is alone has each of its records fsynced at once."""
    for _ in range(3):
        journal.flush(journal.add(b"{}"))
    assert (disk.syncs, pauses) == (4, [])


def test_records_of_threads_that_wait_share_an_fsync(journal: Journal, disk: Disk, pauses: list[float]) -> None:
    """What is added while another thread writes goes into one batch, whose writer waits a moment for more of them."""
    disk.holds = True
    first = begin(lambda: journal.flush(journal.add(b'{"first": 1}')))
    assert disk.begun.acquire(timeout=SECONDS)
    others = [begin(lambda: journal.flush(journal.add(b'{"other": 1}'))) for _ in range(3)]
    wait_until(lambda: journal._added == 5 and journal._others_waited)
    for _ in range(2):
        disk.let_go.release()
    for thread in (first, *others):
        thread.join(SECONDS)
    assert (disk.syncs, journal.safe) == (3, 5)
    assert len(pauses) == 1
    assert 0 < pauses[0] <= MOST_GATHER_SECONDS


def test_what_others_add_meanwhile_is_written_as_well(journal: Journal, disk: Disk, pauses: list[float]) -> None:
    """A record that is added while a writer waits for others is in its batch; later writers do not wait any more."""
    journal._others_waited, journal._write_seconds = True, 1.0
    journal._pause = lambda seconds: (pauses.append(seconds), journal.add(b'{"other": 1}'))[0]
    journal.flush(journal.add(b'{"first": 1}'))
    assert (disk.syncs, journal.safe, pauses) == (2, 3, [min(GATHER_SHARE, MOST_GATHER_SECONDS)])
    journal.flush(journal.add(b"{}"))
    assert (disk.syncs, len(pauses)) == (3, 1)
