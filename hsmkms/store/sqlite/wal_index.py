"""Read the header of SQLite's WAL index, in the memory that all processes with the database open share.

Every commit in WAL mode writes the header: it has a counter, the number of frames, and their checksum. So an unchanged
header means that nobody has committed, which costs 0.1 µs to see and neither a system call nor the interpreter's lock;
``PRAGMA data_version`` costs 2 to 4 µs. What a changed header means is left to SQLite.

The memory is SQLite's own mapping of ``meta.db-shm``, found by its address: opening that file here would drop, when it
is closed, the POSIX locks that SQLite has on it. The mapping lives as long as any connection of this process to the
database. Where it is not found (no /proc, another VFS), the header is unknown.

Source: https://sqlite.org/walformat.html, section 2; https://sqlite.org/howtocorrupt.html, section 2.2.
"""

import ctypes
import os
import sys
from pathlib import Path
from typing import Final

HEADER_BYTES: Final = 48
"""The first copy of the header. A commit writes the second copy first, so it is not complete before this one is."""

VERSION: Final = 3007000
"""Of the index's format, the header's first number; the same since WAL was introduced."""

_MAPPINGS: Final = Path("/proc/self/maps")
_SHARED: Final = b"rw-s"


def find_header(database: Path) -> "ctypes.Array[ctypes.c_char] | None":
    """Return the header as memory to read ``raw`` of, or None; a connection of this process must have read already.

    danger: it must not be read after the last connection of this process to the database was closed.
    """
    index = database.with_name(f"{database.name}-shm")
    try:
        lines = _MAPPINGS.read_bytes().splitlines()
    except OSError:
        return None
    for line in lines:
        addresses, access, offset, _, _, *path = line.split(maxsplit=5)
        if access == _SHARED and not int(offset, 16) and path and _is_same(Path(os.fsdecode(path[0])), index):
            header = (ctypes.c_char * HEADER_BYTES).from_address(int(addresses.partition(b"-")[0], 16))
            return header if int.from_bytes(header.raw[:4], sys.byteorder) == VERSION else None
    return None


def _is_same(mapped: Path, index: Path) -> bool:
    """Return True if a mapped file is the index; two file systems may have the same inode number."""
    try:
        return mapped.name == index.name and mapped.samefile(index)
    except OSError:  # it was deleted, or its name is written with escapes
        return False
