"""Fixtures for everything that needs a token: see devices.py for how a module is used here.

The tests run on SoftHSM; those of the folder hsm run on other modules as well (``--hsm-driver``, tokens/table.py).
"""

import gc
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import examples
import groups
import postgresql_cluster
import postgresql_pooler
import pytest
import shims
import trials
from devices import MakeToken, close_everything
from postgresql_cluster import Cluster, NotInstalledError
from postgresql_pooler import PooledCluster
from tokens import options
from tokens.driver import Driver, NotPossibleError, Token
from tokens.softhsm import SoftHsmDriver

from hsmkms.garbage import collect_seldom
from hsmkms.hsm.device import TokenDevice

examples.register_profiles()
gc.disable()  # importing and collecting tests makes many objects and no garbage

SPY_PATHS = (
    "/usr/lib/x86_64-linux-gnu/pkcs11-spy.so",
    "/usr/lib/aarch64-linux-gnu/pkcs11-spy.so",
    "/usr/lib64/pkcs11-spy.so",
    "/usr/lib/pkcs11-spy.so",
)


FOLDERS = ("server", "torture", "cli", "frozen", "service", "hsm", "store", "tests", "model", "rules")
"""The folders of tests in the order in which parallel workers begin them: long files first, so that all end at once.

A folder that is not among them comes first."""

LAST_FAILED = "cache/lastfailed"
"""Where pytest's cache has the tests for ``--last-failed``."""

