"""Announcements of schemas: which of them a program uses."""

from hsmkms.store import announcements, schema, seal_layout
from hsmkms.store.announcements import Content
from hsmkms.store.proven_rows import ProvenRows
from hsmkms.store.schema import META_REVISIONS
from hsmkms.store.seal_layout import Entry
from hsmkms.store.sealed_tables import described

TABLE = described(schema.schema_announcement)
OWN = META_REVISIONS[-1]


def proven(*rows: tuple[str, str, str]) -> ProvenRows:
    """Rows as they come out of the check of their seal."""
    return ProvenRows(
        [Entry(TABLE, {"content": content, "revision": at, "works_with": since}, None) for at, since, content in rows]
    )


def test_content_of_a_later_form() -> None:
    """An announcement that this program does not work with may have a content that it cannot read."""
    content = '{"objects":[],"tables":[]}'
    later = '{"objects":[],"tables":[{"name":"t","columns":[{"name":"c","kind":"decimal"}],"subject":[]}]}'
    rows = proven(("meta_9998", OWN, content), ("meta_9999", "meta_9998", later), (OWN, META_REVISIONS[-2], content))
    newer = announcements.Announcement("meta_9998", OWN, Content([], ()))
    assert announcements.usable(rows, older=False) == [newer]
    assert newer.layout == seal_layout.Layout(())
    earlier = announcements.usable(rows, older=True)
    assert [each.revision for each in earlier] == [OWN, newer.revision]
