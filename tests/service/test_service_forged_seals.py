"""Seals, and rows that are read before any seal, that were replaced by values of other types: named, never a crash."""

import logging
import sqlite3
from contextlib import closing

import msgspec
import pytest
from test_service_row_seals import Victim, describe, made, victim

from hsmkms.errors import KMSInternalException, StoreError
from hsmkms.service.audit import row_sealing
from hsmkms.store import announcements
from hsmkms.store.announcements import Content
from hsmkms.store.sqlite import schema

pytestmark = pytest.mark.sqlite_alone("it edits the file; a server's rows: tests/store/test_store_postgresql_seals.py")

__all__ = ["made", "victim"]

KEY_SEAL = "WHERE subject = 'key/{key}'"
NEWEST = "WHERE number = (SELECT max(number) FROM store_root)"


@pytest.mark.parametrize(
    ("statement", "subject"),
    [
        (f"UPDATE row_seal SET epoch = 'x' {KEY_SEAL}", "key/{key}"),
        (f"UPDATE row_seal SET epoch = epoch + 0.5 {KEY_SEAL}", "key/{key}"),
        (f"UPDATE row_seal SET epoch = 9e999 {KEY_SEAL}", "key/{key}"),
        (f"UPDATE row_seal SET mac = 'x' {KEY_SEAL}", "key/{key}"),
        (f"UPDATE row_seal SET mac = CAST(x'ff' AS TEXT) {KEY_SEAL}", "key/{key}"),
        (f"UPDATE row_seal SET subject = CAST(subject AS BLOB) {KEY_SEAL}", "key/{key}"),
        (f"UPDATE store_root SET nonce = 'x' {NEWEST}", "store"),
        (f"UPDATE store_root SET value = 7 {NEWEST}", "store"),
        ("UPDATE seal_tree SET value = 'x'", "store"),
        ("UPDATE seal_tree SET value = 1.5 WHERE number = 0", "store"),
    ],
)
def test_seal_of_another_type(victim: Victim, statement: str, subject: str) -> None:
    """A seal, root or node of another type proves nothing: it is named, also after opening, and is refused."""
    victim.edit(statement)
    victim.forget()
    with pytest.raises(KMSInternalException, match="verify-store"):
        describe(victim)
    named = subject.format(**victim.names)
    assert named in victim.faults()
    victim.kms.close()
    with victim.site.open() as kms:
        assert named in [fault.subject for fault in kms.operator.audit.verify_rows()]


def test_seal_of_the_installation(victim: Victim) -> None:
    """Where the seal by which the key of all seals is recognised is no seal, the installation opens and names it."""
    victim.kms.close()
    victim.edit("UPDATE row_seal SET epoch = 'x', mac = 7 WHERE subject = 'installation'")
    with victim.site.open() as kms:
        assert [fault.subject for fault in kms.operator.audit.verify_rows()] == ["installation"]


def test_change_log_without_text(victim: Victim) -> None:
    """An entry of the change log that is not UTF-8 keeps nobody from verifying and accepting the rows."""
    victim.edit("INSERT INTO change_log (region, subject) VALUES ('', 'seal:' || CAST(x'80' AS TEXT))")
    assert victim.faults() == []
    victim.edit("UPDATE regional_key SET description = 'mine' WHERE key_id = '{key}'")
    victim.kms.operator.audit.accept()
    assert victim.faults() == []


