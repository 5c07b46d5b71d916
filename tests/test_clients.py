"""The table of clients (scripts/client_table.py) and the guide's table of what was run."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from client_jobs import PROGRAMS, run
from client_runs import BEGIN, END, GUIDE, Row, last_words, rewritten, rows_in
from client_table import CLIENTS, Client
from waiting import until

ROOT = Path(__file__).parent.parent
NAMES = [client.name for client in CLIENTS]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_clients_are_whole(client: Client) -> None:
    """A client is either run, by a program that exists and packages of some registry, or absent with a reason."""
    assert bool(client.absent) != bool(client.program)
    assert client.job
    if client.program:
        assert (PROGRAMS / client.program).is_file()
        assert client.python or client.npm or client.debian


def test_every_program_is_run() -> None:
    """No program lies about that no client runs: the others are parts of those."""
    parts = {"ethereum.mjs", "key_vault.py", "moto.sh"}
    programs = {path.name for path in PROGRAMS.iterdir() if path.is_file()}
    assert programs == {client.program for client in CLIENTS if client.program} | parts


def test_packages_of_the_suite_are_development_dependencies() -> None:
    """What the tests run in Python is installed with the tools of the tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {
        re.split(r"[\[>=<]", each)[0] for each in project["optional-dependencies"]["dev"] + project["dependencies"]
    }
    for client in CLIENTS:
        if client.suite:
            assert {each.partition("[")[0] for each in client.python} <= wanted


def test_the_guide_has_every_client() -> None:
    """The guide has a row for each client, in order, as it was run last: no client and no new job is missing."""
    rows = rows_in(GUIDE.read_text())
    assert list(rows) == NAMES
    for client in CLIENTS:
        row = rows[client.name]
        assert row.job == client.job
        assert re.fullmatch(r"works|(?:fails|not run): \S.*", row.result), row
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", row.date)
        assert bool(row.version) or row.result.startswith("not run: ")
        assert bool(client.absent) <= row.result.startswith("not run: ")


def test_no_client_fails() -> None:
    """What is in the guide works, or was not run: a failure is mended before it is written down as known."""
    failing = [row for row in rows_in(GUIDE.read_text()).values() if row.result.startswith("fails")]
    assert failing == []


def test_some_clients_are_run_again() -> None:
    """A run of some clients changes their rows alone, and puts them where they stand in the table."""
    first, second, third = NAMES[:3]
    old = {name: Row(name, "1", "job", "works", "2026-01-01") for name in (third, first)}
    text = rewritten(f"before\n{BEGIN}\n{END}\nafter\n", old)
    new = Row(second, "", "job | other", "not run: npm", "2026-02-02")
    again = rows_in(rewritten(text, rows_in(text) | {second: new}))
    assert list(again) == [first, second, third]
    assert again == old | {second: new._replace(job="job / other")}
    assert text.startswith("before\n")
    assert text.endswith("after\n")


def test_what_hangs_is_ended(tmp_path: Path) -> None:
    """A program that does not end is ended with all that it has started."""
    marker = tmp_path / "child"
    seconds = 1.0
    while not marker.exists():  # a busy machine may need longer to start it
        with pytest.raises(subprocess.TimeoutExpired):
            run(["bash", "-c", f"sleep 600 & echo $! >{marker}.part; mv {marker}.part {marker}; wait"], seconds)
        seconds *= 4
    until(lambda: has_ended(int(marker.read_text())), 60)


def has_ended(pid: int) -> bool:
    """True if there is no such process, or nothing of it but its status."""
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("one\nerror: cannot open /root/a/b.txt: gone\n  at line 7", "error: cannot open b.txt: gone"),
        ("throw new Error(x)\n\nTypeError [X]: no\nTypeError: not a number", "TypeError: not a number"),
        ("it\n\nends here\n---", "ends here"),
        ("", "it said nothing"),
        ("no https://host/path here", "no https://host/path here"),
    ],
)
def test_reasons(output: str, words: str) -> None:
    """The reason that a row gives is the line of an error, or the last with words, without this machine's paths."""
    assert last_words(output) == words
