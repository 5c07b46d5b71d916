"""Transactions, connections, modes, and processes."""

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing, suppress
from pathlib import Path

import pytest
from sqlalchemy import func, select
from store_samples import LATER, NOW, REGION, a_key, pragma, read, write

from hsmkms.errors import ClosedError, DependencyTimeoutException, StoreError
from hsmkms.store import changes, keys, log_schema, migrate, schema
from hsmkms.store.engine import Database, Store
from hsmkms.store.files import LOG, META
from hsmkms.store.sqlite import connections, wal_index


@pytest.fixture(params=["meta", "log"])
def database(store: Store, request: pytest.FixtureRequest) -> Database:
    """Each of the two databases."""
    found = getattr(store, request.param)
    assert isinstance(found, Database)
    return found


def mode_of(path: Path) -> int:
    """The permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def test_every_connection_is_durable_and_keeps_references(database: Database) -> None:
    """WAL, synchronous=FULL, foreign keys and the waiting time hold on each of several connections."""
    with database.reading() as one, database.reading() as two, database.atomic() as three:
        for conn in (one, two, three):
            assert pragma(conn, "journal_mode") == "wal"
            assert pragma(conn, "synchronous") == 2
            assert pragma(conn, "foreign_keys") == 1
            assert pragma(conn, "busy_timeout") == 200


def test_files_belong_to_their_owner_alone(tmp_path: Path) -> None:
    """Folder 0700; databases, WAL and shared memory 0600: even under a careless umask."""
    old = os.umask(0)
    try:
        folder = tmp_path / "data"
        migrate.create(folder)
        with_wal = Store.open(folder)
        with with_wal.atomic() as tx:
            changes.note(tx, REGION, "subject")
        with with_wal.log.atomic() as tx:
            tx.execute(log_schema.encryption_count.insert().values(material_id="m", reserved=1))
        names = sorted(each.name for each in folder.iterdir())
        assert names == ["log.db", "log.db-shm", "log.db-wal", "meta.db", "meta.db-shm", "meta.db-wal"]
        assert mode_of(folder) == 0o700
        assert {mode_of(each) for each in folder.iterdir()} == {0o600}
        with_wal.close()
    finally:
        os.umask(old)


@pytest.mark.parametrize("name", [META.name, LOG.name])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_database_open_to_others_is_refused(folder: Path, name: str, mode: int) -> None:
    """The error says which file and which command mends it."""
    (folder / name).chmod(mode)
    with pytest.raises(StoreError, match="chmod 600") as caught:
        Store.open(folder)
    assert str(folder / name) in str(caught.value)


@pytest.mark.parametrize("name", [META.name, LOG.name])
def test_a_missing_database_is_named_and_not_made(folder: Path, name: str) -> None:
    """The error sends the operator to the command that makes one, and no empty file appears."""
    (folder / name).unlink()
    with pytest.raises(StoreError, match=r"hsmkms (init|renew-log)"):
        Store.open(folder)
    assert not (folder / name).exists()


def test_atomic_keeps_all_or_nothing(store: Store) -> None:
    """What was written before an error is gone, and the next writer finds the lock free."""
    record = a_key()

    def fail_half_way() -> None:
        with store.atomic() as tx:
            keys.insert_intent(tx, record, {"a": "b"}, "label")
            keys.complete(tx, record.key_id, REGION)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    with store.atomic() as tx:
        assert not keys.exists_anywhere(tx, record.key_id)
        assert changes.latest(tx) == 0


def test_reading_sees_one_state(store: Store) -> None:
    """Commits made after a reading's first query stay out of its sight, and it does not hold them up."""
    record = write(store, a_key())
    with store.reading() as conn:
        before = keys.fetch(conn, REGION, record.key_id)
        with store.atomic() as tx:
            assert keys.set_description(tx, record.key_id, REGION, "new", record.version)
        assert keys.fetch(conn, REGION, record.key_id) == before
    assert read(store, record).description == "new"


