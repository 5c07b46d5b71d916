"""The seam between the seals and a database engine: what each engine does in its own way.

SQL text that is given to an engine is understood by both; its parameters are written ``:name``.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from sqlalchemy import Connection, CursorResult

LAYOUT: Final = "hsmkms.layout"
"""The sealed tables of a database whose schema is another one, among the notes of a connection."""

OLDER: Final = "hsmkms.older"
"""True among the notes of a connection that may meet an older schema, to announce its migration."""

OPTION: Final = "hsmkms_seal_engine"
"""Execution option of every engine's connections."""


class SealEngine(Protocol):
    """An engine's part of sealing. One object for all connections; it keeps no state."""

    def run(
        self, conn: Connection, sql: str, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] = ...
    ) -> CursorResult[*tuple[Any, ...]]:
        """Run SQL text, which takes less time than SQLAlchemy's expressions."""

    def rows(self, conn: Connection, sql: str, parameters: Mapping[str, Any] = ...) -> Sequence[Sequence[Any]]:
        """Return rows of None, int, str, bytes, and bool where the engine has it; ``undecodable`` for other texts."""

    def take_touched(self, tx: Connection) -> list[str]:
        """Return the subjects of all rows that the transaction has written, sorted, and clear the list.

        What records them must not be avoidable by any statement, and must be undone by a rollback (also of a part).
        """

    def require_sealing(self, tx: Connection) -> None:
        """Make the database refuse writers that do not seal."""

    def differences(self, conn: Connection) -> tuple[str, ...]:
        """Return how the schema differs from the one expected, as of the beginning of the transaction."""

    def expected_objects(self) -> Iterable[tuple[str, ...]]:
        """Return the objects of this program's own schema, as ``accept`` compares them."""

    def accept(self, conn: Connection, objects: Iterable[tuple[str, ...]]) -> bool:
        """Expect these objects instead from now on, if they are exactly what is there; False if they are not.

        Lasts until the schema changes; then the connection's LAYOUT is forgotten too.
        """

    def compare_again(self, conn: Connection) -> tuple[str, ...]:
        """Compare the schema now, whatever is cached."""

    def forget_schema(self, tx: Connection) -> None:
        """Make the next transaction compare the schema: this one changes it."""

    def damage(self, conn: Connection) -> list[str]:
        """Return what an integrity check of the database finds, in a few phrases."""


def of(conn: Connection) -> SealEngine:
    """Return the engine of a connection."""
    engine: SealEngine = conn.get_execution_options()[OPTION]
    return engine
