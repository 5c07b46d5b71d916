"""Fixtures for the tests of the service: real SoftHSM tokens and real databases, one installation open at a time."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trials
from postgresql_cluster import Cluster
from service_sites import NewFolder, NewSite, Site, StoppedClock, close_everything

from hsmkms.errors import StoreError
from hsmkms.kms import Kms


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, Any, Any]:
    """Skip the rest of a test that comes to what hsmkms does with databases in files alone, as it says by name."""
    try:
        return (yield)
    except StoreError as exc:
        if "works on databases in files" in str(exc):
            pytest.skip(f"SQLite alone: {exc}")
        raise


@pytest.fixture(scope="module", autouse=True)
def _one_trial_of_imports() -> Iterator[None]:
    """What SoftHSM can import is tried once in a process: tests of the service come after the trial."""
    with trials.shared():
        yield


@pytest.fixture(scope="session")
def new_folder() -> Iterator[NewFolder]:
    """Names folders that are not there yet: in memory where possible, as SoftHSM and SQLite sync every write."""
    memory = Path("/dev/shm")  # noqa: S108 - only as the place of a fresh folder with a random name
    place = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    root = Path(tempfile.mkdtemp(prefix="hsmkms-service-", dir=place))
    numbers = itertools.count()
    yield lambda: root / f"site-{next(numbers)}"
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def never_opened(new_folder: NewFolder) -> Site:
    """An installation whose first end is still to come, for modules whose ``prepared`` it is."""
    return Site.make(new_folder())


@pytest.fixture(scope="session")
def prepared(new_folder: NewFolder) -> Site:
    """The installation that all others are copies of; closed once, so that no copy makes what its end makes first."""
    site = Site.make(new_folder())
    site.open(StoppedClock()).close()
    return site


@pytest.fixture(scope="session")
def prepared_on_server(new_folder: NewFolder, cluster: Cluster) -> Site:
    """The same with its database on a PostgreSQL server."""
    site = Site.make(new_folder(), cluster)
    site.open(StoppedClock()).close()
    return site


@pytest.fixture(scope="module")
def original(engine: str, request: pytest.FixtureRequest) -> Site:
    """The installation that is copied for the engine under test."""
    site = request.getfixturevalue("prepared" if engine == "sqlite" else "prepared_on_server")
    assert isinstance(site, Site)
    if engine == "pgbouncer":
        return msgspec.structs.replace(site, cluster=request.getfixturevalue("pooled_cluster"))
    return site


@pytest.fixture(scope="module")
def kms(original: Site, new_folder: NewFolder) -> Iterator[Kms]:
    """An installation that the tests of a module share; it serves REGION (the default) and OTHER_REGION."""
    site = original.copy(new_folder())
    with site.open() as opened:
        yield opened
    site.drop()


@pytest.fixture
def new_site(original: Site, new_folder: NewFolder) -> Iterator[NewSite]:
    """Copies the prepared installation, with other settings where they are given. Not for modules that use ``kms``.

    All copies are one installation: a test that needs another one asks for ``stranger``. What a failed test left open
    is closed after it, so that the next one finds a clean process.
    """
    made: list[Site] = []

    def copy(**changes: object) -> Site:
        made.append(original.copy(new_folder(), **changes))
        return made[-1]

    yield copy
    close_everything()
    for each in made:
        each.drop()


@pytest.fixture
def stranger(new_folder: NewFolder) -> Site:
    """Another installation, with other keys, that is not open."""
    return Site.make(new_folder())


@pytest.fixture
def site(new_site: NewSite) -> Site:
    """A fresh installation that is not open. Not for modules that use ``kms``."""
    return new_site()


@pytest.fixture
def clock() -> StoppedClock:
    """A clock that moves only on demand."""
    return StoppedClock()
