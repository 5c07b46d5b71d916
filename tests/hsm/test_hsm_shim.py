"""The shim itself: without an order it passes every call on, and faults occur where they were ordered."""

import os
import subprocess
import time
from pathlib import Path

import devices
import pytest
from devices import Token, new_key, permit
from forked import Program
from shims import PERSONALITIES, Played

from hsmkms.errors import TokenError, TokenFullError, TokenUnavailableError
from hsmkms.hsm.device import TokenDevice
from hsmkms.model.enums import Operation


@pytest.fixture
def played(token: Token, shim_path: Path) -> Played:
    """Return a token behind the shim, without orders yet."""
    return Played.of(token, shim_path)


@pytest.fixture
def device(played: Played) -> TokenDevice:
    """Return the same token, open."""
    return played.token.open()


def works(device: TokenDevice) -> bool:
    """Return whether an encryption, a decryption and a generation succeed."""
    key = new_key(device)
    iv, body = device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"x", b"")
    return device.ciphers.decrypt(permit(Operation.DECRYPT, key), key, iv, body, b"") == b"x"


def test_nothing_is_changed_without_an_order(device: TokenDevice, token: Token) -> None:
    """Without orders the shim behaves like SoftHSM: the same profile, mechanisms, limits and attributes."""
    key = new_key(device)
    attributes = (
        device.profile,
        device.connection.mechanisms(),
        device.connection.limits(),
        device.keys.attest(key),
        device.imports.wrapping_algorithms(),
    )
    device.close()
    behind = token.open()
    assert attributes == (
        *(behind.profile, behind.connection.mechanisms(), behind.connection.limits(), behind.keys.attest(key)),
        behind.imports.wrapping_algorithms(),
    )


def test_reasons() -> None:
    """Each personality has its own name, and a reason why such a token may exist."""
    assert len({personality.name for personality in PERSONALITIES}) == len(PERSONALITIES)
    assert all(len(personality.reason) > 20 for personality in PERSONALITIES)


def test_the_nth_call_fails(played: Played, device: TokenDevice) -> None:
    """A fault affects the call that it was ordered for, counted since the order, or all from that call on."""
    played.order("fault C_GenerateKey 2 return 0x31")
    assert works(device)
    with pytest.raises(TokenFullError):
        new_key(device)
    assert works(device)
    played.order("# two rules", "", "fault C_GenerateKey 3+ return 0x31", "fault C_GenerateKey 1 return 0x30")
    with pytest.raises(TokenUnavailableError):
        new_key(device)
    assert works(device)
    for _ in range(3):
        with pytest.raises(TokenFullError):
            new_key(device)
    played.order()
    assert works(device)


@pytest.mark.parametrize("after", [True, False])
def test_before_or_after_the_work(played: Played, device: TokenDevice, *, after: bool) -> None:
    """A fault occurs instead of the work, or after it: then the token has done the work without reporting it."""
    key = os.urandom(16)
    played.order("fault C_GenerateKey 1 return 0x30" + " after" * after)
    with pytest.raises(TokenUnavailableError):
        device.keys.generate_backing_key(permit(Operation.CREATE_KEY, key), key, "unanswered")
    assert device.keys.holds(key) is after


def test_delay(played: Played, device: TokenDevice) -> None:
    """A delayed call takes at least the ordered time, and then succeeds."""
    key = new_key(device)
    played.order("fault C_EncryptInit * delay 30000")
    start = time.monotonic()
    for _ in range(2):
        device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"x", b"")
    assert time.monotonic() - start >= 0.06


def start(programs: Path, played: Played, order: str) -> Program:
    """Start a process that creates a key, give ``order``, and let the process encrypt."""
    process = devices.start(programs / "encrypt_once.py", played.token)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    played.order(order)
    process.stdin.write("go\n")
    process.stdin.flush()
    return process


def test_orders_reach_other_processes(played: Played, programs: Path) -> None:
    """A process that has the token open already obeys a new order at its next call."""
    assert devices.finish(start(programs, played, "fault C_EncryptInit 2 kill")) == "plaintext"


@pytest.mark.parametrize("after", [True, False])
def test_kill(played: Played, programs: Path, *, after: bool) -> None:
    """A process is killed before or after the work of a call, and the token is intact afterwards."""
    process = start(programs, played, "fault C_Encrypt 1 kill" + " after" * after)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (-9, "", "")
    played.order()
    assert works(played.token.open())


def test_hang(played: Played, programs: Path) -> None:
    """A call that hangs does not return."""
    process = start(programs, played, "fault C_Decrypt * hang")
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=0.5)
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    "order",
    [
        *("nonsense", "iv appended twice", "labels 32", "lengths", "sessions few", "ignore 1"),
        *("fault C_Nothing 1 hang", "fault C_Login x hang", "fault C_Login 1 hang before"),
    ],
)
def test_wrong_orders(played: Played, programs: Path, order: str) -> None:
    """An unknown order ends the process with a message: no test may pass because of a typing error."""
    played.order("# right", order)
    process = devices.start(programs / "encrypt_once.py", played.token)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -6
    assert f"shim: the control file has no such order: {order}\n" in errors


def test_truncated_answer(played: Played, device: TokenDevice) -> None:
    """A truncated answer is discarded, and not returned."""
    key = new_key(device)
    played.order("fault C_Encrypt * truncate 3")
    with pytest.raises(TokenError, match="thrown away"):
        device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"x" * 10, b"")
    played.order()
    assert works(device)
