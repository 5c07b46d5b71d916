"""scripts/walk: what it follows is the way of a request from its connection to the token and back."""

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest
import walk as walking

ROOT = Path(__file__).parent.parent
MAX_CALLS, MAX_CHANGES = 120, 60
"""Encrypt over HTTP makes fewer calls, and changes files less often. What adds a detour must cut another one."""
SECONDS = 300.0
"""After which a test gives up."""


def walk(scratch: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run it in a process of its own, which loads the module and is profiled."""
    return subprocess.run(
        [sys.executable, ROOT / "scripts/walk.py", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        env={"TMPDIR": str(scratch)},
    )


def places(lines: list[str]) -> list[tuple[str, str]]:
    """File and function of each call in a printed path."""
    return [(file, function) for file, _, function in (re.split(r":(\d+) ", line.strip()) for line in lines)]


def test_an_encryption(scratch: Path) -> None:
    """The path of Encrypt goes from the connection to the token and back without detours; the row counts its calls."""
    done = walk(scratch, "encrypt", "--lines")
    assert done.returncode == 0, done.stderr
    title, *lines, _, _, row = done.stdout.splitlines()
    assert title == "encrypt:"
    path = places(lines)
    order = [
        ("server/process/connection.py", "Connection.data_received"),
        ("server/aws/sigv4.py", "Signing.check"),
        ("service/pipeline.py", "run_audited"),
        ("service/operations/crypto.py", "encrypt"),
        ("hsm/crypto/gcm.py", "seal"),
        ("server/process/connection.py", "Connection._write"),
    ]
    assert [step for step in path if step in order] == order
    files = [file for file, _ in path]
    changes = sum(one != other for one, other in itertools.pairwise(files))
    assert row == f"| encrypt | {len(path)} | {changes} | {len({*files})} |"
    assert len(path) < MAX_CALLS
    assert changes < MAX_CHANGES


def test_calls_in_threads_are_followed(scratch: Path) -> None:
    """A rotation is done in a thread: the calls of the device and of the database are among what is counted."""
    done = walk(scratch, "rotate", "--lines")
    assert done.returncode == 0, done.stderr
    path = places(done.stdout.splitlines()[1:-3])
    assert ("service/keys/rotate.py", "rotate") in path
    assert ("hsm/objects/objects.py", "make_secret") in path
    assert any(file.startswith("store/") for file, _ in path)


def test_an_unknown_walk(scratch: Path) -> None:
    """A walk that does not exist is refused before anything is made, with the names of those that do."""
    done = walk(scratch, "stroll")
    assert done.returncode == 2
    assert "there is no walk stroll: choose from encrypt, decrypt, import, rotate" in done.stderr


@pytest.mark.parametrize(
    ("files", "changes", "different"), [("", 0, 0), ("a", 0, 1), ("aa", 0, 1), ("ab", 1, 2), ("aabbab", 3, 2)]
)
def test_counting(files: str, changes: int, different: int) -> None:
    """A change is a call in another file than the one before it, wherever that one returns to."""
    followed = walking.Walk()
    followed.steps = [walking.Step(file, "f", 1, 0) for file in files]
    assert (followed.changes, followed.files) == (changes, different)
