"""Threads, processes and forks, tested in separate processes."""

from pathlib import Path

import devices
import pytest
from devices import Token, new_key


def test_threads(token: Token, programs: Path) -> None:
    """Eight threads with 2,000 mixed operations each use one device without a failure."""
    result = devices.run(programs / "hammer.py", token, threads=8, rounds=2000, sessions=16)
    assert result["failures"] == []
    assert 1 <= result["sessions"] <= 8


def test_more_threads_than_sessions(token: Token, programs: Path) -> None:
    """Sixteen threads share two sessions, and no third is opened."""
    result = devices.run(programs / "hammer.py", token, threads=16, rounds=200, sessions=2)
    assert result == {"failures": [], "sessions": 2}


def test_processes_at_the_same_instant(token: Token, programs: Path) -> None:
    """Four processes that open one token at the same instant all succeed, five times, and use one key."""
    device = token.open()
    key = new_key(device)
    device.close()
    for _ in range(5):
        result = devices.run_together(programs / "open_at_once.py", [token] * 4, key=key.hex())
        assert result == ["at once"] * 4


def test_processes_that_make_keys_at_the_same_instant(token: Token, programs: Path, tmp_path: Path) -> None:
    """Each of several processes that create keys at the same instant sees the others' keys at once."""
    result = devices.run_together(
        programs / "make_and_look.py", [token] * 3, folder=str(tmp_path), rounds=60, processes=3
    )
    assert result == [0, 0, 0]


def test_fork(token: Token, programs: Path) -> None:
    """A forked child cannot use its parent's device, opens one of its own, and repeats none of the parent's IVs."""
    result = devices.run(programs / "fork.py", token)
    child = result["child"]
    own = child.pop("own")
    assert child.pop("close") == "done"
    assert len(child) == (21 if "fingerprints" in child else 20)  # none is computed on a token that imports nothing
    assert child == dict.fromkeys(child, "ForkedProcessError")
    assert result["status"] == 0
    assert len(own) == 100
    assert len(result["parent"]) == 103
    assert len({*own, *result["parent"]}) == 203


def test_unreadable_report_is_a_failure(token: Token, tmp_path: Path) -> None:
    """A program that dies fails its test with its output, so that the tests above cannot pass without a report."""
    broken = tmp_path / "broken.py"
    broken.write_text("import os; os.kill(os.getpid(), 11)")
    with pytest.raises(AssertionError, match="the program ended with -11"):
        devices.run(broken, token)
