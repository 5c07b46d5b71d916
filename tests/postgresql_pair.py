"""A PostgreSQL primary with a synchronous standby that streams from it: both die, come back and take over in tests."""

import os
import shutil
from pathlib import Path
from typing import Final

from postgresql_cluster import SUPERUSER, Cluster, Server, find_programs
from waiting import until

WAIT_SECONDS: Final = 120.0


class Pair:
    """Two servers on Unix sockets in two folders; ``url`` names both, and libpq takes the writable one."""

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        self.folders = [folder / "a", folder / "b"]
        for each in self.folders:
            each.mkdir(mode=0o711)
        programs = find_programs()
        cluster = Cluster(self.folders[0], programs, durable=durable)
        self.database = cluster.create()
        self._url = cluster.url(self.database).partition("?")[0]
        cluster.admin.close()
        self.primary: Server = cluster
        self.standby = Server(self.folders[1], programs, durable=durable)
        self._follow()

    def url(self, folders: list[Path] | None = None) -> str:
        """The URL of the database on both servers, or behind the sockets of other folders."""
        return f"{self._url}?{'&'.join(f'host={each}' for each in folders or self.folders)}"

    def restart(self) -> None:
        """Kill the primary with all its processes, and start it again."""
        _kill(self.primary)
        self.primary.start()

    def promote(self) -> None:
        """Kill the primary, and let the standby take over: it has whatever was committed."""
        _kill(self.primary)
        with self.standby.connect() as conn:
            conn.execute("SELECT pg_promote()")
        self.primary, self.standby = self.standby, self.primary

    def follow(self) -> None:
        """Make the server that was killed a standby of the one that took over."""
        shutil.rmtree(self.standby.folder / "data")
        self._follow()

    def stop(self) -> None:
        """Stop both."""
        for server in (self.standby, self.primary):
            if server.process.poll() is None:
                Server.stop(server)

    def _follow(self) -> None:
        data = self.standby.folder / "data"
        source = ("--host", str(self.primary.folder), "--username", SUPERUSER)
        options = ("--write-recovery-conf", "--checkpoint", "fast", "--no-sync")
        self.standby.run("pg_basebackup", "--pgdata", str(data), *source, *options)
        with (data / "postgresql.auto.conf").open("a") as file:  # a later line counts
            file.write("synchronous_standby_names = ''\nwal_retrieve_retry_interval = '100ms'\n")
        self.standby.start()
        with self.primary.connect() as conn:
            streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
            until(lambda: conn.execute(streaming).fetchone() == (1,))
            conn.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            conn.execute("SELECT pg_reload_conf()")
            until(lambda: conn.execute("SHOW synchronous_standby_names").fetchone() == ("*",))


def _kill(server: Server) -> None:
    """Kill the postmaster, and wait until its processes, which then end by themselves, have done so."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    server.process.kill()
    server.process.wait()
    until(lambda: not any(Path(f"/proc/{each}").exists() for each in children))
