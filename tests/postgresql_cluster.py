"""Runs a PostgreSQL cluster of the tests' own: an unprivileged server in a temporary folder, on a Unix socket alone."""

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

DEBIAN = Path("/usr/lib/postgresql")
SUPERUSER = "tests"
ROLE = "hsmkms"
"""Owns the databases of the tests, and is no superuser."""

START_SECONDS = 60

_SERVER_USER = "postgres"
_QUICK = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off", "log_min_messages": "warning"}
_OFFLINE = {"listen_addresses": "", "timezone": "Asia/Kolkata", "max_connections": "120"}


class NotInstalledError(Exception):
    """There is no PostgreSQL server on this machine."""


def find_programs() -> Path:
    """Return the folder of the newest PostgreSQL's programs; NotInstalledError if there is none."""
    versions = [each for each in DEBIAN.glob("*/bin") if (each / "initdb").exists()]
    if versions:
        return max(versions, key=lambda each: float(each.parent.name))
    found = shutil.which("initdb")
    if found is None:
        raise NotInstalledError("PostgreSQL is not installed (package postgresql)")
    return Path(found).resolve().parent


class Server:
    """A server in the subfolder ``data`` of a folder, which dies with this process; its socket is in the folder.

    ``durable``: it syncs its files, as a server of an operator does.
    """

    def __init__(self, folder: Path, programs: Path, *, durable: bool = False) -> None:
        self.folder = folder
        self.programs = programs
        self._settings = _OFFLINE | ({} if durable else _QUICK)
        self.process: subprocess.Popen[bytes]
        give_to_server(folder)

    def start(self) -> None:
        """Start the server, which dies with this process, and wait until it answers."""
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *unprivileged("--pdeathsig", "INT"),
                    self.programs / "postgres",
                    *("-D", self.folder / "data", "-k", self.folder, *settings),
                ],
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                self.connect().close()
            except psycopg.OperationalError as exc:
                if self.process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError((self.folder / "server.log").read_text()) from exc
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """Stop the server at once, as a crash would."""
        self.process.send_signal(signal.SIGQUIT)  # without a checkpoint
        self.process.wait(START_SECONDS)

    def connect(self, database: str = "postgres") -> "psycopg.Connection[tuple[Any, ...]]":
        """Open a connection of the superuser, in autocommit mode."""
        return psycopg.connect(host=str(self.folder), user=SUPERUSER, dbname=database, autocommit=True)

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs as the server's user. Raises RuntimeError with what it printed."""
        command = [*unprivileged(), self.programs / program, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr}")


class Cluster(Server):
    """A new, running server. ``connect`` returns connections of its superuser; ``database`` makes databases."""

    def __init__(self, folder: Path, programs: Path, *, durable: bool = False) -> None:
        super().__init__(folder, programs, durable=durable)
        self._numbers = itertools.count()
        # As in most installations, the default order of text is not that of its bytes.
        language = ("--encoding", "UTF8", "--locale", "C.UTF-8", "--locale-provider", "icu", "--icu-locale", "en-US")
        access = ("--username", SUPERUSER, "--auth", "trust")
        self.run("initdb", "--pgdata", str(folder / "data"), "--no-sync", *access, *language)
        rules = folder / "data/pg_hba.conf"
        rules.write_text(f"local all guarded scram-sha-256\n{rules.read_text()}")
        self.start()
        self.admin = self.connect()
        self.admin.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD 'correct horse'")

    def stop(self) -> None:
        """Stop the server at once, as a crash would."""
        self.admin.close()
        super().stop()

    def url(self, database: str) -> str:
        """Return the URL of a database, for its owner."""
        return f"postgresql+psycopg://{ROLE}@/{database}?host={self.folder}"

    def listen_url(self, database: str) -> str | None:  # noqa: ARG002 - of clusters behind a pooler
        """Return the URL past a pooler: there is none."""
        return None

    def create(self, template: str = "template1") -> str:
        """Make a new database from a template, to which nobody may be connected; return its name."""
        name = f"made_{next(self._numbers)}"
        self.admin.execute(f"CREATE DATABASE {name} OWNER {ROLE} TEMPLATE {template} STRATEGY file_copy")
        return name

    def drop(self, url: str) -> None:
        """Drop a database, whoever is connected."""
        self.admin.execute(f"DROP DATABASE {name_of(url)} (FORCE)")

    @contextmanager
    def database(self, template: str = "template1") -> Iterator[str]:
        """Make a new database from a template, and drop it at the end, whoever is connected; yield its URL."""
        url = self.url(self.create(template))
        try:
            yield url
        finally:
            self.drop(url)


def give_to_server(folder: Path) -> None:
    """Give a folder to the user as whom servers run: initdb, postgres and pgbouncer refuse to run as root."""
    if os.geteuid() == 0:
        shutil.chown(folder, _SERVER_USER, _SERVER_USER)


def unprivileged(*options: str) -> list[str]:
    """Return the beginning of a command that runs as an unprivileged user."""
    if os.geteuid() == 0:
        options += ("--reuid", _SERVER_USER, "--regid", _SERVER_USER, "--clear-groups")
    return ["setpriv", *options] if options else []


def name_of(url: str) -> str:
    """Return the name of the database in a URL."""
    return url.partition("@/")[2].partition("?")[0]


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Run a cluster in a temporary folder, in memory where possible; NotInstalledError without PostgreSQL."""
    programs = find_programs()
    memory = Path("/dev/shm")  # noqa: S108 - only as the place of a fresh folder with a random name
    place = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="hsmkms-pg-", dir=place) as folder:
        cluster = Cluster(Path(folder), programs)
        try:
            yield cluster
        finally:
            cluster.stop()
