"""The files by which processes see who has an installation open, at the moments when others check."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hsmkms.service.runtime.open_processes import ProcessFile, living


def look_before_locking(monkeypatch: pytest.MonkeyPatch, look: Callable[[], object]) -> None:
    """Let another process check just before the next lock is taken."""
    lock = fcntl.flock

    def looked_at(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        look()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", looked_at)


def test_visible_only_once_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check before a process has locked its file does not take it for a dead one's: it is seen afterwards."""
    seen: list[list[int]] = []
    look_before_locking(monkeypatch, lambda: seen.append(living(tmp_path)))
    here = ProcessFile(tmp_path)
    assert seen == [[]]
    assert living(tmp_path) == [os.getpid()]
    here.close()
    assert [*(tmp_path / "processes").iterdir()] == []


def test_two_look_at_a_dead_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of a process that was killed is not counted, also while another process checks it."""
    (tmp_path / "processes").mkdir()
    dead = tmp_path / "processes" / "4242-0011aabb.json"
    dead.touch()
    with dead.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert living(tmp_path) == []
    assert not dead.exists()
    dead.touch()
    look_before_locking(monkeypatch, lambda: living(tmp_path))
    assert living(tmp_path) == []


def test_draft_of_a_killed_process(tmp_path: Path) -> None:
    """What a process left that was killed before it had locked its file is removed an hour later, by the next one."""
    folder = tmp_path / "processes"
    folder.mkdir()
    old, fresh = folder / ".4242-0011aabb.new", folder / ".4343-0011aabb.new"
    old.touch()
    fresh.touch()
    os.utime(old, (1, 1))
    here = ProcessFile(tmp_path)
    assert (old.exists(), fresh.exists(), living(tmp_path)) == (False, True, [os.getpid()])
    here.close()
