"""Descriptors of a module that is initialised again: no other file of the process is closed by it."""

import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from devices import Token

from hsmkms.hsm.session.module_descriptors import ModuleDescriptors, open_files

LIVES = 4


class LockFile:
    """A file of a module; ``forgetful``: it keeps its number after it was closed, as in opencryptoki 3.8."""

    def __init__(self, path: Path, *, forgetful: bool) -> None:
        path.touch()
        self.path = path
        self.forgetful = forgetful
        self.number = -1

    def open(self) -> None:
        """Open the file, unless it counts as open."""
        if self.number == -1:
            self.number = os.open(self.path, os.O_RDWR)

    def close(self) -> None:
        """Close the file, or whatever has its number."""
        os.close(self.number)
        if not self.forgetful:
            self.number = -1


@pytest.fixture
def others() -> Iterator[list[int]]:
    """Yield descriptors of other files, closed after the test."""
    opened: list[int] = []
    yield opened
    for each in opened:
        os.close(each)


@pytest.mark.parametrize("forgetful", [True, False])
def test_no_other_file_is_closed(tmp_path: Path, others: list[int], *, forgetful: bool) -> None:
    """A module that closes its file twice closes no other file, and always uses its own."""
    descriptors, file = ModuleDescriptors(), LockFile(tmp_path / "lock", forgetful=forgetful)
    for _ in range(LIVES):
        with descriptors.initialising():
            file.open()
        assert open_files()[file.number] == str(file.path)
        with descriptors.finalising():
            file.close()
        others.append(os.open(tmp_path, os.O_RDONLY))
        assert {open_files()[each] for each in others} == {str(tmp_path)}
    left = [path for path in open_files().values() if path == str(file.path)]
    assert left == [str(file.path)] * forgetful


def test_a_number_that_was_taken_meanwhile(tmp_path: Path, others: list[int]) -> None:
    """A file that another thread opened under the number just after the module closed it stays open."""
    descriptors, file = ModuleDescriptors(), LockFile(tmp_path / "lock", forgetful=True)
    with descriptors.initialising():
        file.open()
    with descriptors.finalising():
        file.close()
        others.append(os.open(tmp_path, os.O_RDONLY))
    assert others == [file.number]
    assert open_files()[file.number] == str(tmp_path)


def test_module_that_is_initialised_again(token: Token) -> None:
    """The module under test closes no file of this process but its own."""
    files = []
    for _ in range(LIVES):
        token.load().release()
        files.append(tempfile.TemporaryFile())  # noqa: SIM115 - closed below
    for each in files:
        assert os.fstat(each.fileno()).st_nlink == 0, "still the file that has no name"
        each.write(b"x")
        each.close()


def test_no_lock_on_a_database_is_lost(tmp_path: Path) -> None:
    """What another thread opened and closed at the same moments is not opened again: closing it would drop its locks.

    POSIX locks on a file belong to the process, and end when it closes any descriptor of that file.
    """
    descriptors, file = ModuleDescriptors(), tmp_path / "meta.db"
    with closing(database(file)) as before:
        before.execute("CREATE TABLE t (x)")
    with descriptors.initialising():
        closed_meanwhile = database(file)
    with descriptors.finalising():
        closed_meanwhile.close()
    with closing(database(file)) as writing:
        writing.execute("BEGIN IMMEDIATE")
        for _ in range(LIVES):
            with descriptors.initialising():
                pass
            with descriptors.finalising():
                pass
        with pytest.raises(subprocess.CalledProcessError):
            subprocess.run([sys.executable, "-c", WRITE, file], check=True, stderr=subprocess.PIPE)


def database(file: Path) -> sqlite3.Connection:
    """Open a database that is locked by its file, in the manner of journals."""
    return sqlite3.connect(file, isolation_level=None)


WRITE = """
import sqlite3, sys
sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None).execute("INSERT INTO t VALUES (1)")
"""
