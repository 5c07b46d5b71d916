"""Installs clients, runs each against a development server of its own, and writes the table of the guide."""

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from client_jobs import NotInstalled, chain_of, development_server, do_job, holds, run, version_of
from client_table import CLIENTS, Client

ROOT = Path(__file__).parent.parent
KITS = ROOT / ".venv-clients"
GUIDE = ROOT / "hsmkms" / "guide" / "clients.md"
BEGIN = "<!-- clients: written by scripts/clients -->"
END = "<!-- end of clients -->"
HEAD = "| Client | Version | Job | Result | Date |\n|---|---|---|---|---|"
INSTALL_SECONDS = 900
JOB_SECONDS = 300
SHOWN_CHARACTERS = 160
MOST = 6000
"""Characters of a failed program's output that are shown."""


class Row(NamedTuple):
    """A line of the table."""

    name: str
    version: str
    job: str
    result: str
    date: str

    def __str__(self) -> str:
        return f"| {' | '.join(each.replace('|', '/') for each in self)} |"


# -- installing -------------------------------------------------------------------------------------------------


def installed(client: Client, *, fresh: bool) -> Path:
    """The folder that the client is installed in. NotInstalled with the reason if it cannot be."""
    kit = KITS / re.sub(r"[^a-z0-9]+", "-", client.name.lower()).strip("-")
    stamp, wanted = kit / ".installed", repr((client.python, client.npm))
    if client.debian:
        quiet([ROOT / "scripts" / "setup", "--packages", *client.debian], "apt-get")
    if fresh or not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(kit, ignore_errors=True)
        kit.mkdir(parents=True)
        install(client, kit)
        stamp.write_text(wanted)
    return kit


def install(client: Client, kit: Path) -> None:
    """Install what the client needs of PyPI and npm."""
    if client.python:
        quiet([sys.executable, "-m", "venv", kit], "venv")
        options = ("--quiet", "--disable-pip-version-check", "--no-input")
        quiet([kit / "bin" / "python", "-m", "pip", "install", *options, *client.python], "pip")
    if client.npm:
        if shutil.which("npm") is None:
            raise NotInstalled("npm is not installed")
        quiet(["npm", "install", "--prefix", kit, "--no-audit", "--no-fund", "--loglevel=error", *client.npm], "npm")


def quiet(arguments: list[object], tool: str) -> None:
    """Run an installer; NotInstalled with the last thing that it says if it fails."""
    try:
        done = run([*map(str, arguments)], INSTALL_SECONDS)
    except subprocess.TimeoutExpired as exc:
        raise NotInstalled(f"{tool} did not end in {INSTALL_SECONDS} s") from exc
    if done.returncode:
        raise NotInstalled(f"{tool} cannot install it: {last_words(done.stderr or done.stdout)}")


# -- running ----------------------------------------------------------------------------------------------------


def result_of(client: Client, kit: Path) -> str:
    """What came of the client's job: works, or how it failed."""
    with tempfile.TemporaryDirectory(prefix="hsmkms-client-") as name:
        folder = Path(name)
        home = folder / "home"
        home.mkdir()
        with development_server(folder, tls=client.tls) as endpoint:
            try:
                done = do_job(client, kit, endpoint, home, chain_of(folder), JOB_SECONDS)
            except NotInstalled as exc:
                return f"not run: {exc}"
            except subprocess.TimeoutExpired:
                return f"fails: it did not end in {JOB_SECONDS} s"
        said = f"{client.name}:\n{done.stdout[-MOST:]}\n{done.stderr[-MOST:]}\n{(folder / 'server.log').read_text()}\n"
    if holds(done):
        return "works"
    sys.stderr.write(said)
    return f"fails: {last_words(done.stderr or done.stdout)}"


def last_words(text: str) -> str:
    """The line that names the error, or the last one with words, without the paths of this machine."""
    lines = [line.strip() for line in text.splitlines() if re.search(r"[A-Za-z]{3}", line)] or ["it said nothing"]
    forms = (r"^[^\s:]*(?:error|exception)[^\s:]*: ", r"error|fail")
    named = (line for form in forms for line in lines if re.search(form, line, re.IGNORECASE))
    chosen = next(named, lines[-1])
    return re.sub(r"(?<![\w:/])/[^\s:'\"]+/", "", chosen)[:SHOWN_CHARACTERS]


def row_of(client: Client, *, fresh: bool) -> Row:
    """Install the client, run its job, and tell."""
    today = datetime.now(UTC).date().isoformat()
    if client.absent:
        return Row(client.name, "", client.job, f"not run: {client.absent}", today)
    try:
        kit = installed(client, fresh=fresh)
    except NotInstalled as exc:
        return Row(client.name, "", client.job, f"not run: {exc}", today)
    version = version_of(client, kit)
    return Row(client.name, version, client.job, result_of(client, kit), today)


# -- the guide --------------------------------------------------------------------------------------------------


def rows_in(text: str) -> dict[str, Row]:
    """The rows of a table that was written before, by the names of their clients."""
    _, _, rest = text.partition(BEGIN)
    lines = rest.partition(END)[0].strip().splitlines()[2:]
    rows = (Row(*(cell.strip() for cell in line.strip().strip("|").split("|"))) for line in lines)
    return {row.name: row for row in rows}


def rewritten(text: str, rows: dict[str, Row]) -> str:
    """The guide with its table made anew, in the order of the table of clients."""
    lines = "\n".join([HEAD, *(str(rows[client.name]) for client in CLIENTS if client.name in rows)])
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{lines}\n{END}{after}"


def write_down(row: Row) -> None:
    """Put a row into the guide. Another run may do the same at this time."""
    with GUIDE.open("r+") as guide:
        fcntl.flock(guide, fcntl.LOCK_EX)
        text = guide.read()
        guide.seek(0)
        guide.write(rewritten(text, rows_in(text) | {row.name: row}))
        guide.truncate()


def main() -> int:
    """Run the clients that are asked for; the table is written after each."""
    parser = argparse.ArgumentParser(prog="scripts/clients", description="Run real clients against hsmkms.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="words of clients' names; all if there are none")
    parser.add_argument("--fresh", action="store_true", help="install each client anew")
    parser.add_argument("--list", action="store_true", help="show the clients and run none")
    asked = parser.parse_args()
    chosen = [
        client
        for client in CLIENTS
        if not asked.names or any(word.lower() in client.name.lower() for word in asked.names)
    ]
    if not chosen:
        parser.error(f"no client's name has one of these words: {' '.join(asked.names)}")
    if asked.list:
        print("\n".join(f"{client.name}: {client.job}" for client in chosen))
        return 0
    failed = 0
    for client in chosen:
        row = row_of(client, fresh=asked.fresh)
        print(row, flush=True)
        failed += row.result.startswith("fails")
        write_down(row)
    return 1 if failed else 0


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
