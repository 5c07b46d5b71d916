"""Write and read the archive inside a backup: a plain tar, readable by every tar program and read strictly here.

Only regular files are accepted, each once, under the names that a backup of hsmkms has. Links, devices, folders, sparse
files, extension headers and bytes between the members are refused: only names, sizes and contents of members are used,
and all of these are in the list that a backup's proof covers.
"""

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Final, Self

from msgspec import Struct

from hsmkms.errors import StoreError
from hsmkms.store import files

END: Final = bytes(2 * tarfile.BLOCKSIZE)
_CHUNK: Final = 65536
_NOT_OURS: Final = "it was not made by this program"


class Member(Struct, frozen=True, kw_only=True):
    """A file of the archive: its name, size in bytes, and SHA-256 in hex."""

    name: str
    size: int
    sha256: str


class ArchiveWriter:
    """Produces the bytes of an archive; ``members`` lists the members that were yielded completely."""

    def __init__(self) -> None:
        self.members: list[Member] = []

    def add(self, name: str, size: int, data: BinaryIO) -> Iterator[bytes]:
        """Yield a member of ``size`` bytes of ``data``. StoreError if there are fewer."""
        member = tarfile.TarInfo(name)
        member.size, member.mode = size, files.FILE_MODE
        yield member.tobuf(tarfile.GNU_FORMAT)  # it writes sizes above 8 GiB without an extension header
        digest, left = hashlib.sha256(), size
        while left:
            block = data.read(min(left, _CHUNK))
            if not block:
                raise StoreError(f"{name} has become shorter while it was read: try again")
            digest.update(block)
            left -= len(block)
            yield block
        yield bytes(-size % tarfile.BLOCKSIZE)
        self.members.append(Member(name=name, size=size, sha256=digest.hexdigest()))


class ArchiveReader:
    """Unpacks an archive whose bytes are written to it; ``finish`` checks that the archive was complete.

    ``is_file``: True for the names that are written into ``folder``. ``kept``: names whose content is kept in memory
    instead, with its maximum length; 0 discards the content. StoreError for every other name.
    """

    def __init__(self, folder: Path, is_file: Callable[[str], bool], kept: Mapping[str, int]) -> None:
        self.members: list[Member] = []
        self.kept: dict[str, bytearray] = {}
        self._folder, self._is_file, self._limits = folder, is_file, kept
        self._buffer = bytearray()
        self._names: set[str] = set()
        self._member: tarfile.TarInfo | None = None
        self._left = self._padding = 0
        self._sink: Callable[[bytes], object] = _forget
        self._digest = hashlib.sha256()
        self._ended = False
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.__exit__(*error)  # type: ignore[arg-type]  # the same three

    def write(self, data: bytes) -> int:
        """Process the next bytes of the archive."""
        self._buffer += data
        while self._step():
            pass
        return len(data)

    def flush(self) -> None:
        """Do nothing: part of the file interface that writers may call."""

    def finish(self) -> None:
        """Raise StoreError unless the end of the archive was reached."""
        if not self._ended:
            raise StoreError(f"the archive in the backup has no end: {_NOT_OURS}")

    def _step(self) -> bool:
        """Consume a part of the buffer; False if more bytes are needed."""
        if self._ended:
            self._take_zeros(len(self._buffer))
            return False
        if self._member is not None:
            return self._take_content(self._member)
        if len(self._buffer) < self._padding + tarfile.BLOCKSIZE:
            return False
        self._take_zeros(self._padding)
        self._padding = 0
        self._take_header()
        return True

    def _take_zeros(self, count: int) -> None:
        if any(self._buffer[:count]):
            raise StoreError(f"the archive in the backup holds bytes that belong to no file: {_NOT_OURS}")
        del self._buffer[:count]

    def _take_header(self) -> None:
        block = bytes(self._buffer[: tarfile.BLOCKSIZE])
        del self._buffer[: tarfile.BLOCKSIZE]
        if not any(block):
            self._ended = True
            return
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.TarError as exc:
            raise StoreError(f"the archive in the backup cannot be read: {_NOT_OURS}") from exc
        self._begin(member)

    def _begin(self, member: tarfile.TarInfo) -> None:
        name = member.name
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.size < 0:
            raise StoreError(f"the backup holds {name!r}, which is no plain file: {_NOT_OURS}")
        if name in self._names:
            raise StoreError(f"the backup holds {name!r} twice: {_NOT_OURS}")
        self._names.add(name)
        self._sink = self._sink_of(name, member.size)
        self._member, self._left, self._digest = member, member.size, hashlib.sha256()
        self._padding = -member.size % tarfile.BLOCKSIZE

    def _sink_of(self, name: str, size: int) -> Callable[[bytes], object]:
        if self._is_file(name):
            return self._open.enter_context(new_file(self._folder / name)).write
        if name not in self._limits:
            raise StoreError(f"the backup holds {name!r}, which no backup of this version has: {_NOT_OURS}")
        if not self._limits[name]:
            return _forget
        if size > self._limits[name]:
            raise StoreError(f"{name!r} in the backup has {size} bytes, {self._limits[name]} at most: {_NOT_OURS}")
        self.kept[name] = bytearray()
        return self.kept[name].extend

    def _take_content(self, member: tarfile.TarInfo) -> bool:
        block = bytes(self._buffer[: self._left])
        if self._left and not block:
            return False
        del self._buffer[: self._left]
        self._left -= len(block)
        self._digest.update(block)
        self._sink(block)
        if not self._left:
            self._open.close()  # syncs a file
            self.members.append(Member(name=member.name, size=member.size, sha256=self._digest.hexdigest()))
            self._member = None
        return True


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Create a file with mode 0600; it is fsynced when the block ends without an error."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, files.FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _forget(_: bytes) -> None:
    """Discard the data."""
