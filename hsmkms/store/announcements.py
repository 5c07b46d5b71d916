"""Store announcements: what the schema of a revision is, and which older programs work with it.

A program takes what it does not know in a schema for tampering, unless a newer program has announced it: in a sealed
row, before the migration. The announcement lists every object of the new schema, and describes the sealed tables, so
that an older program can verify and seal rows with columns, and of tables, that it does not use.
"""

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, delete, insert

from hsmkms.store import seal_engine
from hsmkms.store.proven_rows import ProvenRows
from hsmkms.store.schema import LOG_REVISIONS, META_REVISIONS, schema_announcement
from hsmkms.store.seal_layout import Layout, own
from hsmkms.store.sealed_tables import SealedTable

WORKS_WITH: Final = {"meta": "meta_0009", "log": "log_0003"}
"""The oldest revisions whose programs work with the present one. A migration that removes anything, or gives a meaning
to rows of others that older programs must obey, raises this."""


_STORED: Final = "SELECT revision, works_with, content FROM schema_announcement"


class Content(Struct, frozen=True):
    """``objects``: what an engine lists of the schema, in its own terms."""

    objects: list[tuple[str, ...]]
    tables: tuple[SealedTable, ...]


class Announcement(Struct, frozen=True):
    """The schema of a revision, which programs from the revision ``works_with`` on can use."""

    revision: str
    works_with: str
    content: Content

    @property
    def layout(self) -> Layout:
        """Return the sealed tables."""
        return Layout(self.content.tables)


def of_this_program(conn: Connection) -> list[Announcement]:
    """Return the announcements of this program's own schema."""
    content = Content(sorted(seal_engine.of(conn).expected_objects()), own().tables)
    return [
        Announcement(META_REVISIONS[-1], WORKS_WITH["meta"], content),
        Announcement(LOG_REVISIONS[-1], WORKS_WITH["log"], Content([], ())),
    ]


def stored(conn: Connection, announced: Iterable[Announcement]) -> bool:
    """Return True if exactly these are stored for their revisions, sealed or not."""
    rows = {row[0]: row for row in seal_engine.of(conn).rows(conn, _STORED)}
    return all(rows.get(each.revision) == tuple(_row(each).values()) for each in announced)


def put(tx: Connection, announced: Iterable[Announcement]) -> bool:
    """Store announcements, in the place of others of the same revision. False if they were there already."""
    announced = list(announced)
    if stored(tx, announced):
        return False
    for each in announced:
        tx.execute(delete(schema_announcement).where(schema_announcement.c.revision == each.revision))
        tx.execute(insert(schema_announcement), _row(each))
    return True


def usable(rows: ProvenRows, *, older: bool) -> list[Announcement]:
    """Return those of newer schemas that this program works with, and with ``older`` those of earlier ones.

    ``rows`` are proven. The result is sorted, oldest first. The content of others may have a form that came later.
    """
    known = {*META_REVISIONS, *LOG_REVISIONS}
    return [
        Announcement(row.revision, row.works_with, msgspec.json.decode(row.content, type=Content))
        for row in sorted(rows.of(schema_announcement), key=lambda row: str(row.revision))
        if (older if row.revision in known else row.works_with in known)
    ]


def _row(each: Announcement) -> dict[str, str]:
    content = msgspec.json.encode(each.content).decode()
    return {"revision": each.revision, "works_with": each.works_with, "content": content}
