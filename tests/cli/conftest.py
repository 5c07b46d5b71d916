"""Fixtures for the tests of the command line: a fresh copy of one real installation wherever it is asked for."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli_site import ACCOUNT, OTHER_REGION, REGION, NewFolder, Site
from node_sites import Joining, copied
from postgresql_cluster import Cluster, name_of

NewSite = Callable[[], Site]


@pytest.fixture(scope="session")
def new_folder() -> Iterator[NewFolder]:
    """Names folders that are not there yet: in memory where possible, as SoftHSM and SQLite sync every write."""
    memory = Path("/dev/shm")  # noqa: S108 - only as the place of a fresh folder with a random name
    place = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    root = Path(tempfile.mkdtemp(prefix="hsmkms-cli-", dir=place))
    numbers = itertools.count()
    yield lambda: root / f"site-{next(numbers)}"
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def pristine(new_folder: NewFolder) -> Site:
    """The installation that all others are copies of; no test changes it."""
    site = Site(folder=new_folder())
    site.folder.mkdir()
    regions = ("--region", REGION, "--region", OTHER_REGION)
    made = site.run("init", "--data-dir", site.data, "--create-softhsm-token", "--account-id", ACCOUNT, *regions)
    assert made.json["Account"] == ACCOUNT
    return site


@pytest.fixture
def site(pristine: Site, new_folder: NewFolder) -> Site:
    """An installation of the test's own, without keys."""
    return pristine.copy(new_folder())


@pytest.fixture(scope="module")
def shared(pristine: Site, new_folder: NewFolder) -> Site:
    """An installation that the tests of a module share."""
    return pristine.copy(new_folder())


@pytest.fixture
def bare(new_folder: NewFolder) -> Site:
    """A folder to work in, without an installation."""
    site = Site(folder=new_folder())
    site.folder.mkdir()
    return site


@pytest.fixture
def url(cluster: Cluster) -> Iterator[str]:
    """An empty PostgreSQL database of the test's own."""
    with cluster.database() as made:
        yield made


@pytest.fixture(scope="session")
def pristine_node(new_folder: NewFolder, cluster: Cluster) -> tuple[Site, str]:
    """An installation on a PostgreSQL database, with its first node and no keys, and the URL of its database."""
    site, url = Site(folder=new_folder()), cluster.url(cluster.create())
    site.folder.mkdir()
    made = site.run("init", "--data-dir", site.data, "--create-softhsm-token", "--store-url", url)
    assert made.status == 0, made
    return site, url


@pytest.fixture
def on_server(pristine_node: tuple[Site, str], cluster: Cluster) -> Iterator[str]:
    """A copy of its database; its URL."""
    with cluster.database(name_of(pristine_node[1])) as made:
        yield made


@pytest.fixture
def first(pristine_node: tuple[Site, str], on_server: str, new_folder: NewFolder) -> Site:
    """The first node of an installation of the test's own."""
    site, url = pristine_node
    return copied(site, new_folder(), url, on_server)


@pytest.fixture
def joining(first: Site, on_server: str) -> Joining:
    """How another node joins it."""
    return Joining(first, on_server)


@pytest.fixture
def place(new_folder: NewFolder) -> Site:
    """Where another node's data folder may be made."""
    site = Site(folder=new_folder())
    site.folder.mkdir()
    return site
