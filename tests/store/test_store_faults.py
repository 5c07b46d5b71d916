"""Everything that can be wrong with a database file, and the sentence that the operator gets for it."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError
from store_samples import NOW, REGION, a_key, write

from hsmkms.errors import (
    ApiError,
    DependencyTimeoutException,
    HsmKmsError,
    MigrationError,
    NotFoundException,
    StoreError,
    ValidationException,
)
from hsmkms.store import aliases, changes, installation, migrate, users
from hsmkms.store.engine import Store
from hsmkms.store.files import LOG, META
from hsmkms.store.sqlite import faults


@pytest.fixture(params=[META.name, LOG.name])
def path(folder: Path, request: pytest.FixtureRequest) -> Path:
    """Each of the two files of a closed store."""
    return folder / str(request.param)


def refused(folder: Path, kind: type[HsmKmsError] = StoreError) -> str:
    """The sentence with which a folder is refused."""
    with pytest.raises(kind) as caught:
        Store.open(folder)
    return str(caught.value)


def set_revision(path: Path, revision: str) -> None:
    """Make a database say that it has another revision."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))


def test_a_text_file_is_no_database(path: Path) -> None:
    """The error names the file."""
    path.write_text("# These are notes, not a database.\n" * 100)
    assert str(path) in refused(path.parent)


def test_an_empty_file_is_no_database(path: Path) -> None:
    """SQLite takes an empty file for an empty database; the error names it."""
    path.write_bytes(b"")
    assert str(path) in refused(path.parent)


def test_a_truncated_file_is_damaged(path: Path) -> None:
    """A file that ends early is refused at the door, not somewhere in the middle."""
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "damaged" in refused(path.parent)


def test_a_page_of_noise_is_damage(folder: Path) -> None:
    """Damage that shows only when a table is read gives the same error there, with its cause."""
    path = folder / META.name
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)

    def use() -> None:
        with Store.open(folder).reading() as conn:
            installation.fetch(conn)

    with pytest.raises(StoreError, match="damaged") as caught:
        use()
    assert caught.value.__cause__ is not None


def test_a_newer_database_is_left_alone(path: Path) -> None:
    """A revision that this program does not know stops opening and migrating alike, and stays."""
    set_revision(path, "meta_9999")
    assert "newer than this program" in refused(path.parent, MigrationError)
    with pytest.raises(MigrationError, match="newer than this program"):
        migrate.upgrade(path.parent)
    assert migrate.current(path.parent)[path.name] == "meta_9999"


