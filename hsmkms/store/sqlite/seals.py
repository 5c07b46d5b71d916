"""SQLite's part of sealing: see ``seal_engine.py``."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, CursorResult

from hsmkms.store import row_forms
from hsmkms.store.sqlite import capture, schema


class SqliteSeals:
    """An engine's part of sealing."""

    def run(
        self, conn: Connection, sql: str, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] = {}
    ) -> CursorResult[*tuple[Any, ...]]:
        """Run SQL text."""
        return conn.exec_driver_sql(sql, parameters)

    def rows(self, conn: Connection, sql: str, parameters: Mapping[str, Any] = {}) -> Sequence[Sequence[Any]]:
        """Return rows with the types that SQLite has stored them with.

        Not by SQLAlchemy, whose results of many columns take longer to make than SQLite takes for the query.
        """
        connection = _raw(conn)
        try:
            return connection.execute(sql, parameters).fetchall()
        except sqlite3.Error as exc:
            if hasattr(exc, "sqlite_errorcode"):
                return self.run(conn, sql, parameters).all()  # raises it again, for those who handle disk errors
        # The error is not SQLite's but of Python's module, which found a text that is not UTF-8.
        with _any_text(connection):
            return connection.execute(sql, parameters).fetchall()

    def take_touched(self, tx: Connection) -> list[str]:
        """Return the subjects of all rows that the transaction has written."""
        return capture.take(tx)

    def require_sealing(self, tx: Connection) -> None:
        """Make the database refuse writers that do not seal."""
        capture.guard(tx, capture.SEALS)

    def differences(self, conn: Connection) -> tuple[str, ...]:
        """Return how the schema differs from the one expected."""
        return schema.differences(conn)

    def expected_objects(self) -> Iterable[tuple[str, ...]]:
        """Return the objects of this program's own schema."""
        return schema.OBJECTS

    def accept(self, conn: Connection, objects: Iterable[tuple[str, ...]]) -> bool:
        """Expect these objects instead, if they are exactly what is there."""
        return schema.accept(conn, objects)

    def compare_again(self, conn: Connection) -> tuple[str, ...]:
        """Compare the schema now."""
        return schema.compare_again(conn)

    def forget_schema(self, tx: Connection) -> None:
        """Make the next transaction compare the schema."""
        schema.forget(tx)

    def damage(self, conn: Connection) -> list[str]:
        """Return what an integrity check of the database finds."""
        return schema.damage(conn)


ENGINE: Final = SqliteSeals()


def _raw(conn: Connection) -> sqlite3.Connection:
    connection = conn.connection.driver_connection
    assert isinstance(connection, sqlite3.Connection)  # noqa: S101 - for mypy
    return connection


@contextmanager
def _any_text(connection: sqlite3.Connection) -> Iterator[None]:
    """Let a connection read texts that are not UTF-8."""

    def decoded(text: bytes) -> object:
        try:
            return text.decode()
        except UnicodeDecodeError:
            return row_forms.undecodable(text)

    connection.text_factory = decoded
    try:
        yield
    finally:
        connection.text_factory = str
