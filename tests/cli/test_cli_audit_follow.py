"""`audit export --follow` and `--cursor`: what a collector gets while the log is written, rotated and archived."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from cli_site import SECONDS, Site

COMMAND = (sys.executable, "-m", "hsmkms", "audit", "export")


@pytest.fixture
def small(site: Site) -> Site:
    """An installation whose audit log begins a new file with almost every process."""
    site.config.write_text(site.config.read_text().replace("[audit]\n", "[audit]\nsegment_mib = 0.001\n"))
    return site


@contextmanager
def following(site: Site, *arguments: object) -> "Iterator[subprocess.Popen[str]]":
    """The command in a process of its own, which is killed at the end if it has not ended."""
    process = subprocess.Popen(
        [*COMMAND, "--follow", *map(str, arguments)],
        env=site.environment(),
        cwd=site.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def next_events(process: "subprocess.Popen[str]", count: int) -> list[str]:
    """The ids of the next records that it prints."""
    assert process.stdout is not None
    return [str(json.loads(process.stdout.readline())["eventID"]) for _ in range(count)]


def all_events(site: Site) -> list[str]:
    """The ids of all records, by time."""
    return [str(json.loads(line)["eventID"]) for line in site.run("audit", "export").stdout.splitlines()]


def waiting(pipe: int) -> int:
    """How many bytes of a pipe nobody has read."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_a_collector(small: Site) -> None:
    """It gets each record once: as it is written, over new files and archives, restarts, and an end in the middle."""
    cursor, archive = small.folder / "cursor", small.folder / "archive"
    small.new_key()
    collected: list[str] = []
    with following(small, "--cursor", cursor) as process:
        collected += next_events(process, len(all_events(small)))
        for _ in range(2):
            small.new_key()
            collected += next_events(process, 1)
        process.send_signal(signal.SIGTERM)
        rest, errors = process.communicate(timeout=SECONDS)
        assert (process.returncode, rest, errors) == (0, "", "")
    for _ in range(3):
        small.new_key()
    with following(small, "--cursor", cursor) as process:
        collected += next_events(process, 3)
        assert small.run("audit", "archive", "--to", archive).status == 0
        collected += next_events(process, 1)
        process.kill()
    again = small.run("audit", "export", "--cursor", cursor)
    assert again.status == 0
    collected += [
        event for line in again.stdout.splitlines() if (event := json.loads(line)["eventID"]) not in collected
    ]
    assert small.run("audit", "export", "--cursor", cursor).stdout == ""
    assert len(set(collected)) == len(collected)
    everything = small.run("audit", "export", "--archive", archive).stdout.splitlines()
    assert set(collected) == {json.loads(line)["eventID"] for line in everything}


def test_what_was_archived_too_early(small: Site) -> None:
    """Records that were moved away before they were exported are named; with their folder they are exported."""
    cursor, archive = small.folder / "cursor", small.folder / "archive"
    small.new_key()
    before = len(small.run("audit", "export", "--cursor", cursor).stdout.splitlines())
    for _ in range(3):
        small.new_key()
    assert small.run("audit", "archive", "--to", archive).status == 0
    refused = small.run("audit", "export", "--cursor", cursor)
    assert refused.status == 1
    assert f"records {before + 1} to " in refused.error
    assert "name the folder by --archive" in refused.error
    assert len(small.run("audit", "export", "--cursor", cursor, "--archive", archive).stdout.splitlines()) == 4


def test_a_log_that_was_bent(small: Site) -> None:
    """A log that does not continue where the cursor is exports nothing; torn ends are no records."""
    cursor = small.folder / "cursor"
    small.new_key()
    small.run("audit", "export", "--cursor", cursor)
    position = cursor.read_bytes()
    newest = max((small.data / "audit").glob("lane-0001.*.jsonl"))
    whole = newest.read_bytes()
    newest.write_bytes(whole + b'{"hash":"torn')
    assert small.run("audit", "export", "--cursor", cursor).stdout == ""
    newest.write_bytes(whole[:-20])
    assert "is not the one at which the cursor is" in small.run("audit", "export", "--cursor", cursor).error
    newest.write_bytes(whole)
    small.new_key()
    (written,) = (each for each in (small.data / "audit").glob("lane-0001.*.jsonl") if each > newest)
    lines = written.read_bytes().splitlines(keepends=True)
    written.write_bytes(lines[0].replace(b'"CreateKey"', b'"CreateCat"'))
    bent = small.run("audit", "export", "--cursor", cursor)
    assert "does not follow the record before it" in bent.error
    assert bent.stdout == ""
    assert cursor.read_bytes() == position


def test_a_collector_that_hangs(small: Site) -> None:
    """The signal to end is obeyed although nobody reads, and what was not taken is exported again."""
    cursor = small.folder / "cursor"
    small.new_key("--description", "x" * 5000)
    read, write = os.pipe()
    os.set_blocking(write, False)
    with suppress(BlockingIOError):
        while True:
            os.write(write, b"\n" * 4096)
    os.set_blocking(write, True)
    full = waiting(read)
    os.read(read, 4096)
    command = [*COMMAND, "--follow", "--cursor", str(cursor)]
    with subprocess.Popen(command, env=small.environment(), stdout=write, stderr=subprocess.PIPE) as process:
        os.close(write)
        while waiting(read) < full:  # then it has written a part
            assert process.poll() is None
            time.sleep(0.01)
        process.terminate()
        assert process.wait(SECONDS) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    os.close(read)
    assert not cursor.exists()
    assert small.run("audit", "export", "--cursor", cursor).stdout.count("\n") == len(all_events(small))


def test_filters_and_wrong_cursors(small: Site) -> None:
    """Filters and --query pick from what is new; what is no cursor is left as it is."""
    cursor = small.folder / "cursor"
    small.new_key()
    picked = small.run("audit", "export", "--cursor", cursor, "--event-name", "CreateKey", "--query", "eventName")
    assert picked.stdout == '"CreateKey"\n'
    small.run("list-keys")
    assert small.run("audit", "export", "--cursor", cursor, "--event-name", "CreateKey").stdout == ""
    assert small.run("audit", "export", "--cursor", cursor).stdout == "", "it was passed over"
    assert "no operation of the API" in small.run("audit", "export", "--follow", "--event-name", "CreatKey").error
    assert "leave --summary" in small.run("audit", "export", "--follow", "--summary", "key").error
    for text in (b"", b"{}", b'{"lanes":{"0001":{"segment":1}}}', b"\xff"):
        cursor.write_bytes(text)
        assert "has no position in an audit log" in small.run("audit", "export", "--cursor", cursor).error
        assert cursor.read_bytes() == text
    assert "cannot be read" in small.run("audit", "export", "--cursor", small.folder).error
