"""A server of a real installation as a process of its own; it is forked where nothing acts before main (forked.py)."""

import json
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import forked
import warm
from cli_site import BIN, SECONDS, Site
from msgspec import Struct
from raw_client import exchange, raw
from waiting import until

from hsmkms.testing import Endpoint

REGION = "eu-central-1"
ACCOUNT = "111122223333"
START_SECONDS = 120.0
STOP_SECONDS = 120.0
"""After which a test gives up."""
PROGRAMS = Path(__file__).parent / "programs"


class Served(Struct):
    """A running server: its process, where it answers, and the file with what it says."""

    process: forked.Process
    port: int
    log: Path

    @property
    def log_text(self) -> str:
        """What the server has written to its log so far."""
        return self.log.read_text(errors="replace")

    def endpoint(self, access_key: dict[str, Any] | None = None, scheme: str = "http") -> Endpoint:
        """For clients with an access key as ``credentials`` gave it."""
        key = access_key or {"access_key_id": "", "secret_access_key": ""}
        url = f"{scheme}://127.0.0.1:{self.port}"
        return Endpoint(url, REGION, key["access_key_id"], key["secret_access_key"])

    def page(self, path: str) -> tuple[int, bytes]:
        """Status and body of a page for monitors."""
        status, _, body = exchange(self.endpoint(), raw("GET", path, {"Host": "x"}))
        return status, body

    def workers(self) -> set[int]:
        """The processes that serve now."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return {int(each) for each in children.read_text().split()}

    @staticmethod
    def files(worker: int) -> Path:
        """The folder with the open files of a worker."""
        return Path(f"/proc/{worker}/fd")

    def memory_mib(self) -> int:
        """The resident memory of all workers."""
        statuses = (Path(f"/proc/{worker}/status").read_text() for worker in self.workers())
        return sum(int(status.partition("VmRSS:")[2].split()[0]) for status in statuses) // 1024

    def listens(self) -> bool:
        """True if it accepts new connections."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except OSError:
            return False
        return True

    def wait_until_ready(self) -> None:
        """Wait until clients are answered; the server must not end before."""

        def listens() -> bool:
            assert self.process.poll() is None, self.log_text
            return self.listens()

        until(listens)

    def stop(self) -> int:
        """Stop it as a service manager does; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)


def processor_seconds(process: int) -> float:
    """How long a process has been on a processor so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start(site: Site, *options: object, terminal: int | None = None, **environment: str) -> Served:
    """Start ``hsmkms serve`` on a free port, without waiting for it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = site.folder / f"serve-{port}.log"
    words = ["serve", "--port", str(port), *map(str, options)]
    variables = site.environment(**environment)
    with log.open("wb") as file:
        if terminal is None:
            return Served(forked.start(words, site.folder, variables, file.fileno()), port, log)
        process = subprocess.Popen(
            [BIN / "hsmkms", *words],
            stdin=terminal,
            stdout=file,
            stderr=terminal,
            cwd=site.folder,
            env=variables,
            start_new_session=True,
        )
    return Served(process, port, log)


@contextmanager
def serving(site: Site, *options: object, **environment: str) -> Iterator[Served]:
    """A server that answers; if the test has not stopped it, it is killed with its workers."""
    server = start(site, *options, **environment)
    try:
        server.wait_until_ready()
        yield server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait(STOP_SECONDS)


def credentials(site: Site, *acts: tuple[str, dict[str, Any]]) -> list[Any]:
    """What the operator's acts on users and access keys answer: ``("create_access_key", {"user_name": None})``."""
    arguments = [str(site.config), *map(json.dumps, acts)]
    done = warm.run_program(PROGRAMS / "credentials.py", arguments, site.environment(), SECONDS)
    assert done.returncode == 0, done
    answers: list[Any] = json.loads(done.stdout)
    return answers


def set_in(site: Site, *lines: str, section: str = "serve") -> None:
    """Add settings to a section of the installation's configuration."""
    text = site.config.read_text()
    assert f"[{section}]\n" in text
    site.config.write_text(text.replace(f"[{section}]\n", "\n".join((f"[{section}]", *lines, "")), 1))


def trusting(certificate: Path, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """A client's side of TLS that trusts one certificate, and speaks nothing newer than a version."""
    context = ssl.create_default_context(cafile=certificate)
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = newest
    return context
