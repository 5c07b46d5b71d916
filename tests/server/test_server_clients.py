"""Real clients, unmodified, each with its main job: those of scripts/client_table.py that the suite can afford."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from client_jobs import NotInstalled, chain_of, development_server, do_job, holds
from client_table import CLIENTS, Client

from hsmkms.testing import Endpoint

SECONDS = 800
"""After which a client is given up."""


@pytest.fixture(scope="module")
def secure_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the certificate is of a server for clients that speak nothing but TLS."""
    return tmp_path_factory.mktemp("secure")


@pytest.fixture(scope="module")
def secure_endpoint(secure_folder: Path) -> Iterator[Endpoint]:
    """That server."""
    with development_server(secure_folder, tls=True) as endpoint:
        yield endpoint


@pytest.mark.parametrize("client", [each for each in CLIENTS if each.suite], ids=lambda client: client.name)
def test_client(client: Client, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A client does its main job with nothing changed but endpoint, credentials and region."""
    endpoint = request.getfixturevalue("secure_endpoint" if client.tls else "hsmkms_endpoint")
    chain = chain_of(request.getfixturevalue("secure_folder")) if client.tls else None
    home = tmp_path / "home"
    home.mkdir()
    try:
        done = do_job(client, kit_of(client, tmp_path), endpoint, home, chain, SECONDS)
    except NotInstalled as exc:
        pytest.skip(str(exc))
    assert holds(done), f"{done.stdout}\n{done.stderr}"


def kit_of(client: Client, folder: Path) -> Path:
    """Where the client's packages are: those of Python are development dependencies, those of npm are installed."""
    if not client.npm:
        return Path(sys.prefix)
    npm = shutil.which("npm")
    if npm is None:
        raise NotInstalled("npm is not installed (Debian: nodejs npm)")
    options = ("--no-audit", "--no-fund", "--loglevel=error")
    installing = subprocess.run(
        [npm, "install", "--prefix", folder, *options, *client.npm],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        cwd=folder,
    )
    if installing.returncode:
        raise NotInstalled(f"npm cannot install {' '.join(client.npm)} here: {installing.stderr.strip()[:200]}")
    return folder
