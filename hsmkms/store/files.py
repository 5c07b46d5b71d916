"""Names and revisions of the two databases, and the modes of the data folder and its files."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from hsmkms import ownership
from hsmkms.errors import MigrationError, StoreError
from hsmkms.store.schema import LOG_REVISIONS, META_REVISIONS

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600
_PAGE_BYTES: Final = 4096


class DatabaseFile(Struct, frozen=True):
    """Description of a database: file name, known revisions (oldest first), folder of its migrations."""

    name: str
    revisions: Sequence[str]
    migrations: str


META: Final = DatabaseFile("meta.db", META_REVISIONS, "meta")
LOG: Final = DatabaseFile("log.db", LOG_REVISIONS, "log")
DATABASES: Final = (LOG, META)
"""In the order of creation: if meta.db exists, the other one does too."""


def check_own(path: Path) -> None:
    """Raise StoreError if another user can change or replace the file at a path."""
    weakness = ownership.weakness(path)
    if weakness is not None:
        raise StoreError(f"{path} can be changed by another user, so it is not used: {weakness}")


def check_known(name: str, revision: str, known: Sequence[str]) -> None:
    """Raise MigrationError for a revision that this program does not know; ``name`` is the database's."""
    if revision not in known:
        raise MigrationError(
            f"{name} is newer than this program (its revision is {revision}): use the version of hsmkms "
            "that migrated it, or a later one"
        )


def check_writable(folder: Path) -> None:
    """Raise StoreError unless a page can be written to a temporary file in the folder."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as probe:
            probe.write(bytes(_PAGE_BYTES))
    except OSError as exc:
        raise StoreError(f"nothing can be written to {folder} ({exc.strerror}): free or repair its disk") from exc


def make_folder(folder: Path) -> None:
    """Create the folder with mode 0700; an existing one is left as it is."""
    if folder.is_dir():
        return
    try:
        ownership.make_folder(folder, FOLDER_MODE)
    except OSError as exc:
        raise StoreError(f"the data folder {folder} cannot be made: {exc.strerror}") from exc
