"""Runs PgBouncer, in transaction mode, before a cluster of the tests' own."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from postgresql_cluster import ROLE, START_SECONDS, Cluster, NotInstalledError, give_to_server, unprivileged

PORT = 6432

_PROGRAM = "pgbouncer"
_PLACES = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"
_CONFIGURATION = """\
[databases]
* = host={server} user={role}

[pgbouncer]
listen_addr =
listen_port = {port}
unix_socket_dir = {folder}
auth_type = any
pool_mode = transaction
default_pool_size = 4
max_client_conn = 500
logfile = {folder}/pgbouncer.log
pidfile = {folder}/pgbouncer.pid
"""


class PooledCluster:
    """A cluster behind PgBouncer: as a ``Cluster``, but the URLs lead through it. ``listen_url`` leads past it."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        self.folder = cluster.folder

    def url(self, database: str) -> str:
        """Return the URL of a database, through the pooler."""
        return f"postgresql+psycopg://{ROLE}@/{database}?host={self._folder}&port={PORT}"

    def listen_url(self, database: str) -> str | None:
        """Return the URL past it."""
        return self._cluster.url(database)

    def create(self, template: str = "template1") -> str:
        """Make a new database from a template; return its name."""
        return self._cluster.create(template)

    def drop(self, url: str) -> None:
        """Drop a database, whoever is connected."""
        self._cluster.drop(url)

    def connect(self, database: str = "postgres") -> "psycopg.Connection[tuple[Any, ...]]":
        """Open a connection of the superuser, past the pooler."""
        return self._cluster.connect(database)


@contextmanager
def pooled(cluster: Cluster) -> Iterator[PooledCluster]:
    """Run PgBouncer before a cluster; NotInstalledError without it."""
    program = shutil.which(_PROGRAM, path=_PLACES)
    if program is None:
        raise NotInstalledError("PgBouncer is not installed (package pgbouncer)")
    with tempfile.TemporaryDirectory(prefix="hsmkms-pool-") as name:
        folder = Path(name)
        give_to_server(folder)
        configuration = folder / "pgbouncer.ini"
        configuration.write_text(_CONFIGURATION.format(server=cluster.folder, role=ROLE, port=PORT, folder=folder))
        command = [*unprivileged("--pdeathsig", "TERM"), program, "--quiet", str(configuration)]
        process = subprocess.Popen(command, cwd="/", stderr=subprocess.PIPE)
        try:
            _wait(process, folder)
            yield PooledCluster(cluster, folder)
        finally:
            process.terminate()
            process.wait(START_SECONDS)
            assert process.stderr is not None
            process.stderr.close()


def _wait(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    """Wait until it answers."""
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(host=str(folder), port=PORT, user=ROLE, dbname="postgres").close()
        except psycopg.OperationalError as exc:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((folder / "pgbouncer.log").read_text()) from exc
            time.sleep(0.02)
        else:
            return
