"""A few rounds of what scripts/torture does for as long as one likes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from postgresql_cluster import NotInstalledError, find_programs

HERE = Path(__file__).parent
PATHS = os.pathsep.join(map(str, (HERE.parent, HERE.parent / "server")))


def torture(*options: str) -> str:
    """Run it in a process of its own; what it said."""
    done = subprocess.run(
        [sys.executable, HERE / "torture.py", *options],
        env={**os.environ, "PYTHONPATH": PATHS},
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_kills() -> None:
    """After any kill under load every acknowledged object exists and works, and nothing works that has ended."""
    output = torture("--rounds", "2", "--seed", "1")
    assert "2 rounds" in output
    assert "no breach" in output


def test_swapped_token() -> None:
    """Another token in the place of the right one, under load: nothing that was answered is lost, nor made on it."""
    output = torture("--rounds", "2", "--seed", "5", "--only", "token")
    assert "no breach" in output
    assert "2 token" in output


def test_nodes() -> None:
    """Nodes on one database and token: whatever dies, all that any of them answered is there, and works on all."""
    try:
        find_programs()
    except NotInstalledError as exc:
        pytest.skip(str(exc))
    output = torture("--nodes", "3", "--rounds", "2", "--seed", "26", "--workers", "1")
    assert "no breach" in output
    assert "what happened: 1 promote, 1 workers;" in output


def test_many_processes() -> None:
    """Four workers and commands on one database and token: no lock reaches a client, and no update is lost."""
    output = torture("--no-kill", "--seconds", "2", "--workers", "4", "--seed", "2")
    assert "no breach" in output
    assert " 0 unanswered" in output
