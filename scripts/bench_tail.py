"""Latencies of Encrypt at a steady rate beside creations, rotations, sweeps and a backup.

One server of its own on a disk (the current folder), its audit log on ``commit``. A latency counts from the instant at
which the request was due (open_loop.py), so that a stall shows in all requests that it held up. What happens beside it
is done by one process at a time, again and again until the measurement ends: requests to the same server, or commands.
"""

import argparse
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import make_installation
from bench_http import CONNECTIONS, PLAINTEXT, STEADY_RATE, signed
from bench_latency import server
from msgspec.structs import replace
from open_loop import latencies

from hsmkms.config import template as config_template
from hsmkms.config.settings import ServeSettings
from hsmkms.testing import Endpoint

PAUSE_SECONDS = 0.1
"""Between two creations or rotations, and between two commands."""
KEYS = 200
WARM_UP_SECONDS = 2
"""Before the first measurement, since each worker leases its first encryptions in many small writes."""


def create(endpoint: Endpoint, _folder: Path) -> Iterator[None]:
    """Create keys."""
    kms = endpoint.client()
    while True:
        kms.create_key()
        yield


def rotate(endpoint: Endpoint, _folder: Path) -> Iterator[None]:
    """Rotate keys on demand, a new one for every ten rotations."""
    kms = endpoint.client()
    while True:
        key_id = kms.create_key()["KeyMetadata"]["KeyId"]
        for _ in range(10):
            kms.rotate_key_on_demand(KeyId=key_id)
            yield


def sweep(_endpoint: Endpoint, folder: Path) -> Iterator[None]:
    """Run ``hsmkms maintain``."""
    while True:
        _command(folder, "maintain")
        yield


def back_up(_endpoint: Endpoint, folder: Path) -> Iterator[None]:
    """Run ``hsmkms backup``."""
    for number in itertools.count():
        file = folder / f"backup-{number}.age"
        _command(folder, "backup", str(file))
        file.unlink()
        yield


Beside = Callable[[Endpoint, Path], Iterator[None]]
BESIDE: dict[str, Beside | None] = {
    "nothing": None,
    "creations": create,
    "rotations": rotate,
    "sweeps (`hsmkms maintain`)": sweep,
    "backups (`hsmkms backup`)": back_up,
}


def _command(folder: Path, *words: str) -> None:
    environment = os.environ | {"HSMKMS_CONFIG": str(folder / "hsmkms.toml")}
    subprocess.run([sys.executable, "-m", "hsmkms", *words], env=environment, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def beside(name: str, endpoint: Endpoint, folder: Path) -> Iterator[None]:
    """Do that in another process until the block ends; it writes how often it was done into a file."""
    if BESIDE[name] is None:
        yield
        return
    words = [sys.executable, __file__, "--beside", name, endpoint.url, endpoint.region, str(folder)]
    secrets = {"KEY_ID": endpoint.access_key_id, "SECRET": endpoint.secret_access_key}
    with subprocess.Popen(words, env=os.environ | secrets, start_new_session=True) as process:
        try:
            _wait_for_first(process, folder)
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # the command that it runs as well


def _wait_for_first(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    while not _count(folder):
        if process.poll() is not None:
            raise SystemExit("what should happen beside the requests has failed: see above")
        time.sleep(PAUSE_SECONDS)


def _count(folder: Path) -> int:
    file = folder / "count"
    return int(file.read_text() or "0") if file.exists() else 0


def run_beside(name: str, url: str, region: str, folder: Path) -> None:
    """Do it until the process is terminated."""
    endpoint = Endpoint(url, region, os.environ["KEY_ID"], os.environ["SECRET"])
    act = BESIDE[name]
    if act is None:
        raise SystemExit("there is nothing to do")
    for number, _ in enumerate(act(endpoint, folder), start=1):
        new = folder / "count.new"
        new.write_text(str(number))
        new.replace(folder / "count")
        time.sleep(PAUSE_SECONDS)


def bench(folder: Path, seconds: int, rate: int, rounds: int) -> None:
    """Measure each in turn and print the table."""
    made, file = make_installation(folder), folder / "hsmkms.toml"
    serve = ServeSettings(log_requests=False, quotas=dict.fromkeys(("CreateKey", "RotateKeyOnDemand"), 0.0))
    file.write_text(config_template.init_text(replace(made, serve=serve)))
    with server(file) as listening:
        endpoint = listening._replace(region=made.regions[0])
        kms = endpoint.client()
        for _ in range(KEYS):
            kms.create_key()
        key_id = kms.create_key()["KeyMetadata"]["KeyId"]
        request = signed(endpoint, "Encrypt", {"KeyId": key_id, "Plaintext": PLAINTEXT})
        latencies(request.url, request.raw(), rate=rate, seconds=WARM_UP_SECONDS, connections=CONNECTIONS)
        taken: dict[str, list[tuple[int, tuple[float, float, float]]]] = {name: [] for name in BESIDE}
        for _, (name, results) in itertools.product(range(rounds), taken.items()):
            (folder / "count").unlink(missing_ok=True)
            with beside(name, endpoint, folder):
                before = _count(folder)
                request = signed(endpoint, "Encrypt", {"KeyId": key_id, "Plaintext": PLAINTEXT})
                took = latencies(request.url, request.raw(), rate=rate, seconds=seconds, connections=CONNECTIONS)
                results.append((_count(folder) - before, took))
        print("| beside | done | p50 ms | p99 ms | longest ms | p99 of each round |\n|---|---|---|---|---|---|")
        for name, results in taken.items():
            results.sort(key=lambda each: each[1][1])
            done, (p50, p99, longest) = results[len(results) // 2]
            spread = ", ".join(f"{each[1]:.1f}" for _, each in results)
            print(f"| {name} | {done} | {p50:.1f} | {p99:.1f} | {longest:.1f} | {spread} |", flush=True)


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=10, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=int, default=STEADY_RATE, help="requests a second")
    parser.add_argument("--beside", nargs=4, metavar=("NAME", "URL", "REGION", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.beside:
        name, url, region, folder = arguments.beside
        run_beside(name, url, region, Path(folder))
        return
    with tempfile.TemporaryDirectory(prefix=".hsmkms-bench-", dir=Path.cwd()) as folder:
        print(
            f"{arguments.rate:,} Encrypt a second on {CONNECTIONS} connections; load before: {os.getloadavg()[0]:.1f}\n"
        )
        bench(Path(folder), arguments.seconds, arguments.rate, arguments.rounds)


if __name__ == "__main__":
    main()
