"""Take a consistent copy of databases and audit log while other processes use them.

The write lock of ``meta.db`` is held for an instant. Under it a read transaction is begun, and the sizes of the audit
log's files are taken: so the log has no record of a change that the copy lacks, and records that it lacks itself are in
the copy's outbox. The copy is then made from that read transaction, without blocking anyone. ``log.db`` is copied last,
so that its counts can only be too high.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Final

from msgspec import Struct

from hsmkms.atomic_write import sync_folder
from hsmkms.errors import StoreError
from hsmkms.store import archive, audit_files, files
from hsmkms.store.archive import ArchiveReader, ArchiveWriter, Member
from hsmkms.store.sqlite import connections, faults

AUDIT: Final = audit_files.FOLDER
_TABLES: Final = frozenset({files.META.name, files.LOG.name})


class _End(Struct, frozen=True):
    """A file of the audit log, and its size in the snapshot."""

    path: Path
    size: int


class Snapshot(Struct, frozen=True):
    """Copies of the databases in a folder of their own, and the sizes of the audit log's files."""

    folder: Path
    ends: tuple[_End, ...]

    def stream(
        self, others: Mapping[str, bytes], proofs: Callable[[list[Member]], Mapping[str, bytes]]
    ) -> Iterator[bytes]:
        """Yield everything as an archive: ``others`` first, and last the files that ``proofs`` makes of the members."""
        writer = ArchiveWriter()
        try:
            yield from _added(writer, others)
            for name in sorted(_TABLES):
                yield from _added_file(writer, name, _End(self.folder / name, (self.folder / name).stat().st_size))
            for end in self.ends:
                yield from _added_file(writer, f"{AUDIT}/{end.path.name}", end)
            yield from _added(writer, proofs(list(writer.members)))
            yield archive.END
        except FileNotFoundError as exc:
            raise StoreError(f"{exc.filename} was moved away meanwhile (by `audit archive`?): try again") from exc


@contextmanager
def taken(folder: Path, workplace: Path) -> Iterator[Snapshot]:
    """Take a snapshot of the installation in ``folder``; its copies are in ``workplace`` (empty, private) meanwhile."""
    meta = folder / files.META.name
    with faults.translated(meta), closing(connections.connect(meta)) as view:
        with closing(connections.connect(meta)) as lock:
            lock.execute("BEGIN IMMEDIATE")
            view.execute("BEGIN")
            view.execute("SELECT count(*) FROM alembic_version").fetchone()  # the first query takes the snapshot
            ends = tuple(_ends(folder / AUDIT))
        _copy(view, workplace / files.META.name)
    log = folder / files.LOG.name
    with faults.translated(log), closing(connections.connect(log)) as view:
        _copy(view, workplace / files.LOG.name)
    yield Snapshot(workplace, ends)


@contextmanager
def unpacking(folder: Path, kept: Mapping[str, int]) -> Iterator[ArchiveReader]:
    """Yield a reader that unpacks a snapshot into an empty folder, fsynced; ``kept`` is for the other members.

    StoreError for an archive that is not a snapshot of hsmkms, or is incomplete when the block ends.
    """
    try:
        audit_files.make_folder(folder / AUDIT)
        with ArchiveReader(folder, is_ours, kept) as reader:
            yield reader
            reader.finish()
        sync_folder(folder / AUDIT)
        sync_folder(folder)
    except OSError as exc:
        raise StoreError(f"the backup cannot be unpacked into {folder}: {exc.strerror}") from exc
    missing = sorted(_TABLES - {each.name for each in reader.members})
    if missing:
        raise StoreError(f"the backup has no {', '.join(missing)}: it is not one of ours")


def _ends(audit: Path) -> Iterator[_End]:
    seals = audit / audit_files.SEALS
    paths = [seals] if seals.exists() else []
    paths += [part.path for parts in audit_files.segments(audit).values() for part in parts]
    for path in paths:
        yield _End(path, path.stat().st_size)


def _copy(view: sqlite3.Connection, target: Path) -> None:
    """Copy all pages of a read transaction in one step. The copy needs no WAL, and is fsynced when it is unpacked."""
    connections.make_empty(target)
    with closing(sqlite3.connect(target)) as copy:
        view.backup(copy)


def is_ours(name: str) -> bool:
    """Return True for the names that databases and files of the audit log have in a snapshot."""
    path = PurePosixPath(name)
    return name in _TABLES or (name == f"{AUDIT}/{path.name}" and audit_files.is_of_the_log(path.name))


def _added(writer: ArchiveWriter, contents: Mapping[str, bytes]) -> Iterable[bytes]:
    for name, data in contents.items():
        yield from writer.add(name, len(data), BytesIO(data))


def _added_file(writer: ArchiveWriter, name: str, end: _End) -> Iterator[bytes]:
    with end.path.open("rb") as file:
        yield from writer.add(name, end.size, file)
