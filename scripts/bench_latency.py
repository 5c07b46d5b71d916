"""A token that takes 2 ms for every call, as a network HSM does, and 32 clients at once: what the session pool gives.

The token is SoftHSM behind the module of tests/shim, which delays each call. One worker serves, with pools of different
sizes in turn; wrk sends signed Encrypt requests of 64 bytes on 32 connections.
"""

import argparse
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bench_http
from bench_http import PLAINTEXT, load, signed
from rolling import wait

from hsmkms.config import settings as config
from hsmkms.config import template as config_template
from hsmkms.config.settings import PinSettings, ServeSettings, Settings, TokenSettings
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


def make_installation(folder: Path, sessions: int) -> Path:
    """An installation whose token is behind the slow module; the configuration file."""
    module, pin = folder / "slow.so", folder / "pin"
    sources = sorted((ROOT / "tests/shim").glob("*.c"))
    options = ("-std=gnu11", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", "-pthread")
    compile_it = ["gcc", *options, "-o", str(module), *map(str, sources), "-ldl"]
    subprocess.run(compile_it, check=True)
    told = secrets.token_urlsafe()
    pin.touch(0o600)
    pin.write_text(told)
    real, made = new_tokens.make_softhsm_token(
        None, folder / "softhsm", label="slow", user_pin=told, so_pin=secrets.token_urlsafe()
    )
    (folder / "orders").touch()
    shim = {"SHIM_MODULE": str(real), "SHIM_CONTROL": str(folder / "orders")}
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
    wiring.initialise(config.load(file))
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
            new = folder / "orders.new"
            new.write_text(f"fault * * delay {DELAY_MICROSECONDS}\n")
            new.replace(folder / "orders")
            request = signed(endpoint, "Encrypt", {"KeyId": key_id, "Plaintext": PLAINTEXT})
            load(request, name, 1)  # until the server has seen how slow the token is
            return load(request, name, seconds)


def main() -> None:
    """Measure each pool and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=int, default=5, help="length of each measurement")
    chosen = options.parse_args()
    bench_http.CONNECTIONS = CLIENTS
    print(f"{CLIENTS} clients, one worker, {DELAY_MICROSECONDS / 1000:.0f} ms for every call to the token:\n")
    print("| sessions | requests/s | p50 ms | p99 ms | of what so many sessions can do |\n|---|---|---|---|---|")
    for sessions in POOLS:
        rate, p50, p99 = measure(sessions, chosen.seconds)
        ideal = sessions / (CALLS * DELAY_MICROSECONDS / 1e6)
        print(f"| {sessions} | {rate:,.0f} | {p50:.1f} | {p99:.1f} | {rate / ideal:.2f} |", flush=True)


if __name__ == "__main__":
    main()