def test_null_where_none_can_be(victim: Victim) -> None:
    """A row whose subject was made NULL under another schema, which was put back, is named like any other edit."""
    victim.edit(
        "PRAGMA writable_schema=ON",
        "UPDATE sqlite_master SET sql = replace(sql, 'key_id TEXT NOT NULL', 'key_id TEXT') WHERE name = 'material'",
        "PRAGMA writable_schema=RESET",
        "UPDATE material SET key_id = NULL WHERE key_id = '{key}'",
        "PRAGMA writable_schema=ON",
        "UPDATE sqlite_master SET sql = replace(sql, 'key_id TEXT', 'key_id TEXT NOT NULL') WHERE name = 'material'",
        "PRAGMA writable_schema=RESET",
    )
    assert victim.rows("SELECT count(*) FROM material WHERE typeof(key_id) = 'null'") == [(1,)]
    assert set(victim.faults()) >= {f"key/{victim.key}", "key"}
    victim.forget()
    with pytest.raises(KMSInternalException):
        describe(victim)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM schema_announcement",
        "UPDATE schema_announcement SET works_with = 'meta_0001'",
        "UPDATE schema_announcement SET content = CAST(x'ff' AS TEXT)",
        "INSERT INTO schema_announcement VALUES (x'ff', CAST(x'ff' AS TEXT), 7)",
    ],
)
def test_edited_announcement(victim: Victim, statement: str) -> None:
    """Edited announcements are named, and keep nobody from opening; where they are accepted, they are made again."""
    announced = victim.rows("SELECT * FROM schema_announcement WHERE typeof(revision) = 'text' ORDER BY 1")
    victim.kms.close()
    victim.edit(statement)
    with victim.site.open() as kms:
        victim.kms = kms
        assert victim.faults() == ["schema"]
        describe(victim)
        kms.operator.audit.accept()
        assert victim.faults() == []
    with victim.site.open() as kms:
        assert kms.operator.audit.verify_rows() == []
    again = victim.rows("SELECT * FROM schema_announcement WHERE typeof(revision) = 'text' ORDER BY 1")
    assert again == announced


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE installation_key SET cka_id = 'x'", "never writes"),
        ("UPDATE installation_key SET created_at = 'x'", "never writes"),
        ("UPDATE installation_key SET created_at = 9223372036854775807", "never writes"),
        ("UPDATE installation SET created_at = 9e999", "never writes"),
        ("UPDATE token SET serial = x'ff'", "never writes"),
        ("UPDATE token SET label = CAST(x'ff' AS TEXT)", "not UTF-8"),
    ],
)
def test_what_is_read_before_seals(victim: Victim, statement: str, words: str) -> None:
    """Values that no program wrote, in rows that lead to the key of the seals, are refused with a sentence."""
    victim.kms.close()
    with closing(sqlite3.connect(victim.site.settings.data_dir / "meta.db")) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints=ON")
        connection.execute(statement)
    with pytest.raises(StoreError, match=words):
        victim.site.open()


class Releasing(logging.Handler):
    """Rolls a transaction back as soon as a warning says that a process waits for it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(logging.WARNING)
        self.connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        """Release the write lock."""
        if "waiting" in record.getMessage():
            self.connection.rollback()


def test_rows_are_sealed_again_after_another_writer(victim: Victim) -> None:
    """Opening waits for a process that holds the write lock longer than one transaction waits, and then seals."""
    core = victim.kms._core
    with core.store.atomic() as tx:
        tx.exec_driver_sql("PRAGMA busy_timeout=0")
    victim.edit("DELETE FROM seal_tree")  # as before meta_0008
    assert not core.seals.current()
    with closing(sqlite3.connect(core.store.meta.file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        handler = Releasing(other)
        logging.getLogger("hsmkms.service").addHandler(handler)
        try:
            row_sealing.seal_rows(core)
        finally:
            logging.getLogger("hsmkms.service").removeHandler(handler)
        assert not other.in_transaction
    assert core.seals.current()
    assert victim.faults() == []


def test_forged_announcement_that_was_accepted(victim: Victim) -> None:
    """Accepting the rows accepts no announcement: a schema that somebody announced in them stays a foreign one."""
    planted = "CREATE TABLE evil (x)"
    with victim.kms._core.store.reading() as conn:
        ours, _ = announcements.of_this_program(conn)
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(planted)
        objects = [*ours.content.objects, *schema.objects(connection)]
    content = msgspec.json.encode(Content(objects, ours.content.tables)).decode()
    with closing(sqlite3.connect(victim.kms._core.store.meta.file)) as connection, connection:
        connection.execute("INSERT INTO schema_announcement VALUES ('meta_9999', ?, ?)", (ours.revision, content))
    assert victim.faults() == ["schema"]
    victim.kms.operator.audit.accept()
    assert victim.faults() == []
    victim.edit(planted)
    assert victim.faults() == ["store"]
    victim.edit("DROP TABLE evil")
    assert victim.faults() == []
