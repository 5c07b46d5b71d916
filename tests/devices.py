"""What tests of devices share: permits, keys, and programs that need a process of their own.

A PKCS#11 module has one state and one configuration per process. SoftHSM reads SOFTHSM2_CONF again at each
C_Initialize, so one process may use token after token, each with a configuration of its own, as long as every device
is closed before the next token is made or opened. ``make_token`` of conftest.py sees to that. How tokens are made, of
SoftHSM and other modules, is in the folder tokens.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from tokens.driver import PIN, SO_PIN, Token  # noqa: F401 - tests import all of these from here
from tokens.softhsm import SoftHsm  # noqa: F401

from hsmkms.hsm import device as devices
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.session import module as modules
from hsmkms.model.cipher_format import new_cka_id
from hsmkms.model.enums import Operation
from hsmkms.model.permit import OperatorAct, Permit

TESTS = Path(__file__).parent
MakeToken = Callable[..., Token]
NewToken = Callable[[str], Token]
"""Makes a token in a folder of this name, for fixtures that several tests share."""


def permit(operation: Operation | OperatorAct, *cka_ids: bytes, seconds: float = 120) -> Permit:
    """What the pipeline would give for ``operation`` on these objects, for ``seconds`` from now."""
    return Permit(operation, frozenset(cka_ids), 1, time.monotonic() + seconds)


def new_key(device: TokenDevice, label: str = "hsmkms test key") -> bytes:
    """Make a backing key; its CKA_ID."""
    cka_id = new_cka_id(device.profile.cipher_format)
    device.keys.generate_backing_key(permit(Operation.CREATE_KEY, cka_id), cka_id, label)
    return cka_id


def until(happened: Callable[[], bool], seconds: float) -> None:
    """Wait until it has happened."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"it did not happen in {seconds} s"
        time.sleep(0.01)


def close_everything() -> None:
    """Close every device and module that this process has open, also those that a failed test left."""
    for device, users in list(devices._open_devices._users.values()):
        for _ in range(users):
            device.close()
    for module in list(modules._registry._open.values()):
        for _ in range(module.users):
            module.release()


# -- programs: the test's side --------------------------------------------------------------------------------------


def start(program: Path, token: Token, **arguments: object) -> "subprocess.Popen[str]":
    """Start a program in a process of its own; ``arguments`` are JSON values."""
    passed = json.dumps({"token": msgspec.to_builtins(token, enc_hook=str), **arguments})
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", str(program), passed],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(TESTS), os.environ.get("PYTHONPATH", "")))},
    )


def finish(process: "subprocess.Popen[str]", seconds: float = 120) -> Any:  # noqa: ANN401 - JSON
    """Wait for a program that was started; what it reported. It must end well and write nothing to stderr."""
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
        raise AssertionError(f"the program did not end in {seconds} s: {output}{errors}") from None
    assert process.returncode == 0, f"the program ended with {process.returncode}: {output}{errors}"
    assert not errors, errors
    return json.loads(output.splitlines()[-1])


def run(program: Path, token: Token, *, seconds: float = 60, **arguments: object) -> Any:  # noqa: ANN401 - JSON
    """Run a program; what it reported."""
    return finish(start(program, token, **arguments), seconds)


def run_together(program: Path, tokens: list[Token], *, seconds: float = 60, **arguments: object) -> list[Any]:
    """Run a program once per token, let go at the same instant at its ``wait_for_start``; what each reported."""
    processes = [start(program, token, **arguments) for token in tokens]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", finish(process, 5)
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [finish(process, seconds) for process in processes]


# -- programs: their own side ---------------------------------------------------------------------------------------


def arguments() -> tuple[Token, dict[str, Any]]:
    """What the test passed to this program: the token, and the rest by name."""
    passed = json.loads(sys.argv[1])
    token = msgspec.convert(passed.pop("token"), Token, dec_hook=lambda kind, value: kind(value))
    return token, passed


def wait_for_start() -> None:
    """Tell the test that everything is loaded, and wait for its word."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()


def report(value: object) -> None:
    """Tell the test the outcome, as JSON."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()
