"""What tests of devices share: permits, keys, and programs that need a process of their own.

A PKCS#11 module has one state and one configuration per process. SoftHSM reads SOFTHSM2_CONF again at each
C_Initialize, so one process may use token after token, each with a configuration of its own, as long as every device
is closed before the next token is made or opened. ``make_token`` of conftest.py sees to that. How tokens are made, of
SoftHSM and other modules, is in the folder tokens.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import forked
import msgspec
import warm
from tokens.driver import PIN, SO_PIN, NotPossibleError, Token  # noqa: F401 - tests import all of these from here
from tokens.softhsm import SoftHsm

from hsmkms.hsm import device as devices
from hsmkms.hsm.checks.bench import Bench
from hsmkms.hsm.checks.steps import BEFORE_LOGIN, STEPS
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.session import module as modules
from hsmkms.hsm.session.login import open_session
from hsmkms.model.cipher_format import CipherFormat, mac_key_id, new_cka_id
from hsmkms.model.enums import Operation
from hsmkms.model.permit import OperatorAct, Permit
from hsmkms.model.token_check import Check

TESTS = Path(__file__).parent
MakeToken = Callable[..., Token]
NewToken = Callable[[str], Token]
"""Makes a token in a folder of this name, for fixtures that several tests share."""
_NOTES_OF_MODULES = re.compile(r"^\[freehsm-c\] NOTE .*\n", re.MULTILINE)
"""What a module writes to stderr whenever it starts."""
SLOW_CHECKS = ("RSA_3072", "RSA_4096")
"""They generate RSA keys of a second each."""


def permit(operation: Operation | OperatorAct, *cka_ids: bytes, seconds: float = 120) -> Permit:
    """What the pipeline would give for ``operation`` on these objects, for ``seconds`` from now."""
    return Permit(operation, frozenset(cka_ids), 1, time.monotonic() + seconds)


def new_key(device: TokenDevice, label: str = "hsmkms test key") -> bytes:
    """Make a backing key; its CKA_ID."""
    cka_id = new_cka_id(device.profile.cipher_format)
    device.keys.generate_backing_key(permit(Operation.CREATE_KEY, cka_id), cka_id, label)
    return cka_id


def objects_of(cka_id: bytes) -> int:
    """How many objects a backing key has on the token: AES-CBC has an HMAC key beside it."""
    return 1 + (mac_key_id(cka_id) is not None)


def require_gcm(device: TokenDevice) -> None:
    """Skip a test that calls AES-GCM itself on modules that have none; SoftHSM has it."""
    if device.profile.cipher_format is not CipherFormat.AES_256_GCM:
        raise NotPossibleError("the token has no AES-GCM")


def require_copyable(device: TokenDevice) -> None:
    """Skip a test that makes objects with CKA_COPYABLE on modules that do not know it; SoftHSM does."""
    if not device.profile.attributes.orders_copyable:
        raise NotPossibleError("it makes objects with CKA_COPYABLE, which the module does not know")


def checks_of(device: TokenDevice, *names: str, without: Collection[str] = SLOW_CHECKS) -> dict[str, Check]:
    """Make checks of token-check in this process, by name: the steps of ``names``, or all but those of ``without``."""
    token = device.connection.token
    with device.connection.pool.session() as session:
        bench = Bench(token, session, lambda: open_session(token))
        made = [
            check
            for each in (*BEFORE_LOGIN, *STEPS)
            if (set(names) & set(each.names) if names else each.names[0] not in without)
            for check in each.checks(bench)
        ]
    return {each.name: each for each in made}


def close_everything() -> None:
    """Close every device and module that this process has open, also those that a failed test left."""
    for device, users in list(devices._open_devices._users.values()):
        for _ in range(users):
            device.close()
    for module in list(modules._registry._open.values()):
        for _ in range(module.users):
            module.release()


# -- programs: the test's side --------------------------------------------------------------------------------------


def start(program: Path, token: Token, **arguments: object) -> forked.Program:
    """Start a program in a process of its own; ``arguments`` are JSON values."""
    return forked.start_program(program, [_passed(token, arguments)], _environment())


def _passed(token: SoftHsm, arguments: dict[str, object]) -> str:
    return json.dumps({"token": msgspec.to_builtins(token, enc_hook=str), **arguments})


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join((str(TESTS), os.environ.get("PYTHONPATH", "")))}


def finish(process: forked.Program, seconds: float = 120) -> Any:  # noqa: ANN401 - JSON
    """Wait for a program that was started; what it reported. It must end well and write nothing to stderr."""
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
        raise AssertionError(f"the program did not end in {seconds} s: {output}{errors}") from None
    return _report(process.returncode, output, errors)


def _report(status: int, output: str, errors: str) -> Any:  # noqa: ANN401 - JSON
    assert status == 0, f"the program ended with {status}: {output}{errors}"
    unexpected = _NOTES_OF_MODULES.sub("", errors)
    assert not unexpected, unexpected
    return json.loads(output.splitlines()[-1])


def run(program: Path, token: Token, *, seconds: float = 60, **arguments: object) -> Any:  # noqa: ANN401 - JSON
    """Run a program; what it reported."""
    done = warm.run_program(program, [_passed(token, arguments)], _environment(), seconds)
    return _report(done.returncode, done.stdout.decode(), done.stderr.decode())


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
