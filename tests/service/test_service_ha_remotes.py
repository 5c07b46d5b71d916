"""An HA group of two p11-kit remotes: each member is behind a server of its own, which ends in the middle of load.

The servers share the folder of one SoftHSM token, the second one through the shim, which gives it another serial.
"""

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import second_token
import shims
from groups import SECOND_SERIAL, Modules
from msgspec import Struct
from msgspec.structs import replace
from service_sites import NewSite, new_key, seal, unseal
from waiting import until

from hsmkms.config.settings import Settings
from hsmkms.errors import HsmKmsError, TokenUnfitError
from hsmkms.kms import Kms
from hsmkms.service.operator.reconcile import Kind
from hsmkms.service.runtime.core import Core
from hsmkms.wiring import core as wiring

PATIENCE = 120
THREADS = 3
CLIENTS = ("lib/x86_64-linux-gnu/pkcs11", "lib/aarch64-linux-gnu/pkcs11", "lib64/pkcs11", "lib/pkcs11")


class Remote(Struct):
    """A ``p11-kit server`` for one member, in a process group of its own: it has a process for each connection."""

    program: str
    socket: Path
    provider: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server; its socket is there afterwards."""
        self.socket.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [self.program, "server", "--foreground", "--name", self.socket, "--provider", self.provider, "pkcs11:"],
            env=os.environ | self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        until(self.socket.exists, PATIENCE)

    def kill(self) -> None:
        """End the server with all its connections, as when its machine fails."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


class Load(Struct):
    """What was answered, and the errors of what was refused."""

    sealed: list[bytes] = []
    keys: list[str] = []
    refused: list[HsmKmsError] = []


@pytest.fixture(scope="module")
def client() -> Path:
    """The client module of the p11-kit on the path."""
    program = shutil.which("p11-kit")
    if program is None:
        pytest.skip("p11-kit is not installed (Debian: p11-kit, p11-kit-modules)")
    places = (Path(program).parent.parent / each / "p11-kit-client.so" for each in CLIENTS)
    return next(place for place in places if place.exists())


@pytest.fixture
def remotes(client: Path, new_site: NewSite, group_modules: Modules) -> Iterator[tuple[Kms, Remote, Remote]]:
    """An installation on the group, open, and the servers of its members."""
    site = new_site()
    token, folder = site.settings.token, site.folder / "remotes"
    assert isinstance(token.serial, str)
    assert token.module is not None
    folder.mkdir(mode=0o700)
    control = folder / "second.control"
    shims.order(control, f"serial {SECOND_SERIAL}")
    played = token.environment | shims.variables(group_modules.libraries[1], control)
    program = str(shutil.which("p11-kit"))
    first = Remote(program, folder / "first", token.module, token.environment)
    second = Remote(program, folder / "second", group_modules.shims[1], played)
    shown = []
    for each in (first, second):
        copy = each.socket.with_suffix(".so")  # one library has one connection
        shutil.copy(client, copy)
        shown.append(f"{copy}|P11_KIT_SERVER_ADDRESS=unix:path={each.socket}")
        each.start()
    group = replace(
        token,
        module=group_modules.group,
        serial=(token.serial, SECOND_SERIAL),
        environment={"GROUP_MEMBERS": " ".join(shown)},
        replication_seconds=60.0,
    )
    try:
        with Kms(core_of(second_token.only(site.settings, group))) as kms:
            yield kms, first, second
    finally:
        first.kill()
        second.kill()


def core_of(settings: Settings) -> Core:
    """Open the installation, where p11-kit passes on what it needs."""
    try:
        return wiring.core_of(settings)
    except TokenUnfitError as exc:
        if "no AES_GCM or AES_CBC" in str(exc):
            pytest.skip("p11-kit before 0.25 passes on calls with neither AES-GCM nor AES-CBC")
        raise


def run(kms: Kms, load: Load, key_id: str, stopped: threading.Event) -> None:
    """Encrypt, decrypt and create keys until it is time to stop."""
    step = 0
    while not stopped.is_set():
        step += 1
        try:
            load.sealed.append(seal(kms, key_id))
            assert unseal(kms, load.sealed[-1]) == b"secret"
            if step % 4 == 0:
                load.keys.append(new_key(kms).key_id)
        except HsmKmsError as exc:
            load.refused.append(exc)
            stopped.wait(0.01)


def answers(kms: Kms, sealed: bytes) -> bool:
    """True if a ciphertext can be decrypted now."""
    try:
        return unseal(kms, sealed) == b"secret"
    except HsmKmsError:
        return False


def test_server_of_a_member_ends_under_load(remotes: tuple[Kms, Remote, Remote]) -> None:
    """The other member takes over, and back; what fails is retryable, and every acknowledged key is there."""
    kms, first, second = remotes
    connection = kms._core.device.connection
    load, stopped, key_id = Load(), threading.Event(), new_key(kms).key_id
    (first_serial, second_serial) = connection.settings.choice.serials
    threads = [threading.Thread(target=run, args=(kms, load, key_id, stopped)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    try:
        for leaving, taking in ((first, second_serial), (second, first_serial)):
            done = len(load.keys)
            until(lambda: len(load.keys) > done + THREADS, PATIENCE)  # noqa: B023
            leaving.kill()
            done = len(load.keys)
            until(lambda: len(load.keys) > done + THREADS, PATIENCE)  # noqa: B023
            assert connection.member == taking
            leaving.start()
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
    until(lambda: answers(kms, load.sealed[0]), PATIENCE)
    assert [unseal(kms, ciphertext) for ciphertext in load.sealed] == [b"secret"] * len(load.sealed)
    assert [unseal(kms, seal(kms, key)) for key in load.keys] == [b"secret"] * len(load.keys)
    assert {each.code for each in load.refused} <= {"DependencyTimeoutException"}
    assert {finding.kind for finding in kms.operator.find_differences()} <= {Kind.UNACKNOWLEDGED, Kind.UNFINISHED}
