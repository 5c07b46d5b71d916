"""Take a consistent copy of databases and audit log while other processes use them.

The write lock of the control plane is held for an instant. Under it a read transaction is begun, and the sizes of the
audit log's files are taken: so the log has no record of a change that the copy lacks, and records that it lacks itself
are in the copy's outbox. The copy is then made from that read transaction, without blocking anyone. Counts are copied
last, so that they can only be too high. Whatever the engine, the copies are SQLite files, ``meta.db`` and ``log.db``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Final

from msgspec import Struct

from hsmkms.atomic_write import sync_folder
from hsmkms.errors import StoreError
from hsmkms.store import archive, audit_files, files
from hsmkms.store.archive import ArchiveReader, ArchiveWriter, Member
from hsmkms.store.engine import Store
from hsmkms.store.sqlite import snapshot as file_snapshot

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
def taken(store: Store, workplace: Path) -> Iterator[Snapshot]:
    """Take a snapshot of an installation; its copies are in ``workplace`` (empty, private) meanwhile."""
    audit = store.folder / AUDIT
    if store.target is None:
        ends = file_snapshot.copy(store.folder, workplace, lambda: tuple(_ends(audit)))
    else:
        from hsmkms.store.postgresql import snapshot as server_snapshot  # noqa: PLC0415 - its driver is an extra

        ends = server_snapshot.copy(store, workplace, lambda: tuple(_ends(audit)))
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
