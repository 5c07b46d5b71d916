"""Every request checks for changes of other processes, also those that the event loop reads in one pass."""

import json
import os
import subprocess
import sys

import pytest
from conftest import NewSite
from served import PROGRAMS, SECONDS, credentials


@pytest.mark.parametrize("words", [(), ("secure",)], ids=["plain", "secure"])
def test_a_change_within_a_turn(new_site: NewSite, words: tuple[str, ...]) -> None:
    """A key that is disabled during a turn: whatever is not answered yet is refused, in the same turn too.

    A request that no thread can take is answered with an error, and the next ones of its connection are answered.
    """
    site = new_site()
    (made,) = credentials(site, ("create_access_key", {"user_name": None}))
    done = subprocess.run(
        [sys.executable, PROGRAMS / "turns.py", site.config, made["access_key_id"], made["secret_access_key"], *words],
        capture_output=True,
        check=False,
        timeout=SECONDS,
        env=site.environment(PYTHONPATH=os.pathsep.join(sys.path)),
    )
    assert done.returncode == 0, done
    assert json.loads(done.stdout) == [[200], [400], [400], [400, 400], [400], [500, 400]]
