"""A consistent copy of databases and audit log, taken while others work with them.

For an instant the write lock of ``meta.db`` is held. In it a reader is given its view, and the ends of the audit log
are noted: so the log tells of no change that the copy lacks, and what it lacks itself is in the copy's outbox. The
copying goes on afterwards, from that view, and hinders nobody. ``log.db`` is copied last: its counts may only be too
high.
"""

import os
import sqlite3
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, Final, Protocol

from msgspec import Struct

from hsmkms.errors import StoreError
from hsmkms.store import audit_files, faults, files

AUDIT: Final = "audit"
_TABLES: Final = frozenset({files.META.name, files.LOG.name})
_BLOCK: Final = 65536


class Writer(Protocol):
    """Where a snapshot is written to."""

    def write(self, data: bytes) -> int:
        """Add bytes."""


class Reader(Protocol):
    """Where a snapshot is read from."""

    def read(self, size: int) -> bytes:
        """The next bytes."""


class _End(Struct, frozen=True):
    """A file of the audit log, and how much of it belongs to the snapshot."""

    path: Path
    size: int


class Snapshot(Struct, frozen=True):
    """Copies of the databases in a folder of their own, and how far the files of the audit log go."""

    folder: Path
    ends: tuple[_End, ...]

    def write(self, target: Writer, others: Mapping[str, bytes]) -> None:
        """Write everything as one stream (tar); ``others`` come first, by name."""
        try:
            with tarfile.open(fileobj=target, mode="w|", bufsize=_BLOCK) as archive:  # type: ignore[call-overload]
                for name, data in others.items():
                    _add(archive, name, len(data), BytesIO(data))
                for name in sorted(_TABLES):
                    _add_file(archive, name, _End(self.folder / name, (self.folder / name).stat().st_size))
                for end in self.ends:
                    _add_file(archive, f"{AUDIT}/{end.path.name}", end)
        except FileNotFoundError as exc:
            raise StoreError(f"{exc.filename} was moved away meanwhile (by `audit archive`?): try again") from exc


@contextmanager
def taken(folder: Path, workplace: Path) -> Iterator[Snapshot]:
    """Take a snapshot of the installation in ``folder``; its copies are in ``workplace`` (empty, private) meanwhile."""
    meta = folder / files.META.name
    with faults.translated(meta), closing(files.connect(meta)) as view:
        with closing(files.connect(meta)) as lock:
            lock.execute("BEGIN IMMEDIATE")
            view.execute("BEGIN")
            view.execute("SELECT count(*) FROM alembic_version").fetchone()  # the view is that of the first query
            ends = tuple(_ends(folder / AUDIT))
        _copy(view, workplace / files.META.name)
    log = folder / files.LOG.name
    with faults.translated(log), closing(files.connect(log)) as view:
        _copy(view, workplace / files.LOG.name)
    yield Snapshot(workplace, ends)


def unpack(source: Reader, folder: Path) -> dict[str, bytes]:
    """Write a snapshot's files into an empty folder, durably; returns what was written beside them, by name.

    StoreError for a stream that is no snapshot of ours.
    """
    others: dict[str, bytes] = {}
    try:
        audit_files.make_folder(folder / AUDIT)
        with tarfile.open(fileobj=source, mode="r|", bufsize=_BLOCK) as archive:  # type: ignore[call-overload]
            for member in archive:
                data = archive.extractfile(member)
                if data is None:
                    raise StoreError(f"the backup holds {member.name}, which is no file: it is not one of ours")
                if _is_ours(member.name):
                    _write(folder / member.name, data)
                else:
                    others[member.name] = data.read()
        audit_files.sync_folder(folder / AUDIT)
        audit_files.sync_folder(folder)
    except tarfile.TarError as exc:
        raise StoreError("the backup cannot be read: it was not made by this program") from exc
    except OSError as exc:
        raise StoreError(f"the backup cannot be unpacked into {folder}: {exc.strerror}") from exc
    missing = [name for name in _TABLES if not (folder / name).exists()]
    if missing:
        raise StoreError(f"the backup has no {', '.join(missing)}: it is not one of ours")
    return others


def _ends(audit: Path) -> Iterator[_End]:
    seals = audit / audit_files.SEALS
    paths = [seals] if seals.exists() else []
    paths += [part.path for parts in audit_files.segments(audit).values() for part in parts]
    for path in paths:
        yield _End(path, path.stat().st_size)


def _copy(view: sqlite3.Connection, target: Path) -> None:
    """All pages of a view in one step. The copy needs no WAL, and is synced when it is unpacked."""
    files.make_empty(target)
    with closing(sqlite3.connect(target)) as copy:
        view.backup(copy)


def _is_ours(name: str) -> bool:
    path = PurePosixPath(name)
    return name in _TABLES or (path.parts[:-1] == (AUDIT,) and audit_files.is_of_the_log(path.name))


def _add_file(archive: tarfile.TarFile, name: str, end: _End) -> None:
    with end.path.open("rb") as file:
        _add(archive, name, end.size, file)


def _add(archive: tarfile.TarFile, name: str, size: int, data: BinaryIO) -> None:
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = files.FILE_MODE
    archive.addfile(member, data)


def _write(path: Path, data: IO[bytes]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, files.FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        while block := data.read(_BLOCK):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
