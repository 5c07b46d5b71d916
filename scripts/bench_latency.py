"""A token that takes 2 ms for every call, as a network HSM does, and 32 clients at once: what the session pool gives.

The token is SoftHSM behind the module of tests/shim, which delays each call. One worker serves, with pools of different
sizes in turn; wrk sends signed Encrypt requests of 64 bytes on 32 connections.

``--single`` measures instead how long one request takes in this process (the façade, without HTTP), one at a time:
Encrypt by two calls and by one, CreateKey with and without an audit log, and the first GetParametersForImport, less the
time of the token's RSA key generation.
"""

import argparse
import json
import os
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import bench_http
from bench_http import PLAINTEXT, load, signed
from msgspec.structs import replace
from rolling import wait

from hsmkms.config import settings as config
from hsmkms.config import template as config_template
from hsmkms.config.settings import PinSettings, ServeSettings, Settings, TokenSettings
from hsmkms.hsm.calls.function_list import functions_of
from hsmkms.kms import Kms
from hsmkms.model.audit import Durability
from hsmkms.model.crypto import EncryptRequest
from hsmkms.model.enums import Origin, WrappingAlgorithm, WrappingKeySpec
from hsmkms.model.importing import GetParametersForImportRequest
from hsmkms.model.keys import CreateKeyRequest
from hsmkms.testing import Endpoint
from hsmkms.wiring import core as wiring
from hsmkms.wiring import new_tokens

ROOT = Path(__file__).parent.parent
DELAY_MICROSECONDS = 2000
CALLS = 2
"""For an encryption: C_EncryptInit and C_Encrypt. One in 64 draws IVs as well."""
CLIENTS = 32
POOLS = (1, 2, 4, 8, 16, 32)
REGION = "eu-central-1"


