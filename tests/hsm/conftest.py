"""What the device suite shares: the spied main job, and ways to lose a login behind the device's back."""

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path

import devices
import pytest
import spylog
from devices import SoftHsm
from pkcs11.types import Session

from hsmkms.hsm.device import TokenDevice

PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder of the programs that tests run in processes of their own."""
    return PROGRAMS


@pytest.fixture(scope="session")
def main_job(scratch: Path, spy_path: Path) -> spylog.MainJob:
    """The main job, done once through the spy."""
    folder = scratch / "spied"
    folder.mkdir()
    log = folder / "spy.log"
    token = SoftHsm.make(folder)
    told = devices.run(PROGRAMS / "main_job.py", token.spied(spy_path, log))
    return spylog.MainJob(calls=spylog.read(log), **told)


@pytest.fixture
def session(device: TokenDevice) -> Iterator[Session]:
    """A session of the device's pool, to look at the token behind its back."""
    with device.connection.pool.session() as borrowed:
        yield borrowed


def _log_out(library: ctypes.CDLL, device: TokenDevice) -> int:
    return int(library.C_Logout(ctypes.c_ulong(device.connection.login_handle)))


def _close_all_sessions(library: ctypes.CDLL, device: TokenDevice) -> int:
    return int(library.C_CloseAllSessions(ctypes.c_ulong(device.connection.token.slot.slot_id)))


@pytest.fixture(params=[_log_out, _close_all_sessions], ids=["logged out", "sessions closed"])
def lose(request: pytest.FixtureRequest, module_path: Path) -> Callable[[TokenDevice], None]:
    """Lose a device's login, or all its sessions, as happens when a token is pulled or restarted."""
    library = ctypes.CDLL(str(module_path))

    def act(device: TokenDevice) -> None:
        assert request.param(library, device) == 0

    return act