_GROUP = re.compile(r"@[^@\]]*$")
"""The name of a group at the end of a test's id, as pytest-xdist marks it."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that choose the module under test."""
    options.add(parser)
    engines = ["sqlite", "postgresql", "pgbouncer"]
    parser.addoption(
        "--store-engine",
        choices=engines,
        help="run all tests with a store on it, but those that are of one engine (default: some run on SQLite and "
        "PostgreSQL, all others on SQLite; pgbouncer: PostgreSQL behind it)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Find the module under test, put files of a folder together, and keep the order of FOLDERS.

    pytest-xdist would begin with the longest files.
    """
    options.configure(config)
    config.addinivalue_line("markers", "both_engines: tests with a store that run on SQLite and on PostgreSQL")
    config.addinivalue_line("markers", "sqlite_alone(why): tests that --store-engine leaves out, and why")
    config.option.loadscopereorder = False
    # pytest 9.1 loses the fixtures of a folder whose files are not next to each other (its issue 14635).
    folders = [Path(each.partition("::")[0]).parent for each in config.args]
    config.args.sort(key=lambda argument: folders.index(Path(argument.partition("::")[0]).parent))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse tests that are for SoftHSM alone if another module is under test; workers run whole files.

    So the fixtures of a module are made once.
    """
    options.check(config, items)
    if config.getoption("store_engine") not in (None, "sqlite"):
        for item in items:
            for mark in item.iter_markers("sqlite_alone"):
                item.add_marker(pytest.mark.skip(reason=f"SQLite alone: {mark.args[0]}"))
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    places = {folder: place for place, folder in enumerate(FOLDERS)}
    items.sort(key=lambda item: places.get(item.path.parent.name, -1))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse to run files torn apart, and keep what was imported and collected out of the garbage collector's way.

    pytest-xdist marks groups in the ids of tests; where a release of pytest ignores that, it says nothing.
    """
    if getattr(session.config.option, "loadgroup", False) and not all("@" in each.nodeid for each in session.items):
        raise pytest.UsageError("pytest-xdist does not keep the groups of tests together with this release of pytest")
    gc.collect()
    gc.freeze()
    collect_seldom()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let ``--last-failed`` find tests that failed in a group: pytest has noted them with it, which none has later."""
    cache = getattr(session.config, "cache", None)  # absent with -p no:cacheprovider
    if cache is not None and not hasattr(session.config, "workerinput"):
        failed = cache.get(LAST_FAILED, {})
        cache.set(LAST_FAILED, {_GROUP.sub("", name): is_new for name, is_new in failed.items()})


@pytest.fixture(scope="module", autouse=True)
def _nothing_left_open() -> Iterator[None]:
    """What a module's tests leave open fails there, not wherever its finalizer would happen to run.

    What is still in use then mostly stays until the end: the next collections leave it out, or each would take longer.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """This worker's folder for tokens: in memory where possible, since SoftHSM syncs a file for every object."""
    memory = Path("/dev/shm")  # noqa: S108 - only as the place of a fresh folder with a random name
    place = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="hsmkms-test-", dir=place))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def driver(pytestconfig: pytest.Config) -> Driver:
    """The module under test, and how its tokens are made."""
    return options.driver_of(pytestconfig)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests of modules that are marked so on both engines of the store."""
    if "engine" in metafunc.fixturenames and metafunc.definition.get_closest_marker("both_engines"):
        chosen = metafunc.config.getoption("store_engine")
        metafunc.parametrize("engine", [chosen] if chosen else ["sqlite", "postgresql"], indirect=True, scope="module")


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> str:
    """The engine of the test's store; a mark or the option says that it is another one than SQLite."""
    return str(getattr(request, "param", pytestconfig.getoption("store_engine") or "sqlite"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """This worker's PostgreSQL server (Debian: postgresql)."""
    try:
        with postgresql_cluster.running_cluster() as running:
            yield running
    except NotInstalledError as exc:
        pytest.skip(str(exc))


@pytest.fixture(scope="session")
def pooled_cluster(cluster: Cluster) -> Iterator[PooledCluster]:
    """The same server behind PgBouncer (Debian: pgbouncer)."""
    try:
        with postgresql_pooler.pooled(cluster) as running:
            yield running
    except NotInstalledError as exc:
        pytest.skip(str(exc))


@pytest.fixture(scope="session")
def spy_path() -> Path:
    """The spy, which logs every call to a module (Debian: opensc-pkcs11)."""
    for path in map(Path, SPY_PATHS):
        if path.is_file():
            return path
    pytest.skip("pkcs11-spy.so is not installed (package opensc-pkcs11)")


@pytest.fixture(scope="session")
def kept_modules(pytestconfig: pytest.Config, scratch: Path) -> Path:
    """The folder of compiled PKCS#11 modules, which all workers and later runs share unless pytest keeps no cache."""
    kept: pytest.Cache | None = getattr(pytestconfig, "cache", None)
    return kept.mkdir("pkcs11-modules") if kept is not None else scratch


@pytest.fixture(scope="session")
def shim_path(kept_modules: Path, driver: Driver) -> Path:
    """The shim, compiled: a module that plays other tokens over SoftHSM."""
    if not isinstance(driver, SoftHsmDriver):
        pytest.skip("the shim plays other tokens over SoftHSM, so this says nothing of the module under test")
    return shims.build(kept_modules)


@pytest.fixture(scope="session")
def group_modules(scratch: Path, shim_path: Path, kept_modules: Path) -> groups.Modules:
    """The modules of HA groups: what shows the members together, and a shim and a SoftHSM for each member."""
    return groups.Modules.build(scratch, shim_path, kept_modules)


@pytest.fixture
def one_trial_of_imports() -> Iterator[None]:
    """What SoftHSM can import is tried once in a process: for tests of what comes after the trial."""
    with trials.shared():
        yield


@pytest.fixture(scope="session")
def _numbers() -> Iterator[int]:
    return itertools.count()


@pytest.fixture
def make_token(
    scratch: Path, driver: Driver, pytestconfig: pytest.Config, _numbers: Iterator[int]
) -> Iterator[MakeToken]:
    """Make fresh tokens: ``make_token(label=…, configuration=…)``. Close one's devices before the next.

    ``configuration`` is SoftHSM's. Whatever the test leaves open is closed after it, and the environment is as before.
    """
    before = dict(os.environ)
    os.environ.pop("SOFTHSM2_CONF", None)
    folders: list[Path] = []

    def make(label: str = pytestconfig.getoption("--hsm-label"), configuration: str = "") -> Token:
        folder = scratch / f"token-{next(_numbers)}"
        folder.mkdir(mode=0o700)
        folders.append(folder)
        if not configuration:
            return driver.make(folder, label)
        if not isinstance(driver, SoftHsmDriver):
            raise NotPossibleError("mechanisms are hidden by SoftHSM's configuration; the module under test has none")
        return driver.make(folder, label, configuration)

    yield make
    close_everything()
    os.environ.clear()
    os.environ.update(before)
    for folder in folders:
        driver.close(folder)
        shutil.rmtree(folder)


@pytest.fixture
def token(make_token: MakeToken) -> Token:
    """A fresh token, not opened."""
    return make_token()


@pytest.fixture
def device(token: Token) -> Iterator[TokenDevice]:
    """An opened fresh token; closed after the test."""
    device = token.open()
    yield device
    device.close()
