"""Handle errors that both engines have: violated constraints, and text that no database stores."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from hsmkms.errors import HsmKmsError

NO_TEXT: Final = "text with a NUL character or with halves of surrogate pairs cannot be stored: remove them"


class Violation(Enum):
    """Kind of a violated constraint."""

    UNIQUE = "unique"
    REFERENCE = "reference"


_VIOLATIONS: Final[dict[int | str, Violation]] = {
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: Violation.UNIQUE,
    sqlite3.SQLITE_CONSTRAINT_UNIQUE: Violation.UNIQUE,
    sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY: Violation.REFERENCE,
    "23505": Violation.UNIQUE,
    "23503": Violation.REFERENCE,
}
"""By SQLite's extended code, and by the SQLSTATE of other engines."""


@contextmanager
def constraints(tx: Connection, errors: Mapping[Violation, HsmKmsError]) -> Iterator[None]:
    """Raise the given error if the block violates such a constraint; the transaction can be continued.

    On PostgreSQL that needs a savepoint.
    """
    try:
        with tx.begin_nested():
            yield
    except IntegrityError as exc:
        code = getattr(exc.orig, "sqlite_errorcode", None) or getattr(exc.orig, "sqlstate", None)
        error = errors.get(_VIOLATIONS[code]) if code in _VIOLATIONS else None
        if error is None:
            raise
        raise error from exc
