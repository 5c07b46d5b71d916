"""Find, read and replace files whose whole content is a ciphertext.

A file is replaced atomically (atomic_write.py); the new one gets mode, owner and extended attributes of the original.
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
"""A longer file is no ciphertext: the longest has 6,144 bytes, which are 8,192 in base64, and line ends."""

_PREFIX: Final = ".hsmkms-re-encrypt-"
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_SYSTEM_ATTRIBUTES: Final = ("security.", "trusted.")
"""Extended attributes that the system sets on new files itself, and that other users may not set."""


class FileLeftAloneError(Exception):
    """A file must not be replaced; ``code`` names the reason for programs."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class Base64Form(Struct, frozen=True):
    """The layout of base64 in a file: characters on a line, the line separator, and what follows the last line."""

    width: int
    newline: bytes
    ending: bytes

    def write(self, data: bytes) -> bytes:
        """Encode bytes in this layout."""
        text = base64.b64encode(data)
        lines = [text[start : start + self.width] for start in range(0, len(text), self.width)]
        return self.newline.join(lines) + self.ending


class Content(Struct, frozen=True):
    """The content of a file when it was read, and its status at that time."""

    raw: bytes
    seen: os.stat_result

    def unwrapped(self) -> tuple[bytes, Base64Form] | None:
        """Decode base64 on one or several lines; return the bytes and the layout, None if it is no base64."""
        text = self.raw.rstrip()
        lines = text.splitlines()
        try:
            data = base64.b64decode(b"".join(lines), validate=True)
        except binascii.Error:
            return None
        newline = b"\r\n" if b"\r\n" in text else b"\n"
        return data, Base64Form(max(map(len, lines), default=1), newline, self.raw[len(text) :])


class FileEntry(Struct, frozen=True):
    """A file, or a folder that could not be read."""

    path: str
    error: OSError | None = None


def outermost(arguments: Sequence[Path]) -> list[Path]:
    """Return the arguments without those inside another one; a symbolic link counts as its target."""
    resolved = {each.resolve(): each.resolve() if each.is_symlink() else each for each in arguments}
    return [shown for path, shown in resolved.items() if resolved.keys().isdisjoint(path.parents)]


def walk(arguments: Sequence[Path], include: Sequence[str]) -> Iterator[FileEntry]:
    """Yield the files among the arguments and in their folders, sorted in each folder; links are not followed.

    ``include``: shell patterns, one of which a file's name must match; empty for all files.
    """
    for argument in arguments:
        if argument.is_dir():
            yield from _walk_folder(str(argument), include)
        elif _wanted(argument.name, include):
            yield FileEntry(str(argument))


def remove_leftovers(arguments: Sequence[Path]) -> None:
    """Remove temporary files of killed processes in the folders of the arguments and below; failures are ignored."""
    for argument in filter(Path.is_dir, arguments):
        for place, _, names in os.walk(argument):
            atomic_write.remove_leftovers((Path(place, name) for name in names), _PREFIX)
    for folder in {each.parent for each in arguments if not each.is_dir()}:
        with suppress(OSError):
            atomic_write.remove_leftovers(folder.iterdir(), _PREFIX)


def read(path: str) -> Content | None:
    """Read a file; None if it cannot be a ciphertext: too long, empty, or no regular file. Raises OSError."""
    if not _possible(os.lstat(path)):
        return None
    with os.fdopen(os.open(path, _READ), "rb") as opened:
        seen = os.fstat(opened.fileno())
        data = opened.read(MOST_BYTES + 1) if _possible(seen) else b""
    return Content(data, seen) if 0 < len(data) <= MOST_BYTES else None


def check_replaceable(content: Content) -> None:
    """Raise FileLeftAloneError for a file with several names: the other names would keep the old content."""
    if content.seen.st_nlink > 1:
        raise FileLeftAloneError(
            "HardLink",
            f"The file has {content.seen.st_nlink} names (hard links), and a new file would have one: copy it first.",
        )


def replace(path: str, content: Content, data: bytes) -> None:
    """Replace a file's content atomically, unless it has changed since it was read.

    Raises OSError and FileLeftAloneError; then the file is unchanged.
    """
    folder, name = os.path.split(path)
    with atomic_write.open_folder(folder or ".") as directory:
        with atomic_write.temporary(directory, _PREFIX) as (descriptor, temporary):
            _fill(descriptor, data)
            _copy_metadata(descriptor, path, content.seen)
            os.fsync(descriptor)
            _check_unchanged(os.stat(name, dir_fd=directory, follow_symlinks=False), content.seen)
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)


def _walk_folder(folder: str, include: Sequence[str]) -> Iterator[FileEntry]:
    try:
        with os.scandir(folder) as entries:
            in_order = sorted(entries, key=lambda each: each.name)
    except OSError as exc:
        yield FileEntry(folder, exc)
        return
    for each in in_order:
        if each.is_dir(follow_symlinks=False):
            yield from _walk_folder(each.path, include)
        elif (
            each.is_file(follow_symlinks=False)
            and not atomic_write.is_temporary(each.name, _PREFIX)
            and _wanted(each.name, include)
        ):
            yield FileEntry(each.path)


def _wanted(name: str, include: Sequence[str]) -> bool:
    return not include or any(fnmatchcase(name, pattern) for pattern in include)


def _possible(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and 0 < status.st_size <= MOST_BYTES


def _fill(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _copy_metadata(descriptor: int, path: str, original: os.stat_result) -> None:
    """Copy owner, extended attributes and mode to the new file; the mode last, as chown(2) clears some of its bits."""
    if (original.st_uid, original.st_gid) != ((created := os.fstat(descriptor)).st_uid, created.st_gid):
        os.fchown(descriptor, original.st_uid, original.st_gid)
    for name in _attributes(path):
        if not name.startswith(_SYSTEM_ATTRIBUTES):
            os.setxattr(descriptor, name, os.getxattr(path, name, follow_symlinks=False))
    os.fchmod(descriptor, stat.S_IMODE(original.st_mode))


def _attributes(path: str) -> list[str]:
    """Return the names of a file's extended attributes, which include its access control lists."""
    try:
        return os.listxattr(path, follow_symlinks=False)
    except OSError as exc:
        if exc.errno != errno.ENOTSUP:
            raise
        return []


def _check_unchanged(now: os.stat_result, seen: os.stat_result) -> None:
    if _identity(now) != _identity(seen):
        raise FileLeftAloneError("FileChanged", "The file was changed meanwhile: run the command again.")


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
