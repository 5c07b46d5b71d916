"""Fixtures for everything that needs a token: see devices.py for how SoftHSM is used here."""

import gc
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import groups
import pytest
import shims
from devices import MakeToken, SoftHsm, close_everything
from hypothesis import HealthCheck, settings

from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.session import softhsm

settings.register_profile(
    "suite", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)  # no test depends on how fast the machine is
settings.load_profile("suite")

SPY_PATHS = (
    "/usr/lib/x86_64-linux-gnu/pkcs11-spy.so",
    "/usr/lib/aarch64-linux-gnu/pkcs11-spy.so",
    "/usr/lib64/pkcs11-spy.so",
    "/usr/lib/pkcs11-spy.so",
)


FOLDERS = ("server", "torture", "cli", "frozen", "service", "hsm", "store", "tests", "model", "rules")
"""The folders of tests in the order in which parallel workers begin them: long files first, so that all end at once.

A folder that is not among them comes first."""


def pytest_configure(config: pytest.Config) -> None:
    """Keep the order of FOLDERS: pytest-xdist would begin with the files that have the most tests."""
    config.option.loadscopereorder = False


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let a parallel worker run whole files, so that the fixtures of a module are made once."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    places = {folder: place for place, folder in enumerate(FOLDERS)}
    items.sort(key=lambda item: places.get(item.path.parent.name, -1))


def pytest_collection_finish() -> None:
    """Keep what was imported and collected out of each later look of the garbage collector: it stays to the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _nothing_left_open() -> Iterator[None]:
    """What a module's tests leave open fails there, not wherever its finalizer would happen to run."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """This worker's folder for tokens: in memory where possible, since SoftHSM syncs a file for every object."""
    memory = Path("/dev/shm")  # noqa: S108 - only as the place of a fresh folder with a random name
    place = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="hsmkms-test-", dir=place))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def module_path() -> Path:
    """SoftHSM's module."""
    return softhsm.find_module()


@pytest.fixture(scope="session")
def spy_path() -> Path:
    """The spy, which logs every call to a module (Debian: opensc-pkcs11)."""
    for path in map(Path, SPY_PATHS):
        if path.is_file():
            return path
    pytest.skip("pkcs11-spy.so is not installed (package opensc-pkcs11)")


@pytest.fixture(scope="session")
def shim_path(scratch: Path) -> Path:
    """The shim, compiled for this run: a module that plays other tokens over SoftHSM."""
    return shims.build(scratch)


@pytest.fixture(scope="session")
def group_modules(scratch: Path, shim_path: Path) -> groups.Modules:
    """The modules of HA groups: what shows the members together, and a shim and a SoftHSM for each member."""
    return groups.Modules.build(scratch, shim_path)


@pytest.fixture(scope="session")
def _numbers() -> Iterator[int]:
    return itertools.count()


@pytest.fixture
def make_token(scratch: Path, _numbers: Iterator[int]) -> Iterator[MakeToken]:
    """Make fresh SoftHSM tokens: ``make_token(label=…, configuration=…)``. Close one's devices before the next.

    Whatever the test leaves open is closed after it, and the environment is as before.
    """
    before = os.environ.pop("SOFTHSM2_CONF", None)
    folders: list[Path] = []

    def make(label: str = "hsmkms test", configuration: str = "") -> SoftHsm:
        folder = scratch / f"token-{next(_numbers)}"
        folder.mkdir(mode=0o700)
        folders.append(folder)
        return SoftHsm.make(folder, label, configuration)

    yield make
    close_everything()
    os.environ.pop("SOFTHSM2_CONF", None)
    if before is not None:
        os.environ["SOFTHSM2_CONF"] = before
    for folder in folders:
        shutil.rmtree(folder)


@pytest.fixture
def token(make_token: MakeToken) -> SoftHsm:
    """A fresh token, not opened."""
    return make_token()


@pytest.fixture
def device(token: SoftHsm) -> Iterator[TokenDevice]:
    """An opened fresh token; closed after the test."""
    device = token.open()
    yield device
    device.close()
