"""Files whose whole content is a ciphertext: finding them, reading them, and replacing them in one step.

A file is replaced in one step (atomic_write.py); the new one gets mode, owner and extended attributes of the original.
"""

import base64
import binascii
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from msgspec import Struct

from hsmkms import atomic_write

MOST_BYTES: Final = 16 * 1024
"""A longer file is no ciphertext: the longest one has 6,144 bytes, which are 8,192 in base64, and line ends."""

_PREFIX: Final = ".hsmkms-re-encrypt-"
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
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
            atomic_write.remove_leftovers((Path(place, name) for name in names), _PREFIX)
    for folder in {each.parent for each in arguments if not each.is_dir()}:
        with suppress(OSError):
            atomic_write.remove_leftovers(folder.iterdir(), _PREFIX)


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
    with atomic_write.open_folder(folder or ".") as directory:
        with atomic_write.temporary(directory, _PREFIX) as (descriptor, temporary):
            _fill(descriptor, data)
            _dress(descriptor, path, content.seen)
            os.fsync(descriptor)
            _check_unchanged(os.stat(name, dir_fd=directory, follow_symlinks=False), content.seen)
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)


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
        elif (
            each.is_file(follow_symlinks=False)
            and not atomic_write.is_temporary(each.name, _PREFIX)
            and _wanted(each.name, include)
        ):
            yield Found(each.path)


def _wanted(name: str, include: Sequence[str]) -> bool:
    return not include or any(fnmatchcase(name, pattern) for pattern in include)


def _possible(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and 0 < status.st_size <= MOST_BYTES


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