def slow_module(folder: Path, real: Path) -> tuple[Path, dict[str, str]]:
    """Compile the module that delays each call as the file ``orders`` says; it and its environment."""
    module = folder / "slow.so"
    sources = sorted((ROOT / "tests/shim").glob("*.c"))
    options = ("-std=gnu11", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", "-pthread")
    compile_it = ["gcc", *options, "-o", str(module), *map(str, sources), "-ldl"]
    subprocess.run(compile_it, check=True)
    (folder / "orders").touch()
    return module, {"SHIM_MODULE": str(real), "SHIM_CONTROL": str(folder / "orders")}


def make_installation(folder: Path, sessions: int) -> Path:
    """An installation whose token is behind the slow module; the configuration file."""
    pin = folder / "pin"
    pin_text = secrets.token_urlsafe()
    pin.touch(0o600)
    pin.write_text(pin_text)
    real, made = new_tokens.make_softhsm_token(
        None, folder / "softhsm", label="slow", user_pin=pin_text, so_pin=secrets.token_urlsafe()
    )
    module, shim = slow_module(folder, real)
    settings = Settings(
        account_id="111122223333",
        regions=(REGION,),
        token=TokenSettings(
            module=module,
            label="slow",
            serial=made.serial,
            pin=PinSettings(file=Path("pin")),
            environment=made.environment | shim,
            max_sessions=sessions,
        ),
        serve=ServeSettings(workers=1, threads=2 * CLIENTS, log_requests=False),
    )
    file = folder / "hsmkms.toml"
    file.write_text(config_template.init_text(settings))
    wiring.initialise(config.load(file), try_refused_material=True)
    return file


@contextmanager
def server(file: Path) -> Iterator[Endpoint]:
    """A server of that configuration, for the account's root."""
    hsmkms = [sys.executable, "-m", "hsmkms"]
    environment = os.environ | {"HSMKMS_CONFIG": str(file)}
    made = subprocess.run([*hsmkms, "create-access-key", "--root"], env=environment, check=True, capture_output=True)
    key = json.loads(made.stdout)["AccessKey"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen([*hsmkms, "serve", "--port", str(port)], env=environment) as process:
        try:
            wait(f"http://127.0.0.1:{port}/healthz")
            yield Endpoint(f"http://127.0.0.1:{port}", REGION, key["AccessKeyId"], key["SecretAccessKey"])
        finally:
            process.send_signal(signal.SIGTERM)


def measure(sessions: int, seconds: int) -> tuple[float, float, float]:
    """Requests a second, p50 and p99 in milliseconds, with a pool of that size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = make_installation(folder, sessions)
        with server(file) as endpoint:
            key_id = endpoint.client().create_key()["KeyMetadata"]["KeyId"]
            order(folder, f"fault * * delay {DELAY_MICROSECONDS}")
            request = signed(endpoint, "Encrypt", {"KeyId": key_id, "Plaintext": PLAINTEXT})
            load(request, name, 1)  # until the server has seen how slow the token is
            return load(request, name, seconds)


# -- one request at a time ----------------------------------------------------------------------------------------


class Took(NamedTuple):
    """Milliseconds that a request took, and those that its thread was on a processor."""

    wall: float
    processor: float


class Single(NamedTuple):
    """What is measured with one installation: what the shim plays besides the delay, and whether a log is kept."""

    name: str
    orders: tuple[str, ...]
    durability: Durability
    measured: Callable[[Kms], list[Took]]


def measure_single(single: Single) -> list[Took]:
    """What each request took."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = make_installation(folder, 16)
        order(folder, *single.orders)
        settings = config.load(file)
        settings = replace(settings, audit=replace(settings.audit, durability=single.durability))
        with Kms(wiring.core_of(settings)) as kms:
            kms.operator.audit.look_after()  # with a log: the first seal, and its note on the token
            kms.create_key(CreateKeyRequest())
            order(folder, *single.orders, f"fault * * delay {DELAY_MICROSECONDS}")
            took = single.measured(kms)
            order(folder, *single.orders)
            return took


def order(folder: Path, *lines: str) -> None:
    """Replace the shim's orders at once."""
    new = folder / "orders.new"
    new.write_text("".join(f"{each}\n" for each in lines))
    new.replace(folder / "orders")


def timed(act: Callable[[], object], rounds: int) -> list[Took]:
    """What each round took."""
    took = []
    for _ in range(rounds):
        wall, processor = time.perf_counter(), time.thread_time()
        act()
        took.append(Took(1000 * (time.perf_counter() - wall), 1000 * (time.thread_time() - processor)))
    return took


def encryptions(kms: Kms) -> list[Took]:
    """Encrypt with one key, which has been used before."""
    key_id = kms.create_key(CreateKeyRequest()).key_metadata.key_id
    request = EncryptRequest(key_id=key_id, plaintext=bytes(64))
    kms.encrypt(request)
    return timed(lambda: kms.encrypt(request), 300)


def creations(kms: Kms) -> list[Took]:
    """CreateKey of symmetric keys."""
    return timed(lambda: kms.create_key(CreateKeyRequest()), 60)


def first_parameters(kms: Kms) -> list[Took]:
    """The first GetParametersForImport of a process, less the time of C_GenerateKeyPair."""
    key_id = kms.create_key(CreateKeyRequest(origin=Origin.EXTERNAL)).key_metadata.key_id
    request = GetParametersForImportRequest(
        key_id=key_id,
        wrapping_algorithm=WrappingAlgorithm.RSAES_OAEP_SHA_1,
        wrapping_key_spec=WrappingKeySpec.RSA_2048,
    )
    with kms._core.device.connection.pool.session() as session:
        functions = functions_of(session)
    generate, generating = functions.generate_key_pair, list[Took]()

    def timed_generate(*arguments: object) -> int:
        code = 0

        def call() -> None:
            nonlocal code
            code = generate(*arguments)

        generating.extend(timed(call, 1))
        return code

    functions.generate_key_pair = timed_generate
    try:
        (whole,) = timed(lambda: kms.get_parameters_for_import(request), 1)
    finally:
        functions.generate_key_pair = generate
    wall, processor = (sum(each) for each in zip(*generating, strict=True))
    return [Took(whole.wall - wall, whole.processor - processor)]


SINGLES = (
    Single("Encrypt, two calls", (), Durability.COMMIT, encryptions),
    Single("Encrypt, one call", ("messages caller",), Durability.COMMIT, encryptions),
    Single("CreateKey", (), Durability.COMMIT, creations),
    Single("CreateKey, audit off", (), Durability.OFF, creations),
    Single("first GetParametersForImport, less RSA generation", (), Durability.COMMIT, first_parameters),
)


def print_singles(rounds: int) -> None:
    """Measure each in turn, several rounds, and print the table."""
    results = {each.name: list[list[Took]]() for each in SINGLES}
    for _ in range(rounds):
        for each in SINGLES:
            results[each.name].append(measure_single(each))
    print(f"One request at a time, {DELAY_MICROSECONDS / 1000:.0f} ms for every call to the token:\n")
    print("| | requests | p50 ms | p90 ms | p50 of each round | on a processor, p50 ms |\n|---|---|---|---|---|---|")
    for name, taken in results.items():
        walls = sorted(one.wall for each in taken for one in each)
        processor = statistics.median(one.processor for each in taken for one in each)
        spread = ", ".join(f"{statistics.median(one.wall for one in each):.1f}" for each in taken)
        p50, p90 = statistics.median(walls), walls[len(walls) * 9 // 10]
        print(f"| {name} | {len(walls)} | {p50:.1f} | {p90:.1f} | {spread} | {processor:.1f} |")


def main() -> None:
    """Measure each pool and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=int, default=5, help="length of each measurement")
    options.add_argument("--single", type=int, metavar="ROUNDS", help="measure single requests, in so many rounds")
    chosen = options.parse_args()
    if chosen.single:
        print_singles(chosen.single)
        return
    bench_http.CONNECTIONS = CLIENTS
    print(f"{CLIENTS} clients, one worker, {DELAY_MICROSECONDS / 1000:.0f} ms for every call to the token:\n")
    print("| sessions | requests/s | p50 ms | p99 ms | of what so many sessions can do |\n|---|---|---|---|---|")
    for sessions in POOLS:
        rate, p50, p99 = measure(sessions, chosen.seconds)
        ideal = sessions / (CALLS * DELAY_MICROSECONDS / 1e6)
        print(f"| {sessions} | {rate:,.0f} | {p50:.1f} | {p99:.1f} | {rate / ideal:.2f} |", flush=True)


if __name__ == "__main__":
    main()