def test_what_is_written_in_a_reading_is_lost(store: Store) -> None:
    """Only ``atomic`` writes."""
    with store.reading() as conn:
        changes.note(conn, REGION, "subject")
    with store.reading() as conn:
        assert changes.latest(conn) == 0


def test_a_writer_waits_and_then_gives_up(store: Store, folder: Path) -> None:
    """A lock held elsewhere ends as a timeout, and afterwards everything works."""
    other = sqlite3.connect(folder / META.name, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DependencyTimeoutException, match="database is locked") as caught, store.atomic():
        pass
    assert caught.value.__cause__ is not None
    other.execute("ROLLBACK")
    other.close()
    write(store, a_key())


def test_writers_do_not_lose_each_others_updates(folder: Path) -> None:
    """Eight threads that read and then write in one ``atomic`` leave the sum of what they did."""
    store = Store.open(folder)
    record = write(store, a_key(description="0"))

    def count() -> None:
        for _ in range(25):
            with store.atomic() as tx:
                found = keys.fetch(tx, REGION, record.key_id)
                assert found is not None
                more = str(int(found.description) + 1)
                assert keys.set_description(tx, record.key_id, REGION, more, found.version)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert read(store, record).description == "200"
    store.close()


def test_the_second_of_two_stale_writers_is_refused(store: Store) -> None:
    """Of two that decided upon the same version, the second changes nothing and is told so."""
    record = write(store, a_key())
    with store.atomic() as tx:
        assert keys.set_description(tx, record.key_id, REGION, "first", record.version)
    with store.atomic() as tx:
        epoch = changes.latest(tx)
        assert not keys.set_description(tx, record.key_id, REGION, "second", record.version)
        assert changes.latest(tx) == epoch
    assert read(store, record).description == "first"


def test_a_closed_store_says_so(store: Store) -> None:
    """Use after ``close`` is a bug of the program, and named as such."""
    store.close()
    store.close()
    with pytest.raises(ClosedError), store.reading():
        pass
    with pytest.raises(ClosedError), store.log.atomic():
        pass


def test_a_connection_in_use_is_closed_after_its_database(database: Database) -> None:
    """What is read while the database is closed is read to its end, and then the connection is closed as well."""
    with database.reading() as conn:
        raw = conn.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        database.close()
        assert pragma(conn, "journal_mode") == "wal"
    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        raw.execute("SELECT 1")


def test_a_broken_connection_after_its_database_was_closed(database: Database) -> None:
    """A connection that was given up after a disk error does not hinder the end of its block."""
    with database.reading() as conn:
        database.close()
        conn.invalidate()
    with pytest.raises(ClosedError), database.reading():
        pass


