"""A server that asks its database for changes before each request."""

import json
import os
import subprocess
import sys
from pathlib import Path

from cli_site import Site
from postgresql_cluster import Cluster
from served import ACCOUNT, PROGRAMS, REGION, SECONDS, credentials


def test_one_question_for_a_turn(cluster: Cluster, scratch: Path) -> None:
    """A change of another process acts at the next request, without a notification; a turn asks once.

    Requests whose question is not answered get 503, which SDKs repeat.
    """
    site = Site(folder=scratch / "strict")
    site.folder.mkdir()
    with cluster.database() as url:
        where = ("--data-dir", site.data, "--account-id", ACCOUNT, "--region", REGION, "--store-url", url)
        site.run("init", "--create-softhsm-token", *where)
        site.config.write_text(site.config.read_text().replace('# consistency = "bounded"', 'consistency = "strict"'))
        (made,) = credentials(site, ("create_access_key", {"user_name": None}))
        done = subprocess.run(
            [sys.executable, PROGRAMS / "strict.py", site.config, made["access_key_id"], made["secret_access_key"]],
            capture_output=True,
            check=False,
            timeout=SECONDS,
            env=site.environment(PYTHONPATH=os.pathsep.join(sys.path)),
        )
    assert done.returncode == 0, done
    assert json.loads(done.stdout) == [[[200], 1], [[400] * 3, 1], [[200], 1], [[503, 503], 1]]
