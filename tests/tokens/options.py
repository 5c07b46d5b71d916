"""The options of pytest that choose the PKCS#11 module under test."""

from pathlib import Path

import pytest
from tokens.driver import LABEL, Driver, NotInstalledError
from tokens.softhsm import SoftHsmDriver
from tokens.table import DRIVERS

DEVICE_TESTS = Path(__file__).parent.parent / "hsm"
_DRIVER = pytest.StashKey[Driver]()
"""Holds the driver of a module other than SoftHSM."""


def add(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("hsm", "PKCS#11 module under test, for tests/hsm")
    group.addoption("--hsm-driver", choices=DRIVERS, default=SoftHsmDriver.name, help="which module (default: softhsm)")
    group.addoption("--hsm-module", type=Path, metavar="SO", help="its file, if it is not the distribution's")
    group.addoption("--hsm-label", default=LABEL, metavar="LABEL", help="label of the tokens that are made")


def configure(config: pytest.Config) -> None:
    """Find a module that an option names before anything is collected. SoftHSM need not be here for every test."""
    name = config.getoption("--hsm-driver")
    if name == SoftHsmDriver.name:
        return
    try:
        config.stash[_DRIVER] = DRIVERS[name](config.getoption("--hsm-module"))
    except NotInstalledError as exc:
        raise pytest.UsageError(str(exc)) from exc


def check(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse to run other tests than the device tests on another module."""
    others = [item.nodeid for item in items if DEVICE_TESTS not in item.path.parents]
    if others and other_driver(config):
        raise pytest.UsageError(f"--hsm-driver is for tests/hsm alone, and {others[0]} is not there")


def other_driver(config: pytest.Config) -> Driver | None:
    """Return the driver of the module under test, or None if that is SoftHSM."""
    return config.stash.get(_DRIVER, None)


def driver_of(config: pytest.Config) -> Driver:
    """Return the driver of the module under test."""
    return other_driver(config) or SoftHsmDriver(config.getoption("--hsm-module"))