def test_an_older_database_sends_to_migrate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revision that is known and not the last one."""
    newer = META.__class__(META.name, (*META.revisions, "meta_9999"), META.migrations)
    monkeypatch.setattr("hsmkms.store.files.DATABASES", (LOG, newer))
    assert "run `hsmkms migrate`" in refused(folder, MigrationError)


def test_a_folder_in_place_of_a_database(path: Path) -> None:
    """What is no file counts as missing."""
    path.unlink()
    path.mkdir()
    assert "missing" in refused(path.parent)


def test_read_only(store: Store) -> None:
    """The error names the file; nothing was written."""

    def write_nevertheless() -> None:
        with store.atomic() as tx:
            tx.exec_driver_sql("PRAGMA query_only = ON")
            changes.note(tx, REGION, "subject")

    with pytest.raises(StoreError, match=r"meta\.db cannot be written") as caught:
        write_nevertheless()
    assert isinstance(caught.value.__cause__, OperationalError)


def test_full_disk_and_afterwards(store: Store) -> None:
    """A write that finds no room rolls back and names the file; the same store writes again when there is room."""

    def write_too_much() -> None:
        with store.atomic() as tx:
            tx.exec_driver_sql("PRAGMA max_page_count = 1")
            for _ in range(100):
                changes.note(tx, REGION, "subject" * 1000)

    with pytest.raises(StoreError, match="full"):
        write_too_much()
    with store.atomic() as tx:
        assert changes.latest(tx) == 0
        tx.exec_driver_sql("PRAGMA max_page_count = 1073741823")
    write(store, a_key())


def fault(code: int) -> sqlite3.OperationalError:
    """An error of SQLite with a result code and a text that says nothing."""
    error = sqlite3.OperationalError("text that nobody reads")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (sqlite3.SQLITE_BUSY, DependencyTimeoutException, "locked"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, DependencyTimeoutException, "locked"),
        (sqlite3.SQLITE_LOCKED, DependencyTimeoutException, "locked"),
        (sqlite3.SQLITE_READONLY_DBMOVED, StoreError, "cannot be written"),
        (sqlite3.SQLITE_FULL, StoreError, "full"),
        (sqlite3.SQLITE_CORRUPT_INDEX, StoreError, "damaged"),
        (sqlite3.SQLITE_NOTADB, StoreError, "no hsmkms database"),
        (sqlite3.SQLITE_CANTOPEN_ISDIR, StoreError, "cannot be opened"),
        (sqlite3.SQLITE_IOERR_FSYNC, StoreError, "fails"),
        (sqlite3.SQLITE_PERM, StoreError, "may not be opened"),
        (sqlite3.SQLITE_TOOBIG, StoreError, "unexpected"),
    ],
)
def test_result_codes(code: int, kind: type[HsmKmsError], words: str) -> None:
    """Each result code, primary or extended, gives its error, and operators' sentences name the file."""
    path = Path("/data/meta.db")
    for error in (fault(code), OperationalError("SELECT 1", None, fault(code))):
        with pytest.raises(kind, match=words) as caught, faults.translated(path):
            raise error
        # Callers of the API meet the timeout, and paths are none of their business; operators meet all others.
        assert ("meta.db" in str(caught.value)) is not isinstance(caught.value, ApiError)
        assert caught.value.__cause__ is error


def test_other_errors_pass(store: Store) -> None:
    """Errors of the block itself are not touched."""
    with pytest.raises(NotFoundException, match="mine"), store.atomic():
        raise NotFoundException("mine")


def test_a_broken_rule_is_no_silent_success(store: Store) -> None:
    """A second installation row is refused by the database itself, and the first one stays."""
    with pytest.raises(StoreError), store.atomic() as tx:
        installation.insert(tx, "f" * 32, "999999999999", NOW)
    with store.reading() as conn:
        stored = installation.fetch(conn)
    assert stored is not None
    assert stored.account != "999999999999"


def test_an_alias_without_its_key_is_refused(store: Store) -> None:
    """References are kept by the database, and the error says what is missing."""
    with pytest.raises(NotFoundException, match="nowhere"), store.atomic() as tx:
        aliases.insert(tx, REGION, "alias/lost", "nowhere", NOW)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE regional_key SET state = 'enabled'",
        "UPDATE regional_key SET lifecycle = 'GONE'",
        "UPDATE key SET spec = 'AES'",
        "UPDATE key SET origin = ''",
        "UPDATE material SET state = 'OLD'",
        "UPDATE token_object SET status = 'LOST'",
        "UPDATE token_object SET cka_id = x'00'",
        "UPDATE token SET challenge = x'00'",
        "UPDATE installation SET only = 2",
    ],
)
def test_words_that_decide_are_checked_by_the_database(store: Store, statement: str) -> None:
    """A value that the program would not understand cannot be written."""
    write(store, a_key())
    with pytest.raises(StoreError), store.atomic() as tx:
        tx.exec_driver_sql(statement)


def test_text_that_no_database_stores(store: Store) -> None:
    """A half of a surrogate pair is refused where it is looked for and where it is written, on either engine."""
    with pytest.raises(ValidationException, match="halves of surrogate pairs"), store.reading() as conn:
        users.fetch_access_key(conn, "half\ud800")
    with pytest.raises(ValidationException, match="halves of surrogate pairs"), store.atomic() as tx:
        users.insert_user(tx, "half\ud800", NOW, "id")
