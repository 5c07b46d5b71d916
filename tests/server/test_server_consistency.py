"""A server with its database on a PostgreSQL server: changes of other processes, and outages of the database."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_site import Site
from msgspec import Struct
from postgresql_cluster import Cluster, name_of
from postgresql_proxy import Proxy
from raw_client import call
from served import ACCOUNT, PROGRAMS, REGION, SECONDS, credentials, serving
from waiting import until

_NUMBERS = itertools.count()


class OnServer(Struct):
    """An installation, the URL of its database, and an access key of the root."""

    site: Site
    url: str
    access_key: dict[str, str]

    def configure(self, before: str, after: str) -> None:
        """Change a line of the configuration."""
        text = self.site.config.read_text()
        assert before in text
        self.site.config.write_text(text.replace(before, after))


@pytest.fixture
def made(cluster: Cluster, scratch: Path) -> Iterator[OnServer]:
    """A new installation in a database of its own."""
    site = Site(folder=scratch / f"on-server-{next(_NUMBERS)}")
    site.folder.mkdir()
    with cluster.database() as url:
        where = ("--data-dir", site.data, "--account-id", ACCOUNT, "--region", REGION, "--store-url", url)
        site.run("init", "--create-softhsm-token", *where)
        (access_key,) = credentials(site, ("create_access_key", {"user_name": None}))
        yield OnServer(site, url, access_key)


def test_one_question_for_a_turn(made: OnServer) -> None:
    """A change of another process acts at the next request, without a notification; a turn asks once.

    Requests whose question is not answered get 503, which SDKs repeat.
    """
    made.configure('# consistency = "bounded"', 'consistency = "strict"')
    key = made.access_key
    done = subprocess.run(
        [sys.executable, PROGRAMS / "strict.py", made.site.config, key["access_key_id"], key["secret_access_key"]],
        capture_output=True,
        check=False,
        timeout=SECONDS,
        env=made.site.environment(PYTHONPATH=os.pathsep.join(sys.path)),
    )
    assert done.returncode == 0, done
    assert json.loads(done.stdout) == [[[200], 1], [[400] * 3, 1], [[200], 1], [[503, 503], 1]]


def test_a_server_without_its_database(made: OnServer, cluster: Cluster, tmp_path: Path) -> None:
    """It encrypts on with what it has cached, changes nothing, says so on its pages and in its log, and recovers."""
    proxy = Proxy(tmp_path, cluster.folder)
    made.configure(f"?host={cluster.folder}", f"?host={tmp_path}")
    made.configure("# stale_seconds = 30.0", "stale_seconds = 3600")
    with serving(made.site, "--workers", 1) as server, cluster.connect(name_of(made.url)) as admin:
        endpoint = server.endpoint(made.access_key)
        key_id = call(endpoint, "CreateKey", {})[2]["KeyMetadata"]["KeyId"]
        text = {"KeyId": key_id, "Plaintext": "aGVsbG8="}
        assert call(endpoint, "Encrypt", text)[0] == 200

        def reserved() -> int:
            return (admin.execute("SELECT max(reserved) FROM encryption_count").fetchone() or (0,))[0] or 0

        until(lambda: reserved() > 1000)
        proxy.cut()
        until(lambda: b"warnings" in server.page("/readyz")[1])
        for _ in range(10):
            assert call(endpoint, "Encrypt", text)[0] == 200
        status, _, answer = call(endpoint, "CreateKey", {})
        assert (status, answer["__type"]) == (503, "DependencyTimeoutException")
        status, page = server.page("/readyz")
        assert (status, json.loads(page)["status"]) == (200, "ready")
        assert "more, and nothing is changed" in json.loads(page)["warnings"]["database"]
        away = next(line for line in server.page("/metrics")[1].splitlines() if line.startswith(b"hsmkms_store_away"))
        assert float(away.split()[1]) > 0
        proxy.mend()
        until(lambda: b"warnings" not in server.page("/readyz")[1])
        assert call(endpoint, "CreateKey", {})[0] == 200
        assert server.stop() == 0
        assert server.log_text.count("is away, so nothing is changed until it is back") == 1
        assert "is back after" in server.log_text
    proxy.close()
