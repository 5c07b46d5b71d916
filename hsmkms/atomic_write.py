"""Replace a file atomically: after a crash at any point its name has either the old or the new content, complete.

The content is written to a temporary file in the same folder, fsynced, and renamed (rename(2)); then the folder is
fsynced. The temporary file has a random name, is always new (O_EXCL) and follows no link, so that other users with
write access to the folder cannot make this process write elsewhere. The process that created it holds a lock on it
(flock(2)): one without a lock was left by a killed process, and the next write in that folder removes it.
"""

import errno
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from hsmkms.file_lock import try_lock

PutInPlace = Callable[[], None]
"""Renames a draft to its name."""

_PREFIX: Final = ".hsmkms-"
_SUFFIX: Final = ".tmp"
_MODE: Final = 0o600
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def replace(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Create or replace a file, readable by its owner only. On OSError nothing has changed.

    Without ``durable`` nothing is fsynced: a power cut may leave an empty file.
    """
    with draft(path, content, durable=durable) as put_in_place:
        put_in_place()


def create(path: Path, content: bytes) -> None:
    """Create a file, readable by its owner only, and fsync it. FileExistsError if there is one."""
    with draft(path, content) as put_in_place:
        create_together({path: put_in_place})


def create_together(drafts: Mapping[Path, PutInPlace]) -> None:
    """Rename drafts, in their order, to names that are free: all or, on OSError, none. FileExistsError."""
    for path in drafts:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    with ExitStack() as undo:
        for path, put_in_place in drafts.items():
            put_in_place()
            undo.callback(path.unlink, missing_ok=True)
        undo.pop_all()


@contextmanager
def draft(path: Path, content: bytes, *, durable: bool = True) -> Iterator[PutInPlace]:
    """Write new content to a temporary file; call the function that is yielded to replace ``path`` by it."""
    with _drafted(path, durable=durable) as (file, put_in_place):
        file.write(content)
        _flush(file, durable=durable)
        yield put_in_place


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write to; it replaces ``path``, fsynced, when the block ends without an exception."""
    with _drafted(path, durable=True) as (file, put_in_place):
        yield file
        _flush(file, durable=True)
        put_in_place()


@contextmanager
def temporary(folder: int, prefix: str = _PREFIX) -> Iterator[tuple[int, str]]:
    """Create a locked file, readable by its owner only, in an open folder; it is removed unless it was renamed.

    Yields its descriptor and its name.
    """
    descriptor, name = _new_temporary(folder, prefix)
    try:
        yield descriptor, name
    finally:
        with suppress(OSError):
            os.unlink(name, dir_fd=folder)
        os.close(descriptor)


def is_temporary(name: str, prefix: str = _PREFIX) -> bool:
    """Return True for the name of a temporary file."""
    return re.fullmatch(f"{re.escape(prefix)}[0-9a-f]{{32}}{re.escape(_SUFFIX)}", name) is not None


def remove_leftovers(files: Iterable[Path], prefix: str = _PREFIX) -> None:
    """Remove temporary files that no process has locked; failures are ignored."""
    for file in files:
        if is_temporary(file.name, prefix):
            with suppress(OSError), os.fdopen(os.open(file, _READ), "rb") as opened:
                if try_lock(opened.fileno()):
                    file.unlink()


@contextmanager
def open_folder(path: Path | str) -> Iterator[int]:
    """Open a folder, so that files in it are created, renamed and removed even if its path is replaced meanwhile."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield folder
    finally:
        os.close(folder)


def sync_folder(path: Path) -> None:
    """Fsync a folder, so that its entries are on the disk. Raises OSError."""
    with open_folder(path) as folder:
        os.fsync(folder)


@contextmanager
def _drafted(path: Path, *, durable: bool) -> Iterator[tuple[BinaryIO, PutInPlace]]:
    with open_folder(path.parent) as folder:
        with suppress(OSError):
            remove_leftovers([path.parent / name for name in os.listdir(folder)])  # noqa: PTH208 - of what is open
        with temporary(folder) as (descriptor, name), os.fdopen(descriptor, "w+b", closefd=False) as file:

            def put_in_place() -> None:
                os.rename(name, path.name, src_dir_fd=folder, dst_dir_fd=folder)
                if durable:
                    os.fsync(folder)

            yield file, put_in_place


def _flush(file: BinaryIO, *, durable: bool) -> None:
    file.flush()
    if durable:
        os.fsync(file.fileno())


def _new_temporary(folder: int, prefix: str) -> tuple[int, str]:
    while True:
        name = f"{prefix}{secrets.token_hex(16)}{_SUFFIX}"
        descriptor = os.open(name, _CREATE, _MODE, dir_fd=folder)
        # Before it is locked, another process may take it for a leftover and remove it.
        if try_lock(descriptor) and os.fstat(descriptor).st_nlink == 1:
            return descriptor, name
        os.close(descriptor)
