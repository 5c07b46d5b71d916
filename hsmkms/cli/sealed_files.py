"""Files whose whole content is a ciphertext: finding them, reading them, and replacing them in one step.

A file is replaced so that at every instant its name stands for the old or for the new content, whole: the new content
goes into a temporary file in the same folder, gets mode, owner and extended attributes of the original, is synced, and
takes the original's name by rename(2); then the folder is synced. The temporary file is locked by the process that
made it (flock(2)), so that one without a lock is known to be left over from a killed process.
"""

import base64
import binascii
import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from msgspec import Struct

MOST_BYTES: Final = 16 * 1024
"""A longer file is no ciphertext: the longest one has 6,144 bytes, which are 8,192 in base64, and line ends."""

_TEMPORARY: Final = ".hsmkms-re-encrypt-{}.tmp"
_is_temporary: Final = re.compile(_TEMPORARY.format("[0-9a-f]{32}").replace(".", r"\.")).fullmatch
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SYSTEM_ATTRIBUTES: Final = ("security.", "trusted.")
"""The system labels new files itself, and lets nobody else do it."""


class FileLeftAloneError(Exception):
    """A file that must not be replaced; ``code`` is a word for programs."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class Base64Form(Struct, frozen=True):
    """How a file writes base64: characters in a line, what parts the lines, and what ends the last one."""

    width: int
    newline: bytes
    ending: bytes

    def write(self, data: bytes) -> bytes:
        """The bytes in this form."""
        text = base64.b64encode(data)
        lines = [text[start : start + self.width] for start in range(0, len(text), self.width)]
        return self.newline.join(lines) + self.ending


class Content(Struct, frozen=True):
    """What a file held when it was looked at, and the status that it had then."""

    raw: bytes
    seen: os.stat_result

    def unwrapped(self) -> tuple[bytes, Base64Form] | None:
        """The bytes that the file writes in base64, on one line or on several, and how; None if it is no base64."""
        text = self.raw.rstrip()
        lines = text.splitlines()
        try:
            data = base64.b64decode(b"".join(lines), validate=True)
        except binascii.Error:
            return None
        newline = b"\r\n" if b"\r\n" in text else b"\n"
        return data, Base64Form(max(map(len, lines), default=1), newline, self.raw[len(text) :])


class Found(Struct, frozen=True):
    """A file, or a folder that could not be read."""

    path: str
    error: OSError | None = None


def outermost(arguments: Sequence[Path]) -> list[Path]:
    """The arguments without those that lie in another one; a symbolic link stands for what it points to."""
    resolved = {each.resolve(): each.resolve() if each.is_symlink() else each for each in arguments}
    return [shown for path, shown in resolved.items() if resolved.keys().isdisjoint(path.parents)]


def walk(arguments: Sequence[Path], include: Sequence[str]) -> Iterator[Found]:
    """The files among the arguments and in their folders, sorted in each folder; symbolic links are not followed.

    ``include``: shell patterns, one of which a file's name must match; none is for all files.
    """
    for argument in arguments:
        if argument.is_dir():
            yield from _walk_folder(str(argument), include)
        elif _wanted(argument.name, include):
            yield Found(str(argument))


def remove_leftovers(arguments: Sequence[Path]) -> None:
    """Remove what killed processes have left in the folders of the arguments and below; failures do not matter."""
    for argument in filter(Path.is_dir, arguments):
        for place, _, names in os.walk(argument):
            _remove_unlocked(Path(place, name) for name in names)
    for folder in {each.parent for each in arguments if not each.is_dir()}:
        with suppress(OSError):
            _remove_unlocked(folder.iterdir())


def read(path: str) -> Content | None:
    """What a file holds; None for what cannot be a ciphertext: too long, empty, or no regular file. Raises OSError."""
    if not _possible(os.lstat(path)):
        return None
    with os.fdopen(os.open(path, _READ), "rb") as opened:
        seen = os.fstat(opened.fileno())
        data = opened.read(MOST_BYTES + 1) if _possible(seen) else b""
    return Content(data, seen) if 0 < len(data) <= MOST_BYTES else None


def check_replaceable(content: Content) -> None:
    """Raise FileLeftAloneError for a file with several names: the others would keep the old content."""
    if content.seen.st_nlink > 1:
        raise FileLeftAloneError(
            "HardLink",
            f"The file has {content.seen.st_nlink} names (hard links), and a new file would have one: copy it first.",
        )


def replace(path: str, content: Content, data: bytes) -> None:
    """Give a file new content, all at once, unless it has changed since it was read.

    Raises OSError and FileLeftAloneError; then the file is untouched.
    """
    folder, name = os.path.split(path)
    directory = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _temporary(directory) as (descriptor, temporary):
            _fill(descriptor, data)
            _dress(descriptor, path, content.seen)
            os.fsync(descriptor)
            _check_unchanged(os.stat(name, dir_fd=directory, follow_symlinks=False), content.seen)
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)
    finally:
        os.close(directory)


def _walk_folder(folder: str, include: Sequence[str]) -> Iterator[Found]:
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda each: each.name)
    except OSError as exc:
        yield Found(folder, exc)
        return
    for each in found:
        if each.is_dir(follow_symlinks=False):
            yield from _walk_folder(each.path, include)
        elif each.is_file(follow_symlinks=False) and not _is_temporary(each.name) and _wanted(each.name, include):
            yield Found(each.path)


def _wanted(name: str, include: Sequence[str]) -> bool:
    return not include or any(fnmatchcase(name, pattern) for pattern in include)


def _possible(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and 0 < status.st_size <= MOST_BYTES


def _remove_unlocked(files: Iterable[Path]) -> None:
    """Remove temporary files that no process has locked."""
    for file in files:
        if _is_temporary(file.name):
            with suppress(OSError), os.fdopen(os.open(file, _READ), "rb") as opened:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.unlink()


@contextmanager
def _temporary(directory: int) -> Iterator[tuple[int, str]]:
    """A new, locked file for its owner alone; it is removed unless it has got another name."""
    descriptor, name = _new_temporary(directory)
    try:
        yield descriptor, name
    except BaseException:
        with suppress(OSError):
            os.unlink(name, dir_fd=directory)
        raise
    finally:
        os.close(descriptor)


def _new_temporary(directory: int) -> tuple[int, str]:
    while True:
        name = _TEMPORARY.format(secrets.token_hex(16))
        descriptor = os.open(name, _CREATE, 0o600, dir_fd=directory)
        # Another process may take it for a left-over one before it is locked, and remove it.
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink == 1:
                return descriptor, name
        os.close(descriptor)


def _fill(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _dress(descriptor: int, path: str, original: os.stat_result) -> None:
    """Give the new file what the original has; the mode last, as a change of the owner takes bits away."""
    if (original.st_uid, original.st_gid) != ((made := os.fstat(descriptor)).st_uid, made.st_gid):
        os.fchown(descriptor, original.st_uid, original.st_gid)
    for name in _attributes(path):
        if not name.startswith(_SYSTEM_ATTRIBUTES):
            os.setxattr(descriptor, name, os.getxattr(path, name, follow_symlinks=False))
    os.fchmod(descriptor, stat.S_IMODE(original.st_mode))


def _attributes(path: str) -> list[str]:
    """The names of a file's extended attributes, access control lists among them."""
    try:
        return os.listxattr(path, follow_symlinks=False)
    except OSError as exc:
        if exc.errno != errno.ENOTSUP:
            raise
        return []


def _check_unchanged(now: os.stat_result, seen: os.stat_result) -> None:
    if _identity(now) != _identity(seen):
        raise FileLeftAloneError("FileChanged", "Somebody has changed the file meanwhile: run the command again.")


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
