"""Translate SQLite's errors into errors of this package, by their codes and never by their text."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy.exc import DBAPIError

from hsmkms.errors import DependencyTimeoutException, HsmKmsError, StoreError, ValidationException
from hsmkms.store import files, move_mark
from hsmkms.store.faults import NO_TEXT

log = logging.getLogger("hsmkms.store")

_CODE_BITS: Final = 0xFF
"""An extended result code holds the primary one in its low byte."""

_BUSY: Final = "the database is locked by another process for too long: try again"

_NOT_UTF_8: Final = (
    "{file} holds a text that is not UTF-8, which hsmkms never writes: it was changed by something else; see what "
    "`hsmkms verify-store` names, or restore a backup"
)

UNEXPECTED: Final = "{file} failed in an unexpected way: check it and its disk; the log has the details"

SENTENCES: Final = {
    sqlite3.SQLITE_READONLY: "{file} cannot be written: check its owner and mode, and that the disk is not read-only",
    sqlite3.SQLITE_FULL: "the disk of {file} is full: free some space; nothing was changed",
    sqlite3.SQLITE_CORRUPT: "{file} is damaged: stop all hsmkms processes and restore a backup",
    sqlite3.SQLITE_NOTADB: "{file} is no hsmkms database: restore a backup, or correct data_dir",
    sqlite3.SQLITE_CANTOPEN: "{file} cannot be opened: check that its folder exists and may be written",
    sqlite3.SQLITE_PERM: "{file} may not be opened: check its owner and mode",
    sqlite3.SQLITE_IOERR: "the disk of {file} fails or is full: check it; nothing was changed",
}


_RENEW: Final = "stop all hsmkms processes and run `hsmkms renew-log`"
LOG_SENTENCES: Final = {
    sqlite3.SQLITE_CORRUPT: f"{{file}} is damaged: {_RENEW}",
    sqlite3.SQLITE_NOTADB: f"{{file}} is no hsmkms database: {_RENEW}, or correct data_dir",
}
"""Sentences that differ for ``log.db``, whose contents the control plane can do without."""

BREAKING: Final = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})
"""Codes after which a connection must not be used again."""


def primary(code: int) -> int:
    """Return the primary code of an extended result code."""
    return code & _CODE_BITS


def translate(error: sqlite3.Error, file: Path) -> HsmKmsError:
    """Return this package's error for an SQLite error; the caller raises it ``from`` the original."""
    code = primary(getattr(error, "sqlite_errorcode", 0))
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return DependencyTimeoutException(_BUSY)
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_CONSTRAINT_TRIGGER:
        return StoreError(move_mark.REFUSED)  # no other trigger raises
    if isinstance(error, sqlite3.OperationalError) and not hasattr(error, "sqlite_errorcode"):
        return StoreError(_NOT_UTF_8.format(file=file))  # the only error of this class by Python's module, not SQLite
    if code not in SENTENCES:
        log.error("unexpected fault of %s (SQLite code %d)", file, code, exc_info=error)
    sentences = SENTENCES | LOG_SENTENCES if file.name == files.LOG.name else SENTENCES
    return StoreError(sentences.get(code, UNEXPECTED).format(file=file))


@contextmanager
def translated(file: Path) -> Iterator[None]:
    """Translate every SQLite error in the block, and one of its encoding of text, into one of this package."""
    try:
        yield
    except DBAPIError as exc:
        if isinstance(exc.orig, sqlite3.Error):
            raise translate(exc.orig, file) from exc
        raise
    except sqlite3.Error as exc:
        raise translate(exc, file) from exc
    except UnicodeEncodeError as exc:
        raise ValidationException(NO_TEXT) from exc
