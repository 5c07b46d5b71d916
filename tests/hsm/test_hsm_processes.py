"""Threads, processes and forks, each in processes of their own."""

from pathlib import Path

import devices
import pytest
from devices import Token, new_key


def test_threads(token: Token, programs: Path) -> None:
    """Eight threads with 2,000 mixed operations each work on one device without a failure."""
    told = devices.run(programs / "hammer.py", token, threads=8, rounds=2000, sessions=16)
    assert told["failures"] == []
    assert 1 <= told["sessions"] <= 8


def test_more_threads_than_sessions(token: Token, programs: Path) -> None:
    """Sixteen threads get on with two sessions, and no third is opened."""
    told = devices.run(programs / "hammer.py", token, threads=16, rounds=200, sessions=2)
    assert told == {"failures": [], "sessions": 2}


def test_processes_at_the_same_instant(token: Token, programs: Path) -> None:
    """Four processes that open one token at the same instant all get in, five times over, and use one key."""
    device = token.open()
    key = new_key(device)
    device.close()
    for _ in range(5):
        told = devices.run_together(programs / "open_at_once.py", [token] * 4, key=key.hex())
        assert told == ["at once"] * 4


def test_processes_that_make_keys_at_the_same_instant(token: Token, programs: Path, tmp_path: Path) -> None:
    """Whatever several processes make at the same instant, each sees at once what the others have made."""
    told = devices.run_together(
        programs / "make_and_look.py", [token] * 3, folder=str(tmp_path), rounds=60, processes=3
    )
    assert told == [0, 0, 0]


def test_fork(token: Token, programs: Path) -> None:
    """A forked child can use nothing of its parent's, opens a device of its own, and repeats none of its IVs."""
    told = devices.run(programs / "fork.py", token)
    child = told["child"]
    own = child.pop("own")
    assert child.pop("close") == "done"
    assert len(child) == (21 if "fingerprints" in child else 20)  # none is computed on a token that imports nothing
    assert child == dict.fromkeys(child, "ForkedProcessError")
    assert told["status"] == 0
    assert len(own) == 100
    assert len(told["parent"]) == 103
    assert len({*own, *told["parent"]}) == 203


def test_unreadable_report_is_a_failure(token: Token, tmp_path: Path) -> None:
    """A program that dies fails its test with what it wrote: the tests above can't pass by silence."""
    broken = tmp_path / "broken.py"
    broken.write_text("import os; os.kill(os.getpid(), 11)")
    with pytest.raises(AssertionError, match="the program ended with -11"):
        devices.run(broken, token)
