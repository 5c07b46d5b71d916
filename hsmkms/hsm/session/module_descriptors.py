"""Keep the descriptors that a module closes in C_Finalize from being given to other files of this process.

opencryptoki 3.8 keeps the number of its lock file after C_Finalize has closed it. Initialised again, it locks whatever
file has that number by then, and closes that file at the next C_Finalize: a database, or a client's connection. So the
numbers that a module closed stay occupied, by the same files, until it is seen to leave them alone.

What was opened and closed at the same moments need not be the module's: another thread may have done so. A file with
contents is never opened here, since this process would lose its POSIX locks on it when that descriptor is closed
(https://sqlite.org/howtocorrupt.html, section 2.2); lock files are empty.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_OPEN: Final = Path("/proc/self/fd")


def open_files() -> dict[int, str]:
    """Return the path of every open file of this process by its descriptor; nothing where the system has no /proc."""
    files = {}
    for entry in _OPEN.iterdir() if _OPEN.is_dir() else ():
        with suppress(FileNotFoundError):  # closed meanwhile, as the descriptor of this listing is
            files[int(entry.name)] = str(entry.readlink())
    return files


class ModuleDescriptors:
    """The files of one module: those that it opens in C_Initialize, and what takes their place after C_Finalize."""

    def __init__(self) -> None:
        self._opened: dict[int, str] = {}
        self._kept: dict[int, str] = {}
        """What occupies numbers of the module since its last C_Finalize."""
        self._leaves_them_alone = False

    @contextmanager
    def initialising(self) -> Iterator[None]:
        """Note what the module opens in the block, which calls C_Initialize."""
        before = open_files()
        yield
        self._opened = _without(open_files(), before)

    @contextmanager
    def finalising(self) -> Iterator[None]:
        """Occupy the numbers of the files that the module closes in the block, which calls C_Finalize.

        A connection that another thread accepts between the two may take a number; then it is left to it.
        """
        before = open_files()
        yield
        after = open_files()
        if self._leaves_them_alone:
            return
        closed_again = {number: path for number, path in self._kept.items() if after.get(number) != path}
        if self._kept and not closed_again:
            self._leaves_them_alone = True
        for number in self._kept.keys() - closed_again.keys():
            os.close(number)
        own = {number: path for number, path in self._opened.items() if before.get(number) == path}
        wanted = closed_again or ({} if self._kept else _without(own, after))
        self._kept = {number: kept for number, path in wanted.items() if (kept := _occupy(number, path)) is not None}


def _without(files: dict[int, str], others: dict[int, str]) -> dict[int, str]:
    return {number: path for number, path in files.items() if others.get(number) != path}


def _occupy(number: int, path: str) -> str | None:
    """Open an empty file, or /dev/null where it is none, under a number; its path, or None if the number is in use."""
    for chosen in (path, os.devnull):
        with suppress(OSError):
            if chosen == os.devnull or _is_empty_file(Path(chosen)):
                opened = os.open(chosen, os.O_RDWR | os.O_CLOEXEC)
                if opened == number:
                    return chosen
                moved = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, number)
                os.close(opened)
                if moved == number:
                    return chosen
                os.close(moved)
                return None
    return None


def _is_empty_file(path: Path) -> bool:
    return path.is_file() and not path.stat().st_size
