"""Real databases in a temporary folder."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgresql_cluster import Cluster
from postgresql_pooler import PooledCluster
from store_samples import ACCOUNT, INSTALLATION, NOW, TOKEN

from hsmkms.store import installation, migrate, node_id
from hsmkms.store.engine import Store
from hsmkms.store.postgresql import creation
from hsmkms.store.postgresql.target import Target, parse


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two fresh databases, of an installation with one token: making them takes longer than most tests."""
    made = tmp_path_factory.mktemp("pristine") / "data"
    migrate.create(made)
    store = Store.open(made)
    _begin_installation(store)
    store.close()
    return made


@pytest.fixture
def folder(pristine: Path) -> Iterator[Path]:
    """A data folder of the test's own with a copy of them: in memory where possible, as SQLite syncs every write."""
    memory = Path("/dev/shm")  # noqa: S108 - only as the place of a fresh folder with a random name
    place = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="hsmkms-store-", dir=place) as root:
        made = Path(root) / "data 100%?#"  # nothing in a path may mean anything to SQLite or Alembic
        shutil.copytree(pristine, made)
        yield made


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of the node that owns the PostgreSQL databases."""
    return tmp_path_factory.mktemp("node")


@pytest.fixture(scope="session")
def pristine_database(cluster: Cluster, node: Path) -> str:
    """The same in a PostgreSQL database, which is a template."""
    name = cluster.create()
    target = parse(cluster.url(name))
    creation.create(target, node)
    store = Store(Path(), target=target)
    _begin_installation(store)
    store.close()
    return name


@pytest.fixture
def target(cluster: Cluster, pristine_database: str, node: Path, tmp_path: Path) -> Iterator[Target]:
    """A PostgreSQL database of the test's own with a copy of it, owned by the node of the test's temporary folder."""
    shutil.copy(node / node_id.FILE, tmp_path)
    with cluster.database(pristine_database) as url:
        yield parse(url)


@pytest.fixture
def pooled_target(target: Target, pooled_cluster: PooledCluster) -> Target:
    """The same database behind PgBouncer."""
    return parse(pooled_cluster.url(str(target.url.database)), None, target.url.render_as_string())


@pytest.fixture
def store(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An open store that gives up waiting for a lock soon."""
    if engine == "sqlite":
        opened = Store.open(request.getfixturevalue("folder"), busy_timeout_seconds=0.2)
    else:
        target = request.getfixturevalue("target" if engine == "postgresql" else "pooled_target")
        opened = Store.open(tmp_path, target=target, busy_timeout_seconds=0.2)
    yield opened
    opened.close()


def _begin_installation(store: Store) -> None:
    with store.atomic() as tx:
        installation.insert(tx, INSTALLATION, ACCOUNT, NOW)
        installation.insert_token(tx, TOKEN, "label", "serial", "manufacturer", "model", NOW)
