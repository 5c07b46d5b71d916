"""Translate PostgreSQL's errors into errors of this package, by their SQLSTATE and never by their text.

Source: PostgreSQL's documentation, appendix A.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from sqlalchemy import exc as sqlalchemy_errors

from hsmkms.errors import DependencyTimeoutException, HsmKmsError, MisuseError, StoreError, ValidationException
from hsmkms.store import move_mark
from hsmkms.store.faults import NO_TEXT
from hsmkms.store.postgresql.capture import UNSEALED_STATE
from hsmkms.store.postgresql.target import NotConnectedError

log = logging.getLogger("hsmkms.store")

MOVED_STATE: Final = "HK002"
"""SQLSTATE of a count in a store that has moved."""

CONTENTION: Final = frozenset({"40001", "40P01"})
"""Serialization failure and deadlock: the same transaction succeeds when it is run again."""

_AWAY: Final = "{name} does not answer: try again; the log has the details"
_NOT_CONNECTED: Final = (
    "{name} cannot be connected to: check that the server runs, and what store.url and store.password say; "
    "the log has the server's reason"
)
_LOST: Final = (
    "the connection to {name} broke: try again; a change that was just being committed may have been made all the same"
)
_BUSY: Final = "{name} is locked by another process for too long: try again"
_UNEXPECTED: Final = "{name} failed in an unexpected way: check the server; the log has the details"

_RETRIED: Final = {
    "08": _AWAY,  # connection exceptions
    "25006": "{name} is read-only now, as a standby is: try again",
    "25P03": _BUSY,  # the transaction was idle for too long
    "40": _BUSY,
    "53300": "{name} has no connection left: raise max_connections, or try again",
    "55P03": _BUSY,
    "57": _AWAY,  # operator intervention: shutdown, crash of another session, cancelled
}
"""Faults that pass, by the beginning of their SQLSTATE: clients try again."""

_LASTING: Final = {
    "3F000": "{name} has no schema public, where the tables are: create it, owned by the user of store.url",
    "42501": "the user of store.url may not use the tables of {name}: make it the owner of the database",
    "42P01": "{name} has no tables of this hsmkms: run `hsmkms init --store-url`, or correct store.url",
    "53": "{name} has no room left: free or add space; nothing was changed",
    "58": "the disk of {name} fails: check it",
    "XX001": "{name} is damaged: stop all hsmkms processes and restore a backup",
    "XX002": "{name} has a damaged index: stop all hsmkms processes and run REINDEX",
}


def _sentence(sentences: dict[str, str], state: str) -> str | None:
    return next((sentences[state[:length]] for length in (5, 2) if state[:length] in sentences), None)


def translate(error: psycopg.Error | UnicodeError, name: str) -> HsmKmsError:
    """Return this package's error for one of the driver; the caller raises it ``from`` the original."""
    if isinstance(error, UnicodeError):
        return ValidationException(NO_TEXT)
    state = error.sqlstate or ""
    passing = _sentence(_RETRIED, state)
    if passing is None and not state and isinstance(error, psycopg.OperationalError):
        # libpq does not tell more than a text.
        passing = _NOT_CONNECTED if isinstance(error, NotConnectedError) else _LOST
    if state == UNSEALED_STATE:
        return MisuseError("a sealed control plane was written to by a process that seals nothing")
    if state == MOVED_STATE:
        return StoreError(move_mark.REFUSED)
    if passing is not None:
        log.warning("%s: %s", name, str(error).strip())
        return DependencyTimeoutException(passing.format(name=name))
    if state == "22021" or (not state and isinstance(error, psycopg.DataError)):
        return ValidationException(NO_TEXT)
    lasting = _sentence(_LASTING, state)
    if lasting is None:
        log.error("unexpected fault of %s (SQLSTATE %s)", name, state or "unknown", exc_info=error)
    return StoreError((lasting or _UNEXPECTED).format(name=name))


def is_contention(error: BaseException) -> bool:
    """Return True if a translated error comes from a transaction that succeeds when it is run again."""
    cause = error.__cause__
    if isinstance(cause, sqlalchemy_errors.DBAPIError):
        cause = cause.orig
    return isinstance(cause, psycopg.Error) and cause.sqlstate in CONTENTION


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Translate every error of the driver in the block into one of this package."""
    try:
        yield
    except sqlalchemy_errors.DBAPIError as exc:
        if isinstance(exc.orig, psycopg.Error):
            raise translate(exc.orig, name) from exc
        raise
    except sqlalchemy_errors.TimeoutError as exc:  # of the pool
        raise DependencyTimeoutException(_BUSY.format(name=name)) from exc
    except (psycopg.Error, UnicodeEncodeError) as exc:
        raise translate(exc, name) from exc
