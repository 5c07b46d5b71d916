"""Shared fixtures of the device suite: tokens, the main job under the spy, and logouts that the device does not see.

With ``--hsm-driver`` the suite runs on another module than SoftHSM. Then a test passes, or is skipped for a reason that
the driver names (tokens/driver.py): the test is not about that module, or hsmkms refused what its token cannot do.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import devices
import functions
import pytest
import spylog
from devices import NewToken, Token
from pkcs11.types import Session
from tokens import options
from tokens.driver import Driver, NotPossibleError

from hsmkms.errors import TokenUnfitError, UnsupportedOperationException
from hsmkms.hsm.device import TokenDevice

PROGRAMS = Path(__file__).parent / "programs"
CKR_USER_NOT_LOGGED_IN = 0x101


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests that do not apply to the module under test."""
    driver = options.other_driver(config)
    for item in items if driver else ():
        reason = driver.exclusion(item.nodeid)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Turn a test into a skipped one if hsmkms refused something that the driver says its token cannot do."""
    report = yield
    driver = options.other_driver(item.config)
    fault = call.excinfo.value if call.excinfo else None
    reason = _reason(driver, fault) if driver and fault else None
    if reason:
        path, line, _ = item.location
        report.outcome, report.longrepr = "skipped", (path, (line or 0) + 1, f"Skipped: {reason}")
    return report


def _reason(driver: Driver, fault: BaseException) -> str | None:
    if isinstance(fault, NotPossibleError):
        return str(fault)
    if isinstance(fault, TokenUnfitError | UnsupportedOperationException):
        reason = driver.refusal(str(fault))
        return reason and f"refused by hsmkms: {reason}"
    return None


@pytest.fixture(scope="session")
def new_token(scratch: Path, driver: Driver, pytestconfig: pytest.Config) -> Iterator[NewToken]:
    """Create tokens in named folders, for fixtures that several tests share. They are removed after the run."""
    folders: list[Path] = []

    def make(name: str) -> Token:
        folder = scratch / name
        folder.mkdir(mode=0o700)
        folders.append(folder)
        return driver.make(folder, pytestconfig.getoption("--hsm-label"))

    yield make
    for folder in folders:
        driver.close(folder)


@pytest.fixture(scope="session")
def programs() -> Path:
    """Return the folder of the programs that tests run in processes of their own."""
    return PROGRAMS


@pytest.fixture(scope="session")
def main_job(new_token: NewToken, spy_path: Path) -> spylog.MainJob:
    """Run the main job once through the spy."""
    token = new_token("spied")
    log = token.folder / "spy.log"
    output = devices.run(PROGRAMS / "main_job.py", token.spied(spy_path, log))
    return spylog.MainJob(calls=spylog.read(log), **output)


@pytest.fixture
def session(device: TokenDevice) -> Iterator[Session]:
    """Yield a session of the device's pool, to inspect the token without the device."""
    with device.connection.pool.session() as borrowed:
        yield borrowed


@pytest.fixture(params=[functions.log_out, functions.close_all_sessions], ids=["logged out", "sessions closed"])
def lose(request: pytest.FixtureRequest) -> Callable[[TokenDevice], None]:
    """End a device's login, or all its sessions, as happens when a token is pulled or restarted."""

    def act(device: TokenDevice) -> None:
        assert request.param(device) in (0, CKR_USER_NOT_LOGGED_IN)  # lost already, where nothing has needed it since

    return act
