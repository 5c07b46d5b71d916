"""Fixtures for servers of real installations; the development server comes from hsmkms's own plugin."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import next_version
import pytest
from cli_site import Site
from served import ACCOUNT, REGION, credentials

NewSite = Callable[[], Site]


@pytest.fixture(scope="session")
def pristine(scratch: Path) -> Site:
    """The installation that all others are copies of, with the key that encrypts secrets; no server runs on it."""
    site = Site(folder=scratch / "served")
    site.folder.mkdir()
    where = ("--data-dir", site.data, "--account-id", ACCOUNT, "--region", REGION)
    assert site.run("init", "--create-softhsm-token", *where).json["Account"] == ACCOUNT
    (made,) = credentials(site, ("create_access_key", {"user_name": None}))
    credentials(site, ("delete_access_key", {"access_key_id": made["access_key_id"]}))
    return site


@pytest.fixture(scope="session")
def next_program(scratch: Path) -> Path:
    """A program of the next schema: the folder for PYTHONPATH."""
    folder = scratch / "next-program"
    folder.mkdir()
    return next_version.make(folder)


@pytest.fixture(scope="session")
def new_site(pristine: Site, scratch: Path) -> Iterator[NewSite]:
    """Copies of the installation."""
    numbers = itertools.count()
    yield lambda: pristine.copy(scratch / f"served-{next(numbers)}")
    for path in scratch.glob("served-*"):
        shutil.rmtree(path)
