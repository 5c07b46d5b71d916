"""What a whole installation leaves on the machine: no file that others can read, and no core."""

import os
import subprocess
import sys
from pathlib import Path
from stat import S_IMODE, S_ISLNK

import pytest
from cli_site import Site
from served import ACCOUNT, REGION, serving


@pytest.fixture
def careless(tmp_path: Path) -> Site:
    """An installation that is made under a umask that hides nothing, by a process that may write cores."""
    before = os.umask(0)
    try:
        site = Site(folder=tmp_path)
        site.run("init", "--create-softhsm-token", "--data-dir", site.data, "--account-id", ACCOUNT, "--region", REGION)
        key = site.new_key()
        site.run("get-parameters-for-import", "--key-id", site.new_key("--origin", "EXTERNAL"))
        site.run("rotate-key-on-demand", "--key-id", key)
        site.run("maintain")
        with serving(site, "--workers", 2) as server:
            assert server.page("/healthz")[0] == 200
            for process in (server.process.pid, *server.workers()):
                limits = Path(f"/proc/{process}/limits").read_text()
                assert [line.split()[4:6] for line in limits.splitlines() if "core file" in line] == [["0", "0"]]
            assert server.stop() == 0
    finally:
        os.umask(before)
    return site


def test_nothing_for_others(careless: Site) -> None:
    """Databases, WAL, audit log, token, locks, PIN and configuration are for their owner alone, whatever the umask."""
    files = [path for path in careless.data.rglob("*") if not S_ISLNK(path.lstat().st_mode)]
    assert {"meta.db", "log.db", "pin", "hsmkms.toml", "seals.jsonl", "generation"} <= {file.name for file in files}
    assert [(file, oct(S_IMODE(file.stat().st_mode))) for file in files if S_IMODE(file.stat().st_mode) & 0o077] == []


def test_no_core() -> None:
    """The program may not write its memory to a file, nor be traced by others of its user."""
    code = (
        "import ctypes, os, resource; from hsmkms.hardening import keep_secrets; keep_secrets();"
        "print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), os.umask(0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["(0,", "0)", "0", "63"]