@pytest.fixture(params=["mapped", "unknown"])
def header(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether the header of the WAL index was found in memory; without it SQLite is asked each time."""
    if request.param == "unknown":
        monkeypatch.setattr(wal_index, "find_header", lambda _: None)
    return str(request.param)


@pytest.mark.usefixtures("header")
def test_the_signal_moves_with_commits_and_only_then(store: Store, folder: Path) -> None:
    """Commits of this and of any other program move it once; reading, rolling back and log.db do not."""
    signal = store.change_signal()
    assert not signal.moved()
    write(store, a_key())
    assert (signal.moved(), signal.moved()) == (True, False)
    other = sqlite3.connect(folder / META.name, isolation_level=None)
    other.execute("INSERT INTO change_log (region, subject) VALUES ('r', 's')")
    other.close()
    assert (signal.moved(), signal.moved()) == (True, False)
    with store.log.atomic() as tx:
        tx.execute(log_schema.encryption_count.insert().values(material_id="m", reserved=1))
    with store.reading() as conn:
        changes.latest(conn)
    with suppress(ZeroDivisionError), store.atomic() as tx:
        changes.note(tx, REGION, "subject")
        raise ZeroDivisionError
    assert not signal.moved()
    signal.close()


def test_sqlite_is_asked_only_after_a_commit(store: Store) -> None:
    """While the header of the WAL index is the same no statement runs; commits are seen, also in a new WAL."""
    signal, statements = store.change_signal(), []
    signal._connection.set_trace_callback(statements.append)
    assert [signal.moved() for _ in range(3)] == [False] * 3
    with store.reading() as conn:
        changes.latest(conn)
    assert not signal.moved()
    assert statements == []
    write(store, a_key())
    assert [signal.moved() for _ in range(3)] == [True, False, False]
    assert statements == ["PRAGMA data_version"]
    with closing(connections.connect(store.meta.file)) as connection:
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    signal.moved()
    write(store, a_key())
    assert signal.moved()
    signal.close()


def test_commits_of_a_process_that_is_killed_are_seen(store: Store, folder: Path) -> None:
    """Each commit of another process is seen before its next one, and the last one also after its kill."""
    signal = store.change_signal()
    with subprocess.Popen(
        [sys.executable, "-c", COMMITTING, str(folder / META.name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(50):
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"committed\n"
            assert (signal.moved(), signal.moved()) == (True, False)
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"committed\n"
        process.kill()
    assert (signal.moved(), signal.moved()) == (True, False)
    write(store, a_key())
    assert signal.moved()
    signal.close()


COMMITTING = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for line in sys.stdin:
    connection.execute("INSERT INTO change_log (region, subject) VALUES ('r', 's')")
    print("committed", flush=True)
"""


@pytest.mark.usefixtures("header")
def test_a_closed_signal_says_so(store: Store) -> None:
    """Its memory may be gone, so it is not read any more."""
    signal = store.change_signal()
    signal.close()
    with pytest.raises(StoreError):
        signal.moved()


def test_headers_that_are_not_used(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that is not mapped has no header, nor has one whose index has another format."""
    assert wal_index.find_header(folder / "other.db") is None
    signal = store.change_signal()
    found = wal_index.find_header(store.meta.file)
    assert found is not None
    assert len(found.raw) == wal_index.HEADER_BYTES
    monkeypatch.setattr(wal_index, "VERSION", 3007001)
    assert wal_index.find_header(store.meta.file) is None
    signal.close()


def test_each_database_has_its_own_signal(store: Store, tmp_path: Path) -> None:
    """Of two databases in one process the signal of the one that changed moves; a path by a link leads to the same."""
    migrate.create(tmp_path / "second")
    second = Store.open(tmp_path / "second")
    signals = store.change_signal(), second.change_signal()
    for changed, expected in ((store, [True, False]), (second, [False, True])):
        with changed.atomic() as tx:
            changes.note(tx, REGION, "subject")
        assert [each.moved() for each in signals] == expected
    (tmp_path / "link").symlink_to(store.folder)
    linked, direct = (wal_index.find_header(each / META.name) for each in (tmp_path / "link", store.folder))
    assert linked is not None
    assert direct is not None
    assert linked.raw == direct.raw
    for each in signals:
        each.close()
    second.close()


def test_a_mapping_whose_path_is_no_text(tmp_path: Path) -> None:
    """A file of this process whose path is not UTF-8 hides no header, whether it is the index or another file's."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir(mode=0o700)
    migrate.create(folder)
    with closing(Store.open(folder)) as store, closing(store.change_signal()) as signal:
        found = wal_index.find_header(store.meta.file)
        assert found is not None
        with store.atomic() as tx:
            changes.note(tx, REGION, "subject")
        assert signal.moved()


def test_the_signal_never_holds_up_a_checkpoint(store: Store) -> None:
    """Asking leaves no read transaction open, so the WAL can be emptied."""
    signal = store.change_signal()
    write(store, a_key())
    assert signal.moved()
    with closing(connections.connect(store.meta.file)) as connection:
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint").fetchone()
    assert busy == 0
    signal.close()


def test_the_change_log_tells_what_changed_since(store: Store) -> None:
    """Epochs grow, are never given twice, and ``since`` leaves out the one that it was told."""
    with store.atomic() as tx:
        first, second = (changes.note(tx, REGION, name) for name in ("one", "two"))
        assert changes.since(tx, 0) == [(first, REGION, "one"), (second, REGION, "two")]
        assert changes.since(tx, first) == [(second, REGION, "two")]
        assert changes.latest(tx) == second
        tx.execute(schema.change_log.delete())
        assert changes.note(tx, REGION, "three") > second


def test_instants_are_whole_microseconds_in_the_database(store: Store) -> None:
    """An INTEGER since 1970, exact in both directions; a naive datetime is refused."""
    record = write(store, a_key(creation_date=NOW))
    with store.reading() as conn:
        raw = conn.exec_driver_sql("SELECT creation_date, typeof(creation_date) FROM key").one()
        assert tuple(raw) == (1772368215123457, "integer")
        assert conn.scalar(select(func.count(schema.key.c.key_id)).where(schema.key.c.creation_date < LATER)) == 1
    assert read(store, record).creation_date == NOW
    with pytest.raises(Exception, match="offset-naive"):
        write(store, a_key(creation_date=NOW.replace(tzinfo=None)))


FORKED = """
import os, sys
from pathlib import Path
from hsmkms.errors import ForkedProcessError
from hsmkms.store.changes import latest
from hsmkms.store.engine import Store

store = Store.open(Path(sys.argv[1]))
signal = store.change_signal()
with store.reading() as conn:
    latest(conn)
child = os.fork()
if child == 0:
    refused = 0
    for use in (store.atomic, store.reading, store.log.atomic, store.log.reading):
        try:
            with use():
                pass
        except ForkedProcessError:
            refused += 1
    try:
        signal.moved()
    except ForkedProcessError:
        refused += 1
    signal.close()
    store.close()
    with Store.open(Path(sys.argv[1])).atomic():
        refused += 1
    os._exit(0 if refused == 6 else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
with store.atomic() as tx:
    latest(tx)
print(status, signal.moved())
"""


def test_a_forked_child_must_open_its_own(folder: Path) -> None:
    """Transactions and signal raise in the child, a store opened there works, and the parent's are unharmed."""
    done = subprocess.run([sys.executable, "-c", FORKED, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "0"


STRANGER = 54321


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("name", ["meta.db", "log.db", "meta.db-wal", "log.db-shm", "audit", "audit/seals.jsonl"])
def test_files_of_another_user(tmp_path: Path, name: str) -> None:
    """A database, a file beside it, or a part of the audit log that belongs to another user is not used."""
    folder = tmp_path / "data"
    migrate.create(folder)
    (folder / "audit").mkdir(mode=0o700)
    (folder / "audit" / "seals.jsonl").touch(0o600)
    kept = Store.open(folder)
    with kept.atomic() as tx:
        changes.note(tx, REGION, "subject")
    with kept.log.reading():
        pass
    os.chown(folder / name, STRANGER, -1)
    with pytest.raises(StoreError, match=f"{name} can be changed by another user, so it is not used: .*run hsmkms as"):
        Store.open(folder)
    os.chown(folder / name, 0, -1)
    Store.open(folder).close()
    kept.close()


@pytest.mark.parametrize("name", ["audit", "audit/lane-0001.00000001.jsonl"])
def test_audit_log_that_everybody_may_write(tmp_path: Path, name: str) -> None:
    """An audit log whose folder or file everybody may write is not used, and the error says what mends it."""
    folder = tmp_path / "data"
    migrate.create(folder)
    (folder / "audit").mkdir(mode=0o700)
    (folder / "audit" / "lane-0001.00000001.jsonl").touch(0o600)
    (folder / name).chmod(0o777)
    with pytest.raises(StoreError, match=f"run `chmod go-w {folder / name}`"):
        Store.open(folder)
